"""Control side of the module kube_ready: shows progress while it waits."""

from __future__ import annotations

from ansible_collections.gpuhub.platform.plugins.plugin_utils.slices import SlicedModule


class ActionModule(SlicedModule):
    """Run kube_ready in slices."""
