package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
)

var nodes = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

// keepLabels keeps labels on this host's node object, also on a new one of that name, until ctx ends.
func keepLabels(ctx context.Context, kubeconfig []byte, labels map[string]string) error {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return err
	}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	keepLabelsWith(ctx, client, strings.ToLower(host), labels)
	return nil
}

func keepLabelsWith(ctx context.Context, client metadata.Interface, node string, labels map[string]string) {
	// A node may see itself only.
	itself := func(options metav1.ListOptions) metav1.ListOptions {
		options.FieldSelector = "metadata.name=" + node
		return options
	}
	label := func(object any) { setLabels(ctx, client, object.(*metav1.PartialObjectMetadata), labels) }
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				return client.Resource(nodes).List(ctx, itself(options))
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				return client.Resource(nodes).Watch(ctx, itself(options))
			},
		},
		ObjectType: &metav1.PartialObjectMetadata{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    label,
			UpdateFunc: func(_, object any) { label(object) },
		},
	})
	go informer.RunWithContext(ctx)
}

// setLabels sets those labels that are missing or other; it tries again until the API server takes them.
func setLabels(
	ctx context.Context, client metadata.Interface, node *metav1.PartialObjectMetadata, labels map[string]string,
) {
	missing := map[string]string{}
	for name, value := range labels {
		if node.Labels[name] != value {
			missing[name] = value
		}
	}
	if len(missing) == 0 {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		log.Panic(err) // strings only
	}
	backoff := wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Steps: 8, Cap: 10 * time.Second}
	again := func(error) bool { return ctx.Err() == nil }
	err = retry.OnError(backoff, again, func() error {
		_, err := client.Resource(nodes).Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	if err != nil {
		log.Printf("labels of the node %s: %v", node.Name, err)
		return
	}
	log.Printf("labelled the node %s", node.Name)
}
