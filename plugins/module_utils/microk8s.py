"""What MicroK8s prints and keeps in files, read and written. Pure.

Source: the `microk8s` and `snap` commands of channels 1.30 to 1.34 and the files that they keep.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

SNAP_DATA = "/var/snap/microk8s/current"
SNAP_COMMON = "/var/snap/microk8s/common"
COMMAND = "/snap/bin/microk8s"

# Which unit runs with an arguments file.
KUBELITE = "snap.microk8s.daemon-kubelite"
CONTAINERD = "snap.microk8s.daemon-containerd"
UNIT_OF_ARGUMENTS = {
    "kubelet": KUBELITE,
    "kube-proxy": KUBELITE,
    "kube-apiserver": KUBELITE,
    "kube-controller-manager": KUBELITE,
    "kube-scheduler": KUBELITE,
    "kubelite": KUBELITE,
    "containerd": CONTAINERD,
    "containerd-env": CONTAINERD,
    "containerd-template.toml": CONTAINERD,
}
WORKER_UNITS = (CONTAINERD, KUBELITE, "snap.microk8s.daemon-apiserver-proxy")
HEAD_UNITS = (
    CONTAINERD,
    "snap.microk8s.daemon-k8s-dqlite",
    KUBELITE,
    "snap.microk8s.daemon-cluster-agent",
)
# What a join ends with, by its exit code; all other codes are an unexpected end.
_JOIN_CURE = {
    1: "is the head running, and is its port 25000 open to this host?",
    4: "another host answers at the head's address: check the address in the inventory",
    6: "run the play again: it asks for a new token",
}

Arguments = Mapping[str, Optional[str]]


class MicroK8sError(Exception):
    """Something MicroK8s printed or keeps that cannot be worked with."""


class Snap(NamedTuple):
    """A line of `snap list`."""

    name: str
    version: str
    revision: str
    notes: tuple[str, ...]


def parse_snap_list(text: str) -> dict[str, Snap]:
    """Return the installed snaps by name from the output of `snap list`.

    Columns: Name Version Rev Tracking Publisher Notes; a publisher may end in `**` or a tick, never holds a space.
    """
    snaps = {}
    for line in text.splitlines()[1:]:
        columns = line.split()
        if len(columns) >= 6:
            notes = tuple(note for note in columns[5].split(",") if note != "-")
            snaps[columns[0]] = Snap(columns[0], columns[1], columns[2], notes)
    return snaps


def parse_arguments(text: str) -> dict[str, str]:
    """Return flag -> value of an arguments file (`--flag=value`, `--flag value`, or `--flag`: an empty value)."""
    flags = {}
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        flag, _separator, value = line.partition("=") if "=" in line.split()[0] else line.partition(" ")
        flags[flag] = value.strip().strip('"')
    return flags


def containerd_root(text: str) -> str:
    """Return the folder of containerd's images and containers by its arguments file; empty if that names none."""
    root = parse_arguments(text).get("--root", "")
    return root.replace("${SNAP_COMMON}", SNAP_COMMON).replace("${SNAP_DATA}", SNAP_DATA).rstrip("/")


def with_arguments(text: str, wanted: Arguments) -> str:
    """Return an arguments file in which the flags of `wanted` have their values; None removes a flag.

    Other lines and their order stay; a flag that occurs twice is left once, because the last one would win.
    """
    lines, seen = [], set()
    for line in text.splitlines():
        flag = re.split(r"[=\s]", line.strip(), maxsplit=1)[0]
        if flag not in wanted:
            lines.append(line)
        elif flag not in seen and wanted[flag] is not None:
            lines.append(f"{flag}={wanted[flag]}")
        seen.add(flag)
    lines += [f"{flag}={value}" for flag, value in wanted.items() if flag not in seen and value is not None]
    return "\n".join(lines) + "\n"


def settle(text: str, wanted: Arguments, replaced: Arguments) -> tuple[str, dict[str, str | None]]:
    """Return an arguments file with the flags of `wanted` as `with_arguments` does, and what these took the place of.

    That is flag -> the line that was there, None if there was none; `replaced` is the same from the time before. A flag
    that is wanted no longer gets its line back, or goes. What the launch configuration had set counts as no line.
    """
    gone = [flag for flag in replaced if flag not in wanted]
    before: dict[str, str | None] = {}
    for line in text.splitlines():
        flag = re.split(r"[=\s]", line.strip(), maxsplit=1)[0]
        if flag in wanted and flag not in replaced and line != f"{flag}={wanted[flag]}":
            before[flag] = line
    if wanted or gone:
        text = with_arguments(text, {**dict.fromkeys(gone), **wanted})
        text += "".join(f"{replaced[flag]}\n" for flag in gone if replaced[flag] is not None)
    return text, {flag: replaced.get(flag, before.get(flag)) for flag in wanted}


def parse_join_url(text: str, address: str) -> str:
    """Return the URL `IP:25000/TOKEN/FINGERPRINT` at `address` from `microk8s add-node --format json`."""
    try:
        answer = json.loads(text)
        token, urls = answer["token"], answer["urls"]
    except (ValueError, KeyError, TypeError) as error:
        raise MicroK8sError(f"microk8s add-node answered no JSON with token and urls: {text.strip()[:200]}") from error
    if not re.fullmatch(r"[^/\s]{32,}/[0-9a-f]+", token):
        raise MicroK8sError("microk8s add-node answered a token of an unknown form")
    port = urls[0].rsplit("/", 2)[0].rsplit(":", 1)[-1] if urls else "25000"
    return f"{address}:{port}/{token}"


def join_failure(code: int, output: str) -> str:
    """Return why a join failed and what to do, without the token that its output may show."""
    text = re.sub(r"\S{32,}/[0-9a-f]{12}", "(token)", output).strip()
    said = text.splitlines()[-1] if text else "(it printed nothing)"
    return (
        f"microk8s join failed (exit code {code}): {said}. Cure: {_JOIN_CURE.get(code, 'see journalctl on this host')}"
    )


def launch_configuration(arguments: Mapping[str, Arguments], **others: Any) -> dict[str, Any]:
    """Return MicroK8s' launch configuration (version 0.2.0) as a dict to be written as YAML.

    `arguments` is {file name in args/: {flag: value}}; `others` are further keys, left out when empty.
    """
    keys = {
        "kubelet": "extraKubeletArgs",
        "kube-apiserver": "extraKubeAPIServerArgs",
        "kube-proxy": "extraKubeProxyArgs",
        "kube-controller-manager": "extraKubeControllerManagerArgs",
        "kube-scheduler": "extraKubeSchedulerArgs",
        "containerd": "extraContainerdArgs",
        "containerd-env": "extraContainerdEnv",
    }
    result: dict[str, Any] = {"version": "0.2.0"}
    for name, flags in arguments.items():
        if name not in keys:
            raise MicroK8sError(f"arguments for '{name}': the launch configuration knows only {', '.join(keys)}")
        if flags:
            result[keys[name]] = dict(flags)
    result.update({key: value for key, value in others.items() if value})
    return result


def has_joined(locks: Path) -> bool:
    """Whether a join as a worker has come to its end, by MicroK8s' own folder of locks.

    MicroK8s calls a host a worker before it has started the services as one; the other lock is there until the end.
    """
    return (locks / "clustered.lock").exists() and not (locks / "join-in-progress").exists()


def parse_worker_heads(provider: str) -> list[str]:
    """Return the addresses of the API servers in a worker's `args/traefik/provider.yaml`."""
    return re.findall(r"address:\s*['\"]?([^\s'\"]+)", provider)
