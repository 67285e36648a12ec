"""A MariaDB of the tests' own: a new server on a Unix socket, without fsync, gone with the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pymysql

_OPTIONS = (
    "--skip-networking",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    # As most servers have it: clients that want more say so.
    "--character-set-server=latin1",
    "--sql-mode=",
)
PASSWORD = "planted-mariadb-password"


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    if not found:
        raise RuntimeError(f"no {name} found: run tests/install-mariadb")
    return found


class MariaDB:
    """Start it with `with`; `url(database)` is for SQLAlchemy, `rows(database, query)` asks."""

    def __enter__(self) -> MariaDB:
        # Sockets have short paths.
        self._folder = Path(tempfile.mkdtemp(prefix="gpuhub-my-", dir="/tmp"))
        self._data, self._log, self._socket = (self._folder / name for name in ("data", "log", "socket"))
        self._user = ["--user=root"] if os.geteuid() == 0 else []
        install = [_program("mariadb-install-db"), "--no-defaults", f"--datadir={self._data}", *self._user]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        done = subprocess.run(install, capture_output=True, text=True, cwd=self._folder)
        assert done.returncode == 0, done.stdout + done.stderr
        self.start()
        with self.connect(user="root", password="") as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER portal@localhost IDENTIFIED BY %s", [PASSWORD])
            # As docs/mysql.md asks for.
            cursor.execute("GRANT CREATE, INDEX, SELECT, INSERT, UPDATE, DELETE ON *.* TO portal@localhost")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Back after `stop`; `with` has started it once."""
        command = [_program("mariadbd"), "--no-defaults", f"--datadir={self._data}", f"--socket={self._socket}"]
        command += [f"--pid-file={self._folder / 'pid'}", *self._user, *_OPTIONS]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + 60
        while True:
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()
            try:
                self.connect(user="root", password="").close()
                return
            except pymysql.err.OperationalError:
                time.sleep(0.05)

    def stop(self) -> None:
        """Gone, as after a crash: no client is told."""
        self._process.kill()
        self._process.wait()

    def connect(self, database: str | None = None, user: str = "portal", password: str = PASSWORD) -> Any:
        """A connection that commits each statement."""
        options = {"unix_socket": str(self._socket), "charset": "utf8mb4", "autocommit": True}
        return pymysql.connect(user=user, password=password, database=database, **options)

    def create(self, database: str) -> str:
        """Make a database, anew if there is one."""
        with self.connect(user="root", password="") as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {database}")
            cursor.execute(f"CREATE DATABASE {database}")
        return database

    def rows(self, database: str, query: str, *values: Any) -> list[tuple]:
        """What a statement answers."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"mysql://portal:{password}@localhost/{database}?unix_socket={self._socket}"
