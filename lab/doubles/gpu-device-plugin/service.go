package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	resource      = "nvidia.com/gpu"
	endpoint      = "nvidia-gpu.sock"
	kubeletSocket = "kubelet.sock"
	// Kubelet calls back before it answers; a machine under load takes its time.
	registerTimeout = 30 * time.Second
)

// places is where kubelet keeps its files, and where health is marked.
type places struct {
	plugins    string // folder of kubelet.sock
	containers string // folder in which kubelet links the log of each container that it starts
	kubeconfig string // kubelet's own
	unhealthy  marks
	registered string // file that is there when a kubelet was registered with since the host has booted
}

// service is one host's GPUs in their relation to kubelet and to the node object. Whatever happens in a folder that it
// watches, it compares what should be with what is: events may be lost or come twice.
type service struct {
	hardware *hardware
	places   places
	plugin   *plugin

	server  *grpc.Server
	seen    fs.FileInfo // the kubelet socket of the last registration, or the dead one that was there at first
	started bool        // whether there are containers since the host has booted

	kubeconfig []byte // as the labels are kept with
	stopLabels context.CancelFunc
}

func newService(hardware *hardware, places places) *service {
	return &service{hardware: hardware, places: places, plugin: newPlugin(nil)}
}

// run serves until ctx ends or kubelet's folders are removed, as they are with MicroK8s. An error is for systemd to
// start it again.
func run(ctx context.Context, hardware *hardware, places places) error {
	if err := os.MkdirAll(string(places.unhealthy), 0o755); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	// The parent, as a folder in which a program listens on a socket tells nobody when it is removed.
	for _, folder := range []string{
		filepath.Dir(places.plugins), places.plugins, places.containers,
		filepath.Dir(places.kubeconfig), string(places.unhealthy),
	} {
		if err := watcher.Add(folder); err != nil {
			if gone(places.plugins) {
				return nil
			}
			return fmt.Errorf("%s: %w", folder, err)
		}
	}
	s := newService(hardware, places)
	defer s.stop()
	if err := s.meetKubelet(); err != nil {
		return err
	}
	for {
		if err := s.reconcile(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			return err
		case <-watcher.Events:
			if gone(places.plugins) {
				return nil
			}
		}
	}
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// meetKubelet finds out whether the host has just booted: no kubelet is listening, none has been registered with.
// NVIDIA's plugin is a container and cannot come before kubelet starts those.
func (s *service) meetKubelet() error {
	path := filepath.Join(s.places.plugins, kubeletSocket)
	socket, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	connection, err := net.Dial("unix", path)
	if err == nil {
		s.started = true
		return connection.Close()
	}
	s.seen = socket
	s.started = !gone(s.places.registered)
	return nil
}

func (s *service) stop() {
	if s.stopLabels != nil {
		s.stopLabels()
	}
	if s.server != nil {
		s.server.Stop()
	}
}

func (s *service) reconcile(ctx context.Context) error {
	unhealthy, err := s.places.unhealthy.read()
	if err != nil {
		return err
	}
	if s.plugin.set(s.hardware.devices(unhealthy)) {
		log.Printf("%d GPUs, unhealthy: %v", len(s.hardware.UUIDs), unhealthy)
	}
	if err := s.reconcileLabels(ctx); err != nil {
		return err
	}
	return s.reconcileRegistration(ctx)
}

// reconcileRegistration registers with each kubelet that comes, once. To register twice with the same one would make
// it forget the devices: it takes the end of the first connection for that of the second.
func (s *service) reconcileRegistration(ctx context.Context) error {
	socket, err := os.Lstat(filepath.Join(s.places.plugins, kubeletSocket))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.seen != nil && os.SameFile(s.seen, socket) && s.seen.ModTime().Equal(socket.ModTime()) {
		return nil
	}
	if !s.started {
		if s.started, err = newerEntry(s.places.containers, socket.ModTime()); err != nil || !s.started {
			return err
		}
	}
	s.seen = socket
	err = s.register(ctx)
	if status.Code(err) == codes.Unavailable {
		log.Printf("kubelet has ended: %v", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("kubelet did not take the registration: %w", err)
	}
	log.Printf("registered %s with kubelet", resource)
	return os.WriteFile(s.places.registered, nil, 0o644)
}

// register serves on a new socket, as kubelet has removed the old one when it started, and announces it.
func (s *service) register(ctx context.Context) error {
	if s.server != nil {
		s.server.Stop()
	}
	path := filepath.Join(s.places.plugins, endpoint)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s.server = grpc.NewServer()
	api.RegisterDevicePluginServer(s.server, s.plugin)
	go s.server.Serve(listener)

	connection, err := grpc.NewClient("unix://"+filepath.Join(s.places.plugins, kubeletSocket),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	// The file may be there a moment before kubelet listens.
	_, err = api.NewRegistrationClient(connection).Register(ctx, &api.RegisterRequest{
		Version:      api.Version,
		Endpoint:     endpoint,
		ResourceName: resource,
		Options:      &api.DevicePluginOptions{GetPreferredAllocationAvailable: true},
	}, grpc.WaitForReady(true))
	return err
}

// newerEntry tells whether a folder has an entry that was made after a point of time.
func newerEntry(folder string, since time.Time) (bool, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		about, err := entry.Info()
		if err == nil && about.ModTime().After(since) {
			return true, nil
		}
	}
	return false, nil
}

// reconcileLabels keeps the labels by kubelet's kubeconfig, which is another one when the host has joined a cluster.
func (s *service) reconcileLabels(ctx context.Context) error {
	kubeconfig, err := os.ReadFile(s.places.kubeconfig)
	if errors.Is(err, fs.ErrNotExist) || bytes.Equal(kubeconfig, s.kubeconfig) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.stopLabels != nil {
		s.stopLabels()
	}
	ctx, s.stopLabels = context.WithCancel(ctx)
	s.kubeconfig = kubeconfig
	return keepLabels(ctx, kubeconfig, s.hardware.labels())
}
