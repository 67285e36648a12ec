"""What the hub saw of each server's pod, told to the portal until it has it: a second witness beside its watch.

Events wait in a file beside the hub's database, so that neither a hub that restarts nor a portal that is away loses
one. An event's id follows from the pod's uid, so that one that is told twice counts once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, TypeVar

from gpuhub_core.pod_requests import pod_requests
from gpuhub_core.quantities import QuantityError

from .portal_client import PortalAwayError, PortalClient, PortalRefusedError
from .quota import GPU_TYPE_ANNOTATION, RESERVATION_LABEL

_BATCH = 200
# Seconds in which events come together: nobody waits for them, and a crowd that starts makes one request.
_GATHER = 1.0
_EVENTS = uuid.UUID("6d4f1d1e-5a3c-4d0b-9c58-0f6a3ad1c7c4")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS running (pod_uid TEXT PRIMARY KEY, facts TEXT NOT NULL);
"""
T = TypeVar("T")
log = logging.getLogger("jupyterhub.gpuhub")


def was_refused(pod: Mapping[str, Any]) -> bool:
    """Whether a node refused a pod that it was given, as it does after a boot until its devices are known.

    Such a pod has failed without a container, and held no device. One that was evicted may lack containers too.
    """
    status = pod.get("status") or {}
    return status.get("phase") == "Failed" and not status.get("containerStatuses") and status.get("reason") != "Evicted"


def facts_of(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the portal is told about a pod; `at` is when it got its node. None of one that held nothing."""
    metadata, status, spec = pod["metadata"], pod.get("status") or {}, pod.get("spec") or {}
    if was_refused(pod):
        return None
    scheduled = [
        item.get("lastTransitionTime")
        for item in status.get("conditions") or []
        if item.get("type") == "PodScheduled" and item.get("status") == "True"
    ]
    if not scheduled or not spec.get("nodeName"):
        return None
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    amounts: dict[str, int] = {}
    try:
        amounts = asdict(pod_requests(pod))
    except QuantityError as error:
        log.error("Amounts of pod %s: %s", metadata["name"], error)
    return {
        "at": scheduled[0],
        "pod_uid": metadata["uid"],
        "pod": {
            "namespace": metadata["namespace"],
            "pod": metadata["name"],
            "kind": "notebook",
            "username": annotations.get("hub.jupyter.org/username", ""),
            "servername": annotations.get("hub.jupyter.org/servername", ""),
            "reservation": labels.get(RESERVATION_LABEL, ""),
            "node": spec["nodeName"],
            "gpu_type": annotations.get(GPU_TYPE_ANNOTATION, ""),
            **amounts,
        },
    }


def _event(kind: str, facts: Mapping[str, Any], at: str, exact: bool) -> tuple[str, str]:
    """An event's id and body; `exact` tells that `at` is when it happened, and not when it was found out."""
    name = str(uuid.uuid5(_EVENTS, f"{facts['pod_uid']} {kind}"))
    pod = {**facts["pod"], "exact": exact}
    body = {"event_id": name, "kind": kind, "pod_uid": facts["pod_uid"], "at": at, "pod": pod}
    return name, json.dumps(body)


class Outbox:
    """Events that wait, and pods that run, in an SQLite file. Its thread waits for the disk, and the hub does not.

    What comes while it waits is written together: servers that start at once do not wait for a commit each.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._database: sqlite3.Connection | None = None
        self._queue: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work`; what it wrote is kept when this returns. Raises sqlite3.Error."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((work, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        """Do what is in the queue, all of it in one transaction, until nothing is."""
        while self._queue:
            queue, self._queue = self._queue, []
            works = [work for work, _ in queue]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._transaction, works)
            except Exception as error:
                for _, done in queue:
                    if not done.done():
                        done.set_exception(error)
            else:
                for (_, done), result in zip(queue, results):
                    # Not of a start that was cancelled meanwhile.
                    if not done.done():
                        done.set_result(result)

    def _transaction(self, works: Iterable[Callable[[sqlite3.Connection], Any]]) -> list[Any]:
        if self._database is None:
            self._database = sqlite3.connect(self._path, timeout=20)
            self._database.executescript(_SCHEMA)
        with self._database:
            return [work(self._database) for work in works]

    async def started(self, facts: Mapping[str, Any]) -> None:
        """Keep that a pod runs, and tell it; again is the same."""

        def work(database: sqlite3.Connection) -> None:
            row = (facts["pod_uid"], json.dumps(facts))
            if database.execute("INSERT OR IGNORE INTO running VALUES (?, ?)", row).rowcount:
                event = _event("start", facts, facts["at"], exact=True)
                database.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", event)

        await self._run(work)

    async def stopped(self, which: Callable[[Mapping[str, Any]], bool], at: str, exact: bool) -> None:
        """Tell of pods that ran, and for whose facts `which` is true, that they are gone."""

        def work(database: sqlite3.Connection) -> None:
            for pod_uid, text in database.execute("SELECT pod_uid, facts FROM running").fetchall():
                facts = json.loads(text)
                if which(facts):
                    event = _event("stop", facts, at, exact)
                    database.execute("INSERT OR IGNORE INTO event VALUES (?, ?)", event)
                    database.execute("DELETE FROM running WHERE pod_uid = ?", (pod_uid,))

        await self._run(work)

    async def waiting(self) -> list[dict[str, Any]]:
        """The oldest events that were not acknowledged."""
        query = "SELECT body FROM event ORDER BY rowid LIMIT ?"
        rows = await self._run(lambda database: database.execute(query, (_BATCH,)).fetchall())
        return [json.loads(body) for (body,) in rows]

    async def acknowledge(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Forget events."""
        names = [(event["event_id"],) for event in events]
        await self._run(lambda database: database.executemany("DELETE FROM event WHERE id = ?", names))


class Witness:
    """Tells a portal which pods started and stopped. What goes wrong here is logged, and stops no server."""

    def __init__(self, portal: PortalClient, path: Path) -> None:
        self._portal, self._outbox = portal, Outbox(path)
        self._news = asyncio.Event()
        self._compared = False

    async def started(self, pod: Mapping[str, Any] | None) -> None:
        """Note a server's pod, if it has a node."""
        facts = facts_of(pod) if pod else None
        if facts:
            await self._note(self._outbox.started(facts))

    async def gone(self, namespace: str, name: str, exact: bool) -> None:
        """Note that a server's pod is gone: now (`exact`), or at some time before."""

        def which(facts: Mapping[str, Any]) -> bool:
            return (facts["pod"]["namespace"], facts["pod"]["pod"]) == (namespace, name)

        await self._note(self._outbox.stopped(which, _now(), exact))

    async def compare(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Note, once for each start of the hub, which pods are gone that ran before."""
        if not self._compared:
            self._compared = True
            there = {pod["metadata"]["uid"] for pod in pods}
            await self._note(self._outbox.stopped(lambda facts: facts["pod_uid"] not in there, _now(), False))

    async def _note(self, work: Any) -> None:
        try:
            await work
        except (sqlite3.Error, OSError) as error:
            log.error("What the hub saw of a server is not kept: %s", error)
        self._news.set()

    async def tell(self) -> None:
        """Send what waits, for as long as the hub runs."""
        while True:
            self._news.clear()
            try:
                events = await self._outbox.waiting()
                if not events:
                    await self._news.wait()
                    await asyncio.sleep(_GATHER)
                    continue
                await self._send(events)
            except PortalAwayError as error:
                log.warning("What the hub saw waits for the portal: %s", error)
                await asyncio.sleep(self._portal.retry_seconds)

    async def _send(self, events: list[dict[str, Any]]) -> None:
        try:
            await self._portal.witness(events)
        except PortalRefusedError as error:
            if error.status not in (400, 422):
                raise PortalAwayError(f"it takes no events: {error}") from error
            if len(events) > 1:
                # One of them; it must not keep the others.
                for event in events:
                    await self._send([event])
                return
            log.error("The portal refuses event %s: %s", events[0], error)
        await self._outbox.acknowledge(events)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
