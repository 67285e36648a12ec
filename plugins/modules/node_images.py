#!/usr/bin/python
"""Images in the containerd of a MicroK8s node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_images
short_description: Images in the containerd of a MicroK8s node
description:
  - Compares wanted images with those of the node's containerd, imports what is missing from an OCI archive, and pins
    them against kubelet's garbage collection.
  - Exit codes prove nothing here. An archive is imported only after every blob in it was hashed, and what containerd
    holds afterwards is compared by digest and completeness.
  - An image is pinned by a label that containerd honours in its releases since the end of 2023, which all channels of
    MicroK8s from 1.30 on ship.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  images:
    description: References with the digests of their image manifests.
    type: dict
    required: true
  archive:
    description:
      - OCI archive on the node (an uncompressed tar) that holds what is missing. With O(state=present) it is removed
        once every image is in place.
    type: path
  pin:
    description: Pin the images against garbage collection.
    type: bool
    default: false
  staged:
    description:
      - Other files that served to bring images here. With O(state=present) they are removed likewise, and so is what
        a copy that was killed has left beside them and O(archive).
    type: list
    elements: path
    default: []
  sideload:
    description:
      - Archive in the folder that containerd imports by itself. While it is there under this name, containerd has not
        finished, and the images are waited for.
    type: path
  sideload_timeout:
    description: Seconds to wait for O(sideload).
    type: int
    default: 120
  platform:
    description: Platform of the node.
    type: str
    default: linux/amd64
  ctr:
    description: Command that talks to containerd.
    type: list
    elements: str
    default: [/snap/bin/microk8s, ctr]
  state:
    description: V(query) changes nothing and says what is missing. V(present) brings it.
    type: str
    choices: [present, query]
    default: present
"""

EXAMPLES = r"""
- name: What this node lacks is known
  gpuhub.platform.node_images:
    images:
      registry.k8s.io/pause:3.10: sha256:7c38f24774e3cbd906d2d33c38354ccf787635581c122965132c9bd309754d4a
    state: query
  register: node

- name: Images are on the node
  gpuhub.platform.node_images:
    images:
      registry.k8s.io/pause:3.10: sha256:7c38f24774e3cbd906d2d33c38354ccf787635581c122965132c9bd309754d4a
    archive: /var/tmp/images.tar
    pin: true
"""

RETURN = r"""
runtime:
  description: V(running), or V(absent) if MicroK8s is not installed (only with O(state=query)).
  type: str
  returned: success
to_import:
  description: References that were missing, incomplete or of another digest.
  type: list
  elements: str
  returned: success
missing:
  description: References that were not there at all.
  type: list
  elements: str
  returned: success
different:
  description: References that had another digest, with that digest.
  type: dict
  returned: success
incomplete:
  description: References of which content was lacking.
  type: list
  elements: str
  returned: success
unpinned:
  description: References that were there but not pinned, though O(pin) is true.
  type: list
  elements: str
  returned: success
staged:
  description: Those files of O(archive) and O(staged) that exist.
  type: list
  elements: str
  returned: success
content:
  description: Digests in the node's content store, which an archive need not bring again. Empty if nothing is missing.
  type: list
  elements: str
  returned: success
correct:
  description: Whether there was nothing to do.
  type: bool
  returned: success
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import containerd, module_run
from ..module_utils.containerd import ContainerdError, Difference
from ..module_utils.oci import INDEX_TYPES, LayoutError, open_layout, verify_archive

START = "start MicroK8s on this host ('microk8s start'), or see 'journalctl -u snap.microk8s.daemon-containerd'"


class Node:
    """The node's containerd, by its command."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._ctr = module.params["ctr"]

    @property
    def installed(self) -> bool:
        """Whether the command is there."""
        return Path(self._ctr[0]).exists()

    def run(self, *arguments: str, tolerate: bool = False) -> str:
        """Standard output of a command. Raises ContainerdError unless failures are tolerated."""
        code, out, err = self._module.run_command([*self._ctr, *arguments], environ_update={"LC_ALL": "C"})
        if code and not tolerate:
            said = (err.strip() or out.strip()).splitlines()
            raise ContainerdError(
                f"'{' '.join([*self._ctr, *arguments])}' failed (exit code {code}): "
                f"{said[-1] if said else 'no output'}; {START}"
            )
        return out

    def difference(self, wanted: Mapping[str, str], pin: bool) -> Difference:
        """What is wrong with the wanted images here."""
        filters = [f"name=={reference}" for reference in wanted]
        stored = containerd.parse_list(self.run("images", "ls", *filters))
        # One image that cannot be checked makes the whole command fail, after it printed the others.
        complete = containerd.parse_check(self.run("images", "check", *filters, tolerate=True)) if stored else {}
        in_index = [
            reference
            for reference, image in stored.items()
            if image.media_type in INDEX_TYPES
            and containerd.index_holds(self.run("content", "get", image.digest, tolerate=True), wanted[reference])
        ]
        return containerd.compare(wanted, stored, complete, in_index, pin)

    def content(self) -> list[str]:
        """Digests of the content store."""
        return containerd.parse_content(self.run("content", "ls", "-q"))

    def import_archive(self, archive: Path, wanted: Mapping[str, str], needed: list[str], platform: str) -> None:
        """Import an archive that was verified from the first to the last byte."""
        try:
            images = verify_archive(open_layout(archive), self.content())
        except LayoutError as error:
            raise ContainerdError(f"{archive} is damaged and was not imported: {error}; send it again") from error
        brought = {image.reference: image.digest for image in images}
        for reference in needed:
            if brought.get(reference) != wanted[reference]:
                held = brought.get(reference, "nothing")
                raise ContainerdError(
                    f"{archive} holds {held} under the name {reference} instead of {wanted[reference]}; "
                    "nothing was imported; make the archive again"
                )
        self.run("images", "import", "--platform", platform, str(archive))

    def pin(self, reference: str) -> None:
        """Label an image so that kubelet's garbage collection leaves it alone."""
        self.run("images", "label", reference, "=".join(containerd.PINNED))


def wait_for_sideload(module: AnsibleModule) -> None:
    """Return when containerd is done with the archive in its own folder, or time is up."""
    archive = module.params["sideload"]
    deadline = time.monotonic() + module.params["sideload_timeout"]
    while archive and Path(archive).exists() and time.monotonic() < deadline:
        time.sleep(0.5)


def present_files(paths: list[str]) -> list[str]:
    """Those files that exist, and the hidden ones that Ansible's copy leaves beside them if the host is killed."""
    killed = (Path(path).parent.glob(f".ansible_tmp*{Path(path).name}") for path in paths)
    return [path for path in paths if Path(path).exists()] + sorted(str(path) for found in killed for path in found)


def answer(difference: Difference, staged: list[str], content: list[str]) -> dict[str, Any]:
    """The values that every state returns."""
    return {
        **difference._asdict(),
        "to_import": difference.to_import,
        "staged": staged,
        "content": content,
        "runtime": "running",
        "correct": not (difference.to_import or difference.unpinned or staged),
    }


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare; unless asked only, import, pin and compare again. Raises ContainerdError."""
    params = module.params
    wanted = containerd.validate_wanted(params["images"])
    node = Node(module)
    archive = params["archive"]
    staged = present_files([*params["staged"], *([archive] if archive else [])])
    query = params["state"] == "query"
    if not node.installed:
        if query or module.check_mode:
            absent = Difference(sorted(wanted), {}, [], [])
            return {**answer(absent, staged, []), "runtime": "absent", "changed": not query}
        raise ContainerdError(
            f"{params['ctr'][0]} is not there: MicroK8s is not installed on this host; install it first"
        )
    wait_for_sideload(module)
    before = node.difference(wanted, params["pin"])
    result = answer(before, staged, node.content() if query and before.to_import else [])
    if query:
        return {**result, "changed": False}
    pin = params["pin"]
    nothing = Difference([], {}, [], [])
    result["changed"] = not result["correct"]
    result["diff"] = {
        "before": containerd.state_text(wanted, before, pin) + "".join(f"{name}\n" for name in staged),
        "after": containerd.state_text(wanted, nothing, pin),
    }
    if module.check_mode or result["correct"]:
        return result
    if before.to_import:
        if not archive:
            raise ContainerdError(f"not on this node: {', '.join(before.to_import)}; give an archive that holds them")
        node.import_archive(Path(archive), wanted, before.to_import, params["platform"])
    after = node.difference(wanted, pin)
    for reference in after.unpinned:
        node.pin(reference)
    if after.unpinned:
        after = node.difference(wanted, pin)
    if after != nothing:
        left = containerd.state_text(wanted, after, pin)
        raise ContainerdError(
            f"after the import containerd still lacks {', '.join(after.to_import + after.unpinned)}; it holds:\n{left}"
        )
    for name in staged:
        Path(name).unlink(missing_ok=True)
    return result


def main() -> None:
    """Wire the parameters to the work."""
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "dict", "required": True},
            "archive": {"type": "path"},
            "pin": {"type": "bool", "default": False},
            "staged": {"type": "list", "elements": "path", "default": []},
            "sideload": {"type": "path"},
            "sideload_timeout": {"type": "int", "default": 120},
            "platform": {"type": "str", "default": "linux/amd64"},
            "ctr": {"type": "list", "elements": "str", "default": ["/snap/bin/microk8s", "ctr"]},
            "state": {"type": "str", "choices": ["present", "query"], "default": "present"},
        },
        supports_check_mode=True,
    )
    module_run.run(module, work, ContainerdError)


if __name__ == "__main__":
    main()
