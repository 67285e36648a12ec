"""Control side of the module jupyterhub_smoke_test: shows progress while it waits."""

from __future__ import annotations

from ansible_collections.gpuhub.platform.plugins.plugin_utils.slices import SlicedModule


class ActionModule(SlicedModule):
    """Run jupyterhub_smoke_test in slices."""
