"""The lab's double of MicroK8s: its commands, files, units and exit codes over a real Kubernetes."""
