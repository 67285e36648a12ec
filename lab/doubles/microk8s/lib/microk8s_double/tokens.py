"""Token files: one `token` (usable once) or `token|epoch` (usable until then) a line; the first match counts."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from .snapenv import CREDENTIALS, lock_file, share, write

CLUSTER = CREDENTIALS / "cluster-tokens.txt"
PERSISTENT = CREDENTIALS / "persistent-cluster-tokens.txt"
REQUESTS = CREDENTIALS / "certs-request-tokens.txt"
MINIMUM = 32


def _find(token: str, path: Path) -> tuple[bool, bool]:
    """Whether a token is valid, and whether it has an end."""
    for line in path.read_text().splitlines() if path.exists() else []:
        known, bar, end = line.strip().partition("|")
        if known == token:
            return (time.time() < int(end), True) if bar else (True, False)
    return False, False


def add(token: str, path: Path, ttl: int = -1) -> None:
    """Append a token; `ttl` in seconds, -1 for one use."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{token}\n" if ttl == -1 else f"{token}|{int(time.time()) + ttl}\n")
    path.chmod(0o660)
    share(path)


def consume(token: str, path: Path) -> bool:
    """True if the token is valid; one without an end is used up by that."""
    if not token:
        return False
    with lock_file(".tokens").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path == CLUSTER and len(token) >= MINIMUM and _find(token, PERSISTENT)[0]:
            return True
        valid, has_end = _find(token, path)
        if valid and not has_end:
            lines = path.read_text().splitlines()
            lines.remove(next(line for line in lines if line.startswith(token)))
            write(path, "".join(f"{line}\n" for line in lines))
        return valid
