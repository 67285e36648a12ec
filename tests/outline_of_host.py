"""What a deployment has made of the host that this runs on, printed as JSON: name -> text. `state.outline` sends it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from pathlib import Path

ROOTS = (
    "/etc/gpuhub", "/etc/hosts", "/etc/microk8s.yaml", "/etc/systemd/system", "/opt", "/root", "/srv", "/tmp",
    "/var/lib/gpuhub", "/var/snap/microk8s/common/etc/sideload", "/var/snap/microk8s/common/sideload",
    "/var/snap/microk8s/current/args", "/var/tmp",
)  # fmt: skip
# Not looked into: what users and the registry keep, a folder under a name of its own to which `python` leads, starts of
# services, what the smoke test has proven, what programs need for the moment, and a folder that stays where an archive
# was once sent.
PASSED = re.compile(
    r"/var/lib/gpuhub/((volumes|registry/data|registry/run|python|\.python-[^/]*|microk8s-arguments\.json|proof)($|/)|staging$)"
    r"|/root/(\.ansible|\.kube|\.ssh|snap)($|/)|/tmp/(\.|systemd-private|k8srcp|osrcp|runc-process|snap-private)|__pycache__"
)
# Drawn anew for each deployment: that they are there, whose they are and with which mode is what counts.
DRAWN = re.compile(r"^/var/lib/gpuhub/(secrets|pki|values)/|/(tls|cni-network)/|\.(crt|csr|key|pem)$")


def files() -> dict[str, str]:
    """Kind, mode, owner and content of everything below ROOTS."""
    paths = [path for root in map(Path, ROOTS) for path in (root, *root.rglob("*"))]
    there = [path for path in paths if os.path.lexists(path) and not PASSED.search(str(path))]
    return {f"file {path}": describe(path) for path in there}


def describe(path: Path) -> str:
    about, content = path.lstat(), ""
    if stat.S_ISLNK(about.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(about.st_mode):
        content = "(drawn)" if DRAWN.search(str(path)) else hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return f"{about.st_mode:o} {about.st_uid}:{about.st_gid} {content}"


def lines(*command: str) -> list[list[str]]:
    """What a command prints, in words; its headings too."""
    return [line.split() for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()]


def main() -> None:
    units = ("--all", "--plain", "--no-legend", "snap.*", "gpuhub*", "nginx*")
    tags = Path("/var/lib/gpuhub/registry/data").glob("**/_manifests/tags/*/current/link")
    found = {
        **files(),
        **{f"snap {words[0]}": " ".join(words[1:3]) for words in lines("snap", "list")},
        **{f"unit {words[0]}": " ".join(words[1:3]) for words in lines("systemctl", "list-units", *units)},
        **{f"unit file {words[0]}": words[1] for words in lines("systemctl", "list-unit-files", *units[1:])},
        **{
            f"pinned image {words[0]}": words[2]
            for words in lines("/snap/bin/microk8s", "ctr", "images", "ls")
            if "io.cri-containerd.pinned=pinned" in words[-1] and not words[0].startswith("sha256:")
        },
        **{f"tag {'/'.join(link.parts[10:-5])}:{link.parts[-3]}": link.read_text() for link in tags},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
