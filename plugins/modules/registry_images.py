#!/usr/bin/python
"""Images in the registry that nodes pull from."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_images
short_description: Images in the registry that nodes pull from
description:
  - Compares wanted images with those of a registry and puts there what is missing from an OCI archive.
  - The registry is ours, over a unix socket of this host, or with O(url) a site's own, such as Harbor. An image is
    stored under the repository C(<upstream>/<repository>), so that names of several upstream registries do not collide.
  - Layers that the registry has, in whatever repository, are not sent again. An image is right if its tag names the
    wanted digest and each of its blobs is there in full size.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  images:
    description: References with the digests of their image manifests.
    type: dict
    required: true
  socket:
    description: Unix socket on which our registry takes writes.
    type: path
    default: /var/lib/gpuhub/registry/run/writer.sock
  url:
    description: Address of a site's own registry, C(https://host[:port][/project]). O(socket) is not used then.
    type: str
  username:
    description: Who puts images there. Empty for a registry that asks nobody.
    type: str
    default: ""
  password:
    description: Password of O(username).
    type: str
    default: ""
  authorities:
    description: Certificates (PEM) of authorities to trust besides the system's.
    type: str
    default: ""
  archive:
    description:
      - OCI archive on this host (an uncompressed tar) that holds what is missing. With O(state=present) it is removed
        once every image is in place.
    type: path
  timeout:
    description: Seconds to wait for the registry to answer.
    type: int
    default: 60
  state:
    description: V(query) changes nothing and says what is missing. V(present) brings it.
    type: str
    choices: [present, query]
    default: present
"""

EXAMPLES = r"""
- name: The registry has the notebook image
  gpuhub.platform.registry_images:
    images:
      quay.io/jupyterhub/k8s-singleuser-sample:4.4.0: "{{ digest }}"
    archive: /var/lib/gpuhub/staging/images.tar
"""

RETURN = r"""
to_push:
  description: References that were missing or not right, with what was wrong.
  type: dict
  returned: success
content:
  description: Digests of the layers that the registry has, which an archive need not bring. Only with O(state=query).
  type: list
  elements: str
  returned: success
correct:
  description: Whether there was nothing to do.
  type: bool
  returned: success
sent:
  description: Bytes that were sent to the registry.
  type: int
  returned: success
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import module_run, registry_client
from ..module_utils.image_reference import ImageReference
from ..module_utils.oci import LayoutError, images, open_layout
from ..module_utils.registry_client import Registry, RegistryError

Wanted = Mapping[str, tuple[ImageReference, str]]


def push(registry: Registry, archive: Path, wanted: Wanted, needed: Mapping[str, str]) -> int:
    """Put the needed images of an archive into the registry. Returns the bytes sent. Raises RegistryError."""
    try:
        layout = open_layout(archive)
        brought = {image.reference: image for image in images(layout)}
        for reference in needed:
            image = brought.get(reference)
            if image is None or image.digest != wanted[reference][1]:
                held = image.digest if image else "nothing"
                raise RegistryError(
                    f"{archive} holds {held} under the name {reference} instead of {wanted[reference][1]}; "
                    "make the archive again"
                )
        held_blobs = registry_client.held_blobs(registry, wanted)
        return sum(
            registry_client.push(registry, layout, brought[reference], wanted[reference][0], held_blobs)
            for reference in needed
        )
    except LayoutError as error:
        raise RegistryError(f"{archive} is damaged: {error}; send it again") from error


def state_text(wanted: Wanted, wrong: Mapping[str, str]) -> str:
    """The wanted images as the registry has them, one a line, for a diff."""
    return "".join(
        f"{reference} {wrong.get(reference, digest)}\n"
        for reference, (_reference, digest) in sorted(wanted.items())
        if wrong.get(reference) != "missing"
    )


def work(module: AnsibleModule) -> dict[str, Any]:
    """Compare; unless asked only, push and compare again. Raises RegistryError."""
    params = module.params
    wanted = registry_client.validate_wanted(params["images"])
    archive = Path(params["archive"]) if params["archive"] else None
    left_over = archive is not None and archive.exists()
    if params["url"]:
        registry = Registry.at_url(*(params[name] for name in ("url", "username", "password", "authorities")))
    else:
        registry = Registry.at_socket(Path(params["socket"]))
    registry.wait(params["timeout"])
    wrong = registry_client.missing(registry, wanted)
    result = {"to_push": wrong, "sent": 0, "content": [], "correct": not (wrong or left_over)}
    if params["state"] == "query":
        content = sorted(registry_client.held_blobs(registry, wanted)) if wrong else []
        return {**result, "content": content, "changed": False}
    result["changed"] = not result["correct"]
    result["diff"] = {
        "before": state_text(wanted, wrong) + (f"{archive}\n" if left_over else ""),
        "after": state_text(wanted, {}),
    }
    if module.check_mode or result["correct"]:
        return result
    if wrong:
        if archive is None:
            raise RegistryError(f"not in the registry: {', '.join(wrong)}; give an archive that holds them")
        result["sent"] = push(registry, archive, wanted, wrong)
        left = registry_client.missing(registry, wanted)
        if left:
            raise RegistryError("after the push the registry still does not serve " + "; ".join(
                f"{reference} ({problem})" for reference, problem in left.items()
            ))  # fmt: skip
    if archive is not None:
        archive.unlink(missing_ok=True)
    return result


def main() -> None:
    """Wire the parameters to the work."""
    module = AnsibleModule(
        argument_spec={
            "images": {"type": "dict", "required": True},
            "socket": {"type": "path", "default": "/var/lib/gpuhub/registry/run/writer.sock"},
            "url": {"type": "str"},
            "username": {"type": "str", "default": ""},
            # A secret of the site.
            "password": {"type": "str", "default": "", "no_log": True},
            "authorities": {"type": "str", "default": ""},
            "archive": {"type": "path"},
            "timeout": {"type": "int", "default": 60},
            "state": {"type": "str", "choices": ["present", "query"], "default": "present"},
        },
        supports_check_mode=True,
    )
    module_run.run(module, work, RegistryError)


if __name__ == "__main__":
    main()
