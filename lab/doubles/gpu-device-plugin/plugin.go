package main

import (
	"context"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// plugin is the service that kubelet calls.
type plugin struct {
	api.UnimplementedDevicePluginServer

	mutex   sync.Mutex
	devices []*api.Device
	changed chan struct{} // closed when devices are no longer the newest
}

func newPlugin(devices []*api.Device) *plugin {
	return &plugin{devices: devices, changed: make(chan struct{})}
}

// set publishes the state of all devices and tells whether it is another one than before.
func (p *plugin) set(devices []*api.Device) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	same := func(a, b *api.Device) bool { return a.ID == b.ID && a.Health == b.Health }
	if slices.EqualFunc(p.devices, devices, same) {
		return false
	}
	close(p.changed)
	p.devices, p.changed = devices, make(chan struct{})
	return true
}

func (p *plugin) state() ([]*api.Device, <-chan struct{}) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.devices, p.changed
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{GetPreferredAllocationAvailable: true}, nil
}

// ListAndWatch sends all devices at once and again after each change, until kubelet or the server ends.
func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		devices, changed := p.state()
		if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// GetPreferredAllocation takes those that must be included, then those of the lowest indexes.
func (p *plugin) GetPreferredAllocation(
	_ context.Context, request *api.PreferredAllocationRequest,
) (*api.PreferredAllocationResponse, error) {
	response := &api.PreferredAllocationResponse{}
	for _, container := range request.ContainerRequests {
		required, err := p.sorted(container.MustIncludeDeviceIDs)
		if err != nil {
			return nil, err
		}
		available, err := p.sorted(container.AvailableDeviceIDs)
		if err != nil {
			return nil, err
		}
		rest := slices.DeleteFunc(available, func(id string) bool { return slices.Contains(required, id) })
		ids := append(required, rest...)
		if len(ids) < int(container.AllocationSize) {
			return nil, status.Errorf(codes.InvalidArgument, "%d devices wanted of %d", container.AllocationSize, len(ids))
		}
		response.ContainerResponses = append(response.ContainerResponses,
			&api.ContainerPreferredAllocationResponse{DeviceIDs: ids[:container.AllocationSize]})
	}
	return response, nil
}

// Allocate names the devices in the variable that NVIDIA's container runtime reads. There are no device files.
func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		ids, err := p.sorted(container.DevicesIds)
		if err != nil {
			return nil, err
		}
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(ids, ",")},
		})
	}
	return response, nil
}

// sorted returns ids in the order of their indexes; an id that is none of ours is an error.
func (p *plugin) sorted(ids []string) ([]string, error) {
	devices, _ := p.state()
	index := func(id string) int {
		return slices.IndexFunc(devices, func(device *api.Device) bool { return device.ID == id })
	}
	for _, id := range ids {
		if index(id) < 0 {
			return nil, status.Errorf(codes.InvalidArgument, "there is no device %q", id)
		}
	}
	return slices.SortedFunc(slices.Values(ids), func(a, b string) int { return index(a) - index(b) }), nil
}
