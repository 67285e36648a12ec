"""KubeSpawner with the platform's own name for each user."""

from __future__ import annotations

from typing import Any

from gpuhub_core.usernames import slug
from kubespawner import KubeSpawner


class PlatformSpawner(KubeSpawner):
    """KubeSpawner whose templates know `{user_slug}`.

    KubeSpawner's own `{username}` ends in 32 bits of hash where a name is not plain. People choose their names, and
    32 bits are few enough to search for one that is given somebody else's claim.
    """

    def _expand_user_properties(self, template: str, slug_scheme: str | None = None) -> str:
        # The one place where KubeSpawner expands templates, for names as well as for volumes.
        template = template.replace("{user_slug}", slug(self.user.name))
        return super()._expand_user_properties(template, slug_scheme)


def configure(c: Any) -> None:
    """Use this spawner."""
    c.JupyterHub.spawner_class = PlatformSpawner
