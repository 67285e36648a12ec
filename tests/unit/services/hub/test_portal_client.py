"""A portal that lies, or is none, is a portal that is away."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from datetime import UTC
from operator import methodcaller
from types import SimpleNamespace

import pytest
import spawn_doubles


@pytest.fixture(scope="session")
def client_module(archive):
    from gpuhub_hub import portal_client

    return portal_client


@pytest.fixture(scope="module")
def portal(make_portal, make_kube):
    return make_portal(make_kube())


@pytest.fixture(autouse=True)
def up(portal):
    yield
    portal.mode = "up"


def ask(client_module, portal, question, token_file=None, **waits):
    """Ask with a client of its own."""

    async def run():
        waits_ = {"timeout_seconds": 1, "retry_seconds": 0, **waits}
        client = client_module.PortalClient(portal.url, token_file or portal.token_file, **waits_)
        try:
            return await question(client)
        finally:
            await client.close()

    return asyncio.run(run())


PROFILE = {
    "slug": "a",
    "display_name": "A",
    "cpu_milli": 1,
    "memory_bytes": 1,
    "gpu": 0,
    "gpu_type": "",
    "rdma": False,
    "products": [],
    "offered": True,
    "reason": None,
}
USAGE = {"cpu_cores": 0, "memory_gib": 0, "gpu": 0}
LIMITS = {"cpu_limit_cores": 1.5, "memory_limit_gib": 0.5, "gpu_limit": None, "usage": USAGE}
CAPACITY = {"gpu_types": [{"gpu_type": "A100", "free": 1}]}
ANSWER = {"items": [PROFILE], "limits": LIMITS, "capacity": CAPACITY}


def test_what_is_true_is_believed(client_module, portal):
    portal.mode = lambda path: json.dumps(ANSWER).encode()
    account = ask(client_module, portal, lambda client: client.profiles("alice"))
    assert (account.limits.cpu_milli, account.limits.memory_bytes, account.limits.gpu) == (1500, 2**29, None)
    assert account.free == {"A100": 1, "any": 1}
    assert account.profiles[0].offered


def changed(**changes) -> bytes:
    return json.dumps({**ANSWER, **changes}).encode()


LIES = {
    "no JSON": b"<html>",
    "no object": b"[]",
    "nothing": b"",
    "deep": b"[" * 100_000,
    "binary": b"\xff\xfe\x00",
    "no profiles": changed(items=None),
    "the same slug twice": changed(items=[PROFILE, PROFILE]),
    "a negative amount": changed(items=[{**PROFILE, "gpu": -1}]),
    "half a GPU": changed(items=[{**PROFILE, "gpu": 0.5}]),
    "a boolean amount": changed(items=[{**PROFILE, "gpu": True}]),
    "an amount as text": changed(items=[{**PROFILE, "memory_bytes": "1Gi"}]),
    "an absurd amount": changed(items=[{**PROFILE, "memory_bytes": 2**63}]),
    "no slug": changed(items=[{**PROFILE, "slug": ""}]),
    "not offered, without a reason": changed(items=[{**PROFILE, "offered": False}]),
    "a reason without a code": changed(items=[{**PROFILE, "offered": False, "reason": {}}]),
    "a time that is none": changed(items=[{**PROFILE, "reason": {"code": "x", "until": "tomorrow"}}]),
    "a limit that is not stated": changed(limits={"usage": USAGE}),
    "a negative limit": changed(limits={**LIMITS, "gpu_limit": -1}),
    "an infinite limit": b'{"items": [], "capacity": {"gpu_types": []}, "limits": {"cpu_limit_cores": Infinity,'
    b' "memory_limit_gib": 1, "gpu_limit": 1, "usage": {"cpu_cores": 0, "memory_gib": 0, "gpu": 0}}}',
    "use that is not stated": changed(limits={**LIMITS, "usage": None}),
    "use as text": changed(limits={**LIMITS, "usage": {**USAGE, "gpu": "2"}}),
    "negative use": changed(limits={**LIMITS, "usage": {**USAGE, "gpu": -2}}),
    "free as text": changed(capacity={"gpu_types": [{"gpu_type": "A100", "free": "8"}]}),
    "no limits": changed(limits=None),
    "no capacity": changed(capacity=None),
    "an answer that is too long": changed(padding="x" * 5 * 2**20),
}


@pytest.mark.parametrize(
    ("no_proxy", "answered"), [("", True), ("127.0.0.2", True), ("127.0.0.1", False), ("*", False)]
)
def test_the_sites_proxy_is_asked_as_its_variables_say(client_module, portal, monkeypatch, no_proxy, answered):
    """The double is the proxy and answers; nobody else is there."""
    monkeypatch.setenv("http_proxy", portal.url)
    monkeypatch.setenv("no_proxy", no_proxy)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        elsewhere = SimpleNamespace(url=url, token_file=portal.token_file)
        question = methodcaller("limits", "alice")
        if answered:
            assert ask(client_module, elsewhere, question).limits.gpu == 2
        else:
            with pytest.raises(client_module.PortalAwayError, match="Cannot connect"):
                ask(client_module, elsewhere, question)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_no_answer(client_module, portal, lie):
    portal.mode = lambda path: LIES[lie]
    with pytest.raises(client_module.PortalAwayError):
        ask(client_module, portal, lambda client: client.profiles("alice"))


RESERVATIONS = {
    "no end": {"id": "a"},
    "over already": {"id": "a", "expires_at": "2020-01-01T00:00:00Z"},
    "no id": {"expires_at": "2999-01-01T00:00:00Z"},
    "no time": {"id": "a", "expires_at": 5},
}


@pytest.mark.parametrize("lie", RESERVATIONS)
def test_a_reservation_that_is_none(client_module, portal, lie):
    portal.mode = lambda path: json.dumps(RESERVATIONS[lie]).encode()
    profile = client_module.read_profile(PROFILE)
    with pytest.raises(client_module.PortalAwayError):
        ask(client_module, portal, lambda client: client.reserve("key", "alice", profile))


def test_a_reservation_whose_pod_is_there_has_no_end(client_module, portal):
    portal.mode = lambda path: b'{"id": "a", "state": "settled", "expires_at": null}'
    profile = client_module.read_profile(PROFILE)
    reservation = ask(client_module, portal, lambda client: client.reserve("key", "alice", profile))
    assert reservation.settled and reservation.seconds == float("inf")


@pytest.mark.parametrize("mode", ["down", "slow", "error"])
def test_no_answer(client_module, portal, mode):
    portal.mode = mode
    with pytest.raises(client_module.PortalAwayError):
        ask(client_module, portal, lambda client: client.limits("alice"))


TOKENS = {
    "wrong": ("wrong-secret", "401"),
    "empty": ("\n", "has no token"),
    "two lines": ("wrong-secret\nX-Other: 1", "has no token"),
    "no ASCII": ("wrong-secret\u00fc", "has no token"),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_wrong_token(client_module, portal, tmp_path, kind):
    token, message = TOKENS[kind]
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(client_module.PortalAwayError, match=message) as error:
        ask(client_module, portal, lambda client: client.limits("alice"), token_file=tmp_path / "token")
    assert "wrong-secret" not in f"{error.value!r}"


def test_no_token(client_module, portal, tmp_path):
    with pytest.raises(client_module.PortalAwayError, match="has no token"):
        ask(client_module, portal, lambda client: client.limits("alice"), token_file=tmp_path / "token")


def test_a_token_that_changes(client_module, portal):
    """It is read again when there is another, and not for each question."""

    async def rotate(client):
        await client.limits("alice")
        portal.set_token("another")
        try:
            await client.limits("alice")
        finally:
            portal.set_token(spawn_doubles.TOKEN)
        await client.limits("alice")

    ask(client_module, portal, rotate)


def test_nobody_listens(client_module, portal):
    async def elsewhere(client):
        client._url = "http://127.0.0.1:1"
        await client.limits("alice")

    with pytest.raises(client_module.PortalAwayError):
        ask(client_module, portal, elsewhere)


def test_a_crowd_does_not_wait_for_a_slow_portal_one_by_one(client_module, portal):
    portal.mode = "slow"

    async def crowd(client):
        for _ in range(50):
            with pytest.raises(client_module.PortalAwayError):
                await client.limits("alice")

    began = time.monotonic()
    asked = len(portal.requests)
    ask(client_module, portal, crowd, timeout_seconds=1, retry_seconds=600)
    # One by one it would be 50 seconds.
    assert time.monotonic() - began < 25
    assert len(portal.requests) - asked == 1


def test_connections_are_kept(client_module, portal):
    peers = set()

    async def watch(client):
        for _ in range(5):
            await client.limits("alice")
        connector = client._session.connector
        peers.update(id(protocol) for held in connector._conns.values() for protocol, _ in held)

    ask(client_module, portal, watch)
    assert len(peers) == 1


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a?b=c", "a#b", "ü", "a b", "%2e%2e"])
def test_names_stay_one_part_of_the_path(client_module, portal, name):
    asked = len(portal.requests)
    account = ask(client_module, portal, lambda client: client.limits(name))
    assert account.limits.gpu == 2
    assert portal.requests[asked:] == [("GET", f"/users/{name}/limits")]


def test_ends_of_servers(client_module, portal):
    portal.ends = [{"username": "alice", "servername": "", "ends_at": "2030-01-01T00:00:00", "reason": "x"}]
    (end,) = ask(client_module, portal, lambda client: client.enforcement())
    assert end["ends_at"].tzinfo == UTC and end["servername"] == ""
    portal.mode = lambda path: b'{"items": [{"username": "alice"}]}'
    with pytest.raises(client_module.PortalAwayError):
        ask(client_module, portal, lambda client: client.enforcement())
