#!/usr/bin/python
"""Sizes of notebooks from limits, use and free capacity."""

from __future__ import annotations

DOCUMENTATION = r"""
module: quota_profiles
short_description: Sizes of notebooks that a user may start, and why not the others
description:
  - Computes from limits, use, reservations and what nodes have free the sizes that are offered, without GPUs and with
    1, 2, 4, 8 of each type that there is, and for each other size the reason.
  - It is the same computation as that of the hub and of the usage portal. Without O(nodes) nobody knows what is free,
    and the profiles are static, for installations without a portal.
  - Reads and checks a policy file, where O(policy) names one. Everything that is wrong with it is said at once, with
    the lines.
  - Asks no cluster; M(kubernetes.core.k8s_info) returns what O(nodes) and O(pods) take.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  settings:
    description: What sizes there are.
    type: dict
    default: {}
    suboptions:
      sizes:
        description: Numbers of GPUs. Default V([1, 2, 4, 8]); an empty list offers none.
        type: list
        elements: int
      cpu_sizes:
        description: "Sizes without GPUs. Default V([{cpu: 2, memory: 8Gi}])."
        type: list
        elements: dict
        suboptions:
          cpu:
            description: Cores, as V(2) or V(500m).
            type: str
            required: true
          memory:
            description: Memory, as V(8Gi).
            type: str
            required: true
      cpu_per_gpu:
        description: >-
          The most cores that come with one GPU; V(unlimited) for the whole share of a node. Without O(nodes) so many
          come. Default V(8).
        type: str
      memory_per_gpu:
        description: The most memory that comes with one GPU, in the same way. Default V(64Gi).
        type: str
      node_share_percent:
        description: >-
          How much of a node's cores and memory its GPUs share; the rest is for what runs on every node. Default V(90).
        type: int
      products:
        description: Products of GPUs, the nodes' label C(nvidia.com/gpu.product). With O(nodes) they are found there.
        type: list
        elements: str
      gpu_resource:
        description: The resource that GPUs are. Default V(nvidia.com/gpu).
        type: str
      rdma_resource:
        description: >-
          The resource that RDMA devices are, as V(rdma/rdma_shared_device_a). With it each size with GPUs is there a
          second time, with one.
        type: str
      cpu_tolerations:
        description: >-
          Tolerations of all notebooks, instead of those that the chart has; those with GPUs tolerate the taint of
          nodes with GPUs too.
        type: list
        elements: dict
  policy:
    description: A policy file, docs/quotas.md. Limits are those of O(user).
    type: path
  user:
    description: Name of the user.
    type: str
    default: ""
  groups:
    description: Groups that the user is in, beside those of the policy whose members name them.
    type: list
    elements: str
    default: []
  limits:
    description: Limits instead of those of a policy. What is missing is without limit.
    type: dict
    suboptions: &amounts
      cpu:
        description: Cores, as V(8) or V(500m).
        type: str
      memory:
        description: Memory, as V(32Gi).
        type: str
      gpu:
        description: GPUs.
        type: str
  used:
    description: What the user's pods hold.
    type: dict
    suboptions: *amounts
  reserved:
    description: What is reserved for the user beside that.
    type: dict
    suboptions: *amounts
  nodes:
    description: Nodes of the cluster, as objects of Kubernetes.
    type: list
    elements: dict
  pods:
    description: Pods of all namespaces, as objects of Kubernetes.
    type: list
    elements: dict
    default: []
  node_selector:
    description: Labels of the nodes that notebooks run on. By default all.
    type: dict
  home_node:
    description: The node that the user's home is bound to. Empty if it is on shared storage.
    type: str
    default: ""
requirements:
  - PyYAML, for O(policy)
"""

EXAMPLES = r"""
# Without a portal: the same sizes for everybody at all times
- name: Static profiles
  gpuhub.platform.quota_profiles:
    settings:
      products: [NVIDIA-A100-SXM4-80GB, Tesla-T4]
      cpu_per_gpu: 16
      memory_per_gpu: 120Gi
      cpu_sizes: [{cpu: 2, memory: 8Gi}, {cpu: 8, memory: 32Gi}]
    limits: {gpu: 4}
  register: sizes

- name: JupyterHub shows them
  ansible.builtin.copy:
    content: "{{ {'singleuser': {'profileList': sizes.profile_list}} | to_json }}"
    dest: profiles.json
    mode: "0644"

- name: The policy has no mistake
  gpuhub.platform.quota_profiles:
    policy: policy.yml

- name: What alice may start now
  gpuhub.platform.quota_profiles:
    policy: policy.yml
    user: alice
    used: {cpu: 4, memory: 16Gi, gpu: 1}
    nodes: "{{ nodes.resources }}"
    pods: "{{ pods.resources }}"
"""

RETURN = r"""
limits:
  description: >-
    Limits of the user, C(cpu_milli) in thousandths of a core, C(memory_bytes), C(gpu); null is without limit.
  type: dict
  returned: always
  sample: {cpu_milli: 8000, memory_bytes: 34359738368, gpu: 1}
profiles:
  description: >-
    Every size, in the order in which it is shown. The first that is C(offered) is the C(default); each that is not has
    a C(reason) with C(code) (C(over_limit), C(budget_used), C(too_large), C(none_free)), C(text), C(numbers) and
    C(until).
  type: list
  elements: dict
  returned: always
profile_list:
  description: Those that are offered, as KubeSpawner's C(profile_list) and the chart's C(singleuser.profileList).
  type: list
  elements: dict
  returned: always
  sample:
    - slug: gpu-a100-1
      display_name: 1 GPU (A100), 8 cores, 64 GiB
      default: true
      kubespawner_override: {cpu_limit: 8, mem_limit: 68719476736, extra_resource_limits: {"nvidia.com/gpu": "1"}}
"""

import functools
import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.located_tree import LocatedTreeError, read
from ..module_utils.quantities import Limits, QuantityError, parse_limits
from ..module_utils.quota_policy import PolicyError, policy
from ..module_utils.quota_profiles import ProfilesError, compute, profile_list

try:
    import yaml

    YAML_ERROR = None
except ImportError:
    YAML_ERROR = traceback.format_exc()

_AMOUNTS = {"type": "dict", "options": {name: {"type": "str"} for name in ("cpu", "memory", "gpu")}}
_SETTINGS = {
    "sizes": {"type": "list", "elements": "int"},
    "cpu_sizes": {
        "type": "list",
        "elements": "dict",
        "options": {name: {"type": "str", "required": True} for name in ("cpu", "memory")},
    },
    "cpu_per_gpu": {"type": "str"},
    "memory_per_gpu": {"type": "str"},
    "node_share_percent": {"type": "int"},
    "products": {"type": "list", "elements": "str"},
    "gpu_resource": {"type": "str"},
    "rdma_resource": {"type": "str"},
    "cpu_tolerations": {"type": "list", "elements": "dict"},
}


def limits_of(module: AnsibleModule) -> Limits:
    """The user's limits, by the policy if there is one. Raises QuantityError."""
    params = module.params
    if not params["policy"]:
        return parse_limits(params["limits"] or {})
    if YAML_ERROR:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=YAML_ERROR)
    compose = functools.partial(yaml.compose, Loader=yaml.SafeLoader)
    try:
        tree = read(Path(params["policy"]).read_text(encoding="utf-8"), compose)
        return policy(*tree).limits_for(params["user"], params["groups"])
    except (LocatedTreeError, PolicyError, OSError, UnicodeDecodeError) as error:
        lines = str(error).splitlines()
        module.fail_json(msg="\n".join(f"{params['policy']}: {line}" for line in lines), faults=lines)


def given(values: dict[str, Any] | None) -> dict[str, Any]:
    """Those suboptions that were given."""
    return {name: value for name, value in (values or {}).items() if value is not None}


def main() -> None:
    """Compute."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "default": {}, "options": _SETTINGS},
            "policy": {"type": "path"},
            "user": {"type": "str", "default": ""},
            "groups": {"type": "list", "elements": "str", "default": []},
            "limits": _AMOUNTS,
            "used": _AMOUNTS,
            "reserved": _AMOUNTS,
            "nodes": {"type": "list", "elements": "dict"},
            "pods": {"type": "list", "elements": "dict", "default": []},
            "node_selector": {"type": "dict"},
            "home_node": {"type": "str", "default": ""},
        },
        mutually_exclusive=[("policy", "limits")],
        supports_check_mode=True,
    )
    params = module.params
    try:
        limits = limits_of(module)
        found, config = compute(
            given(params["settings"]),
            limits,
            given(params["used"]),
            given(params["reserved"]),
            params["nodes"],
            params["pods"],
            params["node_selector"],
            params["home_node"],
        )
        offered = profile_list(found, config) if any(profile.offered for profile in found) else []
    except (ProfilesError, QuantityError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        limits=dict(zip(("cpu_milli", "memory_bytes", "gpu"), limits.amounts())),
        profiles=[profile.as_dict() for profile in found],
        profile_list=offered,
    )


if __name__ == "__main__":
    main()
