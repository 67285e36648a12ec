#!/usr/bin/python
"""What a bundle holds against what is needed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_check
short_description: Compare a bundle with what is needed
description:
  - Compares what an inventory needs with what a bundle for installations without the internet really holds, and hashes
    every file that is needed. Image archives made by hand that lie in the folder count as well.
  - Names everything that is missing, corrupt, for the wrong platform or superfluous in one report. What is superfluous
    is no error.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  bundle:
    description: Folder of the bundle.
    type: path
    required: true
  images:
    description: References of the images that are needed, each with the text that says who needs it.
    type: dict
    default: {}
  snaps:
    description: Names of the snaps that are needed, each with its track such as V(1.34), or an empty text for any.
    type: dict
    default: {}
  charts:
    description: Names of the charts that are needed, each with its version, or an empty text for any.
    type: dict
    default: {}
  binaries:
    description: Names of the programs that are needed, each with its platform such as V(linux/amd64).
    type: dict
    default: {}
  wheels:
    description:
      - Python packages that are needed, as C(name==version). What they need in turn is needed too.
    type: list
    elements: str
    default: []
  python_versions:
    description: Versions of Python such as V(3.11) that the wheels shall serve. Required with O(wheels).
    type: list
    elements: str
    default: []
  packages:
    description: Names of the Debian packages that are needed.
    type: list
    elements: str
    default: []
  distribution:
    description:
      - Distribution and release that the Debian packages are for, such as V(debian-13). Required with O(packages).
    type: str
    default: ''
  installed:
    description:
      - Names of the Debian packages that the hosts have, and what these provide. With it, what O(packages) depend on
        must be in the bundle or among these.
    type: list
    elements: str
    default: []
  platform:
    description: Platform of the nodes.
    type: str
    default: linux/amd64
  memory:
    description:
      - File that remembers which files were found good. What has not changed since is not hashed again.
    type: path
  archives:
    description:
      - Folder that remembers what image archives made by hand hold. What is needed of compressed ones is unpacked there
        once; without it they cannot be used. It can be removed at any time.
    type: path
  progress:
    description: File that tells how far the work is. The action plugin gives it and shows what is in it.
    type: path
  report_only:
    description: Return the report instead of failing.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: The bundle holds what this inventory needs
  gpuhub.platform.bundle_check:
    bundle: files/offline-images
    images:
      registry.k8s.io/pause:3.10: every node at its start
    snaps: {microk8s: "1.34"}
  delegate_to: localhost
"""

RETURN = r"""
complete:
  description: Whether everything that is needed is there and good.
  type: bool
  returned: always
report:
  description: All problems in words.
  type: str
  returned: always
problems:
  description: All problems, each with V(category), V(subject), V(digest), V(file), V(text) and V(cure).
  type: list
  elements: dict
  returned: always
images:
  description: The images that are there and good, by full reference, with V(digest), V(size) and V(archive).
  type: dict
  returned: always
digests:
  description: Digests of those images by the names under which they were asked for.
  type: dict
  returned: always
snaps:
  description:
    - The snaps that are there and good, in the order asked for, with V(name), V(version), V(revision), V(classic),
      V(file), V(assertion), V(digest) and V(assertion_digest). Files are absolute paths.
  type: list
  elements: dict
  returned: always
charts:
  description: The charts that are there and good, by name, with V(version), V(file) and V(digest).
  type: dict
  returned: always
binaries:
  description: The programs that are there and good, by name, with V(version), V(file) and V(digest).
  type: dict
  returned: always
wheels:
  description: The wheels that are needed, there and good, by path inside the bundle, with their digests.
  type: dict
  returned: always
debs:
  description: The Debian packages that are needed, there and good, by path inside the bundle, with their digests.
  type: dict
  returned: always
summary:
  description: What the bundle holds of what is needed, in one line.
  type: str
  returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import bundle, progress, zstd
from ..module_utils.bundle_manifest import BundleError
from ..module_utils.image_archive import Archives
from ..module_utils.image_reference import ImageReferenceError, normalise
from ..module_utils.verified_files import VerifiedFiles
from ..module_utils.wheels import WheelError


def full_name(text: str) -> str:
    """The full form of a reference, empty for what is none: that is a problem of its own in the report."""
    try:
        return normalise(text)
    except ImageReferenceError:
        return ""


def describe(folder: Path, needs: bundle.Needs, holding: bundle.Holding) -> dict[str, Any]:
    """The module's results."""
    items: dict[str, dict[str, dict[str, Any]]] = {"snap": {}, "chart": {}, "binary": {}}
    for item in holding.items:
        values = {"version": item.version, "file": str(folder / item.files[0].path), "digest": item.files[0].digest}
        if item.kind == "snap":
            values.update(
                name=item.name,
                revision=item.revision,
                classic=item.classic,
                assertion=str(folder / item.files[1].path),
                assertion_digest=item.files[1].digest,
            )
        items[item.kind][item.name] = values
    blobs = {blob.digest: blob.size for image in holding.images.values() for blob in image.blobs}
    counts = {
        "image": len(holding.images),
        "snap": len(items["snap"]),
        "chart": len(items["chart"]),
        "program": len(items["binary"]),
        "wheel": len(holding.wheels),
        "Debian package": len(holding.debs),
    }
    parts = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)
    unused = sum(problem.category == "superfluous" for problem in holding.problems)
    summary = f"{parts or 'nothing'} ({bundle.human_size(sum(blobs.values()))} of images), all verified"
    return {
        "complete": not holding.fatal,
        "report": bundle.report(folder, holding.problems),
        "problems": [problem._asdict() for problem in holding.problems],
        "images": {
            reference: {"digest": image.digest, "size": image.size, "archive": holding.archives[reference]}
            for reference, image in sorted(holding.images.items())
        },
        "digests": {
            asked: holding.images[reference].digest
            for asked in needs.images
            for reference in [full_name(asked)]
            if reference in holding.images
        },
        "snaps": [items["snap"][name] for name in needs.snaps if name in items["snap"]],
        "charts": items["chart"],
        "binaries": items["binary"],
        "wheels": dict(sorted(holding.wheels.items())),
        "debs": dict(sorted(holding.debs.items())),
        "summary": summary + (f"; {unused} not needed" if unused else ""),
    }


def main() -> None:
    """Check and report."""
    module = AnsibleModule(
        argument_spec={
            "bundle": {"type": "path", "required": True},
            "images": {"type": "dict", "default": {}},
            "snaps": {"type": "dict", "default": {}},
            "charts": {"type": "dict", "default": {}},
            "binaries": {"type": "dict", "default": {}},
            "wheels": {"type": "list", "elements": "str", "default": []},
            "python_versions": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "distribution": {"type": "str", "default": ""},
            "installed": {"type": "list", "elements": "str", "default": []},
            "platform": {"type": "str", "default": "linux/amd64"},
            "memory": {"type": "path"},
            "archives": {"type": "path"},
            "progress": {"type": "path"},
            "report_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["wheels"] and not params["python_versions"]:
        module.fail_json(msg="wheels are needed, but python_versions does not say for which Python")
    if params["packages"] and not params["distribution"]:
        module.fail_json(msg="packages are needed, but distribution does not say for which distribution")
    folder = Path(params["bundle"]).resolve()
    needs = bundle.Needs(
        images={str(reference): str(reason) for reference, reason in params["images"].items()},
        snaps={str(name): str(track or "") for name, track in params["snaps"].items()},
        charts={str(name): str(version or "") for name, version in params["charts"].items()},
        binaries={str(name): str(platform or "") for name, platform in params["binaries"].items()},
        requirements=tuple(params["wheels"]),
        interpreters=tuple(params["python_versions"]),
        packages=tuple(params["packages"]),
        distribution=params["distribution"],
        installed=tuple(params["installed"]),
        platform=params["platform"],
    )
    memory = VerifiedFiles(Path(params["memory"]) if params["memory"] else None)
    try:
        tell = progress.of(params["progress"])
        archives = Archives(Path(params["archives"]) if params["archives"] else None, zstd.opener(), tell)
        holding = bundle.check(folder, needs, memory, archives, tell)
    except (BundleError, WheelError) as error:
        module.fail_json(msg=str(error))
    result = describe(folder, needs, holding)
    if not result["complete"] and not params["report_only"]:
        # The report says it all; what is good would bury it.
        module.fail_json(msg=result["report"], complete=False)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
