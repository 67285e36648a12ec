"""What a witness says at the edges, and of pods of jobs."""

from __future__ import annotations

import pytest
import service_imports  # noqa: F401
from gpuhub_portal.ledger import store
from gpuhub_portal.ledger.facts import Hold, Pod, hold
from gpuhub_portal.ledger.objects import session_id
from gpuhub_portal.ledger.store import Batch
from psycopg.types.json import Jsonb

T = 1_790_002_800


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (139, Hold(100, 140, "inferred", 140, 160)),
        (140, Hold(100, 140, "witness", 140, 140)),
        (160, Hold(100, 160, "witness", 160, 160)),
        (161, Hold(100, 140, "inferred", 140, 160)),
    ],
)
def test_an_end_at_the_edge_of_a_gap(stop, expected):
    """The last second in which the pod was there, and the first in which it was not, are possible ends."""
    assert hold(Pod("p", scheduled_at=100, gone_after=140, gone_by=160, witness_stop=stop)) == expected


def test_pods_of_a_job_that_only_a_witness_saw_are_one_session(database):
    async def tell(connection) -> None:
        await store.become_leader(connection, "test")
        for uid, kind, at in (("a", "start", 10), ("a", "stop", 30), ("b", "start", 20), ("b", "stop", 50)):
            pod = {"namespace": "jhub", "pod": uid, "username": "carol", "node": "n"}
            pod |= {"kind": "job", "servername": "train"}
            await connection.execute(
                "INSERT INTO witness (producer, event_id, kind, pod_uid, at, pod)"
                " VALUES ('jobs', %s, %s, %s, to_timestamp(%s), %s)",
                [f"{uid}-{kind}", kind, uid, T + at, Jsonb(pod)],
            )
        await store.apply(connection, 1, Batch(T + 100))

    database.run(tell)
    assert database.rows("SELECT id, kind, name, started_at, ended_at FROM session") == [
        (session_id("job", "jhub", "", "train"), "job", "train", T + 10, T + 50)
    ]
