package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// patience is for what happens at once on a machine that has nothing else to do.
const patience = 30 * time.Second

var threeGPUs = &hardware{
	Product: "NVIDIA A100-SXM4-80GB", MemoryMiB: 81920, Family: "ampere", Compute: "8.0", Machine: "Lab host",
	UUIDs: []string{"GPU-c", "GPU-a", "GPU-b"},
}

// kubelet is the half of the device manager that plugins see: it clears its folder, takes registrations, connects to
// the plugin before it answers, and listens to what that sends.
type kubelet struct {
	api.UnimplementedRegistrationServer

	folder     string
	listener   net.Listener
	server     *grpc.Server
	registered chan *api.RegisterRequest
	states     chan []*api.Device
}

func startKubelet(t *testing.T, folder string) *kubelet {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(folder, "*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, socket := range sockets {
		// Kept elsewhere: kubelets take turns faster here than a file's time and a free inode can tell apart.
		if err := os.Rename(socket, filepath.Join(t.TempDir(), filepath.Base(socket))); err != nil {
			t.Fatal(err)
		}
	}
	k := &kubelet{
		folder: folder, server: grpc.NewServer(),
		registered: make(chan *api.RegisterRequest, 100), states: make(chan []*api.Device, 100),
	}
	listener, err := net.Listen("unix", filepath.Join(folder, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // kubelet leaves its socket behind
	k.listener = listener
	api.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(listener)
	t.Cleanup(k.stop)
	return k
}

func (k *kubelet) stop() {
	k.server.Stop()
	k.listener.Close() // also if the server had not yet begun
}

func (k *kubelet) plugin(endpoint string) (api.DevicePluginClient, error) {
	connection, err := grpc.NewClient("unix://"+filepath.Join(k.folder, endpoint),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	return api.NewDevicePluginClient(connection), err
}

func (k *kubelet) Register(ctx context.Context, request *api.RegisterRequest) (*api.Empty, error) {
	client, err := k.plugin(request.Endpoint)
	if err != nil {
		return nil, err
	}
	if _, err := client.GetDevicePluginOptions(ctx, &api.Empty{}); err != nil {
		return nil, err
	}
	stream, err := client.ListAndWatch(context.Background(), &api.Empty{})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			k.states <- response.Devices
		}
	}()
	k.registered <- request
	return &api.Empty{}, nil
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

func (k *kubelet) expect(t *testing.T, unhealthy ...string) {
	t.Helper()
	devices := receive(t, "devices", k.states)
	ids, broken := []string{}, []string{}
	for _, device := range devices {
		ids = append(ids, device.ID)
		if device.Health != api.Healthy {
			broken = append(broken, device.ID)
		}
	}
	if !slices.Equal(ids, threeGPUs.UUIDs) || !slices.Equal(broken, unhealthy) {
		t.Fatalf("devices %v, unhealthy %v, but not %v", ids, broken, unhealthy)
	}
}

func testPlaces(t *testing.T) places {
	t.Helper()
	root := t.TempDir()
	for _, folder := range []string{"plugins", "containers", "credentials"} {
		if err := os.Mkdir(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return places{
		plugins: filepath.Join(root, "plugins"), containers: filepath.Join(root, "containers"),
		kubeconfig: filepath.Join(root, "credentials", "kubelet.config"), unhealthy: marks(filepath.Join(root, "unhealthy")),
		registered: filepath.Join(root, "registered"),
	}
}

// start runs the service; the channel has what it ended with.
func start(t *testing.T, places places) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, done := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- run(ctx, threeGPUs, places)
		close(done)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ended
}

func TestKubeletHearsOfEachChange(t *testing.T) {
	places := testPlaces(t)
	kubelet := startKubelet(t, places.plugins)
	start(t, places)
	request := receive(t, "registration", kubelet.registered)
	if request.ResourceName != "nvidia.com/gpu" || request.Version != "v1beta1" ||
		!request.Options.GetPreferredAllocationAvailable {
		t.Fatalf("registered %v", request)
	}
	kubelet.expect(t)
	mark := func(unhealthy bool, ids ...string) {
		if err := places.unhealthy.set(ids, unhealthy); err != nil {
			t.Fatal(err)
		}
	}
	mark(true, "GPU-a")
	kubelet.expect(t, "GPU-a")
	mark(true, "GPU-c")
	kubelet.expect(t, "GPU-c", "GPU-a")
	mark(false, "GPU-a")
	kubelet.expect(t, "GPU-c")
	mark(false, "GPU-c", "GPU-b")
	kubelet.expect(t)
	if len(kubelet.registered) != 0 {
		t.Fatal("registered twice with one kubelet")
	}
}

func TestEachNewKubeletIsToldOnce(t *testing.T) {
	places := testPlaces(t)
	kubelet := startKubelet(t, places.plugins)
	start(t, places)
	receive(t, "registration", kubelet.registered)
	kubelet.expect(t)
	if err := places.unhealthy.set([]string{"GPU-b"}, true); err != nil {
		t.Fatal(err)
	}
	kubelet.expect(t, "GPU-b")
	for range 3 {
		kubelet.stop()
		kubelet = startKubelet(t, places.plugins)
		receive(t, "registration", kubelet.registered)
		kubelet.expect(t, "GPU-b")
	}
}

func TestASocketOfAnEarlierLifeIsInNobodysWay(t *testing.T) {
	places := testPlaces(t)
	kubelet := startKubelet(t, places.plugins)
	listener, err := net.Listen("unix", filepath.Join(places.plugins, endpoint))
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // killed
	listener.Close()
	start(t, places)
	kubelet.expect(t)
}

func TestMarksOfAnEarlierLifeCount(t *testing.T) {
	places := testPlaces(t)
	if err := places.unhealthy.set([]string{"GPU-a", "GPU-of-another-host"}, true); err != nil {
		t.Fatal(err)
	}
	kubelet := startKubelet(t, places.plugins)
	start(t, places)
	kubelet.expect(t, "GPU-a")
}

// A host that boots: kubelet's dead socket is there, then a kubelet that has started no container yet.
func boot(t *testing.T, places places) (*service, *kubelet) {
	t.Helper()
	startKubelet(t, places.plugins).stop()
	s := newService(threeGPUs, places)
	t.Cleanup(s.stop)
	if err := s.meetKubelet(); err != nil {
		t.Fatal(err)
	}
	reconcile(t, s)
	return s, startKubelet(t, places.plugins)
}

func reconcile(t *testing.T, s *service) {
	t.Helper()
	for range 2 {
		if err := s.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func (k *kubelet) expectRegistrations(t *testing.T, count int) {
	t.Helper()
	if found := len(k.registered); found != count {
		t.Fatalf("%d registrations, not %d", found, count)
	}
}

func container(t *testing.T, places places, name string, started time.Time) {
	t.Helper()
	file := filepath.Join(places.containers, name)
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, started, started); err != nil {
		t.Fatal(err)
	}
}

func TestAfterABootContainersComeFirst(t *testing.T) {
	places := testPlaces(t)
	s, kubelet := boot(t, places)
	reconcile(t, s)
	container(t, places, "earlier.log", time.Now().Add(-time.Minute))
	reconcile(t, s)
	kubelet.expectRegistrations(t, 0)
	container(t, places, "later.log", time.Now().Add(time.Minute))
	reconcile(t, s)
	kubelet.expectRegistrations(t, 1)
}

func TestAfterARestartOfKubeletContainersAreThere(t *testing.T) {
	places := testPlaces(t)
	s, kubelet := boot(t, places)
	container(t, places, "later.log", time.Now().Add(time.Minute))
	reconcile(t, s)
	kubelet.expectRegistrations(t, 1)
	if err := os.Remove(filepath.Join(places.containers, "later.log")); err != nil {
		t.Fatal(err)
	}
	kubelet.stop()
	kubelet = startKubelet(t, places.plugins)
	reconcile(t, s)
	kubelet.expectRegistrations(t, 1)
	// The same if the service itself ended meanwhile.
	kubelet.stop()
	s, kubelet = boot(t, places)
	reconcile(t, s)
	kubelet.expectRegistrations(t, 1)
}

func TestAKubeletThatEndsDuringTheRegistration(t *testing.T) {
	places := testPlaces(t)
	listener, err := net.Listen("unix", filepath.Join(places.plugins, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	server := grpc.NewServer()
	asked := make(chan struct{})
	api.RegisterRegistrationServer(server, busyKubelet{asked: asked})
	go server.Serve(listener)
	start(t, places)
	receive(t, "registration", asked)
	server.Stop()
	receive(t, "registration", startKubelet(t, places.plugins).registered)
}

// busyKubelet never answers.
type busyKubelet struct {
	api.UnimplementedRegistrationServer
	asked chan struct{}
}

func (k busyKubelet) Register(ctx context.Context, _ *api.RegisterRequest) (*api.Empty, error) {
	close(k.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestARefusedRegistrationIsAnError(t *testing.T) {
	places := testPlaces(t)
	server := grpc.NewServer() // without the service
	listener, err := net.Listen("unix", filepath.Join(places.plugins, kubeletSocket))
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	if err := receive(t, "end", start(t, places)); err == nil {
		t.Fatal("the service ended without an error")
	}
}

func TestEndsWithKubeletsFolder(t *testing.T) {
	places := testPlaces(t)
	kubelet := startKubelet(t, places.plugins)
	ended := start(t, places)
	kubelet.expect(t)
	for _, socket := range []string{kubeletSocket, endpoint} {
		if err := os.Remove(filepath.Join(places.plugins, socket)); err != nil {
			t.Fatal(err)
		}
	}
	if err := places.unhealthy.set([]string{"GPU-a"}, true); err != nil {
		t.Fatal(err)
	}
	kubelet.expect(t, "GPU-a") // all before it has been seen
	if err := os.Remove(places.plugins); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "end", ended); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "end", start(t, places)); err != nil {
		t.Fatalf("without the folder: %v", err)
	}
	if err := os.MkdirAll(places.plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(places.containers); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "end", start(t, places)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("with half of the folders: %v", err)
	}
}
