#!/usr/bin/python
"""Parts of a bundle as one archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_export
short_description: Write parts of a bundle as one archive
description:
  - Writes images of a bundle as one OCI archive, or other files of it as one tar, to be sent to a host in one transfer.
  - Equal contents give equal bytes. Every file is hashed on its way, so that a damaged one never leaves the bundle.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
attributes:
  diff_mode:
    support: none
options:
  bundle:
    description: Folder of the bundle.
    type: path
    required: true
  images:
    description: References of the images to write.
    type: list
    elements: str
  files:
    description: Files to write, by their path inside the bundle. In the archive they have their base names.
    type: list
    elements: str
  exclude_digests:
    description: Digests of layers that the receiver has, which are left out.
    type: list
    elements: str
    default: []
  path:
    description: Where the archive goes.
    type: path
  cache:
    description:
      - Folder where the archive goes under a name made from its content. What is there already is not written again,
        and archives that nobody asked for in a day are removed.
    type: path
  archives:
    description: The folder that M(gpuhub.platform.bundle_check) was given under this name.
    type: path
  progress:
    description: File that tells how far the work is. The action plugin gives it and shows what is in it.
    type: path
  platform:
    description: Platform of the images.
    type: str
    default: linux/amd64
"""

EXAMPLES = r"""
- name: Images of the first start are one file
  gpuhub.platform.bundle_export:
    bundle: files/offline-images
    images: [registry.k8s.io/pause:3.10]
    cache: ~/.cache/gpuhub/exports
  delegate_to: localhost
  register: export
"""

RETURN = r"""
path:
  description: The archive.
  type: str
  returned: always
size:
  description: Its size in bytes, 0 in check mode if it is not there yet.
  type: int
  returned: always
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import bundle_archive as archive
from ..module_utils import progress, zstd
from ..module_utils.bundle import Bundle
from ..module_utils.bundle_manifest import BundleError, load
from ..module_utils.image_archive import Archives, SpaceError
from ..module_utils.image_reference import ImageReferenceError
from ..module_utils.oci import LayoutError


def main() -> None:
    """Choose, name, write."""
    module = AnsibleModule(
        argument_spec={
            "bundle": {"type": "path", "required": True},
            "images": {"type": "list", "elements": "str"},
            "files": {"type": "list", "elements": "str"},
            "exclude_digests": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path"},
            "cache": {"type": "path"},
            "archives": {"type": "path"},
            "progress": {"type": "path"},
            "platform": {"type": "str", "default": "linux/amd64"},
        },
        mutually_exclusive=[("images", "files"), ("path", "cache")],
        required_one_of=[("images", "files"), ("path", "cache")],
        supports_check_mode=True,
    )
    params = module.params
    folder = Path(params["bundle"]).resolve()
    try:
        if params["images"] is not None:
            tell = progress.of(params["progress"])
            archives = Archives(Path(params["archives"]) if params["archives"] else None, zstd.opener(), tell)
            images = archive.image_selection(Bundle(folder, archives), params["images"], params["platform"])
            excluded = params["exclude_digests"]
            key = archive.images_key(images, excluded)

            def write(stream):
                archive.write_images(stream, images, excluded, tell)
        else:
            files = archive.file_selection(load(folder), params["files"])
            key = archive.files_key(files)

            def write(stream):
                archive.write_files(stream, folder, files)

        path = Path(params["path"]) if params["path"] else Path(params["cache"]) / f"{key}.tar"
        if module.check_mode:
            changed = not path.is_file()
        else:
            if params["path"]:
                path.unlink(missing_ok=True)
            changed = archive.write_once(path, write)
            if params["cache"]:
                archive.prune(Path(params["cache"]), path)
    except (BundleError, LayoutError, SpaceError, ImageReferenceError) as error:
        module.fail_json(msg=f"bundle {folder}: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename or folder}: the archive cannot be written ({error.strerror})")
    module.exit_json(changed=changed, path=str(path), size=path.stat().st_size if path.is_file() else 0)


if __name__ == "__main__":
    main()
