"""The snap's hooks: install, configure, remove."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import certificates, cluster, cni, containerd, launch, services
from .snapenv import ARGS, CERTS, COMMON, CREDENTIALS, DATA, GROUP, SNAP, set_lock, write

_HOME = Path(os.environ["SNAP_USER_COMMON"])
# Where others look for what MicroK8s keeps in its own folders.
_LINKS = {
    "/var/lib/kubelet": COMMON / "var/lib/kubelet",
    "/var/lib/calico": DATA.parent / "current/var/lib/calico",
    "/etc/cni/net.d": DATA.parent / "current/args/cni-network",
    "/opt/cni/bin": DATA.parent / "current/opt/cni/bin",
}


def _group() -> None:
    if subprocess.run(["getent", "group", GROUP], capture_output=True).returncode != 0:
        subprocess.run(["groupadd", "--system", GROUP], check=True)


def install() -> None:
    """Everything before the first start. The launch configuration decides: a fault in it fails the installation."""
    _group()
    shutil.copytree(SNAP / "default-args", ARGS, dirs_exist_ok=True)
    for place, target in _LINKS.items():
        target.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(place):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).symlink_to(target)
    for folder in (CERTS, CREDENTIALS):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SNAP / "certs/csr.conf.template", CERTS / "csr.conf.template")
    try:
        launch.prepare(_HOME)
        _sideload()
        cluster.mark_new()
        cluster.new_datastore()
        certificates.produce()
        certificates.create_users()
        cni.generate()
    except (launch.LaunchError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    shutil.copytree(SNAP / "opt/cni/bin", DATA / "opt/cni/bin", dirs_exist_ok=True)
    for folder in (ARGS, CERTS, CREDENTIALS):
        subprocess.run(["chgrp", "-R", GROUP, folder], check=True)
        subprocess.run(["chmod", "-R", "ug+rwX,o-rwX", folder], check=True)
    set_lock("installed.lock")


def _sideload() -> None:
    """Copy archives from where an administrator puts them to where containerd looks."""
    containerd.SIDELOAD.mkdir(parents=True, exist_ok=True)
    for folder in (_HOME / "sideload", COMMON / "sideload"):
        for archive in sorted(folder.glob("[!.]*.tar")):  # a shell passes hidden ones over
            # Linked where it can be: a copy of the same content takes time and space.
            target = containerd.SIDELOAD / archive.name
            target.unlink(missing_ok=True)
            try:
                os.link(archive, target)
            except OSError:
                shutil.copyfile(archive, target)


def configure() -> None:
    """`snap set microk8s config=...`: hand the text to the cluster agent."""
    config = json.load(sys.stdin).get("config")
    if config:
        write(launch.FOLDER / f"snap-config-{time.time_ns()}.yaml", config)


def remove() -> None:
    """Leave no container, mount, interface or link behind. The units are stopped already."""
    services.systemctl("start", "containerd")
    services.stop_containers()
    services.systemctl("stop", "containerd")
    services.stop_containers()
    services.unmount_pods()
    for namespace in Path("/run/netns").glob("cni-*"):
        subprocess.run(["ip", "netns", "delete", namespace.name], capture_output=True)
    for interface in json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True).stdout):
        # Those of pods go with their network namespaces, too, but some time later.
        if interface["ifname"].startswith(("cni0", "flannel.", "veth")):
            subprocess.run(["ip", "link", "delete", interface["ifname"]], capture_output=True)
    for place, target in _LINKS.items():
        link = Path(place)
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
