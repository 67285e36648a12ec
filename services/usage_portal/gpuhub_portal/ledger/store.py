"""One transaction that applies a batch to the database.

The transaction locks the leader's row, reads what is known of the pods and nodes concerned, merges, and writes what has
changed: rows, sessions, hours and idle pieces. All of these follow from the difference between what the database had
and what it has now, so a batch that is applied again, because its commit was not heard of, changes nothing.
Statements take sets; their number does not depend on the size of the batch.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import psycopg

from gpuhub_portal.ledger import capacity, facts, idle, periods, rollups
from gpuhub_portal.ledger.capacity import Step
from gpuhub_portal.ledger.facts import Hold, Pod
from gpuhub_portal.ledger.objects import NOTEBOOK, NodeState, Requests, session_id
from gpuhub_portal.ledger.periods import Calendar

Connection = psycopg.AsyncConnection
# Groups of users as they are when a pod is first seen; what has been accounted to a group stays with it.
Groups = Callable[[Connection, set[str]], Awaitable[Mapping[str, str]]]

WITNESSES_PER_BATCH = 1000


class FencedError(Exception):
    """Another collector has become the leader; this one must write nothing more."""


@dataclass
class Batch:
    """What a collector has learnt.

    pods      facts, one entry per pod
    steps     changes of nodes
    levels    node -> idle devices from now on as the collector measures them in its own view of the cluster
    requests  what pods take of their nodes, None of those that take nothing any more
    nodes     what nodes have, None of those that are gone
    streams   stream -> (resourceVersion, time up to which the collector knew all, time up to which it was following)
    now       time of the batch
    """

    now: int
    pods: dict[str, Pod] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    levels: dict[str, int] = field(default_factory=dict)
    streams: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    requests: dict[str, Requests | None] = field(default_factory=dict)
    nodes: dict[str, NodeState | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Applied:
    """What a batch changed: rows of pods, and by how many devices a node's books disagreed with what was measured."""

    pods: int
    differences: dict[str, int]


_TIMES = frozenset(name for name in facts.FIELDS if name.endswith(("_at", "_after", "_by", "_start", "_stop")))
_AMOUNTS = frozenset({"gpu", "cpu_milli", "memory_bytes"})
_HOLD = {
    "held_from": "since",
    "held_until": "until",
    "until_source": "source",
    "until_earliest": "earliest",
    "until_latest": "latest",
}
_HOLD_TYPES = ("time", "time", "text", "time", "time")
_STEP = ("node_uid", "since", "earliest", "latest", "node", "gpu_type", "gpu", "reason", "version", "until")
_STEP_COLUMNS = (
    "node_uid", "since", "since_earliest", "since_latest", "node", "gpu_type", "gpu", "reason", "version", "until",
)  # fmt: skip
_STEP_TYPES = ("text", "time", "time", "time", "text", "text", "bigint", "text", "bigint", "time")
_REQUEST = {"pod_uid": "text", "node": "text", "cpu_milli": "bigint", "memory_bytes": "bigint", "extended": "jsonb"}
_NODE = {
    **dict.fromkeys(("node", "node_uid", "product", "gpu_type"), "text"),
    **dict.fromkeys(("gpu_capacity", "gpu", "cpu_milli", "memory_bytes"), "bigint"),
    **dict.fromkeys(("ready", "schedulable"), "boolean"),
    **dict.fromkeys(("taints", "extended", "requested_extended"), "jsonb"),
    **dict.fromkeys(("requested_cpu_milli", "requested_memory_bytes"), "bigint"),
}


def _type(name: str) -> str:
    return "time" if name in _TIMES else "bigint" if name in _AMOUNTS else "text"


def _select(columns: Iterable[str], types: Iterable[str]) -> str:
    return ", ".join(f"extract(epoch FROM {c})::bigint" if t == "time" else c for c, t in zip(columns, types))


def _insert(table: str, columns: tuple[str, ...], types: tuple[str, ...]) -> str:
    """INSERT of any number of rows, given as one array per column."""
    names = [f"c{index}" for index in range(len(columns))]
    values = ", ".join(f"to_timestamp({n})" if t == "time" else n for n, t in zip(names, types))
    arrays = ", ".join(f"%s::{'bigint' if t == 'time' else t}[]" for t in types)
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM unnest({arrays}) AS r({', '.join(names)})"


def _set_all(columns: Iterable[str]) -> str:
    return ", ".join(f"{c} = excluded.{c}" for c in columns)


_POD_TYPES = tuple(_type(name) for name in facts.FIELDS)
_ROW_COLUMNS = facts.FIELDS + tuple(_HOLD)
_ROW_TYPES = _POD_TYPES + _HOLD_TYPES
_SELECT_POD = f"SELECT {_select(_ROW_COLUMNS, _ROW_TYPES)} FROM allocation "
_UPSERT_POD = (
    _insert("allocation", _ROW_COLUMNS, _ROW_TYPES)
    + f" ON CONFLICT (pod_uid) DO UPDATE SET {_set_all(_ROW_COLUMNS[1:])}"
)
_SELECT_STEP = f"SELECT {_select(_STEP_COLUMNS, _STEP_TYPES)} FROM capacity "
_UPSERT_STEP = (
    _insert("capacity", _STEP_COLUMNS, _STEP_TYPES)
    + f" ON CONFLICT (node_uid, since) DO UPDATE SET {_set_all(_STEP_COLUMNS[2:])}"
)
_UPSERT_REQUEST, _UPSERT_NODE = (
    _insert(table, tuple(columns), tuple(columns.values()))
    + f" ON CONFLICT ({key}) DO UPDATE SET {_set_all(name for name in columns if name != key)}"
    for table, key, columns in (("pod_request", "pod_uid", _REQUEST), ("node_state", "node", _NODE))
)
_STREAM = ("name", "version", "contact_at", "followed_at")
_UPSERT_STREAM = (
    _insert("stream", _STREAM, ("text", "text", "time", "time"))
    + " ON CONFLICT (name) DO UPDATE SET version = excluded.version, contact_at = excluded.contact_at,"
    # Of a collector that has just begun it is 0; what the last one knew is known still.
    + " followed_at = greatest(stream.followed_at, excluded.followed_at)"
)
_NOTE_STREAMS = f"""
    WITH term AS (SELECT FROM leader WHERE id = 1 AND epoch = %s FOR UPDATE),
    noted AS ({_UPSERT_STREAM.replace(" ON CONFLICT", " WHERE EXISTS (SELECT FROM term) ON CONFLICT")})
    SELECT EXISTS (SELECT FROM term), EXISTS (SELECT FROM witness WHERE applied_at IS NULL)
"""
_SESSION_KEY = "id, username, group_name, kind, gpu_type, extract(epoch FROM started_at)::bigint"
_SESSION_SET = ("username", "group_name", "kind", "name", "gpu_type", "started_at", "ended_at")
# The old rows with -1, the new ones with 1: every part of a statement sees what was there before it.
_REPLACE_SESSIONS = f"""
    WITH before AS (SELECT {_SESSION_KEY} FROM session WHERE id = ANY(%(ids)s)),
    after AS (
    INSERT INTO session (id, username, group_name, kind, name, gpu_type, started_at, ended_at, source)
    SELECT session_id, max(username), max(group_name), max(kind), max(servername), max(gpu_type), min(held_from),
           CASE WHEN bool_and(held_until IS NOT NULL) THEN max(held_until) END, 'pod'
    FROM allocation WHERE session_id = ANY(%(ids)s) AND held_from IS NOT NULL GROUP BY session_id
    ON CONFLICT (id) DO UPDATE SET {_set_all(_SESSION_SET)}
    RETURNING {_SESSION_KEY}
    )
    SELECT -1, before.* FROM before UNION ALL SELECT 1, after.* FROM after
"""
_ROLLUP_NAMES = ("username", "group_name", "kind", "gpu_type")
_ROLLUP_SUMS = ("gpu_seconds", "cpu_milli_seconds", "memory_mib_seconds", "sessions")


class _Rollup:
    """A table of sums: statements that add to its rows, and that delete those of a key that are 0."""

    def __init__(self, table: str, *when: str) -> None:
        key = (*when, *_ROLLUP_NAMES)
        key_types = (*("text" for _ in when[1:]), "time", *("text" for _ in _ROLLUP_NAMES))
        self.key, self.types = len(key), (*key_types, *("bigint" for _ in _ROLLUP_SUMS))
        self.add = (
            _insert(table, key + _ROLLUP_SUMS, self.types)
            + f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET "
            + ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in _ROLLUP_SUMS)
        )
        names = [f"c{index}" for index in range(len(key))]
        self.delete_empty = (
            f"DELETE FROM {table} WHERE ({', '.join(key)}) IN (SELECT "
            + ", ".join(f"to_timestamp({n})" if t == "time" else n for n, t in zip(names, key_types))
            + f" FROM unnest({', '.join('%s::bigint[]' if t == 'time' else '%s::text[]' for t in key_types)})"
            + f" AS r({', '.join(names)})) AND "
            + " AND ".join(f"{name} = 0" for name in _ROLLUP_SUMS)
        )


_HOURS = _Rollup("rollup_hour", "hour")
_PERIODS = _Rollup("rollup_period", "span", "begin")


# One for each zone, so that what it has worked out stays known.
_calendar = cache(Calendar)


def _columns(rows: Iterable[tuple], count: int) -> list[list]:
    columns = [list(column) for column in zip(*rows)]
    return columns or [[] for _ in range(count)]


def _values(row: object, columns: Mapping[str, str]) -> tuple:
    values = ((getattr(row, name), kind) for name, kind in columns.items())
    return tuple(json.dumps(value) if kind == "jsonb" else value for value, kind in values)


def _stream_columns(streams: dict[str, tuple[str, int, int]]) -> list[list]:
    return _columns([(name, *state) for name, state in sorted(streams.items())], len(_STREAM))


async def become_leader(connection: Connection, holder: str) -> int:
    """Begin an epoch: from the commit on, transactions of all earlier ones fail. Waits for one that is under way."""
    cursor = await connection.execute(
        "INSERT INTO leader (id, epoch, holder) VALUES (1, 1, %s) ON CONFLICT (id) DO UPDATE"
        " SET epoch = leader.epoch + 1, holder = excluded.holder, since = now() RETURNING epoch",
        [holder],
    )
    return (await cursor.fetchone())[0]


async def check_epoch(connection: Connection, epoch: int) -> str:
    """Lock the leader's row for this transaction and return the time zone of days and months.

    FencedError if the epoch is over.
    """
    cursor = await connection.execute("SELECT epoch, time_zone FROM leader WHERE id = 1 FOR UPDATE")
    row = await cursor.fetchone()
    if row is None or row[0] != epoch:
        raise FencedError(f"epoch {epoch} is over, now it is {row and row[0]}")
    return row[1]


async def note(connection: Connection, epoch: int, streams: dict[str, tuple[str, int, int]]) -> bool:
    """Write how far a collector is that has learnt nothing. Whether witnesses wait to be applied.

    One statement, as it is what a collector does most of the time. FencedError if the epoch is over.
    """
    cursor = await connection.execute(_NOTE_STREAMS, [epoch, *_stream_columns(streams)])
    leads, witnesses = await cursor.fetchone()
    if not leads:
        raise FencedError(f"epoch {epoch} is over")
    return witnesses


async def policy_groups(connection: Connection, usernames: set[str]) -> Mapping[str, str]:
    """The group that users' hours are accounted to: the policy's; of several the alphabetically first."""
    cursor = await connection.execute(
        'SELECT username, min(group_name COLLATE "C") FROM policy_member WHERE username = ANY(%s) GROUP BY username',
        [list(usernames)],
    )
    return dict(await cursor.fetchall())


async def apply(connection: Connection, epoch: int, batch: Batch, groups: Groups = policy_groups) -> Applied:
    """Apply a batch and the witnesses that have come in. FencedError if the epoch is over."""
    # In a pipeline, statements whose rows nobody waits for go with the next one that somebody does.
    async with connection.pipeline(), connection.transaction():
        calendar = _calendar(await check_epoch(connection, epoch))
        transaction = _Transaction(connection, batch.now, groups)
        await transaction.apply_steps(batch.steps)
        await transaction.apply_pods(await transaction.with_witnesses(batch.pods))
        await transaction.write_sessions()
        await transaction.write_rollups(calendar)
        differences = await transaction.write_idle(batch.levels)
        await transaction.replace("pod_request", "pod_uid", batch.requests, _UPSERT_REQUEST, _REQUEST)
        await transaction.replace("node_state", "node", batch.nodes, _UPSERT_NODE, _NODE)
        await transaction.write_streams(batch.streams)
    return Applied(transaction.changed, differences)


class _Transaction:
    def __init__(self, connection: Connection, now: int, groups: Groups) -> None:
        self._connection, self._now, self._groups = connection, now, groups
        self._idle: dict[str, list[idle.Piece]] = defaultdict(list)
        self._sums = rollups.new_sums()
        self._sessions: set[str] = set()
        self._steps_from: dict[str, int] = {}
        self.changed = 0

    async def _fetch(self, statement: str, parameters: list) -> list[tuple]:
        cursor = await self._connection.execute(statement, parameters)
        return await cursor.fetchall()

    async def apply_steps(self, steps: list[Step]) -> None:
        if not steps:
            return
        new: dict[str, list[Step]] = defaultdict(list)
        for step in steps:
            new[step.node_uid].append(step)
            self._steps_from[step.node] = min(step.since, self._steps_from.get(step.node, step.since))
        uids = list(new)
        rows = await self._fetch(
            _SELECT_STEP + "JOIN unnest(%s::text[], %s::bigint[]) AS changed(uid, at)"
            " ON node_uid = uid AND (until IS NULL OR until >= to_timestamp(at))",
            [uids, [min(step.since for step in new[uid]) for uid in uids]],
        )
        old: dict[str, list[Step]] = defaultdict(list)
        for row in rows:
            step = Step(**dict(zip(_STEP, row)))
            old[step.node_uid].append(step)
        changed = []
        for uid in uids:
            before, after = set(old[uid]), set(capacity.merge([*old[uid], *new[uid]]))
            for step in before - after:
                self._idle[step.node].append((step.since, step.until, -step.gpu))
            for step in after - before:
                self._idle[step.node].append((step.since, step.until, step.gpu))
                changed.append(tuple(getattr(step, name) for name in _STEP))
        if changed:
            await self._connection.execute(_UPSERT_STEP, _columns(changed, len(_STEP)))

    async def with_witnesses(self, pods: dict[str, Pod]) -> dict[str, Pod]:
        """The facts of a batch, and those that witnesses have told since the last one."""
        rows = await self._fetch(
            "UPDATE witness SET applied_at = now() WHERE (producer, event_id) IN"
            " (SELECT producer, event_id FROM witness WHERE applied_at IS NULL ORDER BY received_at LIMIT %s)"
            " RETURNING kind, pod_uid, extract(epoch FROM at)::bigint, pod",
            [WITNESSES_PER_BATCH],
        )
        if not rows:
            return pods
        pods = dict(pods)
        for kind, uid, at, told in rows:
            known = {name: told[name] for name in _WITNESSED if told.get(name)}
            pod = Pod(pod_uid=uid, **known, **_witnessed_time(kind, at, told.get("exact", True)))
            if known:
                pod = replace(pod, kind=pod.kind or NOTEBOOK)
                pod = replace(pod, session_id=session_id(pod.kind, pod.namespace, uid, pod.servername))
            pods[uid] = facts.merge(pods[uid], pod) if uid in pods else pod
        return pods

    async def apply_pods(self, pods: dict[str, Pod]) -> None:
        rows = []
        if pods:
            rows += await self._fetch(_SELECT_POD + "WHERE pod_uid = ANY(%s)", [list(pods)])
        if self._steps_from:
            # What is now known of nodes says how earlier pods of theirs ended, and what they held.
            rows += await self._fetch(
                _SELECT_POD + "JOIN unnest(%s::text[], %s::bigint[]) AS changed(name, at) ON node = name AND"
                " (gone_by >= to_timestamp(at) AND finished_at IS NULL OR gpu > 0 AND gpu_type = '')",
                [list(self._steps_from), list(self._steps_from.values())],
            )
        if not rows and not pods:
            return
        count = len(facts.FIELDS)
        old = {row[0]: (Pod(*row[:count]), Hold(*row[count:]) if row[count] is not None else None) for row in rows}
        merged = {uid: pod for uid, (pod, _) in old.items()}
        for uid, pod in pods.items():
            merged[uid] = facts.merge(merged[uid], pod) if uid in merged else pod
        await self._fill_types(merged)
        await self._fill_groups({uid: pod for uid, pod in merged.items() if uid not in old}, merged)
        losses = await self._losses(merged.values())
        changed = []
        for uid, pod in merged.items():
            before, held = old.get(uid, (None, None))
            loss = capacity.loss_at(losses[pod.node], pod.gone_by) if pod.node in losses and pod.gone_by else None
            holds = facts.hold(pod, loss)
            if before and replace(pod, last_seen_at=before.last_seen_at) == before and held == holds:
                continue
            changed.append(
                tuple(getattr(pod, name) for name in facts.FIELDS)
                + tuple(getattr(holds, name) if holds else None for name in _HOLD.values())
            )
            if before:
                rollups.add(self._sums, before, held, -1)
                self._occupy(before, held, 1)
            rollups.add(self._sums, pod, holds, 1)
            self._occupy(pod, holds, -1)
            if pod.session_id and holds:
                self._sessions.add(pod.session_id)
        if changed:
            await self._connection.execute(_UPSERT_POD, _columns(changed, len(_ROW_COLUMNS)))
        self.changed = len(changed)

    def _occupy(self, pod: Pod, held: Hold | None, sign: int) -> None:
        if held and pod.gpu and pod.node:
            self._idle[pod.node].append((held.since, held.until, sign * pod.gpu))

    async def _fill_types(self, pods: dict[str, Pod]) -> None:
        nodes = {pod.node for pod in pods.values() if pod.gpu and not pod.gpu_type and pod.node}
        if not nodes:
            return
        types = dict(
            await self._fetch(
                "SELECT node, max(gpu_type) FROM capacity WHERE node = ANY(%s) GROUP BY node", [list(nodes)]
            )
        )
        for uid, pod in pods.items():
            if pod.gpu and not pod.gpu_type and types.get(pod.node):
                pods[uid] = replace(pod, gpu_type=types[pod.node])

    async def _fill_groups(self, new: dict[str, Pod], pods: dict[str, Pod]) -> None:
        names = {pod.username for pod in new.values() if pod.username and not pod.group_name}
        if not names:
            return
        of = await self._groups(self._connection, names)
        for uid, pod in new.items():
            pods[uid] = replace(pods[uid], group_name=pod.group_name or of.get(pod.username, ""))

    async def _losses(self, pods: Iterable[Pod]) -> dict[str, list[Step]]:
        """Steps of nodes on which pods ended without their containers' times."""
        gone = [pod for pod in pods if pod.gone_by is not None and pod.finished_at is None and pod.node]
        steps: dict[str, list[Step]] = defaultdict(list)
        if gone:
            rows = await self._fetch(
                _SELECT_STEP + "WHERE node = ANY(%s) AND (until IS NULL OR until >= to_timestamp(%s) OR reason = %s)",
                [list({pod.node for pod in gone}), min(pod.gone_by for pod in gone), capacity.NOT_READY],
            )
            for row in rows:
                step = Step(**dict(zip(_STEP, row)))
                steps[step.node].append(step)
        return steps

    async def write_sessions(self) -> None:
        if not self._sessions:
            return
        rows = await self._fetch(_REPLACE_SESSIONS, {"ids": list(self._sessions)})
        for sign, _, username, group_name, kind, gpu_type, started_at in rows:
            hour = started_at - started_at % rollups.HOUR
            self._sums[hour, username, group_name, kind, gpu_type][3] += sign

    async def write_rollups(self, calendar: Calendar) -> None:
        """Add the differences to hours, and to their days and months."""
        hours = {key: sums for key, sums in self._sums.items() if any(sums)}
        for rollup, sums in ((_HOURS, hours), (_PERIODS, periods.add_up(hours, calendar))):
            rows = [key + tuple(amounts) for key, amounts in sorted(sums.items())]
            if not rows:
                continue
            columns = _columns(rows, len(rollup.types))
            await self._connection.execute(rollup.add, columns)
            if any(amount < 0 for row in rows for amount in row[rollup.key :]):
                await self._connection.execute(rollup.delete_empty, columns[: rollup.key])

    async def write_idle(self, levels: dict[str, int]) -> dict[str, int]:
        """Move the edges of idle pieces to where facts put them; the level that follows is the one that was measured.

        Returns what the two disagreed by. Then the books do not balance, and `reports.books` shows since when.
        """
        nodes = sorted(self._idle.keys() | levels.keys())
        if not nodes:
            return {}
        begin = [min((since for since, _, _ in self._idle[node]), default=self._now) for node in nodes]
        rows = await self._fetch(
            "SELECT node, extract(epoch FROM since)::bigint, extract(epoch FROM until)::bigint, gpu - over FROM idle"
            " JOIN unnest(%s::text[], %s::bigint[]) AS changed(name, at)"
            " ON node = name AND (until IS NULL OR until >= to_timestamp(at))",
            [nodes, begin],
        )
        old: dict[str, list[idle.Piece]] = defaultdict(list)
        for node, *piece in rows:
            old[node].append(tuple(piece))
        differences, removed, added = {}, [], []
        for node in nodes:
            new = idle.shift(old[node], self._idle[node])
            difference = levels.get(node, idle.final_level(new)) - idle.final_level(new)
            if difference:
                differences[node] = difference
                new = idle.shift(new, [(self._now, None, difference)])
            removed += [(node, since) for since, _, _ in set(old[node]) - set(new)]
            added += [
                (node, since, until, max(0, level), max(0, -level)) for since, until, level in set(new) - set(old[node])
            ]
        if removed:
            await self._connection.execute(
                "DELETE FROM idle USING unnest(%s::text[], %s::bigint[]) AS old(name, at)"
                " WHERE node = name AND since = to_timestamp(at)",
                _columns(removed, 2),
            )
        if added:
            types = ("text", "time", "time", "bigint", "bigint")
            statement = _insert("idle", ("node", "since", "until", "gpu", "over"), types)
            await self._connection.execute(statement, _columns(added, len(types)))
        return differences

    async def replace(
        self, table: str, key: str, rows: Mapping[str, object], upsert: str, columns: Mapping[str, str]
    ) -> None:
        """Make rows be as they are now; those that are None are gone."""
        gone = [name for name, row in rows.items() if row is None]
        there = [_values(row, columns) for row in rows.values() if row is not None]
        if gone:
            await self._connection.execute(f"DELETE FROM {table} WHERE {key} = ANY(%s)", [gone])
        if there:
            await self._connection.execute(upsert, _columns(there, len(columns)))

    async def write_streams(self, streams: dict[str, tuple[str, int, int]]) -> None:
        if streams:
            await self._connection.execute(_UPSERT_STREAM, _stream_columns(streams))


# Not the type of GPUs, which is the node's: who starts a pod knows what was asked for.
_WITNESSED = (
    *("namespace", "pod", "username", "kind", "servername", "reservation", "node"),
    *("gpu", "cpu_milli", "memory_bytes"),
)


def _witnessed_time(kind: str, at: int, exact: bool) -> dict[str, int]:
    """The fact that a witness' time is; one that was found out later is an upper bound, of ends only."""
    if exact:
        return {f"witness_{kind}": at}
    return {"witness_gone_by": at} if kind == "stop" else {}


@dataclass(frozen=True)
class Known:
    """What the database knows when a collector begins.

    That is pods that still hold, the last step of each node, streams, what all pods request and what nodes have.
    """

    pods: list[Pod]
    steps: list[Step]
    streams: dict[str, tuple[str, int]]
    requests: list[Requests] = field(default_factory=list)
    nodes: list[NodeState] = field(default_factory=list)


async def load(connection: Connection) -> Known:
    """Read where the last leader stopped."""
    cursor = await connection.execute(
        f"SELECT {_select(facts.FIELDS, _POD_TYPES)} FROM allocation"
        " WHERE held_until IS NULL AND scheduled_at IS NOT NULL"
    )
    pods = [Pod(*row) for row in await cursor.fetchall()]
    cursor = await connection.execute(_SELECT_STEP + "WHERE until IS NULL")
    steps = [Step(**dict(zip(_STEP, row))) for row in await cursor.fetchall()]
    cursor = await connection.execute("SELECT name, version, extract(epoch FROM contact_at)::bigint FROM stream")
    streams = {name: (version, contact) for name, version, contact in await cursor.fetchall()}
    cursor = await connection.execute(f"SELECT {', '.join(_REQUEST)} FROM pod_request")
    requests = [Requests(**dict(zip(_REQUEST, row))) for row in await cursor.fetchall()]
    cursor = await connection.execute(f"SELECT {', '.join(_NODE)} FROM node_state")
    return Known(
        pods, steps, streams, requests, [NodeState(**dict(zip(_NODE, row))) for row in await cursor.fetchall()]
    )
