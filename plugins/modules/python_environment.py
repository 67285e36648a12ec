#!/usr/bin/python
"""A private Python environment from wheels, without pip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: A private Python environment from wheels, without pip
description:
  - Makes a virtual environment of the Python that runs this module and unpacks wheels into it. Needs neither pip nor
    C(python3-venv) nor the internet.
  - Of the wheels given, those that fit this Python are used, the newest version of each project.
  - The environment is built beside the old one and put in its place by one rename of a link. A killed run leaves the
    old one untouched.
  - Scripts of the wheels are not installed.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  path:
    description: Where the environment shall be. It becomes a link to a folder beside it.
    type: path
    required: true
  wheels:
    description: Base names of the wheels with their digests. They are the identity of the environment.
    type: dict
    required: true
  archive:
    description:
      - Uncompressed tar on this host with the wheels. Needed only where the environment is not right. With
        O(state=present) it is removed once the environment is.
    type: path
  imports:
    description: Modules that must be importable before the environment takes its place.
    type: list
    elements: str
    default: []
  state:
    description: V(query) changes nothing and says whether the environment is right. V(present) makes it so.
    type: str
    choices: [present, query]
    default: present
"""

EXAMPLES = r"""
- name: The environment for cluster work
  gpuhub.platform.python_environment:
    path: /var/lib/gpuhub/python
    wheels: "{{ wheels }}"
    archive: /var/lib/gpuhub/staging/wheels.tar
    imports: [kubernetes, yaml]
"""

RETURN = r"""
correct:
  description: Whether there was nothing to do.
  type: bool
  returned: success
reason:
  description: What was wrong with the environment. Empty if it was right.
  type: str
  returned: success
python:
  description: The environment's interpreter.
  type: str
  returned: success
packages:
  description: Projects in it with their versions. Only if the environment was built or is right.
  type: dict
  returned: success
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import wheels
from ..module_utils.oci import hash_stream
from ..module_utils.wheels import WheelError

MARKER = "gpuhub-environment.json"


def base_python() -> str:
    """The system's Python that an environment made here stands on, even if this runs inside another environment."""
    return str(Path(getattr(sys, "_base_executable", None) or sys.executable).resolve())


def this_interpreter() -> wheels.Interpreter:
    """The Python that runs this module."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        libc = ""
    minor = libc.partition("2.")[2]
    glibc = int(minor.split(".")[0]) if libc.startswith("glibc 2.") and minor else None
    return wheels.Interpreter((sys.version_info[0], sys.version_info[1]), platform.machine(), glibc)


def identity(wanted: dict[str, str]) -> str:
    """What the environment is made of: the wheels, this Python and its place."""
    parts = {"wheels": wanted, "python": list(sys.version_info[:2]), "base": base_python(), "format": 1}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def site_packages(environment: Path) -> Path:
    """The folder of an environment that packages are unpacked into."""
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def fingerprint(environment: Path) -> str:
    """Names and sizes of all files in an environment's site-packages."""
    return hashlib.sha256("\n".join(wheels.listing(site_packages(environment))).encode()).hexdigest()


def problem(path: Path, wanted: dict[str, str]) -> str:
    """Why the environment at `path` is not the wanted one; empty if it is."""
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "there is none" if not path.exists() else "it was not made by this module"
    except (OSError, ValueError) as error:
        return f"its marker cannot be read ({error})"
    if marker.get("identity") != identity(wanted):
        return "the wheels or the system's Python are different"
    if not os.access(path / "bin" / "python", os.X_OK):
        return "its interpreter is gone"
    if marker.get("fingerprint") != fingerprint(path):
        return "files in it were added, removed or edited"
    return ""


def build(module: AnsibleModule, folder: Path, archive: Path, wanted: dict[str, str]) -> dict[str, str]:
    """Fill `folder` with an environment; returns its packages. Raises WheelError, OSError."""
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as temporary:
        known = {}
        for file in extract(archive, Path(temporary), wanted):
            known[wheels.parse_file_name(str(file))] = wheels.read_metadata(file)
        chosen = wheels.choose(known, this_interpreter())
        command = [base_python(), "-m", "venv", "--without-pip", str(folder)]
        code, out, err = module.run_command(command)
        if code:
            raise WheelError(f"'{' '.join(command)}' failed: {err.strip() or out.strip()}")
        for wheel in chosen.values():
            wheels.unpack(Path(wheel.file), site_packages(folder))
    python = str(folder / "bin" / "python")
    for name in module.params["imports"]:
        code, _out, err = module.run_command([python, "-I", "-B", "-c", f"import {name}"])
        if code:
            said = err.strip().splitlines()
            raise WheelError(f"{name} cannot be imported from the wheels: {said[-1] if said else 'no reason given'}")
    # Modules start faster from compiled files, and root would write them at odd times otherwise.
    module.run_command([python, "-I", "-m", "compileall", "-q", "-j", "0", str(site_packages(folder))])
    packages = {name: wheel.version for name, wheel in chosen.items()}
    marker = {"identity": identity(wanted), "fingerprint": fingerprint(folder), "packages": packages}
    (folder / MARKER).write_text(json.dumps(marker, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return packages


def extract(archive: Path, folder: Path, wanted: dict[str, str]) -> list[Path]:
    """Take the wanted wheels out of the archive, each with the digest that it shall have. Raises WheelError."""
    files = []
    try:
        with tarfile.open(archive, "r:") as tar:
            members = {member.name: member for member in tar.getmembers() if member.isreg()}
            for name, digest in sorted(wanted.items()):
                if name not in members:
                    raise WheelError(f"{archive} does not hold {name}; send it again")
                source = tar.extractfile(members[name])
                with (folder / name).open("w+b") as sink:
                    shutil.copyfileobj(source, sink)
                    sink.seek(0)
                    if hash_stream(sink) != digest:
                        raise WheelError(f"{archive}: {name} is damaged; send the archive again")
                files.append(folder / name)
    except (OSError, tarfile.TarError) as error:
        raise WheelError(f"{archive}: not an archive of wheels ({error}); send it again") from error
    return files


def put_in_place(path: Path, folder: Path) -> None:
    """Make `path` a link to `folder` in one step, then remove what was there."""
    old = path.resolve() if path.is_symlink() else None
    if path.is_dir() and not path.is_symlink():
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(path)
    if old is not None and old != folder and old.parent == path.parent:
        shutil.rmtree(old, ignore_errors=True)


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare; unless asked only, build and switch. Raises WheelError."""
    params = module.params
    path, wanted = Path(params["path"]), {str(name): str(digest) for name, digest in params["wheels"].items()}
    for name in wanted:
        if Path(name).name != name:
            raise WheelError(f"wheels: {name!r} is not a base name")
        wheels.parse_file_name(name)
    archive = Path(params["archive"]) if params["archive"] else None
    reason = problem(path, wanted)
    left_over = archive is not None and archive.exists()
    result: dict[str, Any] = {
        "correct": not (reason or left_over),
        "reason": reason,
        "python": str(path / "bin" / "python"),
        "packages": {},
        "changed": bool(reason or left_over) and params["state"] == "present",
        "diff": {
            "before": (f"{path}: {reason}\n" if reason else "") + (f"{archive}\n" if left_over else ""),
            "after": "",
        },
    }
    if not reason:
        result["packages"] = json.loads((path / MARKER).read_text(encoding="utf-8"))["packages"]
    if not result["changed"] or module.check_mode:
        return result
    if not reason:
        archive.unlink()
        return result
    if archive is None:
        raise WheelError(f"{path}: {reason}; give an archive with the wheels")
    path.parent.mkdir(parents=True, exist_ok=True)
    # What killed runs left behind, and nothing that is in use.
    current = path.resolve() if path.is_symlink() else None
    for left in path.parent.glob(f".{path.name}-*"):
        if left != current:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        folder.chmod(0o755)
        result["packages"] = build(module, folder, archive, wanted)
        put_in_place(path, folder)
    except (WheelError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    archive.unlink()
    return result


def main() -> None:
    """Wire the parameters to the work."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "wheels": {"type": "dict", "required": True},
            "archive": {"type": "path"},
            "imports": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "query"], "default": "present"},
        },
        supports_check_mode=True,
    )
    try:
        result = work(module)
    except (WheelError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
