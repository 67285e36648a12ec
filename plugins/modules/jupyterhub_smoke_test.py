#!/usr/bin/python
"""Prove a JupyterHub by using it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: jupyterhub_smoke_test
short_description: Start a notebook server on JupyterHub and run a cell in it
description:
  - Goes the way of a user. Starts a server for a user of its own through the hub's address, follows the hub's report,
    starts a kernel, runs a cell that prints the host's name, compares that with the pod that the API server reports,
    and stops the server.
  - While the server starts it shows every few seconds what the hub reports.
  - Where O(proof) says that notebooks have been proven, and unless O(again) asks for it, it only looks whether the hub
    answers.
  - When the server does not start, the error holds what the hub reported, such as the scheduler's and kubelet's events,
    and the state, the events and the last log lines of the pod, without secrets.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
  - gpuhub.platform.kube
attributes:
  check_mode:
    description: Does nothing in check mode, because it would start a server.
    support: full
options:
  url:
    description: Address of the hub as users see it.
    type: str
    required: true
  api_token:
    description: Token of a service of the hub that may manage O(user) and use its server.
    type: str
    required: true
  user:
    description: The user whose server is started. It is made when it is missing.
    type: str
    default: gpuhub-smoke
  namespace:
    description: Namespace of the users' pods.
    type: str
    default: jhub
  timeout:
    description: Seconds that everything together may take.
    type: int
    default: 300
  proof:
    description:
      - File on this host that says what was proven last, as a digest of the Deployments, DaemonSets and StatefulSets of
        O(platform_namespaces) and of the nodes. It is removed before a server is started and written after it was
        stopped, so that a test that failed or was killed is made again by the next run.
    type: path
  platform_namespaces:
    description: Namespaces of the workloads that notebooks stand on.
    type: list
    elements: str
    default: [kube-system, gpuhub-system, usage-portal, jhub]
  again:
    description: Whether to start a server even if O(proof) says that these workloads and nodes have been proven.
    type: bool
    default: true
  slice:
    description:
      - Seconds after which the module returns although the server still starts; V(0) is never.
      - The action plugin sets this, to show progress, and runs the module again with O(waited).
    type: float
    default: 0
  waited:
    description: Seconds of O(timeout) that earlier executions have used; more than none goes on where they stopped.
    type: float
    default: 0
requirements:
  - requests (Python)
  - websocket-client (Python)
"""

EXAMPLES = r"""
- name: Verify that a notebook works
  gpuhub.platform.jupyterhub_smoke_test:
    url: http://192.0.2.11:30080
    api_token: "{{ secrets['values']['jupyterhub-smoke-token'] }}"

- name: Verify that a notebook works if anything has changed since that was verified last
  gpuhub.platform.jupyterhub_smoke_test:
    url: http://192.0.2.11:30080
    api_token: "{{ secrets['values']['jupyterhub-smoke-token'] }}"
    proof: /var/lib/gpuhub/proof
    again: "{{ lookup('gpuhub.platform.run_changed') }}"
"""

RETURN = r"""
started:
  description: Whether a server was started; if not, O(proof) made that unnecessary.
  type: bool
  returned: success, not in check mode
pod:
  description: Name of the pod that ran the cell.
  type: str
  returned: when RV(started)
node:
  description: Name of the node that the pod ran on.
  type: str
  returned: when RV(started)
output:
  description: What the cell printed.
  type: str
  returned: when RV(started)
seconds:
  description: How long it took from the request to the stopped server.
  type: float
  returned: when RV(started)
events:
  description: What the hub reported while the server started.
  type: list
  elements: str
  returned: when RV(started)
waiting:
  description: What the hub reported last, if the time of O(slice) was over; then there is no other result.
  type: str
  returned: when O(slice) is over
"""

import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils import kube_client as kube
from ..module_utils.atomic_file import write_text
from ..module_utils.hub_smoke import Pod, SmokeTest, SmokeTestError, StillStarting, foundation
from ..module_utils.kube_explanation import explain_pods

try:
    import requests
    import websocket

    IMPORT_ERROR = None
except ImportError:
    IMPORT_ERROR = traceback.format_exc()


def connect(url: str, headers: dict[str, str], timeout: float) -> Any:
    """Open a WebSocket, never through a proxy: the hub is on the site's own network."""
    return websocket.create_connection(url, header=headers, timeout=timeout, http_no_proxy=["*"])


class Proof:
    """The file that says what was proven last, if there is to be one."""

    def __init__(self, path: str | None, cluster: kube.Cluster, namespaces: list[str]) -> None:
        self._path = Path(path) if path else None
        self._cluster, self._namespaces = cluster, namespaces

    def _now(self) -> str:
        workloads = [
            item
            for kind in ("Deployment", "DaemonSet", "StatefulSet")
            for item in self._cluster.list("apps/v1", kind)
            if item["metadata"]["namespace"] in self._namespaces
        ]
        return foundation(workloads, self._cluster.list("v1", "Node"))

    def holds(self) -> bool:
        """Whether what notebooks stand on is what was proven last."""
        return self._path is not None and self._path.exists() and self._path.read_text() == self._now()

    def withdraw(self) -> None:
        """Forget it until it is given again."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def give(self) -> None:
        """Note that notebooks work on what there is now."""
        if self._path is not None:
            write_text(self._path, self._now(), 0o600)


class UserPods:
    """The pods of users' servers, found by the annotation that holds the raw name."""

    def __init__(self, cluster: kube.Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace

    def _live(self, user: str) -> list[kube.Object]:
        selector = "component=singleuser-server"
        return [
            item
            for item in self._cluster.list("v1", "Pod", namespace=self._namespace, label_selector=selector)
            if item["metadata"].get("annotations", {}).get("hub.jupyter.org/username") == user
            and not item["metadata"].get("deletionTimestamp")
        ]

    def of(self, user: str) -> list[Pod]:
        """Return the pods of a user; raise SmokeTestError if the API server does not tell."""
        try:
            return [Pod(item["metadata"]["name"], item["spec"].get("nodeName", "")) for item in self._live(user)]
        except Exception as error:
            raise SmokeTestError(f"pods of namespace {self._namespace}: {kube.explain(error)}") from error

    def explain(self, user: str) -> list[str]:
        """Return what keeps a user's pods from being ready, one line each."""
        try:
            pods = self._live(user)
            names = [pod["metadata"]["name"] for pod in pods]
            events = self._cluster.list("v1", "Event", namespace=self._namespace)
            concerned = [event for event in events if event["involvedObject"].get("name") in names]
            return explain_pods(self._cluster, self._namespace, pods, concerned)
        except Exception as error:
            return [f"no details: {kube.explain(error)}"]


def prove(test: SmokeTest, proof: Proof, again: bool) -> dict[str, Any]:
    """Run the test, or only ask the hub where the proof holds and need not be given again; return the result."""
    if not again and proof.holds():
        test.await_hub()
        return {"started": False}
    proof.withdraw()
    result = test.run()
    proof.give()
    return {"started": True, **result}


def main() -> None:
    """Wire the options to the smoke test."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "api_token": {"type": "str", "required": True, "no_log": True},
            "user": {"type": "str", "default": "gpuhub-smoke"},
            "namespace": {"type": "str", "default": "jhub"},
            "timeout": {"type": "int", "default": 300},
            "proof": {"type": "path"},
            "platform_namespaces": {
                "type": "list",
                "elements": "str",
                "default": ["kube-system", "gpuhub-system", "usage-portal", "jhub"],
            },
            "again": {"type": "bool", "default": True},
            "slice": {"type": "float", "default": 0},
            "waited": {"type": "float", "default": 0},
            **kube.ARGUMENT_SPEC,
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, msg="Not run in check mode: it would start a server.")
    if IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("requests, websocket-client"), exception=IMPORT_ERROR)
    options = module.params
    if not options["url"].startswith(("http://", "https://")):
        module.fail_json(msg=f"url is '{options['url']}'; it must begin with http:// or https://")
    cluster = kube.connect(module)
    pods = UserPods(cluster, options["namespace"])
    proof = Proof(options["proof"], cluster, options["platform_namespaces"])
    with requests.Session() as session:
        session.trust_env = False
        test = SmokeTest(
            url=options["url"],
            token=options["api_token"],
            user=options["user"],
            http=session,
            connect=connect,
            pods=pods.of,
            explain=pods.explain,
            timeout=options["timeout"],
            pause=options["slice"],
            waited=options["waited"],
        )
        try:
            result = prove(test, proof, options["again"] or options["waited"] > 0)
        except StillStarting as report:
            result = {"waiting": str(report)}
        except SmokeTestError as error:
            module.fail_json(msg=f"smoke test of {options['url']}: {error}", events=test.events)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
