"""The ledger's transaction on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
import sample
from gpuhub_portal.ledger import facts, reports, store
from gpuhub_portal.ledger.capacity import Step
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.objects import NodeState, Requests, session_id
from gpuhub_portal.ledger.store import Batch
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import create_async_engine

HOUR = 1_790_002_800
STEP = Step("n-uid", HOUR, HOUR, HOUR, "n", "A100", 4, "joined", 1)
POD = Pod(
    "p",
    namespace="jhub",
    pod="jupyter-alice",
    username="alice",
    kind="notebook",
    session_id=session_id("notebook", "jhub", "p", ""),
    node="n",
    gpu=2,
    cpu_milli=1000,
    memory_bytes=1 << 30,
    scheduled_at=HOUR + 100,
)
KEY = ("alice", "", "notebook", "A100")


def _apply(*pods: Pod, steps: list[Step] | None = None, now: int = HOUR + 5000, levels: dict | None = None, **groups):
    batch = Batch(now, {pod.pod_uid: pod for pod in pods}, steps or [], levels or {})

    async def action(connection):
        return await store.apply(connection, 1, batch, **groups)

    return action


@pytest.fixture
def ledger(database):
    database.run(lambda connection: store.become_leader(connection, "test"))
    return database


def _rollups(ledger) -> dict[tuple, tuple]:
    return {row[:5]: row[5:] for row in ledger.rows("SELECT * FROM rollup_hour")}


def test_a_batch_in_all_tables(ledger):
    applied = ledger.run(_apply(replace(POD, finished_at=HOUR + 3700), steps=[STEP], levels={"n": 4}))
    assert applied == store.Applied(1, {})
    assert ledger.rows("SELECT gpu_type, held_from, held_until, until_source FROM allocation") == [
        ("A100", HOUR + 100, HOUR + 3700, "observed")
    ]
    assert _rollups(ledger) == {
        (HOUR, *KEY): (7000, 3_500_000, 3500 * 1024, 1),
        (HOUR + 3600, *KEY): (200, 100_000, 100 * 1024, 0),
    }
    assert ledger.rows("SELECT since, until, gpu, over FROM idle ORDER BY since") == [
        (HOUR, HOUR + 100, 4, 0),
        (HOUR + 100, HOUR + 3700, 2, 0),
        (HOUR + 3700, None, 4, 0),
    ]
    assert ledger.rows("SELECT username, name, started_at, ended_at, source FROM session") == [
        ("alice", "", HOUR + 100, HOUR + 3700, "pod")
    ]


def _history(chance: random.Random) -> tuple[list[Pod], list[Step], list[tuple]]:
    """Facts of a few pods and nodes, each in several pieces."""
    pods, witnesses = [], []
    for index in range(6):
        job = index >= 4
        pod = replace(
            POD,
            pod_uid=f"p{index}",
            username="bob" if job else f"user{index % 3}",
            kind="job" if job else "notebook",
            servername="j" if job else "",
            session_id=session_id("job" if job else "notebook", "jhub", f"p{index}", "j"),
            node=f"n{index % 2}",
            gpu=chance.randint(0, 2),
            scheduled_at=HOUR + chance.randint(100, 4000),
        )
        pods += [pod, replace(pod, started_at=pod.scheduled_at + 5)]
        end = pod.scheduled_at + chance.randint(1, 8000)
        kind = chance.choice(("finished", "removed", "gap", "witness", "open"))
        if kind == "finished":
            pods.append(replace(pod, finished_at=end))
        if kind in ("finished", "removed"):
            pods.append(Pod(pod.pod_uid, gone_after=end + 1, gone_by=end + 1))
        if kind in ("gap", "witness"):
            pods.append(Pod(pod.pod_uid, gone_after=max(pod.scheduled_at, end - 50), gone_by=end + 50))
            pods.append(Pod(pod.pod_uid, gone_after=end + 60, gone_by=end + 70))
        if kind == "witness":
            witnesses.append((f"{pod.pod_uid}-stop", "stop", pod.pod_uid, end))
    steps = []
    for index in range(2):
        step = replace(STEP, node_uid=f"u{index}", node=f"n{index}")
        lost = HOUR + chance.randint(3000, 9000)
        steps += [step, replace(step, since=lost, earliest=lost - 40, gpu=0, reason="not_ready", version=2)]
        if chance.random() < 0.5:
            steps.append(replace(step, since=lost + 900, gpu=4, reason="ready", version=3))
    return pods, steps, witnesses


@pytest.mark.parametrize("seed", sample.draw(range(8), 2))
def test_any_order_any_batches_any_repetition_same_rows(ledger, seed):
    chance = random.Random(seed)
    pods, steps, witnesses = _history(chance)
    dumps = []
    for attempt in range(4):
        with psycopg.connect(ledger.cluster.dsn(), autocommit=True) as connection:
            connection.execute("TRUNCATE allocation, capacity, idle, session, rollup_hour, rollup_period, witness")
        events = [("pod", pod) for pod in pods] + [("step", step) for step in steps] + [("told", w) for w in witnesses]
        if attempt:
            events += chance.sample(events, len(events) // 2)
            chance.shuffle(events)
        actions = []
        while events:
            size = len(events) if attempt == 0 else chance.randint(1, 5)
            part, events = events[:size], events[size:]
            merged: dict[str, Pod] = {}
            for kind, what in part:
                if kind == "pod":
                    merged[what.pod_uid] = facts.merge(merged[what.pod_uid], what) if what.pod_uid in merged else what
                elif kind == "told":
                    actions.append(_tell(*what))
            actions.append(_apply(*merged.values(), steps=[what for kind, what in part if kind == "step"]))
        ledger.run(*actions)
        dumps.append(ledger.dump())
        _assert_balance(ledger)
    assert all(dump == dumps[0] for dump in dumps[1:])


def _tell(event_id: str, kind: str, uid: str, at: int, pod: dict | None = None):
    async def action(connection):
        await connection.execute(
            "INSERT INTO witness (producer, event_id, kind, pod_uid, at, pod)"
            " VALUES ('t', %s, %s, %s, to_timestamp(%s), %s) ON CONFLICT DO NOTHING",
            [event_id, kind, uid, at, Jsonb(pod or {})],
        )

    return action


def _books(ledger, since: int = 0, until: int = HOUR + 90_000) -> list[reports.Books]:
    async def read():
        engine = create_async_engine(ledger.cluster.url())
        async with engine.connect() as connection:
            books = await reports.books(
                connection, datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(until, UTC)
            )
        await engine.dispose()
        return books

    return asyncio.run(read())


def _assert_balance(ledger) -> None:
    books = _books(ledger)
    assert books
    assert all(each.difference == 0 for each in books), books


def test_books_of_a_window(ledger):
    ledger.run(_apply(replace(POD, finished_at=HOUR + 3700), steps=[STEP]))
    assert _books(ledger, HOUR + 50, HOUR + 150) == [reports.Books("n", held=100, idle=300, capacity=400, over=0)]


def test_books_show_what_was_lost(ledger):
    """The control: a row that is missing, or there twice, is a difference."""
    ledger.run(_apply(replace(POD, finished_at=HOUR + 3700), steps=[STEP]))
    ledger.rows("DELETE FROM allocation RETURNING 1")
    assert [each.difference for each in _books(ledger)] == [-7200]


def test_held_beyond_capacity_is_counted_as_such(ledger):
    ledger.run(_apply(POD, steps=[STEP, replace(STEP, since=HOUR + 200, gpu=1, reason="devices", version=2)]))
    assert ledger.rows("SELECT gpu, over FROM idle WHERE until IS NULL") == [(0, 1)]
    _assert_balance(ledger)


def test_one_that_was_thought_dead_writes_nothing(ledger):
    ledger.run(lambda connection: store.become_leader(connection, "another"))
    with pytest.raises(store.FencedError, match="epoch 1 is over, now it is 2"):
        ledger.run(_apply(POD))
    assert ledger.rows("SELECT * FROM allocation") == []


def _note(epoch: int, **streams: tuple[str, int, int]):
    return lambda connection: store.note(connection, epoch, streams)


def test_how_far_a_collector_is_that_has_learnt_nothing(ledger):
    assert ledger.run(_note(1, nodes=("7", HOUR, 0), pods=("6", HOUR, HOUR))) is False
    assert ledger.run(_note(1, pods=("8", HOUR + 1, 0))) is False
    rows = ledger.rows("SELECT name, version, contact_at, followed_at FROM stream ORDER BY name")
    assert rows == [("nodes", "7", HOUR, 0), ("pods", "8", HOUR + 1, HOUR)]
    assert ledger.run(_note(1)) is False, "before the first list there is nothing to note"


def test_witnesses_that_wait(ledger):
    columns, values = "producer, event_id, kind, pod_uid, at, pod", "'hub', '1', 'start', 'p', now(), '{}'"
    ledger.run(lambda connection: connection.execute(f"INSERT INTO witness ({columns}) VALUES ({values})"))
    assert ledger.run(_note(1)) is True
    ledger.run(_apply())
    assert ledger.run(_note(1)) is False


def test_one_that_was_thought_dead_notes_nothing(ledger):
    ledger.run(lambda connection: store.become_leader(connection, "another"))
    with pytest.raises(store.FencedError, match="epoch 1 is over"):
        ledger.run(_note(1, pods=("8", HOUR, HOUR)))
    assert ledger.rows("SELECT * FROM stream") == []


def test_a_note_waits_for_who_is_becoming_the_leader(ledger):
    """It must not come after the new leader has read where to go on."""

    async def race(connection):
        other = await psycopg.AsyncConnection.connect(ledger.cluster.dsn(), autocommit=True)
        async with connection.transaction():
            await store.become_leader(connection, "another")
            noting = asyncio.ensure_future(store.note(other, 1, {"pods": ("8", HOUR, HOUR)}))
            done, _ = await asyncio.wait([noting], timeout=0.2)
            assert not done
        with pytest.raises(store.FencedError):
            await noting
        await other.close()

    ledger.run(race)
    assert ledger.rows("SELECT * FROM stream") == []


def test_a_new_leader_waits_for_a_transaction_under_way(ledger):
    async def race(connection):
        other = await psycopg.AsyncConnection.connect(ledger.cluster.dsn(), autocommit=True)
        async with connection.transaction():
            await connection.execute("SELECT epoch FROM leader FOR UPDATE")
            taking = asyncio.ensure_future(store.become_leader(other, "another"))
            done, _ = await asyncio.wait([taking], timeout=0.2)
            assert not done
        assert await taking == 2
        await other.close()

    ledger.run(race)


def test_late_events_move_hours(ledger):
    """An inferred end becomes an observed one: what was accounted before is as if it had never been."""
    gone = replace(POD, gone_after=HOUR + 200, gone_by=HOUR + 4000)
    ledger.run(_apply(gone, steps=[STEP]))
    assert _rollups(ledger)[HOUR, *KEY][0] == 200
    ledger.run(_apply(replace(gone, finished_at=HOUR + 3650)))
    assert {hour: sums[0] for (hour, *_), sums in _rollups(ledger).items()} == {HOUR: 7000, HOUR + 3600: 100}
    ledger.run(_apply(replace(POD, scheduled_at=HOUR - 10)))
    assert {hour: sums[0] for (hour, *_), sums in _rollups(ledger).items()} == {
        HOUR - 3600: 20,
        HOUR: 7200,
        HOUR + 3600: 100,
    }
    assert [sums[3] for _, sums in sorted(_rollups(ledger).items())] == [1, 0, 0], "its session began earlier, too"
    _assert_balance(ledger)


def test_node_lost_is_learnt_after_its_pods_are_gone(ledger):
    """Two streams, any order: the rule for lost nodes applies as soon as both are known."""
    gone = replace(POD, gone_after=HOUR + 900, gone_by=HOUR + 900)
    ledger.run(_apply(gone, steps=[STEP]))
    assert ledger.rows("SELECT held_until, until_source FROM allocation") == [(HOUR + 900, "observed")]
    lost = replace(STEP, since=HOUR + 400, earliest=HOUR + 350, gpu=0, reason="not_ready", version=2)
    ledger.run(_apply(steps=[lost]))
    assert ledger.rows("SELECT held_until, until_source, until_earliest, until_latest FROM allocation") == [
        (HOUR + 400, "inferred", HOUR + 350, HOUR + 900)
    ]
    assert _rollups(ledger)[HOUR, *KEY][0] == 600
    _assert_balance(ledger)


def test_refused_after_it_was_scheduled(ledger):
    """What was accounted until the refusal was known is taken back; its reservation is settled."""
    ledger.run(_apply(POD, steps=[STEP], levels={"n": 2}))
    refused = replace(POD, refused="UnexpectedAdmissionError", gone_after=HOUR + 103, gone_by=HOUR + 103)
    assert ledger.run(_apply(refused, levels={"n": 4})).differences == {}
    assert ledger.rows("SELECT held_from, held_until, until_source FROM allocation") == [
        (HOUR + 100, HOUR + 100, "observed")
    ]
    assert {hour: sums[0] for (hour, *_), sums in _rollups(ledger).items()} == {HOUR: 0}
    assert ledger.rows("SELECT since, gpu FROM idle") == [(HOUR, 4)]
    _assert_balance(ledger)


def test_gpu_type_is_learnt_after_the_pod(ledger):
    ledger.run(_apply(replace(POD, finished_at=HOUR + 200)))
    assert set(_rollups(ledger)) == {(HOUR, "alice", "", "notebook", "")}
    ledger.run(_apply(steps=[STEP]))
    assert set(_rollups(ledger)) == {(HOUR, *KEY)}
    assert ledger.rows("SELECT gpu_type FROM session") == [("A100",)]


def test_a_pod_that_only_a_witness_saw(ledger):
    pod = {"namespace": "jhub", "pod": "x", "username": "carol", "node": "n", "gpu": 1, "cpu_milli": 10}
    ledger.run(_apply(steps=[STEP]), _tell("1", "start", "w", HOUR + 10, pod), _apply())
    assert ledger.rows("SELECT held_from FROM allocation") == [(None,)]
    ledger.run(_tell("2", "stop", "w", HOUR + 30, pod), _apply(), _tell("2", "stop", "w", HOUR + 30, pod), _apply())
    assert ledger.rows("SELECT username, kind, held_from, held_until, until_source FROM allocation") == [
        ("carol", "notebook", HOUR + 10, HOUR + 30, "witness")
    ]
    _assert_balance(ledger)


def test_a_witness_who_found_out_later(ledger):
    """Its time bounds an end and is none; what it knows of the pod counts, but not the type that was asked for."""
    gone = replace(POD, gone_after=HOUR + 200, gone_by=HOUR + 900)
    told = {"exact": False, "reservation": "r", "gpu_type": "any"}
    ledger.run(_apply(gone, steps=[STEP]), _tell("1", "stop", "p", HOUR + 500, told), _apply())
    ledger.run(_tell("2", "start", "p", HOUR + 50, told), _apply())
    assert ledger.rows(
        "SELECT held_from, held_until, until_source, until_latest, reservation, gpu_type FROM allocation"
    ) == [(HOUR + 100, HOUR + 200, "inferred", HOUR + 500, "r", "A100")]
    _assert_balance(ledger)


def test_pods_of_a_job_are_one_session(ledger):
    one = replace(POD, kind="job", servername="j", session_id=session_id("job", "jhub", "p", "j"))
    two = replace(one, pod_uid="q", scheduled_at=HOUR + 50)
    ledger.run(_apply(one, two, steps=[STEP]), _apply(replace(two, finished_at=HOUR + 900)))
    assert ledger.rows("SELECT name, started_at, ended_at FROM session") == [("j", HOUR + 50, None)]
    ledger.run(_apply(replace(one, finished_at=HOUR + 700)))
    assert ledger.rows("SELECT name, started_at, ended_at FROM session") == [("j", HOUR + 50, HOUR + 900)]
    assert sum(sums[3] for sums in _rollups(ledger).values()) == 1


def test_what_was_accounted_to_a_group_stays_with_it(ledger):
    answers = iter(({"alice": "vision"}, {"alice": "audio"}))

    async def groups(connection, usernames):
        assert usernames == {"alice"}
        return next(answers)

    ledger.run(_apply(POD, steps=[STEP], groups=groups))
    ledger.run(_apply(replace(POD, finished_at=HOUR + 200), groups=groups))
    assert list(_rollups(ledger)) == [(HOUR, "alice", "vision", "notebook", "A100")]


def test_groups_are_the_policys(ledger):
    async def members(connection):
        for group, username in (("zoo", "alice"), ("vision", "alice"), ("Zeta", "alice"), ("audio", "bob")):
            await connection.execute("INSERT INTO policy_member VALUES (%s, %s)", [group, username])

    carol = replace(POD, pod_uid="q", username="carol", session_id="s")
    ledger.run(members, _apply(POD, carol, steps=[STEP]))
    assert sorted(ledger.rows("SELECT username, group_name FROM allocation")) == [("alice", "Zeta"), ("carol", "")]
    assert sorted(ledger.rows("SELECT username, group_name FROM session")) == [("alice", "Zeta"), ("carol", "")]


def test_the_measured_level_wins_and_the_difference_is_told(ledger):
    applied = ledger.run(_apply(POD, steps=[STEP], levels={"n": 3}, now=HOUR + 500))
    assert applied.differences == {"n": 1}
    assert ledger.rows("SELECT gpu FROM idle WHERE until IS NULL") == [(3,)]
    assert [each.difference for each in _books(ledger, HOUR, HOUR + 600)] == [100]


def test_a_batch_again_changes_nothing(ledger):
    ledger.run(_apply(replace(POD, finished_at=HOUR + 3700), steps=[STEP]))
    before = ledger.dump()
    assert ledger.run(_apply(replace(POD, finished_at=HOUR + 3700, last_seen_at=HOUR), steps=[STEP])).pods == 0
    assert ledger.dump() == before


def test_hostile_names(ledger):
    for name in ("'; DROP TABLE allocation; --", "../..", "ü" * 253, "{a,b}", "\\", '"'):
        ledger.run(_apply(replace(POD, pod_uid=name, username=name, finished_at=HOUR + 200)))
    assert {row[0] for row in ledger.rows("SELECT username FROM allocation WHERE pod_uid = username")} >= {
        "{a,b}",
        "\\",
    }
    assert len(ledger.rows("SELECT 1 FROM allocation")) == 6


def test_what_was_followed_once_is_known_still(ledger):
    for version, contact, followed in (("17", HOUR, HOUR + 40), ("18", HOUR + 60, 0)):
        batch = Batch(HOUR, streams={"pods": (version, contact, followed)})
        ledger.run(lambda connection, batch=batch: store.apply(connection, 1, batch))
    assert ledger.rows("SELECT version, contact_at, followed_at FROM stream") == [("18", HOUR + 60, HOUR + 40)]


def test_what_a_leader_begins_with(ledger):
    closed = replace(POD, pod_uid="q", finished_at=HOUR + 200)
    requests = {name: Requests(name, "n", 500, 1 << 40, {"rdma/hca": 1}) for name in ("s", "t")}
    taints = [{"key": "k'\"{", "effect": "NoSchedule"}]
    nodes = {name: NodeState(name, "u", "P", "A100", 8, 7, 9, 1 << 40, True, False, taints) for name in ("n", "m")}
    batch = Batch(HOUR, {"p": POD, "q": closed}, [STEP], {}, {"pods": ("17", HOUR, HOUR)}, requests, nodes)
    nodes_after = {"m": None, "n": replace(nodes["n"], requested_cpu_milli=500, requested_extended={"rdma/hca": 1})}
    after = Batch(HOUR + 1, requests={"t": None}, nodes=nodes_after)
    for each in (batch, after):
        ledger.run(lambda connection, each=each: store.apply(connection, 1, each))
    known = ledger.run(store.load)
    assert known == store.Known(
        [replace(POD, gpu_type="A100")], [STEP], {"pods": ("17", HOUR)}, [requests["s"]], [nodes_after["n"]]
    )
