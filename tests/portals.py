"""Portals as processes of their own, on a real PostgreSQL that is thrown away afterwards."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
from postgres import Cluster
from zygote import Process, Zygote

REPOSITORY = Path(__file__).parents[1]
SERVICE = REPOSITORY / "services" / "usage_portal"
ADMIN_TOKEN = "planted-administrator-" + secrets.token_hex(16)
# Seconds; of conditions that come about sooner, on a machine that does nothing else.
TIMEOUT = 180

TABLES = (
    *("allocation", "node_state", "stream", "session", "witness", "rollup_hour", "rollup_period"),
    *("reservation", "enforcement", "extension", "audit", "rate", "policy_member", "policy_subject", "login", "token"),
)


def wait_for(what: str, condition: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Return the first true answer of `condition`; fail, naming `what`, when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)
    return answer


class Postgres(Cluster):
    """A cluster whose URLs hold a password, as those of installations do."""

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:planted-password@/{database}?host={self._folder}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.dsn(database), autocommit=True)

    def create(self, database: str, template: str = "template1") -> str:
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}")
        return database


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _variables(settings: dict[str, Any]) -> dict[str, str]:
    return {f"USAGE_PORTAL_{name.upper()}": str(value) for name, value in settings.items()}


class Portal:
    """A portal's process; what it logs is in `log`."""

    def __init__(self, folder: Path, python_path: str, url: str, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = settings.pop("port", None) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        self._token_file = folder / "admin-token"
        self._token_file.write_text(f"{ADMIN_TOKEN}\n")
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": python_path,
            "USAGE_PORTAL_DATABASE_URL": url,
            "USAGE_PORTAL_ADMIN_TOKEN_FILE": str(self._token_file),
            "USAGE_PORTAL_LISTEN_ADDRESS": "127.0.0.1",
            "USAGE_PORTAL_LISTEN_PORT": str(self.port),
            # Answers are as fresh as the database, unless a test is about that.
            "USAGE_PORTAL_CACHE_SECONDS": "0",
        } | _variables(settings)
        self.process: subprocess.Popen | Process | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run `python -m gpuhub_portal ...`."""
        command = [sys.executable, "-m", "gpuhub_portal", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT)

    def begin(self, *arguments: str, stderr: Any = None, **settings: Any) -> subprocess.Popen | Process:
        """Start `python -m gpuhub_portal ...` with more settings; what it says goes to the log, or to `stderr`."""
        with self.log.open("ab") as log:
            return self._begin(arguments, self.environment | _variables(settings), log, stderr or log)

    def _begin(self, arguments: tuple[str, ...], env: dict[str, str], stdout: Any, stderr: Any) -> Any:
        command = [sys.executable, "-m", "gpuhub_portal", *arguments]
        return subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr, text=True)

    def start(self) -> Portal:
        self.process = self.begin("serve")
        wait_for("the portal answers", self._answers)
        return self

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/healthz", verify=False).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(TIMEOUT)

    def client(self, token: str | None = ADMIN_TOKEN, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # There is no TLS; reading the authorities that nobody needs would take most of a client's time.
        return httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, verify=False, **options)

    def logged(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


class ForkedPortal(Portal):
    """A portal whose processes are forks of one that has imported all that a portal does."""

    modules = ("alembic.command", "gpuhub_portal.app", "gpuhub_portal.mysql_sync", "pymysql", "uvicorn.lifespan.on",
               "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto")  # fmt: skip

    def __init__(self, zygote: Zygote, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._zygote = zygote

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        return self._zygote.run(["gpuhub_portal", *arguments], self.environment, TIMEOUT)

    def _begin(self, arguments: tuple[str, ...], env: dict[str, str], stdout: Any, stderr: Any) -> Any:
        return self._zygote.start(["gpuhub_portal", *arguments], env, None, stdout, stderr)


class Ledger:
    """Puts into the ledger what a collector would."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def sql(self, statement: str, *values: Any) -> list[Any]:
        cursor = self._connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def _insert(self, table: str, row: dict[str, Any]) -> None:
        marks = ", ".join(["%s"] * len(row))
        self.sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())

    def node(self, name: str, devices: int, gpu_type: str = "A100", **columns: Any) -> None:
        """A node with 64 cores and 512 GiB that is ready, unless `columns` say otherwise."""
        row = {"node": name, "node_uid": f"uid-{name}", "gpu_type": gpu_type, "product": f"NVIDIA-{gpu_type}-SXM4-80GB"}
        row |= {"gpu_capacity": devices, "gpu": devices, "cpu_milli": 64_000, "memory_bytes": 2**39}
        self._insert("node_state", row | {"ready": True, "schedulable": True} | columns)

    def followed(self, at: str = "2100-01-01T00:00:00Z") -> None:
        """Up to when a collector has followed the cluster."""
        self.sql("DELETE FROM stream")
        for name in ("pods", "nodes"):
            self._insert("stream", {"name": name, "version": "1", "contact_at": at, "followed_at": at})

    def pod(self, uid: str, username: str, **columns: Any) -> None:
        """A pod that is held still, unless `columns` say otherwise."""
        self._insert(
            "allocation", {"pod_uid": uid, "username": username, "held_from": "2026-01-01T00:00:00Z"} | columns
        )

    def session(self, name: str, username: str, kind: str, started_at: str, ended_at: str | None) -> None:
        row = {"id": name, "username": username, "kind": kind, "started_at": started_at, "ended_at": ended_at}
        self._insert("session", row | {"source": "pod"})

    def hour(self, hour: str, username: str, group_name: str = "", add_up: bool = True, **columns: Any) -> None:
        """What was used in an hour: `gpu_seconds` and so on. Of many, `add_up_hours` after the last will do."""
        row = {"hour": hour, "username": username, "group_name": group_name, "kind": "notebook", "gpu_type": ""}
        self._insert("rollup_hour", row | columns)
        if add_up:
            self.add_up_hours()

    def add_up_hours(self) -> None:
        """Let days and months be the sums of hours."""
        from gpuhub_portal.ledger import periods

        periods.set_calendar(self._connection, "UTC")


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert document["code"] == code and document["status"] == status and document["detail"]
    assert document["type"] == f"urn:gpuhub:problem:{code}"
    return document
