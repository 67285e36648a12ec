#!/usr/bin/python
"""Debian packages from files, without a network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deb_packages
short_description: Install Debian packages from files, without a network
description:
  - Installs packages with what they depend on from an archive of C(.deb) files. apt sees that archive as its only
    source, takes what this host lacks, and never removes, downgrades or fetches anything.
  - An installation that was killed is completed. Files of configuration that were edited are kept.
  - Whether services of the packages start is not decided here. A role that wants them to wait masks their units, or
    puts C(/usr/sbin/policy-rc.d) in place, before it calls this module.
version_added: 0.2.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  packages:
    description: Names of the packages.
    type: list
    elements: str
    required: true
  archive:
    description:
      - Uncompressed tar on the host with the C(.deb) files. With O(state=present) it is removed once every package is
        installed, so that one that is left tells of a killed run.
    type: path
  files:
    description: Names of the files to take from O(archive), each with its digest.
    type: dict
    default: {}
  lock_timeout:
    description: Seconds to wait for another package manager to finish.
    type: int
    default: 300
  state:
    description: V(query) changes nothing and says what is missing. V(present) installs it.
    type: str
    choices: [present, query]
    default: present
"""

EXAMPLES = r"""
- name: Whether nginx is there is known
  gpuhub.platform.deb_packages:
    packages: [nginx]
    state: query
  register: packages

- name: nginx is installed
  gpuhub.platform.deb_packages:
    packages: [nginx]
    archive: /var/lib/gpuhub/staging/packages.tar
    files:
      nginx_1.26.3-3_amd64.deb: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

RETURN = r"""
missing:
  description: Packages that were not installed, or not to the end.
  type: list
  elements: str
  returned: success
installed:
  description:
    - Names of all packages that are installed, and what these provide. Only with O(state=query) and if something is
      missing.
  type: list
  elements: str
  returned: success
distribution:
  description: The host's distribution and release, such as V(debian-13).
  type: str
  returned: success
correct:
  description: Whether there was nothing to do.
  type: bool
  returned: success
"""

import fcntl
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import debian, module_run
from ..module_utils.debian import Deb, PackageError
from ..module_utils.oci import hash_stream

FRONTEND_LOCK = Path("/var/lib/dpkg/lock-frontend")
OS_RELEASE = Path("/etc/os-release")
# Nobody is there to be asked, and nobody asked for other services to be restarted (needrestart on Ubuntu).
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}


class Host:
    """The host's package database, by its commands."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def run(self, *command: str, **environment: str) -> str:
        """Standard output of a command. Raises PackageError with the end of what it said."""
        code, out, err = self._module.run_command(list(command), environ_update={**QUIET, **environment})
        if code:
            said = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()]
            raise PackageError(f"'{command[0]}' failed (exit code {code}): {' '.join(said[-6:]) or 'no output'}")
        return out

    def installed(self) -> dict[str, list[str]]:
        """Packages that are installed to the end, each with what it provides."""
        return debian.parse_status(self.run("dpkg-query", "--show", f"--showformat={debian.STATUS_FORMAT}"))

    def complete(self, timeout: float) -> None:
        """Configure what a killed installation left unpacked."""
        with frontend_lock(timeout):
            self.run("dpkg", "--configure", "--pending", "--force-confdef", "--force-confold",
                     DPKG_FRONTEND_LOCKED="true")  # fmt: skip

    def install(self, wanted: list[str], folder: Path, timeout: int) -> None:
        """Install packages from the flat repository in `folder`."""
        options = {**debian.apt_options(str(folder)), "DPkg::Lock::Timeout": str(timeout)}
        apt = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
        apt += ["-oDpkg::Options::=--force-confdef", "-oDpkg::Options::=--force-confold"]
        self.run(*apt, "update")
        self.run(*apt, "install", "--fix-broken", "--no-install-recommends", "--no-remove", *wanted)

    def control(self, file: Path) -> str:
        """The control fields of a package file."""
        return self.run("dpkg-deb", "--field", str(file))


@contextmanager
def frontend_lock(timeout: float) -> Iterator[None]:
    """Keep other package managers out, as apt does. Raises PackageError if one does not finish in time."""
    deadline = time.monotonic() + timeout
    with FRONTEND_LOCK.open("w") as lock:
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise PackageError(
                        f"another package manager has held {FRONTEND_LOCK} for {timeout:.0f} s; see 'ps -e', "
                        "let it finish, then run this again"
                    ) from None
                time.sleep(0.5)
        yield


@contextmanager
def repository(host: Host, archive: Path, files: dict[str, str]) -> Iterator[Path]:
    """A flat repository of the archive's files in a folder that is gone afterwards. Raises PackageError."""
    folder = archive.with_name(f".{archive.name}.repository")
    shutil.rmtree(folder, ignore_errors=True)  # a killed run's
    try:
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        debs = [Deb(name, host.control(folder / name), digest, (folder / name).stat().st_size)
                for name, digest in extract(archive, folder, files)]  # fmt: skip
        (folder / "Packages").write_text(debian.packages_index(debs), encoding="utf-8")
        # Trusted: every file was just compared with the digest that the bundle states.
        (folder / "sources.list").write_text(f"deb [trusted=yes] file:{folder} ./\n", encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def extract(archive: Path, folder: Path, files: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Take files out of the archive; yields name and digest of each. Raises PackageError for a damaged one."""
    try:
        with tarfile.open(archive, "r:") as tar:
            members = {member.name: member for member in tar.getmembers() if member.isreg()}
            for name, digest in sorted(files.items()):
                if name not in members:
                    raise PackageError(f"{archive} does not hold {name}; send it again")
                with (folder / name).open("w+b") as sink:
                    shutil.copyfileobj(tar.extractfile(members[name]), sink)
                    sink.seek(0)
                    if hash_stream(sink) != digest:
                        raise PackageError(f"{archive}: {name} is damaged; send the archive again")
                yield name, digest
    except tarfile.TarError as error:
        raise PackageError(f"{archive}: not an archive of packages ({error}); send it again") from error


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare; unless asked only, complete, install and compare again. Raises PackageError, OSError."""
    params = module.params
    wanted, files = params["packages"], {str(name): str(digest) for name, digest in params["files"].items()}
    for name in files:
        if Path(name).name != name or not name.endswith(".deb"):
            raise PackageError(f"files: {name!r} is not the base name of a .deb file")
    if not shutil.which("dpkg-query"):
        raise PackageError(f"this host has no dpkg: install {', '.join(wanted)} with its own package manager")
    host = Host(module)
    archive = Path(params["archive"]) if params["archive"] else None
    left_over = archive is not None and archive.exists()
    installed = host.installed()
    missing = debian.lacking(wanted, installed)
    result: dict[str, Any] = {
        "missing": missing,
        "installed": [],
        "distribution": debian.distribution(OS_RELEASE.read_text(encoding="utf-8")),
        "correct": not (missing or left_over),
        "changed": bool(missing or left_over) and params["state"] == "present",
        "diff": {
            "before": f"{archive}\n" if left_over else "",
            "after": "".join(f"package {name} installed\n" for name in missing),
        },
    }
    if params["state"] == "query" and missing:
        result["installed"] = sorted({*installed, *(name for provided in installed.values() for name in provided)})
    if not result["changed"] or module.check_mode:
        return result
    if missing and not left_over:
        raise PackageError(f"not installed: {', '.join(missing)}; give an archive that holds them")
    host.complete(params["lock_timeout"])
    if debian.lacking(wanted, host.installed()):
        with repository(host, archive, files) as folder:
            host.install(wanted, folder, params["lock_timeout"])
        left = debian.lacking(wanted, host.installed())
        if left:
            raise PackageError(f"apt ended well, but these are still not installed: {', '.join(left)}; see 'dpkg -l'")
    archive.unlink()
    return result


def main() -> None:
    """Wire the parameters to the work."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "archive": {"type": "path"},
            "files": {"type": "dict", "default": {}},
            "lock_timeout": {"type": "int", "default": 300},
            "state": {"type": "str", "choices": ["present", "query"], "default": "present"},
        },
        supports_check_mode=True,
    )
    module_run.run(module, work, PackageError)


if __name__ == "__main__":
    main()
