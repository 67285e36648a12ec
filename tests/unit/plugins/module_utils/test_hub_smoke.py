"""The smoke test, against a hub that is made of answers."""

from __future__ import annotations

import itertools
import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import hub_smoke
from ansible_collections.gpuhub.platform.plugins.module_utils.hub_smoke import (
    Pod,
    SmokeTest,
    SmokeTestError,
    StillStarting,
)

PODS = (Pod("jupyter-smoke", "worker1"),)
SERVER = "/hub/api/users/smoke/server"
READY = [{"progress": 0, "message": "Server requested"}, {"progress": 100, "ready": True, "message": "Server ready"}]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(hub_smoke, "POLL_SECONDS", 0)
    monkeypatch.setattr(hub_smoke, "HUB_SECONDS", 0)


class Answer:
    def __init__(self, code, body=None, lines=()):
        self.status_code, self._body, self._lines = code, body, lines
        self.text = json.dumps(body)

    def json(self):
        return self._body

    def iter_lines(self, **_):
        yield from self._lines

    def close(self):
        pass


class Hub:
    """Answers like a hub with one user; remembers what it was asked."""

    def __init__(self, running=False, events=READY, start=201, refuse=None, busy=0, away=0):
        self.busy, self.away = busy, away
        self.running, self.events, self.start, self.refuse, self.asked = running, events, start, refuse, []

    def request(self, method, url, headers, timeout, **options):
        assert headers == {"Authorization": "token secret"}
        assert 0 < timeout <= 60
        path = url[len("http://hub:30080") :]
        self.asked.append(f"{method} {path}")
        if self.refuse in (f"{method} {path}", "everything"):
            raise ConnectionRefusedError("refused")
        if path == "/hub/api":
            self.away -= 1
            return Answer(503 if self.away >= 0 else 200)
        if path == "/hub/api/users/smoke":
            servers = {"": {"ready": True}} if self.running else {}
            return Answer(409) if method == "POST" else Answer(200, {"servers": servers})
        if path == SERVER and method == "DELETE" and self.busy:
            self.busy -= 1
            return Answer(500, {"message": "pending check"})
        if path == SERVER:
            self.running = method == "POST"
            return Answer(self.start, {"message": "no"}) if method == "POST" else Answer(204)
        if path == f"{SERVER}/progress":
            lines = itertools.chain.from_iterable(
                (f"data: {json.dumps(event)}", "", ": keepalive") for event in self.events
            )
            return Answer(200, lines=lines)
        return Answer(201, {"id": "k1"})


class Kernel:
    """A WebSocket whose kernel answers the first request."""

    def __init__(self, *messages):
        self.messages, self.closed = list(messages), False

    def __call__(self, url, headers, timeout):
        assert url.startswith("ws://hub:30080/user/smoke/api/kernels/k1/channels?session_id=")
        assert headers == {"Authorization": "token secret"}
        return self

    def send(self, text):
        self.message = json.loads(text)["header"]["msg_id"]

    def recv(self):
        kind, content, *parent = self.messages.pop(0)
        return json.dumps(
            {"msg_type": kind, "content": content, "parent_header": {"msg_id": parent[0] if parent else self.message}}
        )

    def close(self):
        self.closed = True


def kernel(*printed):
    return Kernel(
        ("status", {"execution_state": "idle"}, "somebody else's"),
        ("status", {"execution_state": "busy"}),
        *(("stream", {"name": "stdout", "text": text}) for text in printed),
        ("status", {"execution_state": "idle"}),
    )


def smoke(hub, connect=None, pods=PODS, timeout=30.0, **slices):
    return SmokeTest(
        "http://hub:30080/",
        "secret",
        "smoke",
        hub,
        connect or kernel("jupyter-", "smoke\n"),
        lambda user: list(pods),
        timeout,
        **slices,
    )


def test_a_working_hub():
    hub, connect = Hub(), kernel("jupyter-", "smoke\n")
    result = smoke(hub, connect).run()
    assert {key: result[key] for key in ("pod", "node", "output")} == {
        "pod": "jupyter-smoke",
        "node": "worker1",
        "output": "jupyter-smoke",
    }
    assert result["events"] == ["Server requested", "Server ready"]
    assert not hub.running
    assert connect.closed


def test_a_hub_that_its_proxy_does_not_know_yet_is_waited_for(monkeypatch):
    with pytest.raises(SmokeTestError, match="hub: GET http://hub:30080/hub/api answered 503"):
        smoke(Hub(away=2)).run()
    monkeypatch.setattr(hub_smoke, "HUB_SECONDS", 60)
    assert smoke(Hub(away=2)).run()["pod"] == "jupyter-smoke"


def test_a_server_that_was_left_behind_is_stopped_first():
    hub = Hub(running=True)
    smoke(hub).run()
    assert hub.asked.index(f"DELETE {SERVER}") < hub.asked.index(f"POST {SERVER}")


@pytest.mark.parametrize(
    ("hub", "connect", "pods", "message"),
    [
        (
            Hub(events=[{"message": "0/3 nodes"}, {"failed": True, "message": "Spawn failed"}]),
            None,
            None,
            "0/3 nodes | Spawn failed",
        ),
        (Hub(events=[{"message": "Server requested"}]), None, None, "ended its report .* Server requested"),
        (Hub(start=403), None, None, f"start: POST http://hub:30080{SERVER} answered 403"),
        (Hub(refuse=f"GET {SERVER}/progress"), None, None, "progress: GET .* refused"),
        (Hub(), kernel("elsewhere"), None, "ran on 'elsewhere', .* 'jupyter-smoke'"),
        (Hub(), kernel(), None, "ran on ''"),
        (Hub(), Kernel(("error", {"ename": "OSError", "evalue": "broken"})), None, "cell: OSError: broken"),
        (Hub(), Kernel(), None, "cell: ws://.* IndexError"),
        (Hub(), None, (), "reports 0 pods for user smoke"),
        (Hub(), None, (Pod("a", "x"), Pod("b", "x")), "reports 2 pods"),
    ],
)
def test_failures_are_told_and_leave_no_server(hub, connect, pods, message):
    options = {} if pods is None else {"pods": pods}
    with pytest.raises(SmokeTestError, match=message.replace("|", r"\|")):
        smoke(hub, connect, **options).run()
    assert not hub.running


def test_a_hub_that_is_away():
    with pytest.raises(SmokeTestError, match="hub: GET http://hub:30080/hub/api: refused"):
        smoke(Hub(refuse="everything")).run()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"status": 403, "message": "no"}', '{"status": 403, "message": "no"}'),
        (
            "<html><head><title>x</title></head><body>\n<p>not <b>here</b></p><script>var a;</script></body></html>",
            "not here",
        ),
        ('<head>x</head><nav>Home</nav><div class="error"><h1>403 : Forbidden</h1></div>', "403 : Forbidden"),
        ("a" * 400, "a" * 300),
        ("", ""),
    ],
)
def test_brief(body, text):
    assert hub_smoke.brief(body) == text


def test_time_is_bounded(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(hub_smoke.time, "monotonic", lambda: float(next(clock)))
    endless = Hub(events=itertools.repeat({"message": "Pulling image"}))
    with pytest.raises(
        SmokeTestError, match=r"start: not done in time \(30 s for everything\)\. The hub said: Pulling image"
    ):
        smoke(endless).run()
    # Stopping it has time of its own.
    assert not endless.running


def test_a_hub_that_is_busy_with_the_server_is_asked_again():
    hub = Hub(running=True, busy=3)
    smoke(hub).run()
    assert hub.asked.count(f"DELETE {SERVER}") == 5


def test_a_server_that_starts_slowly_is_followed_in_slices():
    hub = Hub(events=[{"message": "pulling the image"}, {"message": "pulling the image"}, *READY])
    with pytest.raises(StillStarting, match=r"0 of 30 s: the server of smoke starts \| (the hub has|pulling)"):
        smoke(hub, pause=1e-9).run()
    assert f"DELETE {SERVER}" not in hub.asked, "the server goes on starting"
    hub.asked.clear()
    assert smoke(hub, pause=8, waited=9).run()["seconds"] >= 9
    assert hub.asked[0] == f"GET {SERVER}/progress", "it is not started anew"
    assert f"DELETE {SERVER}" in hub.asked


def test_slices_share_one_time_out():
    with pytest.raises(SmokeTestError, match="30 s for everything"):
        smoke(Hub(), pause=8, waited=31).run()


def test_a_failure_is_explained_before_the_server_is_stopped():
    hub = Hub(events=[{"failed": True, "message": "no image"}])

    def explain(user):
        assert f"DELETE {SERVER}" not in hub.asked, "the pod must still be there"
        return [f"pod of {user}: Pending"]

    with pytest.raises(SmokeTestError, match="no image\npod of smoke: Pending"):
        smoke(hub, explain=explain).run()
    assert hub.asked[-1].endswith("users/smoke"), "and then it is stopped"
