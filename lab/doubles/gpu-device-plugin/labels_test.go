package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apiServer is an API server with one node, or none: what a node may do with itself by list, watch and patch.
type apiServer struct {
	*httptest.Server
	t    *testing.T
	name string

	mutex   sync.Mutex
	version int
	node    *metav1.PartialObjectMetadata
	events  chan event             // to the one who watches
	patched chan map[string]string // the node's labels after each patch
	refuse  int                    // so many patches
}

type event struct {
	version int
	told    metav1.WatchEvent
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s := &apiServer{
		t: t, name: strings.ToLower(host),
		events: make(chan event, 100), patched: make(chan map[string]string, 100),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes", s.get)
	mux.HandleFunc("PATCH /api/v1/nodes/"+s.name, s.patch)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *apiServer) get(writer http.ResponseWriter, request *http.Request) {
	query := request.URL.Query()
	if query.Get("fieldSelector") != "metadata.name="+s.name {
		http.Error(writer, "a node may see itself only", http.StatusForbidden)
		return
	}
	writer.Header().Set("Content-Type", "application/json")
	if query.Get("watch") == "" {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		list := metav1.PartialObjectMetadataList{
			TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"},
			ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)},
		}
		if s.node != nil {
			list.Items = append(list.Items, *s.node)
		}
		json.NewEncoder(writer).Encode(list)
		return
	}
	since, _ := strconv.Atoi(query.Get("resourceVersion"))
	writer.(http.Flusher).Flush()
	for {
		select {
		case event := <-s.events:
			if event.version > since {
				json.NewEncoder(writer).Encode(event.told)
				writer.(http.Flusher).Flush()
			}
		case <-request.Context().Done():
			return
		}
	}
}

func (s *apiServer) patch(writer http.ResponseWriter, request *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.refuse > 0 {
		s.refuse--
		http.Error(writer, "not now", http.StatusServiceUnavailable)
		return
	}
	patch := metav1.PartialObjectMetadata{}
	if err := json.NewDecoder(request.Body).Decode(&patch); err != nil || s.node == nil {
		http.Error(writer, "no such node", http.StatusNotFound)
		return
	}
	maps.Copy(s.node.Labels, patch.Labels)
	s.changed("MODIFIED")
	s.patched <- maps.Clone(s.node.Labels)
	writer.Header().Set("Content-Type", "application/json")
	json.NewEncoder(writer).Encode(s.node)
}

// changed tells who watches; the mutex is held.
func (s *apiServer) changed(kind string) {
	s.version++
	s.node.ResourceVersion = strconv.Itoa(s.version)
	raw, err := json.Marshal(s.node)
	if err != nil {
		panic(err)
	}
	told := metav1.WatchEvent{Type: kind}
	told.Object.Raw = raw
	s.events <- event{s.version, told}
}

// create makes the node as kubelet does; one that is there is deleted first.
func (s *apiServer) create() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.node != nil {
		s.changed("DELETED")
	}
	s.node = &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"},
		ObjectMeta: metav1.ObjectMeta{Name: s.name, Labels: map[string]string{"kubernetes.io/hostname": s.name}},
	}
	s.changed("ADDED")
}

func (s *apiServer) edit(label, value string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.node.Labels[label] = value
	s.changed("MODIFIED")
}

func (s *apiServer) expect(extra map[string]string) {
	s.t.Helper()
	expected := threeGPUs.labels()
	expected["kubernetes.io/hostname"] = s.name
	maps.Copy(expected, extra)
	if found := receive(s.t, "labels", s.patched); !maps.Equal(found, expected) {
		s.t.Fatalf("labels are %v", found)
	}
}

func (s *apiServer) kubeconfig(file string) {
	s.t.Helper()
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": [{"name": "c", "cluster": {"server": %q}}],
		"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"users": [{"name": "u", "user": {"token": "t"}}]}`, s.URL)
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		s.t.Fatal(err)
	}
}

func TestLabelsAreKept(t *testing.T) {
	places := testPlaces(t)
	server := startAPIServer(t)
	server.kubeconfig(places.kubeconfig)
	server.refuse = 2
	start(t, places)
	server.create() // before the list or after it
	server.expect(nil)
	server.edit("nvidia.com/gpu.product", "Tesla-T4")
	server.expect(nil)
	server.edit("someone/elses", "kept")
	server.edit("nvidia.com/gpu.count", "")
	server.expect(map[string]string{"someone/elses": "kept"})
	server.create()
	server.expect(nil)
}

func TestLabelsFollowTheHostIntoACluster(t *testing.T) {
	places := testPlaces(t)
	alone, cluster := startAPIServer(t), startAPIServer(t)
	start(t, places)
	alone.kubeconfig(places.kubeconfig)
	alone.create()
	alone.expect(nil)
	cluster.kubeconfig(places.kubeconfig)
	cluster.create()
	cluster.expect(nil)
	alone.create()
	cluster.create()
	cluster.expect(nil)
	if len(alone.patched) != 0 {
		t.Fatal("the API server that the host has left was asked again")
	}
}

func TestAKubeconfigThatCannotBeReadIsAnError(t *testing.T) {
	places := testPlaces(t)
	if err := os.WriteFile(places.kubeconfig, []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, "end", start(t, places)); err == nil {
		t.Fatal("the service ended without an error")
	}
}
