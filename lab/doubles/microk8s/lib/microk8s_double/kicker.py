"""daemon-apiserver-kicker: what MicroK8s does again and again: certificates, the CNI manifest at the first start."""

from __future__ import annotations

import time

from . import certificates, cni, containerd, services
from .readiness import api_ready
from .snapenv import CLUSTERED, CNI_LOADED, CNI_YAML, JOIN_IN_PROGRESS, NO_CERT_REISSUE, locked, set_lock

# MicroK8s waits 5 s.
_POLL_S = 2


def run() -> None:
    """Reconcile for ever; a worker has nothing to reconcile."""
    if locked(CLUSTERED):
        print("api service kicker will not run on a cluster node")
        return
    while True:
        time.sleep(_POLL_S)
        containerd.share_socket()
        if not services.active("kubelite"):
            continue
        if not locked(NO_CERT_REISSUE) and certificates.produce() and not locked(JOIN_IN_PROGRESS):
            print("cert change detected. Reconfiguring the kube-apiserver", flush=True)
            services.systemctl("restart", "cluster-agent", "kubelite")
            continue
        if CNI_YAML.exists() and not locked(CNI_LOADED) and api_ready():
            print("Setting up the CNI", flush=True)
            if cni.apply():
                set_lock(CNI_LOADED)
