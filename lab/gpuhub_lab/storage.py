"""What hosts write: kept on one btrfs file system per instance, so that saving and loading it are snapshots.

Layout below `Instance.state`: `live/` and `saves/<name>/`, each with `lab.json` (`Storage.facts`), `shared/` (the
storage that all hosts mount) and `hosts/<host>/{upper,work,snap}`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from .cache import pin, unpin
from .instance import Instance
from .process import LabError, sh
from .template import SUITE

_SIZE = 60 << 30


class Storage:
    """The state of one instance. Changes are made beside what they replace and then renamed."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.live = instance.state / "live"
        self.saves = instance.state / "saves"

    # The file system

    @staticmethod
    def has_btrfs() -> bool:
        """Whether the machine's kernel knows btrfs; else plain folders and copies serve."""
        return "btrfs" in Path("/proc/filesystems").read_text().split()

    def mount(self) -> None:
        """Mount the file system, made if need be, and finish what a killed load left half done."""
        state, image = self.instance.state, self.instance.image
        state.mkdir(parents=True, exist_ok=True)
        if self.has_btrfs() and not os.path.ismount(state):
            new = not image.exists()
            if new:
                partial = image.with_suffix(".partial")
                with partial.open("wb") as file:
                    # Sparse; not larger than the disk below, whose end the file system above would not survive.
                    file.truncate(min(_SIZE, shutil.disk_usage(image.parent).free * 9 // 10))
                sh("mkfs.btrfs", "--quiet", "--force", "--data", "single", "--metadata", "single", partial)
                partial.rename(image)
            # nobarrier: a lab need not survive a power cut, and its data bases wait for every flush otherwise.
            # nodatasum: to verify what is read costs as much as to read it.
            sh("mount", "-t", "btrfs", "-o", "loop,noatime,discard=async,compress=no,nobarrier,nodatasum", image, state)
            if new:
                # A new one has 8 MiB for metadata. Moved, they get the room of a whole chunk: so files can still be
                # removed from a disk that was filled to its end before another chunk was asked for.
                sh("btrfs", "--quiet", "balance", "start", "--force", "-m", state)
        self.saves.mkdir(exist_ok=True)
        replaced = state / "live.old"
        if replaced.is_dir() and not self.live.is_dir():
            replaced.rename(self.live)
        for left in [*state.glob("live.*"), *self.saves.glob(".*")]:
            self._delete(left)

    def unmount(self) -> None:
        """Unmount the file system; its loop device goes with it."""
        while os.path.ismount(self.instance.state):
            sh("umount", self.instance.state)

    def destroy(self) -> None:
        """Remove the state and all saves."""
        self.unmount()
        shutil.rmtree(self.instance.state, ignore_errors=True)
        for file in (self.instance.image, self.instance.image.with_suffix(".partial")):
            file.unlink(missing_ok=True)
        unpin(self.instance.name)

    # The hosts' files

    def exists(self) -> bool:
        """Whether there are hosts' files."""
        return (self.live / "lab.json").is_file()

    def create(self) -> None:
        """Begin an empty state."""
        partial = self.instance.state / "live.new"
        if self.has_btrfs():
            sh("btrfs", "--quiet", "subvolume", "create", partial)
        else:
            partial.mkdir()
        (partial / "hosts").mkdir()
        (partial / "shared").mkdir(mode=0o755)
        (partial / "lab.json").write_text(json.dumps({"templates": {}, "os": {}, "workers": None, "gpus": {}}))
        partial.rename(self.live)

    def facts(self, folder: Path | None = None) -> dict:
        """Facts of the live state or of a save: `templates` (suite: path), `os` (host: suite) and `gpus` (host: GPUs as
        text), both where they are not the usual ones, and `workers` (how many, None before the first start)."""
        found = json.loads(((folder or self.live) / "lab.json").read_text())
        if "template" in found:  # written when all hosts had the same
            found["templates"] = {SUITE: found.pop("template")}
        return {"os": {}, "gpus": {}, **found}

    def note(self, **facts: object) -> None:
        """Change some facts of the live state."""
        partial = self.live / ".lab.json"
        partial.write_text(json.dumps({**self.facts(), **facts}))
        partial.replace(self.live / "lab.json")

    def use(self, suite: str, template: Path) -> None:
        """Have hosts of a suite stand on a template, which then stays as long as the instance does."""
        pin(template, self.instance.name)
        self.note(templates={**self.facts()["templates"], suite: str(template)})

    def templates(self, folder: Path | None = None) -> dict[str, Path]:
        """The templates that the live state or a save stands on, by suite."""
        found = {suite: Path(path) for suite, path in self.facts(folder)["templates"].items()}
        for path in found.values():
            if not path.is_dir():
                what = f"the save {folder.name}" if folder else f"the state of the lab {self.instance.name}"
                raise LabError(
                    f"{what} stands on the template {path}, which is gone; "
                    f"{'save it anew' if folder else 'run `lab clean` and then `lab up`'}"
                )
        return found

    def host(self, name: str) -> Path:
        """Folder of a host's files."""
        return self.live / "hosts" / name

    @property
    def shared(self) -> Path:
        """The storage that every host mounts."""
        return self.live / "shared"

    # Saves

    def _snapshot(self, source: Path, target: Path, read_only: bool) -> None:
        if self.has_btrfs():
            sh("btrfs", "--quiet", "subvolume", "snapshot", *(["-r"] if read_only else []), source, target)
        else:
            sh("cp", "-a", "--reflink=auto", source, target)

    def _delete(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        if self.has_btrfs():
            sh("btrfs", "--quiet", "subvolume", "delete", folder)
        else:
            shutil.rmtree(folder)

    @staticmethod
    def check_name(name: str) -> None:
        """Refuse what cannot name a save."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
            raise LabError(f"{name!r} cannot name a save: letters, digits, '.', '_' and '-'")

    def save(self, name: str) -> None:
        """Keep the live state under a name; an older save of that name is replaced. Hosts must be down."""
        self.check_name(name)
        self._keep(self.live, name)

    def _keep(self, folder: Path, name: str) -> None:
        self._delete(self.saves / f".{name}")
        self._snapshot(folder, self.saves / f".{name}", read_only=True)
        self._delete(self.saves / name)
        (self.saves / f".{name}").rename(self.saves / name)

    def find_save(self, name: str) -> Path:
        """Folder of a save whose templates are there."""
        folder = self.saves / name
        if name not in self.names():
            raise LabError(f"there is no save {name!r}; there are: {', '.join(self.names()) or 'none'}")
        self.templates(folder)
        return folder

    def fetch(self, name: str, other: Instance) -> None:
        """Copy a save of another lab, under the same name."""
        theirs = Storage(other).find_save(name)
        arrivals = self.instance.state / "arrivals"
        arrivals.mkdir(exist_ok=True)
        self._delete(arrivals / name)  # what a killed copy has left
        if self.has_btrfs():
            with subprocess.Popen(["btrfs", "--quiet", "send", theirs], stdout=subprocess.PIPE) as sender:
                subprocess.run(["btrfs", "--quiet", "receive", arrivals], stdin=sender.stdout, check=True)
        else:
            sh("cp", "-a", theirs, arrivals)
        self._keep(arrivals / name, name)
        self._delete(arrivals / name)
        for template in self.templates(self.saves / name).values():
            pin(template, self.instance.name)

    def load(self, name: str) -> None:
        """Replace the live state by a save. Hosts must be down."""
        source = self.find_save(name)
        fresh, replaced = self.instance.state / "live.new", self.instance.state / "live.old"
        self._snapshot(source, fresh, read_only=False)
        if self.live.is_dir():
            self.live.rename(replaced)
        fresh.rename(self.live)
        self._delete(replaced)

    def names(self) -> list[str]:
        """The saves there are."""
        if not self.saves.is_dir():
            return []
        return sorted(path.name for path in self.saves.iterdir() if not path.name.startswith("."))
