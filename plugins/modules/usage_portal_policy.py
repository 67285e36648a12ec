#!/usr/bin/python
"""Brings the policy of a usage portal to what a file says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: usage_portal_policy
short_description: Limits, groups, budgets and rates of a usage portal
description:
  - Compares a policy (docs/quotas.md) with the one that the usage portal has, and changes what differs, each entry
    once. The portal records who changed what.
  - Everything that is wrong with a policy is said at once, with the lines of its file, before anything is changed. So
    is what does not fit what the portal has.
  - Amounts are compared by what they mean, so that V(0.5) cores and V(500m) are the same.
  - An entry (the default, a user, a group with its members) is replaced as a whole. What it does not state is
    inherited.
  - A rate whose time has come is never changed, removed, or followed by another one that begins in the past, as what
    was used has its price already. Such rates in O(path) are refused, all of them in one error. Only the very first
    rates of a portal may begin in the past.
  - Rates begin with a whole hour of UTC. If the policy states a C(time_zone), it must be the portal's; without it the
    portal's counts.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  url:
    description: Address of the portal, as V(http://head:29781). Required but for O(state=valid).
    type: str
  token:
    description: A token of the portal with the scope C(policy:write). Required but for O(state=valid).
    type: str
  path:
    description:
      - The policy file, on the control node. It may be encrypted by C(ansible-vault). A relative path is looked for as
        by M(ansible.builtin.copy).
      - Either this or O(policy) is required.
    type: path
  policy:
    description: The policy itself, with the same keys.
    type: dict
  state:
    description: V(valid) reads the policy alone, on the control node, before there is a portal.
    type: str
    choices: [present, valid]
    default: present
  purge:
    description:
      - Whether users and groups that the policy does not name are removed, and rates that it does not name and whose
        time has not come are withdrawn. By default they stay.
      - The default and rates of the past always stay.
    type: bool
    default: false
  validate_certs:
    description: Whether the portal's certificate is verified.
    type: bool
    default: true
  ca_path:
    description: A file (PEM) with authorities that the portal's certificate is verified by, on the host that asks.
    type: path
  timeout:
    description: Seconds that the portal may take for an answer.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Limits and prices are those of the file
  gpuhub.platform.usage_portal_policy:
    url: http://head:29781
    token: "{{ portal_token }}"
    path: policy.yml
    purge: true

- name: Everybody may have one GPU, and no more than 100 GPU hours a month
  gpuhub.platform.usage_portal_policy:
    url: http://head:29781
    token: "{{ portal_token }}"
    policy:
      default: {cpu: 8, memory: 32Gi, gpu: 1, budgets: [{gpu_hours: 100, every: month}]}
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode, in the order in which it was done.
  type: list
  elements: str
  returned: always
  sample: [set default, set groups/vision, remove users/carol]
kept:
  description: What the portal has and the policy does not name.
  type: list
  elements: str
  returned: success
  sample: [users/dave, "rates/2025-01-01T00:00:00Z"]
faults:
  description: What is wrong with the policy, with lines where it comes from a file.
  type: list
  elements: str
  returned: failure, if it is the policy
  sample: ["line 4: groups.vision.gpu is many; write 4, or unlimited"]
"""

import json
import socket
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import SSLValidationError, open_url

from ..module_utils.portal_policy import Change, PortalPolicyError, plan
from ..module_utils.quota_policy import Fault, PolicyError, policy

_PAGE = 1000


class PortalError(Exception):
    """The portal gave no answer that can be used; the text says what to do."""


class AwayError(PortalError):
    """Nobody answers at the portal's address."""


class RefusedError(Exception):
    """The portal's word against one change."""


class Portal:
    """The policy by the portal's API. `now` is the portal's time, once it has answered."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._url = params["url"].rstrip("/")
        token = params["token"].strip()
        if not token or not token.isascii() or not token.isprintable():
            raise PortalError("token: is empty, or holds characters that no token has; is it still encrypted?")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._options = {
            "timeout": params["timeout"],
            "validate_certs": params["validate_certs"],
            "ca_path": params["ca_path"],
            # Wherever it might lead, the token is for this address.
            "follow_redirects": "none",
            "use_netrc": False,
            "http_agent": "gpuhub.platform",
        }
        self.now = datetime.now(timezone.utc)

    def policy(self) -> dict[str, Any]:
        """The portal's policy as one tree. Raises PortalError."""
        try:
            return self._tree()
        except (AttributeError, KeyError, TypeError):
            raise self._no_policy() from None

    def _tree(self) -> dict[str, Any]:
        tree = self._get()
        tree["default"] = self._get("default")
        tree["rates"] = self._get("rates")["rates"]
        for section in ("groups", "users"):
            tree[section], query = {}, {"limit": _PAGE}
            while query:
                page = self._get(section, **query)
                tree[section].update((item["name"], item["entry"]) for item in page["items"])
                query = {**query, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
        return tree

    def apply(self, change: Change) -> None:
        """Make a change. Raises RefusedError if the portal does not accept it, PortalError."""
        self._ask(change.method, change.resource, data=None if change.document is None else json.dumps(change.document))

    def _get(self, *parts: str, **query: Any) -> dict[str, Any]:
        try:
            return self._ask("GET", parts, query)
        except RefusedError as error:
            raise self._no_policy() from error

    def _ask(self, method: str, parts: tuple[str, ...], query: Any = (), data: str | None = None) -> Any:
        where = "/".join([f"{self._url}/api/v1/policy", *(quote(part, safe=":") for part in parts)])
        address = f"{where}?{urlencode(query)}" if query else where
        try:
            with open_url(address, data=data, method=method, headers=self._headers, **self._options) as answer:
                self._note_time(answer.headers)
                text = answer.read()
        except HTTPError as error:
            raise self._refusal(error) from error
        except (URLError, UrlsConnectionError, SSLValidationError, HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise AwayError(
                f"{self._url} cannot be reached from {socket.gethostname()}: {reason}; "
                "check the address and, on the head, microk8s kubectl -n usage-portal get pods"
            ) from error
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise self._no_policy() from None

    def _no_policy(self) -> PortalError:
        return PortalError(
            f"{self._url} has no policy that can be set: something else is there, or a portal of another system or "
            "release; limits of another system are set in that system"
        )

    def _note_time(self, headers: Mapping[str, str]) -> None:
        if headers.get("Date"):
            self.now = parsedate_to_datetime(headers["Date"])

    def _refusal(self, error: HTTPError) -> Exception:
        """What an answer from 300 on means."""
        try:
            problem = json.loads(error.read())
            code, detail = str(problem["code"]), str(problem["detail"])
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            code, detail = "", f"HTTP {error.code}"
        if error.code == 401:
            return PortalError(
                f"{self._url} does not know the token: it is wrong, has expired or was revoked; make one in the "
                "portal's pod: python -m gpuhub_portal token create NAME --scope policy:write"
            )
        if error.code == 403:
            return PortalError(f"{self._url}: the token may not change the policy; it needs the scope policy:write")
        if error.code in (404, 409, 422) and code:
            return RefusedError(detail)
        if error.code in (404, 405):
            return self._no_policy()
        if error.code < 400:
            return PortalError(
                f"{self._url} leads to {error.headers.get('Location')}; if it is right, write that address"
            )
        return PortalError(f"{self._url} answers {error.code}: {detail}")


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """A policy as its file writes it, for people to compare."""
    return {**document, "rates": list(document["rates"].values())}


def main() -> None:
    """Compare, and change what differs."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str"},
            "token": {"type": "str", "no_log": True},
            "path": {"type": "path"},
            "policy": {"type": "dict"},
            "state": {"type": "str", "choices": ["present", "valid"], "default": "present"},
            "purge": {"type": "bool", "default": False},
            "validate_certs": {"type": "bool", "default": True},
            "ca_path": {"type": "path"},
            "timeout": {"type": "int", "default": 30},
        },
        mutually_exclusive=[("path", "policy")],
        required_one_of=[("path", "policy")],
        required_if=[("state", "present", ("url", "token"))],
        supports_check_mode=True,
    )
    if module.params["policy"] is None:
        module.fail_json(msg="policy: has no value; write what everybody may have, or the path of a file")
    done: list[str] = []
    try:
        if module.params["state"] == "valid":
            policy(module.params["policy"])
            module.exit_json(changed=False, changes=[], kept=[])
        portal = Portal(module.params)
        there = portal.policy()
        found = plan(module.params["policy"], there, portal.now, module.params["purge"])
        for change in found.changes:
            if not module.check_mode:
                try:
                    portal.apply(change)
                except RefusedError as error:
                    text = f"is refused by the portal: {error}"
                    raise PolicyError([Fault(0, change.path, text)]) from error
            done.append(str(change))
    except PolicyError as error:
        faults = [{"path": fault.path, "text": fault.text} for fault in error.faults]
        module.fail_json(msg=str(error), faults=faults, changed=bool(done), changes=done)
    except (PortalError, PortalPolicyError) as error:
        if module.check_mode and isinstance(error, AwayError):
            module.warn(f"{error}; if it is still to be deployed, the policy will be set then")
            module.exit_json(changed=True, changes=[], kept=[])
        module.fail_json(msg=str(error), changed=bool(done), changes=done)
    result = {"changed": bool(done), "changes": done, "kept": found.kept}
    if module._diff:
        result["diff"] = {"before": shown(found.before), "after": shown(found.after)}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
