"""KubeSpawner with the platform's own name for each user, and servers that outlive a reboot of their node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuhub_core.usernames import slug
from kubespawner import KubeSpawner


class PlatformSpawner(KubeSpawner):
    """KubeSpawner whose templates know `{user_slug}`, and which waits for containers that are started again.

    KubeSpawner's own `{username}` ends in 32 bits of hash where a name is not plain. People choose their names, and
    32 bits are few enough to search for one that is given somebody else's claim.
    """

    async def poll(self) -> int | None:
        """As KubeSpawner's, but a server has not ended while kubelet is about to start its container again.

        A node that boots reports its containers as terminated for the second or two until it has started them again.
        Asked in that moment, KubeSpawner deletes the pod. One that fails while it is first started is a failure still.
        """
        pod = self.pod_reflector.pods.get(f"{self.namespace}/{self.pod_name}") if self.pod_reflector else None
        if pod and self.pending != "spawn" and will_restart(pod):
            return None
        return await super().poll()

    def _expand_user_properties(self, template: str, slug_scheme: str | None = None) -> str:
        # The one place where KubeSpawner expands templates, for names as well as for volumes.
        template = template.replace("{user_slug}", slug(self.user.name))
        return super()._expand_user_properties(template, slug_scheme)


def will_restart(pod: Mapping[str, Any]) -> bool:
    """Whether the notebook's container has ended in a pod that runs on: the phase says that kubelet starts it again."""
    return pod["status"]["phase"] == "Running" and any(
        status["name"] == "notebook" and "terminated" in status["state"]
        for status in pod["status"].get("containerStatuses") or []
    )


def configure(c: Any) -> None:
    """Use this spawner."""
    c.JupyterHub.spawner_class = PlatformSpawner
