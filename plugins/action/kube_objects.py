"""Control side of the module kube_objects: shows progress while it waits for what it has changed."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuhub.platform.plugins.plugin_utils.slices import SlicedModule


class ActionModule(SlicedModule):
    """Run kube_objects once and, if that was not long enough for `ready`, kube_ready in slices."""

    _first: dict[str, Any]

    def further(self, result: dict[str, Any], waited: float) -> tuple[str, dict[str, Any]]:
        """Objects are reconciled once; their workloads, which the first result names, are what is waited for."""
        if "awaited" in result:
            self._first = result
        arguments = {key: self._task.args[key] for key in ("kubeconfig",) if key in self._task.args}
        return "gpuhub.platform.kube_ready", {
            **arguments,
            **self._task.args["ready"],
            "workloads": self._first["awaited"],
            "waited": waited,
        }

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was changed, and how the waiting ended."""
        self._first = {}
        result = super().run(tmp, task_vars)
        told = {key: value for key, value in self._first.items() if key not in ("waiting", "awaited", "invocation")}
        return {**result, **told} if told else result
