#!/usr/bin/python
"""What MicroK8s is on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_info
short_description: What MicroK8s is on a host
description:
  - Reads what later steps need to know about snaps and MicroK8s on a host, in one execution.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  snap_directory:
    description: Where snap files lie for the time of their installation.
    type: path
"""

EXAMPLES = r"""
- name: State of MicroK8s is known
  gpuhub.platform.microk8s_info:
  register: state
"""

RETURN = r"""
snapd:
  description: Whether the host has the C(snap) command.
  type: bool
  returned: always
snaps:
  description: Installed snaps by name, each with C(version), C(revision) and C(notes).
  type: dict
  returned: always
installed:
  description: Whether MicroK8s is installed and enabled.
  type: bool
  returned: always
worker:
  description: Whether the host has joined a cluster as a worker.
  type: bool
  returned: always
containerd_root:
  description: Folder of containerd's images and containers. Empty where MicroK8s has not been installed.
  type: str
  returned: always
heads:
  description: On a worker, the API servers that it talks to, as C(address:port).
  type: list
  elements: str
  returned: always
staged:
  description: Whether O(snap_directory) is there, as a run that was killed leaves it.
  type: bool
  returned: always
"""

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import microk8s


def main() -> None:
    """Read, and say what was found."""
    module = AnsibleModule(argument_spec={"snap_directory": {"type": "path"}}, supports_check_mode=True)
    staged = module.params["snap_directory"]
    data = Path(microk8s.SNAP_DATA)
    # Debian's secure_path lacks /snap/bin and some shells lack /usr/bin's neighbours.
    snap = shutil.which("snap", path="/usr/bin:/usr/local/bin:/bin")
    snaps = {}
    if snap:
        code, out, err = module.run_command([snap, "list"])
        # A host without any snap: rc 0 and a hint on stderr.
        if code:
            module.fail_json(
                msg=f"snap list failed (exit code {code}): {err.strip() or out.strip()}. "
                "Is snapd running (systemctl status snapd)?"
            )
        snaps = microk8s.parse_snap_list(out)
    found = snaps.get("microk8s")
    worker = microk8s.has_joined(data / "var/lock")
    provider = data / "args/traefik/provider.yaml"
    heads = microk8s.parse_worker_heads(provider.read_text(encoding="utf-8")) if worker and provider.exists() else []
    arguments = data / "args/containerd"
    module.exit_json(
        changed=False,
        snapd=bool(snap),
        snaps={name: {"version": s.version, "revision": s.revision, "notes": s.notes} for name, s in snaps.items()},
        installed=bool(found) and "disabled" not in found.notes,
        worker=worker,
        containerd_root=microk8s.containerd_root(arguments.read_text(encoding="utf-8")) if arguments.exists() else "",
        heads=heads,
        staged=bool(staged) and Path(staged).exists(),
    )


if __name__ == "__main__":
    main()
