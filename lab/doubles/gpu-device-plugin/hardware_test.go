package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const t4 = `{"product": "Tesla T4", "memory_mib": 15360, "family": "turing", "compute": "7.5", "machine": "Lab host",
             "uuids": ["GPU-1", "GPU-2"]}`

func written(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gpus.json")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLabels(t *testing.T) {
	hardware, err := readHardware(written(t, t4))
	if err != nil {
		t.Fatal(err)
	}
	expected := map[string]string{
		"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.count": "2",
		"nvidia.com/gpu.memory": "15360", "nvidia.com/gpu.family": "turing", "nvidia.com/gpu.compute.major": "7",
		"nvidia.com/gpu.compute.minor": "5", "nvidia.com/gpu.machine": "Lab-host", "nvidia.com/gpu.replicas": "1",
	}
	if found := hardware.labels(); !maps.Equal(found, expected) {
		t.Fatalf("%v", found)
	}
}

func TestHardwareThatCannotBeRead(t *testing.T) {
	for expected, file := range map[string]string{
		"this host has no GPUs": filepath.Join(t.TempDir(), "absent"), "gpus.json: ": written(t, "{"),
	} {
		if _, err := readHardware(file); err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("%v", err)
		}
	}
}

func TestGPUsAreFoundByIdAndIndex(t *testing.T) {
	found, err := threeGPUs.find([]string{"2", "GPU-c"})
	if err != nil || !slices.Equal(found, []string{"GPU-b", "GPU-c"}) {
		t.Fatalf("%v, %v", found, err)
	}
	for _, wrong := range []string{"3", "-1", "GPU-", "a", ""} {
		if _, err := threeGPUs.find([]string{"0", wrong}); err == nil || !strings.Contains(err.Error(), "GPU-c, GPU-a, GPU-b") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, err := threeGPUs.find(nil); err == nil {
		t.Error("no GPU was found where none is named")
	}
}
