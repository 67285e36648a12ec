"""Users' folders on the shared storage, made before a server starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Callable

from gpuhub_core.usernames import slug

from .texts import ENGLISH, say

# A file system that hangs must not hang the hub.
TIMEOUT_SECONDS = 20
MODE = 0o770


class StorageUnavailableError(Exception):
    """A user's folder cannot be made. JupyterHub shows `jupyterhub_message` to the user."""

    def __init__(self, reason: str, language: str = ENGLISH) -> None:
        super().__init__(reason)
        self.jupyterhub_message = say(language, "storage", why=reason)


def make_user_folder(users: Path, name: str) -> Path:
    """Make the folder of user `name` in `users`, if it is missing, and return it.

    Its owner is the hub's own user, whose id is that of notebooks. The folder `users` itself is never made: where it
    is missing the storage is not mounted, and a folder on the node's own disk would hide that.
    """
    folder = users / slug(name)
    try:
        folder.mkdir(mode=MODE)
        # mkdir's mode is cut by the process's umask.
        folder.chmod(MODE)
    except FileExistsError:
        if not folder.is_dir():
            raise StorageUnavailableError(f"{folder.name} is not a folder") from None
    except OSError as error:
        raise StorageUnavailableError(f"{folder.name}: {error.strerror}") from error
    return folder


def hook(users: Path) -> Callable[[Any], Awaitable[None]]:
    """Return a `pre_spawn_hook` that makes the user's folder."""

    async def make_folder_before_start(spawner: Any) -> None:
        work = asyncio.to_thread(make_user_folder, users, spawner.user.name)
        try:
            folder = await asyncio.wait_for(work, TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            raise StorageUnavailableError(f"no answer within {TIMEOUT_SECONDS} s", spawner.language) from None
        except StorageUnavailableError as error:
            raise StorageUnavailableError(str(error), spawner.language) from error
        spawner.log.info("Shared storage of %s: %s", spawner.user.name, folder.name)

    return make_folder_before_start


def configure(c: Any, users_path: str) -> None:
    """Make users' folders in `users_path` before their servers start."""
    c.Spawner.pre_spawn_hook = hook(Path(users_path))
