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
  - A Job, whose pods cannot be changed, is made anew where it is another one, or has failed.
  - Values of Secrets are shown in a diff as short hashes only. Of those that O(secrets) has, nothing else is shown or
    logged either, so that the task needs no C(no_log), which would hide what happens to all other objects.
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
  secrets:
    description: Secrets among the objects; they come after namespaces and before all others.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the Secret.
        type: str
        required: true
      namespace:
        description: Namespace of the Secret.
        type: str
        required: true
      data:
        description: Values in base64 by key, as in the Secret itself.
        type: dict
        default: {}
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
  absent:
    description: Further objects, which are deleted when all others are as they shall be.
    type: list
    elements: dict
    default: []
  state:
    description: V(absent) deletes the objects.
    type: str
    choices: [present, absent]
    default: present
  ready:
    description:
      - Wait until the Deployments, DaemonSets and StatefulSets among the objects are rolled out and its Jobs complete,
        in the same execution if that is soon, and show what is waited for if it is not, as
        M(gpuhub.platform.kube_ready) does.
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
  slice:
    description:
      - Seconds after which the module returns with what it still waits for; V(0) is never. The action plugin sets this.
    type: float
    default: 0
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
    ready: {timeout: 600}

- name: A program runs with its password
  gpuhub.platform.kube_objects:
    definition: "{{ objects }}"
    secrets:
      - {name: program, namespace: programs, data: {password: "{{ password | b64encode }}"}}
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
waiting:
  description: What it still waits for, as one line, if the time of O(slice) was over.
  type: str
  returned: when O(slice) is over
awaited:
  description: The workloads that O(ready) waits for.
  type: list
  elements: dict
  returned: when O(slice) is over
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import kube_client as kube
from ..module_utils.helm_release import HelmReleaseError, newest_release
from ..module_utils.kube_compare import (
    KubeCompareError,
    comparable,
    identity,
    owned_by_release,
    printable,
    replacement,
    validate,
)
from ..module_utils.kube_rollout import job_has_failed
from ..module_utils.kube_wait import WORKLOADS, NotReadyError, Wait, workload


def wanted_objects(params: dict[str, Any], cluster: kube.Cluster) -> list[kube.Object]:
    """The objects that the module's options name."""
    items = _defined_objects(params, cluster)
    namespaces = [item for item in items if item["kind"] == "Namespace"]
    others = [item for item in items if item["kind"] != "Namespace"]
    return namespaces + [_secret(**secret) for secret in params["secrets"]] + others if params["secrets"] else items


def _secret(name: str, namespace: str, data: dict[str, str]) -> kube.Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}


def _defined_objects(params: dict[str, Any], cluster: kube.Cluster) -> list[kube.Object]:
    if params["release"]:
        name, namespace = params["release"]["name"], params["release"]["namespace"]
        secrets = cluster.list("v1", "Secret", namespace=namespace, label_selector=f"owner=helm,name={name}")
        manifest = kube.documents(newest_release(secrets)["manifest"])
        items = [owned_by_release(item, name, namespace) for item in validate(manifest)]
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


# From so many objects of one kind and namespace on, one list is cheaper than as many requests.
LIST_FROM = 3
# While a workload starts its status changes several times a second, and what was read of it is outdated each time.
ATTEMPTS = 5


class Reconciler:
    """Makes live objects equal to wanted ones and remembers what it did, and to which it does it now."""

    def __init__(self, cluster: kube.Cluster, check_mode: bool) -> None:
        self._cluster, self._check = cluster, check_mode
        self.done: dict[str, list[str]] = {"created": [], "repaired": [], "deleted": []}
        self.diff: list[dict[str, Any]] = []
        self._new_namespaces: set = set()
        self.current = ""
        self._count: Counter[tuple] = Counter()
        self._listed: dict[tuple, dict[str, kube.Object]] = {}

    def run(self, wanted: Sequence[kube.Object], state: str) -> None:
        """Make all objects `present`, in their order, or `absent`, in the opposite one."""
        self._count = Counter(map(_shelf, wanted))
        for item in wanted if state == "present" else reversed(wanted):
            self.current = identity(item)
            self._reconcile(item, state)

    def _reconcile(self, wanted: kube.Object, state: str) -> None:
        # Somebody else may change an object between the look and the change.
        for attempt in range(1, ATTEMPTS + 1):
            try:
                getattr(self, f"_{state}")(wanted, fresh=attempt > 1)
                return
            except Exception as error:
                if attempt == ATTEMPTS or not kube.is_conflict(error):
                    raise

    def _live(self, wanted: kube.Object, fresh: bool) -> kube.Object | None:
        shelf, name = _shelf(wanted), wanted["metadata"]["name"]
        if fresh or self._count[shelf] < LIST_FROM:
            return self._cluster.get(wanted)
        if shelf not in self._listed:
            version, kind, namespace = shelf
            items = self._cluster.list(version, kind, namespace=namespace)
            self._listed[shelf] = {item["metadata"]["name"]: item for item in items}
        return self._listed[shelf].get(name)

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

    def _present(self, wanted: kube.Object, fresh: bool) -> None:
        """Create or repair one object."""
        namespace = wanted["metadata"].get("namespace")
        live = None
        if self._cluster.knows(wanted) and namespace not in self._new_namespaces:
            live = self._live(wanted, fresh)
        if live is None:
            if wanted["kind"] == "Namespace" and self._check:
                self._new_namespaces.add(wanted["metadata"]["name"])
            # A dry run cannot create in a namespace, or of a kind, that would itself be created by this very run.
            predictable = self._cluster.knows(wanted) and namespace not in self._new_namespaces
            after = self._cluster.create(wanted, dry_run=self._check) if predictable or not self._check else wanted
            self._record("created", wanted, None, after)
            return
        body = replacement(live, wanted)
        if wanted["kind"] == "Job" and not self._can_become(live, body):
            self._make_anew(wanted, live)
            return
        after = self._cluster.replace(body, dry_run=True)
        if comparable(after) == comparable(live):
            return
        if not self._check:
            after = self._cluster.replace(body, dry_run=False)
        self._record("repaired", wanted, live, after)

    def _can_become(self, job: kube.Object, body: kube.Object) -> bool:
        """Whether a Job is still of use and can be changed to what is wanted."""
        if job_has_failed(job):
            return False
        try:
            self._cluster.replace(body, dry_run=True)
        except Exception as error:
            if kube.is_invalid(error):
                return False
            raise
        return True

    def _make_anew(self, wanted: kube.Object, live: kube.Object) -> None:
        after = wanted
        if not self._check:
            self._cluster.delete(live)
            after = self._cluster.create(wanted, dry_run=False)
        self._record("repaired", wanted, live, after)

    def _absent(self, wanted: kube.Object, fresh: bool) -> None:
        """Delete one object."""
        live = self._live(wanted, fresh) if self._cluster.knows(wanted) else None
        if live is None:
            return
        if not self._check:
            self._cluster.delete(wanted)
        self._record("deleted", wanted, live, None)


def _shelf(item: kube.Object) -> tuple:
    return item["apiVersion"], item["kind"], item["metadata"].get("namespace")


def wait(items: Sequence[kube.Object], cluster: kube.Cluster, params: dict[str, Any]) -> dict[str, Any]:
    """Wait for the workloads among the objects; what to add to the result. Raises NotReadyError."""
    awaited = [workload(item) for item in items if item["kind"] in WORKLOADS]
    awaiting = Wait(params["kubeconfig"], params["ready"]["nodes"], awaited, cluster)
    outcome = awaiting.run(params["ready"]["timeout"], slice_seconds=params["slice"])
    return {"waiting": outcome.waiting, "awaited": awaited} if outcome.waiting else {}


def main() -> None:
    """Wire the options to the reconciler."""
    module = AnsibleModule(
        argument_spec={
            "definition": {"type": "raw"},
            "src": {"type": "path"},
            "secrets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "no_log": False,  # but for what is in it
                "options": {
                    "name": {"type": "str", "required": True},
                    "namespace": {"type": "str", "required": True},
                    "data": {"type": "dict", "default": {}, "no_log": True},
                },
            },
            "release": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "namespace": {"type": "str", "required": True},
                },
            },
            "absent": {"type": "list", "elements": "dict", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "ready": {
                "type": "dict",
                "options": {
                    "timeout": {"type": "int", "default": 300},
                    "nodes": {"type": "list", "elements": "str", "default": []},
                },
            },
            "slice": {"type": "float", "default": 0},
            **kube.ARGUMENT_SPEC,
        },
        mutually_exclusive=[("definition", "src", "release")],
        required_one_of=[("definition", "src", "release")],
        supports_check_mode=True,
    )
    cluster = kube.connect(module)
    reconciler = Reconciler(cluster, module.check_mode)
    waiting: dict[str, Any] = {}
    try:
        wanted = wanted_objects(module.params, cluster)
        reconciler.run(wanted, module.params["state"])
        reconciler.run(validate(module.params["absent"]), "absent")
        if module.params["ready"] and not module.check_mode:
            waiting = wait(wanted, cluster, module.params)
    except (KubeCompareError, HelmReleaseError, NotReadyError, OSError) as error:
        module.fail_json(msg=str(error), **reconciler.done)
    except Exception as error:
        module.fail_json(msg=f"{reconciler.current or 'API server'}: {kube.explain(error)}", **reconciler.done)
    module.exit_json(changed=any(reconciler.done.values()), diff=reconciler.diff, **reconciler.done, **waiting)


if __name__ == "__main__":
    main()
