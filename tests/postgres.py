"""A PostgreSQL of the tests' own: a new cluster on a Unix socket, without fsync, gone with the tests.

Usable by conftest.py files (`from postgres import Cluster`) and by programs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar


def _binaries() -> Path:
    """Where initdb is, which GPUHUB_POSTGRES may say; Debian keeps it off the PATH."""
    if os.environ.get("GPUHUB_POSTGRES"):
        return Path(os.environ["GPUHUB_POSTGRES"])
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        raise RuntimeError("no PostgreSQL found: apt-get install postgresql")
    return found[-1].parent if found else Path(on_path).parent


class Cluster:
    """Start it with `with`; `dsn(database)` is for psycopg, `url(database)` for SQLAlchemy."""

    # Of postgresql.conf.
    settings: ClassVar[dict[str, str]] = {
        "listen_addresses": "''",
        "fsync": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_connections": "60",
        "shared_buffers": "32MB",
        "log_min_messages": "fatal",
    }

    def __enter__(self) -> Cluster:
        # Sockets have short paths, and the server refuses to run as root.
        self._folder = Path(tempfile.mkdtemp(prefix="gpuhub-pg-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        data = self._folder / "data"
        self._run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
        with (data / "postgresql.conf").open("a") as file:
            settings = {**self.settings, "unix_socket_directories": f"'{self._folder}'"}
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        self._control("start")
        return self

    def __exit__(self, *_: object) -> None:
        self._control("stop", "fast")
        shutil.rmtree(self._folder)

    def stop(self) -> None:
        """Gone until `start`."""
        self._control("stop", "fast")

    def start(self) -> None:
        """Back; `with` has started it once."""
        self._control("start")

    def restart(self) -> None:
        """As after a crash: no client is told, and what was committed is recovered."""
        self._control("restart", "immediate")

    def _control(self, action: str, mode: str = "") -> None:
        data, log = self._folder / "data", self._folder / "log"
        self._run("pg_ctl", action, "-D", data, "-l", log, "-w", "-s", *(["-m", mode] if mode else []))

    def _run(self, program: str, *arguments: object) -> None:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        command = [_binaries() / program, *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **user)

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self._folder} user=postgres dbname={database}"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self._folder}"
