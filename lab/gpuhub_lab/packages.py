"""Debian packages that the machine itself needs for the lab."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .cache import say
from .process import LabError

PACKAGES = (
    # Hosts: their root file system, their machine, their network, their state.
    "mmdebstrap", "systemd-container", "iproute2", "nftables", "btrfs-progs", "openssh-client", "kmod",
    # Images, snaps and what looks at the cluster from outside.
    "buildah", "skopeo", "squashfs-tools", "patchelf", "zstd", "jq", "conntrack", "ipset", "ethtool", "socat",
    "bind9-dnsutils",
    # The pause image is a C program.
    "gcc", "libc6-dev",
    # The browser of the end-to-end tests, and what makes it trust an authority.
    "chromium", "fonts-dejavu-core", "libnss3-tools",
)  # fmt: skip
# Commands that may come from elsewhere than Debian, and the package that brings each where none does.
COMMANDS = {"npm": "npm"}


def ensure() -> None:
    """Install what is missing of PACKAGES and COMMANDS."""
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *PACKAGES],
        capture_output=True,
        text=True,
    )
    present = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    missing = [p for p in PACKAGES if p not in present]
    missing += [package for command, package in COMMANDS.items() if not shutil.which(command)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise LabError(f"packages are missing ({' '.join(missing)}): run this once as root")
    say(f"installing {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as archives:
        # A folder of our own: images for containers empty the usual one whenever any dpkg ends.
        Path(archives, "partial").mkdir()
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600", "-o", f"Dir::Cache::archives={archives}"]
        for arguments in (["update"], ["install", "--no-install-recommends", *missing]):
            done = subprocess.run(
                [*apt, *arguments],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                raise LabError(f"apt-get {arguments[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}")
