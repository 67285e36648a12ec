"""Bare hosts of a lab with what it takes to install the double of MicroK8s on them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import catalogue, images, snaps
from gpuhub_lab.host import Host
from gpuhub_lab.instance import Instance
from gpuhub_lab.process import LabError

DATA = "/var/snap/microk8s/current"
COMMON = "/var/snap/microk8s/common"
BUSYBOX = "docker.io/library/busybox:1.37.0"


class Result(str):
    """What a command printed on both streams, its exit code as `code`."""

    code: int


class Hosts:
    """The hosts of the lab `name`."""

    def __init__(self, name: str) -> None:
        self.instance = Instance.named(name)
        self.environment = {**os.environ, "GPUHUB_LAB_NAME": name}

    def lab(self, *words: str) -> None:
        """Run `lab WORDS`."""
        subprocess.run([sys.executable, REPOSITORY / "lab/lab", *words], env=self.environment, check=True)

    def run(
        self, host: str, script: str, code: int | None = 0, stdin: bytes | None = None, timeout: float = 600
    ) -> Result:
        """Run a shell script on a host; `code` is the exit code it must have (None: any)."""
        # Not by the command line, which takes longer to start than most scripts run.
        options = {"input": stdin or b"", "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": timeout}
        try:
            done = Host(self.instance, host).execute(["bash", "-c", script], text=False, **options)
        except LabError as error:  # it is down
            done = subprocess.CompletedProcess(script, 1, str(error).encode())
        result = Result(done.stdout.decode())
        result.code = done.returncode
        assert code is None or result.code == code, f"{host}: {script}: {done.returncode}\n{result}"
        return result

    def reboot(self, host: str) -> None:
        """Reboot a host, and return when it has come up again; one that goes down may take its time."""
        began = "cut --delimiter=' ' --fields=22 /proc/1/stat"
        before = self.run(host, began)
        # The command dies with the host.
        self.run(host, "systemctl reboot", None)

        def booted() -> bool:
            now = self.run(host, began, None)
            return now.code == 0 and now != before

        wait(booted, f"{host}: another boot")

    def deliver(self, host: str) -> None:
        """Put the snaps into /opt/snaps and the bootstrap images where MicroK8s looks for them."""
        self.run(host, f"mkdir -p /opt/snaps {COMMON}/sideload")
        for file in snaps.build().iterdir():
            self.run(host, f"cat > /opt/snaps/{file.name}", stdin=file.read_bytes())
        self.run(host, f"cat > {COMMON}/sideload/bootstrap.tar", stdin=bootstrap())


HEAD, WORKER = "head", "worker1"
HOSTS = Hosts("kubetest")


def wait(condition: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait for a condition; fail, naming `what`, if it does not come true."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, f"{what}: not within {seconds} s"
        # Questions take a core from what they wait for: they have a third of the time.
        time.sleep(max(0.3, 2 * (now - asked)))


@cache
def bootstrap() -> bytes:
    """OCI archive of what a node needs before it has a registry."""
    versions = catalogue.load()
    return archive([versions["pause"]["image"], *versions["calico"]["images"], versions["coredns"]["image"], BUSYBOX])


def archive(references: list[str]) -> bytes:
    """OCI archive of some images of the lab."""
    layout = images.build() / "oci"
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] = [m for m in index["manifests"] if m["annotations"]["io.containerd.image.name"] in references]
    digests = set()
    for descriptor in index["manifests"]:
        manifest = images.read_blob(layout, descriptor["digest"])
        digests |= {descriptor["digest"], manifest["config"]["digest"], *(la["digest"] for la in manifest["layers"])}
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w") as tar:
        tar.add(layout / "oci-layout", "oci-layout")
        content = json.dumps(index).encode()
        member = tarfile.TarInfo("index.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        for digest in sorted(digests):
            tar.add(images.blob(layout, digest), f"blobs/{digest.replace(':', '/')}")
    return result.getvalue()
