#!/usr/bin/python
"""What a host has of what the platform needs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: What a host has of what the platform needs
description:
  - Reads a host in one execution and compares it with what the platform needs, before anything is changed.
  - Findings do not fail the module. M(gpuhub.platform.preflight_report) puts those of all hosts together and fails.
  - The only thing written is an empty file on the shared storage, removed at once, to find C(root_squash); not in check
    mode.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  single:
    description: Whether the host is the only one.
    type: bool
    default: false
  min_cpus:
    description: CPUs that it must have.
    type: int
    required: true
  min_memory_gib:
    description: Memory in GiB that it must have, as bought.
    type: float
    required: true
  min_disk_gb:
    description: Size in GB of the disk that holds the images, as bought.
    type: float
    required: true
  min_free_disk_gb:
    description: Room in GB that must be free for the images.
    type: float
    required: true
  min_kernel:
    description: Oldest version of Linux.
    type: str
    required: true
  min_driver:
    description: Oldest version of the NVIDIA driver.
    type: str
    required: true
  gpu_required:
    description: Whether the host must have an NVIDIA GPU.
    type: bool
    default: false
  rdma_required:
    description: Whether the host must have an InfiniBand or RoCE device with an active port.
    type: bool
    default: false
  image_store:
    description: Folder that will hold the images. It need not be there yet.
    type: path
    default: /var/snap/microk8s/common
  shared_path:
    description: Folder on the shared storage. Empty if there is none.
    type: str
    default: ""
  networks:
    description: Networks that the site must not use, by the names of the variables that set them.
    type: dict
    default: {}
  ports:
    description: Ports that the platform needs on this host.
    type: list
    elements: dict
    default: []
    suboptions:
      number:
        description: The port.
        type: int
        required: true
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      purpose:
        description: What needs it, in words.
        type: str
        required: true
      units:
        description: Units of systemd that may hold it, besides those of MicroK8s.
        type: list
        elements: str
        default: []
  microk8s_oldest:
    description: Oldest MicroK8s that is accepted where one is installed.
    type: str
    required: true
  microk8s_end_of_life:
    description: Versions of MicroK8s that get no updates any more.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: The host is looked at
  gpuhub.platform.preflight:
    min_cpus: 4
    min_memory_gib: 16
    min_disk_gb: 100
    min_free_disk_gb: 40
    min_kernel: "5.10"
    min_driver: "535"
    microk8s_oldest: "1.30"
  register: looked
"""

RETURN = r"""
facts:
  description: What was read.
  type: dict
  returned: always
findings:
  description: What is not as it should be, and what is worth knowing.
  type: list
  elements: dict
  returned: always
  contains:
    name:
      description: Name of the check.
      type: str
    severity:
      description: V(error), V(warning) or V(info).
      type: str
    subject:
      description: What it is about.
      type: str
    found:
      description: What was found.
      type: str
    needed:
      description: What is needed.
      type: str
    cure:
      description: What to do.
      type: str
offset:
  description: By how many seconds the host's clock is ahead of the control node's, least and most that it can be.
  type: list
  elements: float
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.preflight_checks import Needs, Port, check_host
from ..module_utils.preflight_host import Source, read_host


def main() -> None:
    """Read, compare and return."""
    module = AnsibleModule(
        argument_spec={
            "single": {"type": "bool", "default": False},
            "min_cpus": {"type": "int", "required": True},
            "min_memory_gib": {"type": "float", "required": True},
            "min_disk_gb": {"type": "float", "required": True},
            "min_free_disk_gb": {"type": "float", "required": True},
            "min_kernel": {"type": "str", "required": True},
            "min_driver": {"type": "str", "required": True},
            "gpu_required": {"type": "bool", "default": False},
            "rdma_required": {"type": "bool", "default": False},
            "image_store": {"type": "path", "default": "/var/snap/microk8s/common"},
            "shared_path": {"type": "str", "default": ""},
            "networks": {"type": "dict", "default": {}},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "number": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "purpose": {"type": "str", "required": True},
                    "units": {"type": "list", "elements": "str", "default": []},
                },
            },
            "microk8s_oldest": {"type": "str", "required": True},
            "microk8s_end_of_life": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    needs = Needs(
        single=params["single"],
        min_cpus=params["min_cpus"],
        min_memory_gib=params["min_memory_gib"],
        min_disk_gb=params["min_disk_gb"],
        min_free_disk_gb=params["min_free_disk_gb"],
        min_kernel=params["min_kernel"],
        min_driver=params["min_driver"],
        gpu=params["gpu_required"],
        rdma=params["rdma_required"],
        networks=params["networks"],
        ports=tuple(Port(p["number"], p["protocol"], p["purpose"], tuple(p["units"])) for p in params["ports"]),
        microk8s_oldest=params["microk8s_oldest"],
        microk8s_end_of_life=tuple(params["microk8s_end_of_life"]),
    )
    facts = read_host(Source(), params["image_store"], params["shared_path"], may_write=not module.check_mode)
    module.exit_json(
        changed=False, facts=facts, findings=[found._asdict() for found in check_host(facts, needs)], offset=[0.0, 0.0]
    )


if __name__ == "__main__":
    main()
