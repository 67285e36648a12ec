"""What the hub saw, in a file that outlives it."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(scope="session")
def witness_module(archive):
    from gpuhub_hub import witness

    return witness


class Portal:
    """Keeps events by id, unless it is away or refuses one."""

    retry_seconds = 0.01

    def __init__(self) -> None:
        self.events: dict[str, dict] = {}
        self.times: dict[str, int] = {}
        self.away = False
        self.poison = ""
        self.status = 422

    async def witness(self, events: list[dict]) -> None:
        from gpuhub_hub.portal_client import PortalAwayError, PortalRefusedError

        if self.away:
            raise PortalAwayError("away")
        if any(event["pod_uid"] == self.poison for event in events):
            raise PortalRefusedError(self.status, {"code": "invalid"})
        for event in events:
            self.events[event["event_id"]] = event
            self.times[event["event_id"]] = self.times.get(event["event_id"], 0) + 1

    def told(self) -> list[tuple[str, str]]:
        return sorted((event["pod_uid"], event["kind"]) for event in self.events.values())


def pod(uid: str, name: str = "jupyter-alice", node: str = "node-1") -> dict:
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {
        "metadata": {
            "name": name,
            "namespace": "jhub",
            "uid": uid,
            "labels": {"gpuhub.io/reservation": "r"},
            "annotations": {"hub.jupyter.org/username": "alice", "gpuhub.io/gpu-type": "A100"},
        },
        "spec": {"nodeName": node, "containers": [{"resources": {"requests": {"nvidia.com/gpu": "2", "cpu": "1"}}}]},
        "status": {"conditions": [condition] if node else []},
    }


def run(witness_module, path, work, portal=None):
    """Run `work(witness, portal)` beside the sender."""
    portal = portal or Portal()

    async def main():
        witness = witness_module.Witness(portal, path)
        sender = asyncio.create_task(witness.tell())
        try:
            await work(witness, portal)
        finally:
            sender.cancel()

    asyncio.run(main())
    return portal


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_started_and_stopped(witness_module, tmp_path):
    async def work(witness, portal):
        await witness.started(pod("a"))
        await witness.started(pod("a"))
        await witness.gone("jhub", "jupyter-alice", exact=True)
        await witness.gone("jhub", "jupyter-alice", exact=True)
        await until(lambda: portal.told() == [("a", "start"), ("a", "stop")])

    portal = run(witness_module, tmp_path / "state", work)
    start = next(event for event in portal.events.values() if event["kind"] == "start")
    assert start["at"] == "2026-01-01T00:00:00Z"
    assert start["pod"] == {
        "namespace": "jhub",
        "pod": "jupyter-alice",
        "kind": "notebook",
        "username": "alice",
        "servername": "",
        "reservation": "r",
        "node": "node-1",
        "gpu_type": "A100",
        "cpu_milli": 1000,
        "memory_bytes": 0,
        "gpu": 2,
        "exact": True,
    }
    assert set(portal.times.values()) == {1}


def test_a_pod_without_a_node_held_nothing(witness_module, tmp_path):
    async def work(witness, portal):
        await witness.started(pod("a", node=""))
        await witness.started(None)
        await witness.gone("jhub", "jupyter-alice", exact=True)
        await witness.started(pod("b", name="other"))
        await until(portal.told)

    assert run(witness_module, tmp_path / "state", work).told() == [("b", "start")]


@pytest.mark.parametrize(
    ("status", "held"),
    [
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, False),
        ({"phase": "Failed", "reason": "OutOfnvidia.com/gpu", "containerStatuses": []}, False),
        ({"phase": "Failed", "reason": "Evicted"}, True),
        ({"phase": "Failed", "containerStatuses": [{"name": "notebook"}]}, True),
        ({"phase": "Pending"}, True),
    ],
)
def test_a_pod_that_its_node_refused_held_nothing(witness_module, status, held):
    refused = pod("a")
    refused["status"].update(status)
    assert (witness_module.facts_of(refused) is not None) is held


def test_events_wait_for_a_portal_and_outlive_the_hub(witness_module, tmp_path):
    portal = Portal()
    portal.away = True

    async def first(witness, portal):
        await witness.started(pod("a"))
        await witness.started(pod("b", name="other"))

    async def second(witness, portal):
        await asyncio.sleep(0.1)
        assert portal.told() == []
        portal.away = False
        await until(lambda: len(portal.told()) == 2)
        # What ran before, and is gone.
        await witness.compare([pod("b")])
        await witness.compare([])
        await until(lambda: len(portal.told()) == 3)

    run(witness_module, tmp_path / "state", first, portal)
    run(witness_module, tmp_path / "state", second, portal)
    assert portal.told() == [("a", "start"), ("a", "stop"), ("b", "start")]
    stop = next(event for event in portal.events.values() if event["kind"] == "stop")
    assert stop["pod"]["exact"] is False


def test_the_same_is_the_same_event_in_every_hub(witness_module, tmp_path):
    """A hub that lost its file tells again what it sees; the portal knows it already."""
    portal = Portal()

    async def work(witness, portal):
        told = sum(portal.times.values())
        await witness.started(pod("a"))
        await until(lambda: sum(portal.times.values()) > told)

    for name in ("one", "two"):
        run(witness_module, tmp_path / name, work, portal)
    assert list(portal.times.values()) == [2]


def test_an_event_that_is_refused_keeps_no_other(witness_module, tmp_path, caplog):
    portal = Portal()
    portal.poison, portal.away = "b", True

    async def work(witness, portal):
        for uid in "abc":
            await witness.started(pod(uid, name=uid))
        portal.away = False
        await until(lambda: len(portal.told()) == 2)
        await witness.gone("jhub", "a", exact=True)
        await until(lambda: len(portal.told()) == 3)

    run(witness_module, tmp_path / "state", work, portal)
    assert "refuses event" in caplog.text


def test_a_portal_that_takes_no_events_yet_gets_them_later(witness_module, tmp_path):
    portal = Portal()
    portal.poison, portal.status = "a", 404

    async def work(witness, portal):
        await witness.started(pod("a"))
        await asyncio.sleep(0.1)
        portal.poison = ""
        await until(portal.told)

    assert run(witness_module, tmp_path / "state", work, portal).told() == [("a", "start")]


def test_a_file_that_cannot_be_written_stops_no_server(witness_module, tmp_path, caplog):
    witness = witness_module.Witness(Portal(), tmp_path / "missing" / "state")
    asyncio.run(witness.started(pod("a")))
    assert "is not kept" in caplog.text


def test_a_crowd_is_written_and_told_together(witness_module, tmp_path, monkeypatch):
    """Also one whose start is cancelled meanwhile, which keeps nobody."""
    transactions, requests = [], []
    transaction, tell = witness_module.Outbox._transaction, Portal.witness

    def counted(self, works):
        transactions.append(len(works))
        return transaction(self, works)

    async def noted(self, events):
        requests.append(len(events))
        await tell(self, events)

    monkeypatch.setattr(witness_module.Outbox, "_transaction", counted)
    monkeypatch.setattr(Portal, "witness", noted)

    async def work(witness, portal):
        await until(lambda: transactions)
        for first in (0, 25):
            starts = [asyncio.create_task(witness.started(pod(f"p{first + index}"))) for index in range(25)]
            await asyncio.sleep(0)
            starts[7].cancel()
            await asyncio.wait(starts)
        assert len(transactions) <= 6 and sum(transactions) >= 51
        await until(lambda: len(portal.events) == 50)

    run(witness_module, tmp_path / "state", work)
    assert requests == [50]


def test_a_file_that_cannot_be_written_keeps_nobody(witness_module, tmp_path, caplog):
    async def work(witness, portal):
        async with asyncio.timeout(20):
            await asyncio.gather(*(witness.started(pod(f"p{index}")) for index in range(5)))

    async def main():
        await work(witness_module.Witness(Portal(), tmp_path), None)

    asyncio.run(main())
    assert len([record for record in caplog.records if "is not kept" in record.message]) == 5
