"""One history: the real collector over HTTP and PostgreSQL, disturbed, and compared with the truth at its end."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from gpuhub_portal.collector.kube import KubeApi, session
from gpuhub_portal.collector.process import Collector, Settings
from psycopg.types.json import Jsonb
from simulator.api_server import ApiServer
from simulator.clock import EPOCH, VirtualClock, owner
from simulator.truth import Truth
from simulator.world import Told, World

LENGTH = 3600
# Real seconds that anything may take.
PATIENCE = 120
KINDS = (*("cut", "kill") * 3, "silence", "silence", "outage", "compact", "database", "duplicates", "restart", "freeze")
TABLES = (
    *("allocation", "capacity", "node_state", "pod_request", "idle", "session", "witness", "rollup_hour"),
    *("rollup_period", "leader", "stream"),
)
# Of days and months. In one a day ends 40 minutes after a history begins.
ZONES = ("UTC", "Asia/Tokyo", "Asia/Kolkata")


class _Watched(Coroutine):
    """A coroutine of a collector: it can be killed at each of its waits, and stands still while its life is frozen."""

    def __init__(self, inner: Coroutine, life: Life) -> None:
        self._inner, self._life = inner, life

    def send(self, value):
        if self._life.thaw is not None:
            # The task waits for the thaw; what it was woken with is in the future that it comes back to.
            self._life.thaw._asyncio_future_blocking = True
            return self._life.thaw
        result = self._inner.send(value)
        self._life.at_point(self._inner)
        return result

    def throw(self, *error):
        result = self._inner.throw(*error)
        self._life.at_point(self._inner)
        return result

    def close(self) -> None:
        self._inner.close()

    def __await__(self):
        return self._inner.__await__()


class _Connection(psycopg.AsyncConnection):
    """A connection of a collector, which can be killed before each of its statements: in a pipeline, few wait."""

    life: Life

    async def execute(self, *arguments, **options):
        self.life.at_point(asyncio.current_task().get_coro()._inner)
        return await super().execute(*arguments, **options)


def _stack(where: object) -> tuple[str, ...]:
    """The lines at which a coroutine and those that it waits for stand."""
    lines = []
    while where is not None:
        for prefix, following in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
            if frame := getattr(where, f"{prefix}_frame", None):
                lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
                where = getattr(where, following)
                break
        else:
            break
    return tuple(lines)


def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Coroutine, **options) -> asyncio.Task:
    """Tasks of a collector are watched."""
    life = owner.get()
    task = asyncio.Task(_Watched(coroutine, life) if life else coroutine, loop=loop, **options)
    if life:
        life.tasks.add(task)
    return task


class Life:
    """A collector from its start to its end.

    It is killed at the `kill_in`-th of its waits and statements from now; `kill_writing` counts those of transactions
    only.
    """

    def __init__(self, history: History, holder: str) -> None:
        self.tasks: set[asyncio.Task] = set()
        self.dead = False
        self.kill_in: int | None = None
        self.kill_writing = False
        self.thaw: asyncio.Future | None = None
        self._history = history
        self._api = KubeApi(session(history.server.url))
        settings = Settings("jhub", holder, lease_seconds=180, tick=90, audit=300)
        chance = random.Random(history.chance.random())
        self.collector = Collector(self._api, self._connect, settings, history.clock, chance)
        self.connections: list[psycopg.AsyncConnection] = []
        context = contextvars.copy_context()
        context.run(owner.set, self)
        self._main = context.run(asyncio.ensure_future, self.collector.run())

    async def _connect(self) -> psycopg.AsyncConnection:
        if self.dead or self._history.database_away:
            raise psycopg.OperationalError("the database is away")
        connection = await _Connection.connect(
            self._history.dsn, autocommit=True, options="-c idle_in_transaction_session_timeout=2000"
        )
        connection.life = self
        self.connections = [connection]
        return connection

    def at_point(self, where: Coroutine) -> None:
        """A task waits, or is about to send a statement."""
        if self.kill_in is None or self.dead or (self.kill_writing and not self.collector.writing):
            return
        self.kill_in -= 1
        if self.kill_in <= 0:
            self._history.crash_points.add((_stack(where), self._history.state()))
            self.kill()

    def freeze(self) -> None:
        """As a machine that stands still: nothing is closed, and memory is what it was."""
        self.thaw = asyncio.get_running_loop().create_future()

    def melt(self) -> None:
        thaw, self.thaw = self.thaw, None
        thaw.set_result(None)

    def kill(self) -> None:
        """As SIGKILL: sockets are closed where they are, nothing more is sent, memory is gone."""
        self.dead = True
        for connection in self.connections:
            connection.pgconn.finish()
        self._history.server.hang_up()
        self._history.server.refuse_all = True
        for task in self.tasks:
            task.cancel()

    async def end(self) -> None:
        if self.thaw is not None:
            self.melt()
        if not self.dead:
            self.kill()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._api.close()
        self._history.server.refuse_all = False

    def check_alive(self) -> None:
        if self._main.done() and not self.dead:
            self._main.result()
            raise AssertionError("the collector has ended by itself")

    @property
    def settled(self) -> bool:
        """Whether every part of it waits for time to pass or for something to happen."""
        collector, server, clock = self.collector, self._history.server, self._history.clock
        if server.requests:
            return False
        if not collector.leads:
            return clock.sleeping(self) == 1
        watching = 0
        for follower in collector.followers.values():
            own = [watch for watch in server.watches if watch.resource == follower._resource.name]
            watching += follower.following and any(
                server.drained(watch) and int(follower.version) >= watch.sent for watch in own
            )
        waiting = not collector.writing and not collector._wake.is_set()
        return clock.sleeping(self) + watching + waiting == 5


@dataclass
class Outcome:
    seed: int
    problems: list[str]
    counts: Counter = field(default_factory=Counter)
    crash_points: set[tuple[tuple[str, ...], tuple]] = field(default_factory=set)
    seconds: float = 0.0


class History:
    """A seeded history: the same seed gives the same cluster and the same disturbances, or those that are given."""

    def __init__(
        self,
        seed: int,
        server: ApiServer,
        dsn: str,
        restart: Callable[[], None] | None = None,
        disturbances: Sequence[str] | None = None,
    ) -> None:
        self.seed, self.server, self.dsn, self._restart, self._fixed = seed, server, dsn, restart, disturbances
        self.chance = random.Random(seed)
        self.clock = VirtualClock()
        self.database_away = False
        self.counts: Counter = Counter()
        # Where a collector was killed: the lines at which it waited, and the state of everything.
        self.crash_points: set[tuple[tuple[str, ...], tuple]] = set()
        self.life: Life | None = None
        self.zombie: Life | None = None
        self.gaps: list[tuple[int, int]] = []
        self._compacted, self._followed_at = False, EPOCH
        self._told = 0
        self._agenda: list[tuple[int, int, str]] = []

    async def run(self) -> Outcome:
        """Play it and compare. The problems of the outcome are empty if all is as it was in truth."""
        began = time.monotonic()
        self.server.reset()
        self._admin = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        try:
            for table in TABLES:
                await self._admin.execute(f"DELETE FROM {table}")
            zone = ZONES[self.seed % len(ZONES)]
            await self._admin.execute("INSERT INTO leader (id, epoch, holder, time_zone) VALUES (1, 0, '', %s)", [zone])
            self.world = World(self.server, random.Random(self.chance.random()), EPOCH, LENGTH)
            self._draw_disturbances()
            self._begin_life()
            await self._settle()
            await self._play()
            await self._calm()
            truth = Truth(self.world, self.clock.now(), self.gaps)
            problems = await truth.compare(self._admin, self.life.collector.differences)
            self.counts.update(truth.counts)
        finally:
            for life in (self.life, self.zombie):
                if life:
                    await life.end()
            await self._admin.close()
        return Outcome(self.seed, problems, self.counts, self.crash_points, time.monotonic() - began)

    def state(self) -> tuple:
        """What is away and what is underway, as far as it makes one kill differ from another."""
        server, collector = self.server, self.life.collector
        return (
            *(server.up, *sorted(server.silent), server.duplicates, self.database_away, self.zombie is not None),
            *(collector.leads, collector.writing, collector.view.news),
            *(follower.following for follower in collector.followers.values()),
        )

    # Time

    async def _play(self) -> None:
        while True:
            disturbance = self._agenda[0][0] if self._agenda else None
            times = [at for at in (self.world.next_at(), disturbance) if at is not None]
            if not times or min(times) > self.world.end:
                return
            await self._until(min(times))
            if disturbance == min(times):
                await self._disturb(*self._agenda.pop(0)[1:])
            elif self.world.next_at() == min(times):
                # Otherwise it has happened while a dead collector was not there yet again.
                self.world.step()
            await self._settle()
            await self._witness()

    async def _until(self, at: float) -> None:
        """Let time pass; whoever wakes meanwhile gets to the end of what it does."""
        while (due := self.clock.next_at()) is not None and due <= at:
            self.clock.advance(due)
            await self._settle()
        self.clock.advance(at)

    async def _settle(self) -> None:
        deadline, turns = time.monotonic() + PATIENCE, 0
        while True:
            if self.life.dead:
                await self._revive()
            self.life.check_alive()
            if self.life.settled:
                self._note_gap()
                return
            turns += 1
            await asyncio.sleep(0 if turns % 8 else 0.0002)
            if time.monotonic() > deadline:
                collector, server = self.life.collector, self.server
                raise AssertionError(
                    f"seed {self.seed}: the collector does not come to rest: leads={collector.leads}"
                    f" writing={collector.writing} asleep={self.clock.sleeping(self.life)} requests={server.requests}"
                    f" watches={[(w.resource, w.sent, server.drained(w)) for w in server.watches]}"
                    f" {[(f.version, f.following) for f in collector.followers.values()]}"
                )

    def _note_gap(self) -> None:
        """After a compaction, changes can be missed from when all was written last until all is followed again.

        What a collector has only in mind, as the database is away, is lost with it.
        """
        collector = self.life.collector
        if collector.leads and all(follower.following for follower in collector.followers.values()):
            if self._compacted:
                self.gaps.append((self._followed_at, self.clock.now()))
            self._compacted = False
            if not (collector.view.news or collector.writing):
                self._followed_at = self.clock.now()

    async def _calm(self) -> None:
        """Mend everything and wait until the collector leads and has told all that it knows."""
        self.database_away, self.server.up = False, True
        self.server.silent.clear()
        self.life.kill_in = None
        if self.zombie:
            await self._melt()
        for _ in range(40):
            await self._until(self.clock.now() + 60)
            self.server.bookmark()
            await self._settle()
            await self._witness(all_of_it=True)
            collector = self.life.collector
            if collector.leads and all(f.following for f in collector.followers.values()) and not collector.view.news:
                break
        # One more transaction, for the last witnesses.
        await self._until(self.clock.now() + 100)
        await self._settle()

    # Disturbances

    def _draw_disturbances(self) -> None:
        kinds = self._fixed
        if kinds is None:
            kinds = self.chance.choices(KINDS, k=self.chance.choice((0, 1, 2, 3, 5, 8)))
        for kind in kinds:
            at = EPOCH + self.chance.randrange(LENGTH)
            self._agenda.append((at, self.chance.randrange(1, 400), kind))
            self.counts[kind] += 1
        self._agenda += [(at, 0, "bookmark") for at in range(EPOCH + 60, EPOCH + LENGTH, 120)]
        self._agenda.sort()

    async def _disturb(self, much: int, kind: str) -> None:
        now = self.clock.now()
        if kind == "bookmark":
            self.server.bookmark()
        elif kind == "duplicates":
            self.server.duplicates = not self.server.duplicates
        elif kind == "cut":
            for resource in self.chance.choice((["pods"], ["nodes"], ["pods", "nodes"])):
                self.server.cut(resource)
        elif kind == "silence":
            # Of two streams, one is far behind the other.
            resource = self.chance.choice(("pods", "nodes"))
            self.server.silent.add(resource)
            self.server.cut(resource)
            self._later(now + 3 * much, "sound")
        elif kind == "sound":
            self.server.silent.clear()
        elif kind in ("outage", "compact"):
            self.server.up = False
            self.server.hang_up()
            self._later(now + much, "api-back")
            if kind == "compact":
                self._later(now + much, "compaction")
        elif kind == "compaction":
            self.server.compact()
            self._compacted = True
        elif kind == "api-back":
            self.server.up = True
        elif kind == "kill":
            self.life.kill_writing = self.chance.random() < 0.5
            self.life.kill_in = self.chance.randrange(1, 120)
        elif kind == "database":
            self.database_away = True
            await self._admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
                " AND datname = current_database() AND pid <> pg_backend_pid()"
            )
            self._later(now + much, "database-back")
        elif kind == "restart" and self._restart is not None:
            await self._admin.close()
            await asyncio.to_thread(self._restart)
            self._admin = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        elif kind == "freeze" and self.zombie is None:
            self.zombie = self.life
            self.zombie.freeze()
            self._begin_life()
            self._later(now + 150 + much, "melt")
        elif kind == "melt":
            await self._melt()
        elif kind == "database-back":
            self.database_away = False

    async def _melt(self) -> None:
        """One that was thought dead goes on where it stood. What it has in mind is old, and nobody must believe it."""
        zombie = self.zombie
        zombie.melt()
        deadline = time.monotonic() + PATIENCE
        while not (zombie.settled or zombie.dead) and time.monotonic() < deadline:
            await asyncio.sleep(0)
        await zombie.end()
        self.zombie = None

    def _later(self, at: int, kind: str) -> None:
        self._agenda.append((at, 0, kind))
        self._agenda.sort()

    def _begin_life(self) -> None:
        # A holder of the same name takes its lease again at once.
        holder = f"collector-{self.chance.randrange(3)}" + ("-other" if self.zombie else "")
        self.life = Life(self, holder)

    async def _revive(self) -> None:
        """The collector is dead; Kubernetes starts another one after a while."""
        self.counts["killed"] += 1
        await self.life.end()
        at = self.clock.now() + self.chance.choice((0, 2, 60))
        while (due := self.world.next_at()) is not None and due < min(at, self.world.end):
            self.clock.advance(due)
            self.world.step()
        self.clock.advance(at)
        self._begin_life()

    async def _witness(self, all_of_it: bool = False) -> None:
        """The spawner's outbox arrives, late and more than once."""
        while self._told < len(self.world.told) and not self.database_away:
            if not all_of_it and self.chance.random() < 0.7:
                return
            told = self.world.told[self._told]
            self._told += 1
            for _ in range(self.chance.choice((1, 1, 2))):
                await self._admin.execute(
                    "INSERT INTO witness (producer, event_id, kind, pod_uid, at, pod)"
                    " VALUES ('spawner', %s, %s, %s, to_timestamp(%s), %s) ON CONFLICT DO NOTHING",
                    [f"{told.pod.uid}-{told.kind}", told.kind, told.pod.uid, told.at, Jsonb(_payload(told))],
                )


def _payload(told: Told) -> dict:
    pod = told.pod
    return {
        "namespace": "jhub",
        "pod": pod.name,
        "username": pod.username,
        "kind": pod.kind,
        "servername": pod.job,
        "node": pod.node,
        "gpu": pod.gpu,
        "cpu_milli": pod.cpu_milli,
        "memory_bytes": pod.memory_mib << 20,
        "exact": told.exact,
    }
