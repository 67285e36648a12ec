"""A hub with a portal that has only the documented endpoints, a hub without one, a hub that dies, and a crowd."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import sample
import spawn_doubles
from harness import wait_for

LABEL = spawn_doubles.LABEL
# Simultaneous starts of the crowd; 200 are the whole.
STARTS = int(os.environ.get("GPUHUB_HUB_STARTS") or sample.size(12, 24))


# ---- an external portal


@pytest.fixture(scope="module")
def external(make_portal):
    return make_portal(external=True)


@pytest.fixture(scope="module")
def external_kube(make_kube):
    return make_kube()


@pytest.fixture(scope="module")
def external_hub(make_spawning_hub, external_kube, external):
    """The API of this one answers when a start has ended, for ten seconds: JupyterHub's own default."""
    hub = make_spawning_hub()
    hub.begin(external_kube, hub.portal(external), SLOW_SPAWN="10")
    return hub


def test_limits_of_an_external_portal_hold(external_hub, external_kube, external):
    hub = external_hub
    hub.add("alice")
    alice = hub.browser()
    assert alice.login("alice", "anything")
    page = alice.get("spawn").text
    assert "GPUs in use: 0 of 2." in page and "Free now" not in page
    names = [f"server-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: hub.ask("alice", {"profile": "gpu-any-1"}, name), names))
    assert Counter(answer.status_code for answer in answers) == {201: 2, 409: 2}
    assert external_kube.gpus("alice") == 2
    (refusal,) = {answer.json()["message"] for answer in answers if answer.status_code == 409}
    assert "your limit is 2 GPUs" in refusal and "Choose a smaller size" in refusal
    assert {path for _, path in external.requests} == {"/users/alice/limits"}


def test_servers_of_a_hub_that_died_count(external_hub, external_kube, external):
    """The portal has not seen them yet."""
    hub = external_hub
    hub.add("bob")
    assert hub.ask("bob", {"profile": "gpu-any-2"}).status_code == 201
    hub.process.kill()
    hub.process.wait()
    hub.begin(external_kube, hub.portal(external), SLOW_SPAWN="10")
    assert set(hub.servers("bob")) == {""}
    answer = hub.ask("bob", {"profile": "gpu-any-1"}, "two")
    assert answer.status_code == 409 and "2 GPUs reserved" in answer.json()["message"]
    hub.end_server("bob")
    assert hub.ask("bob", {"profile": "gpu-any-1"}, "two").status_code == 201


def test_an_external_portal_is_away(external_hub, external):
    hub = external_hub
    hub.add("carol")
    external.mode = "down"
    try:
        answer = hub.ask("carol", {"profile": "cpu-1-1"})
    finally:
        external.mode = "up"
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "60"
    assert "The usage portal does not answer" in answer.json()["message"]


# ---- no portal


@pytest.fixture(scope="module")
def static_hub(make_spawning_hub, make_kube):
    hub, kube = make_spawning_hub(), make_kube()
    entries = [
        {
            "slug": slug,
            "display_name": f"Size <{slug}> {{{{ 7 * 7 }}}}",
            "kubespawner_override": {"cpu_limit": 1, "extra_resource_limits": {"nvidia.com/gpu": str(gpu)}},
        }
        for slug, gpu in (("small", 0), ("large", 4))
    ]
    hub.begin(kube, {"profiles": entries})
    hub.kube = kube
    return hub


def test_static_profiles(static_hub):
    hub = static_hub
    hub.add("alice")
    alice = hub.browser()
    assert alice.login("alice", "anything")
    page = alice.get("spawn").text
    assert "Size &lt;small&gt; {{ 7 * 7 }}" in page
    assert "There is no size" in hub.begin_server("alice", {"profile": "huge"})
    answer = alice.post("spawn", profile="huge", cpu_limit="99")
    assert answer.status_code == 400 and "There is no size &#39;huge&#39; for you" in answer.text
    assert alice.post("spawn", profile="large", cpu_limit="99").status_code == 302
    assert hub.outcome("alice") == "ready"
    (pod,) = hub.kube.of("alice")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert hub.begin_server("alice", {}, "two") == "ready"
    assert hub.kube.gpus("alice") == 4


# ---- a hub that dies


@pytest.fixture(scope="module")
def kube(make_kube):
    return make_kube()


@pytest.fixture(scope="module")
def portal(make_portal, kube):
    return make_portal(kube)


@pytest.fixture(scope="module")
def hub(make_spawning_hub, kube, portal):
    """A hub whose servers must start within three seconds."""
    hub = make_spawning_hub()
    hub.begin(kube, hub.portal(portal), START_TIMEOUT="3", FAILURE_LIMIT="0")
    return hub


def restart(hub, kube, portal) -> None:
    hub.process.kill()
    hub.process.wait()
    hub.begin(kube, hub.portal(portal), START_TIMEOUT="3", FAILURE_LIMIT="0")


def test_a_start_that_takes_too_long_is_given_back(hub, kube, portal):
    hub.add("slow")
    kube.held = lambda pod: "slow" in pod["metadata"]["name"]
    assert "did not start in 3" in hub.begin_server("slow", {"profile": "gpu-a100-2"}) or not kube.of("slow")
    kube.held = lambda pod: False
    identity = kube.created[-1]["metadata"]["labels"][LABEL]
    wait_for("it to be given back", lambda: portal.asked("DELETE", f"/reservations/{identity}"))
    # The pod held its GPUs, though it never ran: that is told too.
    uid = kube.created[-1]["metadata"]["uid"]
    told = lambda: {event["kind"] for event in portal.witness.values() if event["pod_uid"] == uid}  # noqa: E731
    wait_for("both events", lambda: told() == {"start", "stop"})
    assert hub.begin_server("slow", {"profile": "gpu-a100-2"}) == "ready"


def test_a_hub_that_dies_while_it_starts_a_server(hub, kube, portal):
    """What was reserved runs out, unless the pod is there and holds it."""
    hub.add("dying")
    portal.seconds = 2
    # The hub dies with the reservation made, before there is a pod.
    kube.fail = "dying"
    taken = lambda: [one for one in portal.reservations.values() if one["username"] == "dying"]  # noqa: E731
    hub.ask("dying", {"profile": "gpu-a100-2"})
    wait_for("the reservation", taken)
    restart(hub, kube, portal)
    kube.fail = ""
    wait_for("it to run out", lambda: not portal.active("dying"))
    portal.seconds = 60
    assert hub.begin_server("dying", {"profile": "gpu-a100-2"}) == "ready"


def test_the_witness_survives_the_hub(hub, kube, portal):
    for name in ("stays", "goes"):
        hub.add(name)
    portal.mode = "up"
    for name in ("stays", "goes"):
        hub.begin_server(name, {"profile": "cpu-1-1"})
    portal.mode = "down"
    uids = {name: kube.of(name)[0]["metadata"]["uid"] for name in ("stays", "goes")}
    hub.process.kill()
    hub.process.wait()
    kube.lose(kube.of("goes")[0]["metadata"]["name"])
    portal.witness.clear()
    portal.mode = "up"
    hub.begin(kube, hub.portal(portal), START_TIMEOUT="3", FAILURE_LIMIT="0")

    def told(name: str) -> list[tuple[str, bool]]:
        return [(one["kind"], one["pod"]["exact"]) for one in portal.witness.values() if one["pod_uid"] == uids[name]]

    # When it was gone nobody saw; only until when.
    wait_for("the end of what is gone", lambda: ("stop", False) in told("goes"))
    hub.end_server("stays")
    wait_for("the end of what stayed", lambda: ("stop", True) in told("stays"))
    assert all(datetime.fromisoformat(one["at"]) for one in portal.witness.values())


# ---- a crowd


def test_a_crowd_while_the_portal_dies_and_comes_back(make_spawning_hub, make_kube, make_portal):
    """No pod is ever made beyond a limit, or beyond the GPUs that there are."""
    kube = make_kube()
    portal = make_portal(kube)
    users = [f"user-{number}" for number in range(max(STARTS // 4, 2))]
    portal.nodes = {"node-1": 2 * len(users) - 1}
    most: Counter = Counter()

    def look() -> None:
        for username in users:
            most[username] = max(most[username], kube.gpus(username))
        most[""] = max(most[""], kube.gpus())

    kube.on_create = look
    hub = make_spawning_hub()
    hub.begin(kube, hub.portal(portal))
    hub.add(*users)
    chance = random.Random(5)
    for username in users:
        browser = hub.browser()
        assert browser.login(username, "anything")
        assert re.search("Free now", browser.get("spawn").text)
    outcomes: Counter = Counter()

    def start(number: int) -> None:
        username = users[number % len(users)]
        if number % 3 == 0:
            portal.mode = chance.choice(["up", "down", "error"])
        text = hub.begin_server(username, {"profile": "gpu-a100-1"}, f"server-{number}")
        outcomes["ready" if text == "ready" else "refused"] += 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(start, range(STARTS)))
    portal.mode = "up"
    assert max(count for name, count in most.items() if name) == 2, most
    assert most[""] <= sum(portal.nodes.values()), most
    assert outcomes["ready"] >= len(users), outcomes
    assert hub.process.poll() is None
