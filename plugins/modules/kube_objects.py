#!/usr/bin/python
"""Objects of a cluster made equal to their definition."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kube_objects
short_description: Make Kubernetes objects equal to their definition
description:
  - Creates what is missing and repairs what somebody edited, including fields that were added by hand.
  - The comparison is the API server's own. Each definition is sent as a replacement in a server-side dry run, and what
    the server would store is compared with what it has; so defaults, quantities and conversions make no false
    difference.
  - Labels and annotations that others have put on an object are kept.
  - Values of Secrets are shown in a diff as short hashes only.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
  - gpuhub.platform.kube
options:
  definition:
    description: Objects as a list, one object, or a YAML text of several documents.
    type: raw
  src:
    description: A YAML file on the target host that holds the objects.
    type: path
  release:
    description: An installed Helm release, whose objects are made equal to its own manifest again.
    type: dict
    suboptions:
      name:
        description: Name of the release.
        type: str
        required: true
      namespace:
        description: Namespace of the release.
        type: str
        required: true
  state:
    description: V(absent) deletes the objects.
    type: str
    choices: [present, absent]
    default: present
  ready:
    description:
      - Wait until the Deployments, DaemonSets and StatefulSets among the objects are rolled out, in the same execution.
      - When the time is over it fails with what is missing, the state of the pods concerned and the last warnings.
    type: dict
    suboptions:
      timeout:
        description: Seconds to wait.
        type: int
        default: 300
      nodes:
        description: Names of nodes that must be Ready as well.
        type: list
        elements: str
        default: []
"""

EXAMPLES = r"""
- name: The namespace exists
  gpuhub.platform.kube_objects:
    definition: {apiVersion: v1, kind: Namespace, metadata: {name: gpuhub-system}}

- name: The network runs on every node
  gpuhub.platform.kube_objects:
    src: /var/snap/microk8s/current/args/cni-network/cni.yaml
    ready: {nodes: [head, worker1]}

- name: What was edited by hand in a release is repaired
  gpuhub.platform.kube_objects:
    release: {name: jupyterhub, namespace: jhub}
"""

RETURN = r"""
created:
  description: Objects that were missing.
  type: list
  elements: str
  returned: always
  sample: [ConfigMap kube-system/coredns]
repaired:
  description: Objects that were different.
  type: list
  elements: str
  returned: always
deleted:
  description: Objects that were removed by O(state=absent).
  type: list
  elements: str
  returned: always
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import kube_client as kube
from ..module_utils.kube_compare import (
    KubeCompareError,
    comparable,
    identity,
    newest_release,
    owned_by_release,
    printable,
    replacement,
    validate,
)
from ..module_utils.kube_wait import WORKLOADS, NotReadyError, wait, workload


def wanted_objects(params: dict[str, Any], cluster: kube.Cluster) -> list[kube.Object]:
    """The objects that the module's options name."""
    if params["release"]:
        name, namespace = params["release"]["name"], params["release"]["namespace"]
        secrets = cluster.list("v1", "Secret", namespace=namespace, label_selector=f"owner=helm,name={name}")
        _revision, _status, manifest = newest_release(secrets)
        items = [owned_by_release(item, name, namespace) for item in validate(kube.documents(manifest))]
        for item in items:
            if cluster.namespaced(item):
                item["metadata"].setdefault("namespace", namespace)
        return items
    if params["src"]:
        return validate(kube.documents(Path(params["src"]).read_text(encoding="utf-8")))
    definition = params["definition"]
    if isinstance(definition, str):
        definition = kube.documents(definition)
    return validate(definition if isinstance(definition, list) else [definition])


class Reconciler:
    """Makes live objects equal to wanted ones and remembers what it did."""

    def __init__(self, cluster: kube.Cluster, check_mode: bool) -> None:
        self._cluster, self._check = cluster, check_mode
        self.done: dict[str, list[str]] = {"created": [], "repaired": [], "deleted": []}
        self.diff: list[dict[str, Any]] = []
        self._new_namespaces: set = set()

    def _record(self, what: str, item: kube.Object, before: Any, after: Any) -> None:
        self.done[what].append(identity(item))
        self.diff.append(
            {
                "before_header": identity(item),
                "after_header": identity(item),
                "before": printable(before) if before else "",
                "after": printable(after) if after else "",
            }
        )

    def present(self, wanted: kube.Object) -> None:
        """Create or repair one object."""
        namespace = wanted["metadata"].get("namespace")
        live = None
        if self._cluster.knows(wanted) and namespace not in self._new_namespaces:
            live = self._cluster.get(wanted)
        if live is None:
            if wanted["kind"] == "Namespace" and self._check:
                self._new_namespaces.add(wanted["metadata"]["name"])
            # A dry run cannot create in a namespace, or of a kind, that would itself be created by this very run.
            predictable = self._cluster.knows(wanted) and namespace not in self._new_namespaces
            after = self._cluster.create(wanted, dry_run=self._check) if predictable or not self._check else wanted
            self._record("created", wanted, None, after)
            return
        body = replacement(live, wanted)
        after = self._cluster.replace(body, dry_run=True)
        if comparable(after) == comparable(live):
            return
        if not self._check:
            after = self._cluster.replace(body, dry_run=False)
        self._record("repaired", wanted, live, after)

    def absent(self, wanted: kube.Object) -> None:
        """Delete one object."""
        live = self._cluster.get(wanted) if self._cluster.knows(wanted) else None
        if live is None:
            return
        if not self._check:
            self._cluster.delete(wanted)
        self._record("deleted", wanted, live, None)


def main() -> None:
    """Wire the options to the reconciler."""
    module = AnsibleModule(
        argument_spec={
            "definition": {"type": "raw"},
            "src": {"type": "path"},
            "release": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "namespace": {"type": "str", "required": True},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "ready": {
                "type": "dict",
                "options": {
                    "timeout": {"type": "int", "default": 300},
                    "nodes": {"type": "list", "elements": "str", "default": []},
                },
            },
            **kube.ARGUMENT_SPEC,
        },
        mutually_exclusive=[("definition", "src", "release")],
        required_one_of=[("definition", "src", "release")],
        supports_check_mode=True,
    )
    cluster = kube.Cluster(module)
    reconciler = Reconciler(cluster, module.check_mode)
    item: kube.Object = {}
    try:
        items = wanted_objects(module.params, cluster)
        if module.params["state"] == "absent":
            items.reverse()
        for item in items:
            getattr(reconciler, module.params["state"])(item)
        if module.params["ready"] and not module.check_mode:
            wait(cluster, [workload(item) for item in items if item["kind"] in WORKLOADS], **module.params["ready"])
    except (KubeCompareError, NotReadyError, OSError) as error:
        module.fail_json(msg=str(error), **reconciler.done)
    except Exception as error:
        module.fail_json(msg=f"{identity(item) if item else 'API server'}: {kube.explain(error)}", **reconciler.done)
    module.exit_json(changed=any(reconciler.done.values()), diff=reconciler.diff, **reconciler.done)


if __name__ == "__main__":
    main()
