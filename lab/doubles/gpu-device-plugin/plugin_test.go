package main

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

func client(t *testing.T) api.DevicePluginClient {
	t.Helper()
	places := testPlaces(t)
	kubelet := startKubelet(t, places.plugins)
	start(t, places)
	client, err := kubelet.plugin(receive(t, "registration", kubelet.registered).Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestAllocateNamesTheDevices(t *testing.T) {
	response, err := client(t).Allocate(t.Context(), &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{
		{DevicesIds: []string{"GPU-b", "GPU-c"}}, {DevicesIds: []string{"GPU-a"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for index, expected := range []string{"GPU-c,GPU-b", "GPU-a"} {
		container := response.ContainerResponses[index]
		if len(container.Envs) != 1 || container.Envs["NVIDIA_VISIBLE_DEVICES"] != expected {
			t.Errorf("container %d: %v", index, container.Envs)
		}
		if len(container.Devices)+len(container.Mounts)+len(container.CdiDevices)+len(container.Annotations) != 0 {
			t.Errorf("container %d has what nothing stands behind: %v", index, container)
		}
	}
}

func TestPreferredAllocation(t *testing.T) {
	tables := []struct {
		available, required []string
		size                int32
		expected            []string
	}{
		{[]string{"GPU-b", "GPU-a", "GPU-c"}, nil, 2, []string{"GPU-c", "GPU-a"}},
		{[]string{"GPU-a", "GPU-b", "GPU-c"}, nil, 3, []string{"GPU-c", "GPU-a", "GPU-b"}},
		{[]string{"GPU-b", "GPU-a", "GPU-c"}, []string{"GPU-b"}, 2, []string{"GPU-b", "GPU-c"}},
		{[]string{"GPU-b", "GPU-a"}, []string{"GPU-b", "GPU-a"}, 2, []string{"GPU-a", "GPU-b"}},
	}
	request := &api.PreferredAllocationRequest{}
	for _, row := range tables {
		request.ContainerRequests = append(request.ContainerRequests, &api.ContainerPreferredAllocationRequest{
			AvailableDeviceIDs: row.available, MustIncludeDeviceIDs: row.required, AllocationSize: row.size,
		})
	}
	response, err := client(t).GetPreferredAllocation(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for index, row := range tables {
		if found := response.ContainerResponses[index].DeviceIDs; !slices.Equal(found, row.expected) {
			t.Errorf("%v: %v", row, found)
		}
	}
}

func TestUnknownDevicesAreRefused(t *testing.T) {
	client, stranger := client(t), []string{"GPU-a", "GPU-of-another-host"}
	_, allocated := client.Allocate(t.Context(), &api.AllocateRequest{
		ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: stranger}},
	})
	preferred := func(available, required []string, size int32) error {
		_, err := client.GetPreferredAllocation(t.Context(), &api.PreferredAllocationRequest{
			ContainerRequests: []*api.ContainerPreferredAllocationRequest{
				{AvailableDeviceIDs: available, MustIncludeDeviceIDs: required, AllocationSize: size},
			},
		})
		return err
	}
	for name, err := range map[string]error{
		"allocate": allocated, "available": preferred(stranger, nil, 1),
		"required": preferred([]string{"GPU-a"}, stranger, 1), "too many": preferred([]string{"GPU-a"}, nil, 2),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
