package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// hardware is what a driver would tell of the GPUs of this host, which are all of one product.
type hardware struct {
	Product   string   `json:"product"` // as nvidia-smi prints it: "NVIDIA A100-SXM4-80GB"
	MemoryMiB int      `json:"memory_mib"`
	Family    string   `json:"family"`
	Compute   string   `json:"compute"` // compute capability: "8.0"
	Machine   string   `json:"machine"`
	UUIDs     []string `json:"uuids"` // "GPU-<uuid>", in the order of their indexes
}

func readHardware(file string) (*hardware, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this host has no GPUs: there is no %s", file)
	}
	if err != nil {
		return nil, err
	}
	found := &hardware{}
	if err := json.Unmarshal(text, found); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return found, nil
}

// find returns the ids that arguments name, each an id or an index.
func (h *hardware) find(arguments []string) ([]string, error) {
	if len(arguments) == 0 {
		return nil, errors.New("no GPU is named")
	}
	ids := make([]string, 0, len(arguments))
	for _, argument := range arguments {
		if index, err := strconv.Atoi(argument); err == nil && 0 <= index && index < len(h.UUIDs) {
			ids = append(ids, h.UUIDs[index])
		} else if slices.Contains(h.UUIDs, argument) {
			ids = append(ids, argument)
		} else {
			return nil, fmt.Errorf("no GPU is called %q; there are: %s", argument, strings.Join(h.UUIDs, ", "))
		}
	}
	return ids, nil
}

// devices returns all GPUs with their health, in the order of their indexes.
func (h *hardware) devices(unhealthy []string) []*api.Device {
	devices := make([]*api.Device, 0, len(h.UUIDs))
	for _, id := range h.UUIDs {
		health := api.Healthy
		if slices.Contains(unhealthy, id) {
			health = api.Unhealthy
		}
		devices = append(devices, &api.Device{ID: id, Health: health})
	}
	return devices
}

// labels returns what GPU feature discovery and the operator write on the node. The health of devices is not in it: the
// count is that of the devices in the machine.
func (h *hardware) labels() map[string]string {
	major, minor, _ := strings.Cut(h.Compute, ".")
	return map[string]string{
		"nvidia.com/gpu.present":       "true",
		"nvidia.com/gpu.product":       labelValue(h.Product),
		"nvidia.com/gpu.count":         strconv.Itoa(len(h.UUIDs)),
		"nvidia.com/gpu.memory":        strconv.Itoa(h.MemoryMiB),
		"nvidia.com/gpu.family":        h.Family,
		"nvidia.com/gpu.compute.major": major,
		"nvidia.com/gpu.compute.minor": minor,
		"nvidia.com/gpu.machine":       labelValue(h.Machine),
		"nvidia.com/gpu.replicas":      "1",
	}
}

func labelValue(name string) string {
	return strings.ReplaceAll(name, " ", "-")
}

// marks is a folder with one empty file for each GPU that is unhealthy, named by its id.
type marks string

func (folder marks) read() ([]string, error) {
	entries, err := os.ReadDir(string(folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ids := make([]string, 0, len(entries))
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	return ids, nil
}

func (folder marks) set(ids []string, unhealthy bool) error {
	if err := os.MkdirAll(string(folder), 0o755); err != nil {
		return err
	}
	for _, id := range ids {
		file := filepath.Join(string(folder), id)
		if unhealthy {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				return err
			}
		} else if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
