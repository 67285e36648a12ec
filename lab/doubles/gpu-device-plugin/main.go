// Command gpu-double is the lab's stand-in for NVIDIA's device plugin and GPU feature discovery on one host: `run` is
// the service, the other commands show its GPUs and break and mend them.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
)

const (
	// What the host has, written by the lab.
	hardwareFile = "/etc/gpuhub-lab/gpus.json"
	// One empty file for each GPU that is broken: a broken GPU stays so over a reboot.
	unhealthyFolder = "/var/lib/gpuhub-lab/unhealthy-gpus"
	registeredFile  = "/run/gpu-double/registered"
)

const usage = `usage: gpu-double list                    ids and health of this host's GPUs
       gpu-double unhealthy ID|INDEX...   break GPUs
       gpu-double healthy ID|INDEX...     mend them
       gpu-double run [FLAG...]           register them with kubelet and label the node
`

func main() {
	log.SetFlags(0) // the journal has the time
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(os.Args[1], os.Args[2:]); err != nil {
		log.Fatalf("gpu-double: %v", err)
	}
}

func command(name string, arguments []string) error {
	hardware, err := readHardware(hardwareFile)
	if err != nil {
		return err
	}
	marks := marks(unhealthyFolder)
	switch name {
	case "list":
		unhealthy, err := marks.read()
		if err != nil {
			return err
		}
		for _, device := range hardware.devices(unhealthy) {
			fmt.Println(device.ID, device.Health)
		}
		return nil
	case "healthy", "unhealthy":
		ids, err := hardware.find(arguments)
		if err != nil {
			return err
		}
		return marks.set(ids, name == "unhealthy")
	case "run":
		flags := flag.NewFlagSet("gpu-double run", flag.ExitOnError)
		places := places{unhealthy: marks, registered: registeredFile}
		flags.StringVar(&places.plugins, "plugins", "", "folder of kubelet.sock")
		flags.StringVar(&places.containers, "containers", "", "folder in which kubelet links the logs of containers")
		flags.StringVar(&places.kubeconfig, "kubeconfig", "", "kubelet's own kubeconfig")
		flags.Parse(arguments)
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return run(ctx, hardware, places)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
		return nil
	}
}
