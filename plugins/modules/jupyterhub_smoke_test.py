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
- name: A notebook can be used
  gpuhub.platform.jupyterhub_smoke_test:
    url: http://192.0.2.11:30080
    api_token: "{{ secrets['values']['jupyterhub-smoke-token'] }}"
"""

RETURN = r"""
pod:
  description: Name of the pod that ran the cell.
  type: str
  returned: success, not in check mode
node:
  description: Name of the node that the pod ran on.
  type: str
  returned: success, not in check mode
output:
  description: What the cell printed.
  type: str
  returned: success, not in check mode
seconds:
  description: How long it took from the request to the stopped server.
  type: float
  returned: success, not in check mode
events:
  description: What the hub reported while the server started.
  type: list
  elements: str
  returned: success, not in check mode
waiting:
  description: What the hub reported last, if the time of O(slice) was over; then there is no other result.
  type: str
  returned: when O(slice) is over
"""

import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils import kube_client as kube
from ..module_utils.hub_smoke import Pod, SmokeTest, SmokeTestError, StillStarting
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


def main() -> None:
    """Wire the options to the smoke test."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "api_token": {"type": "str", "required": True, "no_log": True},
            "user": {"type": "str", "default": "gpuhub-smoke"},
            "namespace": {"type": "str", "default": "jhub"},
            "timeout": {"type": "int", "default": 300},
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
    pods = UserPods(kube.connect(module), options["namespace"])
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
            result = test.run()
        except StillStarting as report:
            result = {"waiting": str(report)}
        except SmokeTestError as error:
            module.fail_json(msg=f"smoke test of {options['url']}: {error}", events=test.events)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
