"""Control side of the module of the same name: reads the policy file here, where it lies, and names its lines."""

from __future__ import annotations

import functools
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils import located_tree, quota_policy


class ActionModule(ActionBase):
    """The module's result; what is wrong with the policy is said with its file and lines."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give the module the tree of the file. A file that is wrong fails before a portal is asked."""
        result = super().run(tmp, task_vars)
        arguments, file, lines = dict(self._task.args), "", {}
        if arguments.get("path") and "policy" not in arguments:
            file = self._find_needle("files", str(arguments.pop("path")))
            try:
                arguments["policy"], lines = self._read(file)
            except quota_policy.PolicyError as error:
                return {**result, "failed": True, **_failure(error, file)}
        if file and arguments.get("state") == "valid":
            return {**result, "changed": False, "changes": [], "kept": []}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        if result.get("faults"):
            paths = [(tuple(fault["path"]), fault["text"]) for fault in result["faults"]]
            faults = [quota_policy.Fault(located_tree.at(lines, path), path, text) for path, text in paths]
            result.update(_failure(quota_policy.PolicyError(faults), file))
        return result

    def _read(self, file: str) -> tuple[located_tree.Tree, dict[located_tree.Path, int]]:
        """The tree of a file that is a policy, with its lines. Raises PolicyError and AnsibleError."""
        # Decrypts what ansible-vault has encrypted.
        content = self._loader.get_text_file_contents(file)
        compose = functools.partial(yaml.compose, Loader=yaml.SafeLoader)
        try:
            tree, lines = located_tree.read(str(content), compose)
        except located_tree.LocatedTreeError as error:
            # Ansible would print a cause after it once more.
            raise AnsibleActionFail(f"{file}: {error}") from None
        quota_policy.policy(tree, lines)
        return tree, lines


def _failure(error: quota_policy.PolicyError, file: str) -> dict[str, Any]:
    """A result that lists everything that is wrong, each thing in a line."""
    faults = [str(fault) for fault in error.faults]
    place = f"{file}: " if file else ""
    return {"msg": "\n".join(f"{place}{fault}" for fault in faults), "faults": faults}
