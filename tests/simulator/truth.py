"""What the ledger must say about a history."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import psycopg
from gpuhub_portal.ledger import reports
from simulator.world import Pod, World
from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql


def _quarter(day: date) -> date:
    """The first day of the quarter."""
    return date(day.year, (1, 4, 7, 10)[(day.month - 1) // 3], 1)


def _time(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


class _Level:
    """A step function made of intervals."""

    def __init__(self) -> None:
        self._deltas: dict[int, int] = defaultdict(int)

    def add(self, since: int, until: int | None, level: int) -> None:
        self._deltas[since] += level
        if until is not None:
            self._deltas[until] -= level

    def values(self, times: list[int]) -> list[int]:
        """Its value in the second that begins at each of these (sorted) times."""
        edges, level, result = sorted(self._deltas), 0, []
        position = 0
        for at in times:
            while position < len(edges) and edges[position] <= at:
                level += self._deltas[edges[position]]
                position += 1
            result.append(level)
        return result

    @property
    def edges(self) -> set[int]:
        return {at for at, delta in self._deltas.items() if delta}


class Truth:
    """Compares a database with a world at a time. `gaps`: when changes could be missed, as a list followed."""

    def __init__(self, world: World, now: int, gaps: list[tuple[int, int]]) -> None:
        self._world, self._now, self._gaps = world, now, gaps
        self.counts: Counter = Counter()

    async def compare(self, connection: psycopg.AsyncConnection, differences: dict[str, int]) -> list[str]:
        """All that is wrong, in words."""
        self._connection, self._problems = connection, []
        if differences:
            self._problems.append(f"measured idle devices differed from those expected: {differences}")
        await self._pods()
        await self._capacity()
        await self._nodes()
        await self._balance()
        await self._hours()
        await self._periods()
        await self._sessions()
        return self._problems

    async def _rows(self, statement: str, *parameters: object) -> list[tuple]:
        cursor = await self._connection.execute(statement, parameters)
        return await cursor.fetchall()

    async def _pods(self) -> None:
        rows = await self._rows(
            "SELECT pod_uid, extract(epoch FROM held_from)::bigint, extract(epoch FROM held_until)::bigint,"
            " until_source, extract(epoch FROM until_earliest)::bigint, extract(epoch FROM until_latest)::bigint,"
            " username, gpu, gpu_type, cpu_milli, memory_bytes, node FROM allocation WHERE held_from IS NOT NULL"
        )
        ledger = {row[0]: row[1:] for row in rows}
        truth = {pod.uid: pod for pod in self._world.pods if pod.scheduled_at is not None and pod.kept}
        self.counts["pods"] += len(truth)
        for uid in ledger.keys() - truth.keys():
            self._problems.append(f"{uid} held nothing, and is in the ledger")
        for uid, pod in truth.items():
            if uid not in ledger and self._unknowable(pod):
                self.counts["unknowable"] += 1
                continue
            if uid not in ledger:
                self._problems.append(f"{uid} is lost: held {pod.scheduled_at} to {pod.until}")
                continue
            since, until, source, earliest, latest, *what = ledger[uid]
            self.counts[f"until {source}"] += 1
            gpu_type = self._world.nodes[pod.node].gpu_type if pod.gpu else ""
            if what != [pod.username, pod.gpu, gpu_type, pod.cpu_milli, pod.memory_mib << 20, pod.node]:
                self._problems.append(f"{uid}: {what}")
            if since != pod.scheduled_at:
                self._problems.append(f"{uid} held from {pod.scheduled_at}, ledger {since}")
            if pod.refused_at is not None:
                # Only its object says so. Who has not seen it takes it for one that has ended.
                if (until, source) != (since, "observed") and not self._in_gap(pod.refused_at):
                    self._problems.append(f"{uid} was refused at {pod.refused_at}, ledger until {until} ({source})")
                self.counts["refused"] += 1
                continue
            if source == "inferred":
                if pod.until is None or not earliest <= pod.until <= latest:
                    self._problems.append(f"{uid} held until {pod.until}, ledger between {earliest} and {latest}")
            elif until != pod.until:
                self._problems.append(f"{uid} held until {pod.until}, ledger {until} ({source})")
            if until is not None and source != "observed" and not pod.traceless and not self._in_gap(pod.until):
                self._problems.append(f"{uid} left a trace of its end at {pod.until}, and it is {source}")

    def _unknowable(self, pod: Pod) -> bool:
        """Whether it came and went in one gap, and nobody told of its end: its node was lost as well."""
        told = any(told.pod is pod and told.kind == "stop" for told in self._world.told)
        return not told and any(
            begin <= pod.scheduled_at and pod.until is not None and max(pod.until, pod.refused_at or 0) <= end
            for begin, end in self._gaps
        )

    def _in_gap(self, at: int) -> bool:
        return any(begin <= at <= end for begin, end in self._gaps)

    async def _capacity(self) -> None:
        rows = await self._rows(
            "SELECT node, extract(epoch FROM since)::bigint, extract(epoch FROM until)::bigint, gpu, reason,"
            " extract(epoch FROM since_earliest)::bigint, extract(epoch FROM since_latest)::bigint FROM capacity"
        )
        ledger: dict[str, _Level] = defaultdict(_Level)
        vague: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for node, since, until, gpu, reason, earliest, latest in rows:
            ledger[node].add(since, until, gpu)
            if earliest < latest and reason != "not_ready":
                vague[node].append((earliest, latest))
        for node, history in self._world.offered.items():
            truth = _Level()
            for (since, level), following in zip(history, [*history[1:], (None, 0)], strict=True):
                truth.add(since, following[0], level)
            windows = [*vague[node], *self._gaps]
            times = sorted(truth.edges | ledger[node].edges | {end + 1 for _, end in windows} | {self._now})
            for at, right, wrong in zip(times, truth.values(times), ledger[node].values(times), strict=True):
                if right != wrong and not any(begin <= at <= end for begin, end in windows):
                    self._problems.append(f"{node} offered {right} from {at} on, ledger {wrong}")

    async def _nodes(self) -> None:
        """What decisions rest on: what nodes have now, and what all pods request that have not ended."""
        rows = await self._rows(
            "SELECT node, node_uid, gpu_capacity, gpu, cpu_milli, ready, schedulable, extended, requested_cpu_milli,"
            " requested_memory_bytes, requested_extended FROM node_state"
        )
        expected = {}
        for node in filter(lambda node: node.exists, self._world.nodes.values()):
            pods = [
                pod for pod in self._world.pods
                if pod.node == node.name and pod.exists and pod.phase not in ("Succeeded", "Failed")
            ]  # fmt: skip
            rdma = sum(pod.rdma for pod in pods)
            expected[node.name] = (
                *(node.uid, node.devices, node.healthy, 64_000, node.ready, not node.cordoned, {"rdma/hca": 8}),
                *(sum(pod.cpu_milli for pod in pods), sum(pod.memory_mib for pod in pods) << 20),
                {"rdma/hca": rdma} if rdma else {},
            )
        ledger = {name: tuple(row) for name, *row in rows}
        if ledger != expected:
            self._problems.append(f"nodes: {ledger}, expected {expected}")

    async def _balance(self) -> None:
        """In every second of every node: held + idle = capacity + held beyond it."""
        levels: dict[str, list[_Level]] = defaultdict(lambda: [_Level(), _Level()])
        for index, query in enumerate(
            (
                "SELECT node, held_from, held_until, gpu FROM allocation WHERE held_from IS NOT NULL AND gpu > 0"
                " UNION ALL SELECT node, since, until, gpu - over FROM idle",
                "SELECT node, since, until, gpu FROM capacity",
            )
        ):
            for node, since, until, gpu in await self._rows(
                f"SELECT node, extract(epoch FROM q.since)::bigint, extract(epoch FROM q.until)::bigint, gpu"
                f" FROM ({query}) AS q(node, since, until, gpu)"
            ):
                levels[node][index].add(since, until, gpu)
        for node, (used, offered) in levels.items():
            times = sorted(used.edges | offered.edges)
            for at, left, right in zip(times, used.values(times), offered.values(times), strict=True):
                if left != right:
                    self._problems.append(f"{node} at {at}: held + idle - over = {left}, capacity = {right}")
                    break

    async def _hours(self) -> None:
        """Rollups and what is open, against the intervals themselves."""
        usage = reports.usage_by_hour(_time(self._now))
        columns = [usage.c.gpu_seconds, usage.c.cpu_milli_seconds, usage.c.memory_mib_seconds]
        key = [usage.c.hour, usage.c.username, usage.c.kind, usage.c.gpu_type]
        statement = select(*key, *(func.sum(column) for column in columns)).group_by(*key)
        compiled = statement.compile(dialect=postgresql.psycopg.dialect(), compile_kwargs={"render_postcompile": True})
        cursor = await self._connection.execute(str(compiled), compiled.params)
        ledger = {
            (int(hour.timestamp()), *names): tuple(map(int, sums))
            for hour, *names, a, b, c in await cursor.fetchall()
            if any(sums := (a, b, c))
        }
        expected: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0])
        for since, until, username, kind, gpu_type, gpu, cpu, mib in await self._rows(
            "SELECT extract(epoch FROM held_from)::bigint, extract(epoch FROM held_until)::bigint, username, kind,"
            " gpu_type, gpu, cpu_milli, memory_bytes >> 20 FROM allocation WHERE held_from IS NOT NULL"
        ):
            until = self._now if until is None else until
            for hour in range(since - since % 3600, max(since, until), 3600):
                seconds = min(hour + 3600, until) - max(hour, since)
                if seconds > 0:
                    sums = expected[hour, username, kind, gpu_type]
                    for index, amount in enumerate((gpu, cpu, mib)):
                        sums[index] += seconds * amount
        expected = {key: tuple(sums) for key, sums in expected.items() if any(sums)}
        if ledger != expected:
            wrong = {key: (ledger.get(key), expected.get(key)) for key in ledger.keys() | expected.keys()}
            self._problems.append(f"hours: { ({k: v for k, v in wrong.items() if v[0] != v[1]}) }")

    async def _periods(self) -> None:
        """Days and months, against closed intervals and sessions by the clock of the zone."""
        zone = ZoneInfo((await self._rows("SELECT time_zone FROM leader"))[0][0])
        expected: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0, 0])

        def add(hour: int, names: list[str], amounts: tuple[int, int, int, int]) -> None:
            day = datetime.fromtimestamp(hour, zone).date()
            for span, first in (("day", day), ("month", day.replace(day=1)), ("quarter", _quarter(day))):
                for index, amount in enumerate(amounts):
                    expected[span, first, *names][index] += amount

        for since, until, gpu, cpu, mib, *names in await self._rows(
            "SELECT extract(epoch FROM held_from)::bigint, extract(epoch FROM held_until)::bigint, gpu, cpu_milli,"
            " memory_bytes >> 20, username, group_name, kind, gpu_type FROM allocation WHERE held_until IS NOT NULL"
        ):
            for hour in range(since - since % 3600, until, 3600):
                seconds = min(hour + 3600, until) - max(hour, since)
                add(hour, names, (seconds * gpu, seconds * cpu, seconds * mib, 0))
        for started_at, *names in await self._rows(
            "SELECT extract(epoch FROM started_at)::bigint, username, group_name, kind, gpu_type FROM session"
        ):
            add(started_at - started_at % 3600, names, (0, 0, 0, 1))
        ledger = {
            (span, begin.astimezone(zone).date(), *names): [a, b, c, d]
            for span, begin, *names, a, b, c, d in await self._rows("SELECT * FROM rollup_period")
        }
        expected = {key: sums for key, sums in expected.items() if any(sums)}
        self.counts["days and months"] += len(expected)
        if ledger != expected:
            wrong = {key: (ledger.get(key), expected.get(key)) for key in ledger.keys() | expected.keys()}
            self._problems.append(f"days and months: { ({k: v for k, v in wrong.items() if v[0] != v[1]}) }")

    async def _sessions(self) -> None:
        rows = await self._rows(
            "SELECT s.id FROM session s FULL JOIN (SELECT session_id, min(held_from) AS begun, CASE WHEN"
            " bool_and(held_until IS NOT NULL) THEN max(held_until) END AS ended FROM allocation"
            " WHERE held_from IS NOT NULL GROUP BY session_id) a ON a.session_id = s.id"
            " WHERE (s.started_at, s.ended_at) IS DISTINCT FROM (a.begun, a.ended)"
        )
        if rows:
            self._problems.append(f"sessions differ from their pods: {rows}")
        rolled = (await self._rows("SELECT coalesce(sum(sessions), 0)::bigint FROM rollup_hour"))[0][0]
        sessions = {(pod.job or pod.uid) for pod in self._world.pods if pod.scheduled_at is not None and pod.kept}
        if not len(sessions) - self.counts["unknowable"] <= rolled <= len(sessions):
            self._problems.append(f"{len(sessions)} sessions, rollups count {rolled}")
