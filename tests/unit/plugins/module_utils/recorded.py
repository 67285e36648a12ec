"""Recorded hosts for the tests of preflight: files, links and answers of commands, read from hosts/NAME.yml."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils.preflight_host import Source, read_host

HOSTS = Path(__file__).parent / "hosts"
IMAGE_STORE, SHARED = "/var/snap/microk8s/common", "/mnt/shared"


def recording(name: str) -> dict[str, Any]:
    """What was recorded of a host, on top of what it is based on; a file that is null is not there."""
    own = yaml.safe_load((HOSTS / f"{name}.yml").read_text())
    whole = recording(own.pop("base")) if "base" in own else {}
    for key, values in own.items():
        whole[key] = {**whole.get(key, {}), **values}
    return whole


class Recorded(Source):
    """A recorded host, laid out below a folder."""

    def __init__(self, root: Path, name: str, **changes: dict[str, Any]) -> None:
        super().__init__(root)
        self.recording = copy.deepcopy(recording(name))
        for key, values in changes.items():
            self.recording.setdefault(key, {}).update(values)
        for path, text in self.recording["files"].items():
            if text is not None:
                self.path(path).parent.mkdir(parents=True, exist_ok=True)
                self.path(path).write_text(text)
        for path, target in self.recording["links"].items():
            self.path(path).parent.mkdir(parents=True, exist_ok=True)
            self.path(path).symlink_to(target)

    def run(self, *command: str) -> tuple[int, str]:
        answer = self.recording["commands"].get(" ".join(command), {"code": 127, "output": ""})
        return (0, answer.strip()) if isinstance(answer, str) else (answer["code"], answer["output"])

    def space(self, name: str) -> tuple[int, int]:
        inside = [path for path in self.recording["space"] if name.startswith(path)]
        size, free = self.recording["space"][max(inside, key=len)]
        return size, free

    def try_folder(self, path: str, write: bool) -> dict[str, Any]:
        shared = self.recording.get("shared")
        missing = {"there": False, "problem": f"No such file or directory: '{path}'"}
        return {"there": True, **shared} if shared else missing

    def machine(self) -> dict[str, Any]:
        return dict(self.recording["machine"])

    def facts(self, shared_path: str = "") -> dict[str, Any]:
        """All facts of the recorded host."""
        return read_host(self, IMAGE_STORE, shared_path, may_write=True)
