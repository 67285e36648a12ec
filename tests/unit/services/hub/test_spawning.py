"""Starting servers in a real hub, by every door: what is granted, refused and given back."""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import requests
from harness import wait_for

LABEL = "gpuhub.io/reservation"
NUMBERS = itertools.count()
LIMIT_OF_2 = re.compile(r"your limit is 2 GPUs")


@pytest.fixture(scope="module")
def kube(make_kube):
    return make_kube()


@pytest.fixture(scope="module")
def portal(make_portal, kube):
    portal = make_portal(kube)
    portal.nodes = {"node-1": 64}
    return portal


@pytest.fixture(scope="module")
def hub(make_spawning_hub, kube, portal):
    """A hub with the platform's own portal, that exits after two failures in a row."""
    hub = make_spawning_hub()
    hub.begin(kube, hub.portal(portal))
    return hub


@pytest.fixture
def user(hub, kube, portal, request):
    """A user of a test's own, whose servers are stopped after it."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    name = f"{words[:36].strip('-')}-{next(NUMBERS)}"
    hub.add(name)
    yield name
    if portal.mode != "up":
        come_back(portal)
    kube.held = lambda pod: False
    for server in hub.servers(name):
        hub.end_server(name, server)


@pytest.fixture
def browser(hub, user):
    browser = hub.browser()
    assert browser.login(user, "anything")
    return browser


def come_back(portal) -> None:
    """Let the portal be itself again, and wait until the hub knows it: whatever it asked before has failed by then."""
    portal.mode = "up"
    wait_for("questions of before to be given up", lambda: all(one.is_closing() for one in portal.waiting))
    asked = portal.asked("GET", "/enforcement")
    wait_for("the next question", lambda: portal.asked("GET", "/enforcement") > asked)


def slug(gpus: int) -> str:
    return f"gpu-a100-{gpus}" if gpus else "cpu-1-1"


def container(pod: dict) -> dict:
    return pod["spec"]["containers"][0]


def test_a_server_has_what_was_granted(hub, kube, portal, user):
    asked = len(portal.requests)
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"
    (pod,) = kube.of(user)
    resources = container(pod)["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["nvidia.com/gpu"] == "2"
    (reservation,) = [one for one in portal.reservations.values() if one["username"] == user]
    assert pod["metadata"]["labels"][LABEL] == reservation["id"]
    (term,) = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"][0]["values"] == ["NVIDIA-A100-SXM4-80GB"]
    # One question beside the reservation.
    mine = [path for _, path in portal.requests[asked:] if user in path or "reservations" in path]
    assert mine == [f"/users/{user}/profiles", "/reservations"]


def test_a_size_without_gpus_has_none(hub, kube, user):
    """Not even those of the installation's defaults, nor by the variable that images of CUDA bring."""
    assert hub.begin_server(user, {"profile": slug(0)}) == "ready"
    (pod,) = kube.of(user)
    # With 0 kubelet would refuse the pod after a boot, until the plugin of its devices has come.
    assert not any("nvidia.com/gpu" in stated for stated in container(pod)["resources"].values())
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container(pod)["env"]


@pytest.mark.parametrize("body", [None, {}, [], "text", [{"profile": "gpu-a100-8"}], {"profile": None}])
def test_a_request_that_names_no_size_has_the_first(hub, kube, user, body):
    assert hub.begin_server(user, body) == "ready"
    assert kube.gpus(user) == 0
    # Nothing of it is kept that would make the next start fail.
    hub.end_server(user)
    assert hub.begin_server(user) == "ready"


def test_only_the_size_counts_of_a_request(hub, kube, user):
    body = {
        "profile": slug(1),
        "cpu_limit": 99,
        "image": "evil",
        "extra_resource_limits": {"nvidia.com/gpu": "8"},
        "kubespawner_override": {"privileged": True},
        "profile-option-gpu-a100-1--image": "evil",
    }
    assert hub.begin_server(user, body) == "ready"
    (pod,) = kube.of(user)
    limits = container(pod)["resources"]["limits"]
    assert (float(limits["cpu"]), int(limits["memory"]), limits["nvidia.com/gpu"]) == (1, 2**30, "1")
    assert "evil" not in str(pod["spec"])


def test_an_empty_body_uses_the_size_of_last_time_and_checks_it(hub, portal, kube, user):
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"
    hub.end_server(user)
    assert hub.begin_server(user) == "ready"
    assert kube.gpus(user) == 2
    hub.end_server(user)
    portal.limits[user] = 1
    assert "your limit is 1 GPU" in hub.begin_server(user)


REFUSED = {
    "above the limit": ({"profile": "gpu-a100-4"}, "4 GPUs needed, your limit is 2 GPUs. Choose a smaller size"),
    "no such size": ({"profile": "gpu-h100-1"}, "There is no size 'gpu-h100-1' for you. Load the page again"),
    "markup": ({"profile": "<script>alert(1)</script>%s{0}"}, "There is no size '<script>alert(1)</script>%s{0}'"),
    "a list": ({"profile": ["cpu-1-1"]}, "A size is a name, such as: cpu-1-1"),
    "an object": ({"profile": {"slug": "cpu-1-1"}}, "A size is a name"),
    "a number": ({"profile": 4}, "A size is a name"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_through_the_api(hub, kube, user, what):
    """More of them than the failures after which the hub exits."""
    body, text = REFUSED[what]
    assert text in hub.begin_server(user, body)
    assert kube.of(user) == []
    assert hub.process.poll() is None


def test_refusals_are_no_failures(hub, user):
    for _ in range(4):
        assert LIMIT_OF_2.search(hub.begin_server(user, {"profile": slug(8)}))
    # JupyterHub exits two seconds after the last failure; a start that succeeds would hide what was counted before.
    other = f"{user}-2"
    hub.add(other)
    assert LIMIT_OF_2.search(hub.begin_server(other, {"profile": slug(4)}))
    assert "Aborting" not in hub.log() and "consecutive spawns failed" not in hub.log()


def test_refusals_in_a_form(hub, kube, user, browser):
    page = browser.get("spawn").text
    offered = {
        match[1]: "disabled" not in match[0]
        for match in re.finditer(r'<input[^>]*type="radio"[^>]*value="([^"]+)"[^>]*>', page)
    }
    assert offered[slug(1)] and offered[slug(2)] and not offered[slug(4)] and not offered[slug(8)]
    assert "4 GPUs needed, your limit is 2 GPUs" in page
    assert re.search(r"Free now: \d+ A100", page)
    # A form that was changed, or is old.
    answer = browser.post("spawn", profile=slug(8))
    assert answer.status_code == 409
    assert "8 GPUs needed, your limit is 2 GPUs" in answer.text
    assert kube.of(user) == []


def test_a_stale_form(hub, kube, portal, user, browser):
    assert slug(2) in browser.get("spawn").text
    portal.limits[user] = 1
    wait_for("the new limit", lambda: "your limit is 1 GPU" in browser.post("spawn", profile=slug(2)).text)
    assert kube.of(user) == []


def test_a_form_starts_what_it_offers(hub, kube, portal, user, browser):
    asked = len(portal.requests)
    answer = browser.post("spawn", profile=slug(1), image="evil")
    assert answer.status_code == 302, answer.text
    assert hub.outcome(user) == "ready"
    assert kube.gpus(user) == 1
    assert "evil" not in str(kube.of(user))
    paths = [path for _, path in portal.requests[asked:]]
    # The form before, and the start: its check in the form's answer is that of the start.
    assert paths.count("/reservations") == 1
    assert paths.count(f"/users/{user}/profiles") <= 2


def test_a_link_with_a_size(hub, kube, user, browser):
    answer = browser.get(f"spawn?profile={slug(4)}")
    assert answer.status_code == 409 and LIMIT_OF_2.search(answer.text)
    assert kube.of(user) == []
    browser.session.get(f"{hub.url}/hub/spawn?profile={slug(1)}", allow_redirects=False, timeout=60)
    assert hub.outcome(user) == "ready"
    assert kube.gpus(user) == 1


def test_named_servers_count_together(hub, kube, user):
    assert hub.begin_server(user, {"profile": slug(1)}, "one") == "ready"
    assert hub.begin_server(user, {"profile": slug(1)}, "two") == "ready"
    assert LIMIT_OF_2.search(hub.begin_server(user, {"profile": slug(1)}, "three"))
    assert kube.gpus(user) == 2
    assert hub.begin_server(user, {"profile": slug(0)}, "four") == "ready"


def test_two_simultaneous_starts(hub, kube, user):
    names = [f"server-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda name: hub.begin_server(user, {"profile": slug(1)}, name), names))
    assert outcomes.count("ready") == 2, outcomes
    assert kube.gpus(user) == 2


def test_an_administrator_starts_for_somebody(hub, kube, portal, user):
    """The limit is the owner's."""
    portal.limits["root"] = 64
    root = hub.browser()
    assert root.login("root", "anything")
    page = root.get(f"spawn/{user}").text
    assert "4 GPUs needed, your limit is 2 GPUs" in page
    answer = root.post(f"spawn/{user}", profile=slug(4))
    assert answer.status_code == 409 and LIMIT_OF_2.search(answer.text)
    assert root.post(f"spawn/{user}", profile=slug(2)).status_code == 302
    assert hub.outcome(user) == "ready"
    assert kube.gpus(user) == 2 and kube.gpus("root") == 0


def test_a_second_user_sees_fewer_free(hub, portal, user, browser):
    def free() -> int:
        return int(re.search(r"Free now: (\d+) A100", browser.get("spawn").text)[1])

    before = free()
    other = f"{user}-2"
    hub.add(other)
    assert hub.begin_server(other, {"profile": slug(2)}) == "ready"
    wait_for("two fewer", lambda: free() == before - 2)
    hub.end_server(other)


def test_the_portal_refuses_what_the_form_offered(hub, kube, portal, user):
    """Somebody else was quicker."""
    detail = "Not free now on any one node: 1 GPU needed, the most is 0 GPUs. Try again later."
    portal.refuse = lambda wish: {"code": "none_free", "detail": detail} if wish["username"] == user else None
    try:
        assert detail in hub.begin_server(user, {"profile": slug(1)})
    finally:
        portal.refuse = lambda wish: None
    assert kube.of(user) == [] and portal.active(user) == []


def test_a_failed_start_is_given_back(hub, kube, portal, user):
    """The pod could not even be made."""
    kube.fail = user
    try:
        hub.begin_server(user, {"profile": slug(2)})
    finally:
        kube.fail = ""
    wait_for("the reservation to be given back", lambda: portal.asked("DELETE", "/reservations/"))
    wait_for("nothing to be reserved", lambda: portal.active(user) == [])
    # This one was a failure; one that succeeds lets the hub forget it.
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"


def test_a_cancelled_start_is_given_back(hub, kube, portal, user):
    kube.held = lambda pod: user in pod["metadata"]["name"]
    assert hub.ask(user, {"profile": slug(2)}).status_code == 202
    wait_for("the pod", lambda: kube.of(user))
    hub.end_server(user)
    wait_for("the pod to go", lambda: not kube.of(user))
    kube.held = lambda pod: False
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"


def test_a_reservation_is_renewed_until_the_portal_has_seen_the_pod(hub, kube, portal, user):
    portal.seconds = 3
    pods, portal.kube = portal.kube, None
    try:
        assert hub.begin_server(user, {"profile": slug(1)}) == "ready"
        identity = kube.of(user)[0]["metadata"]["labels"][LABEL]
        renewals = lambda: portal.asked("PUT", f"/reservations/{identity}/renew")  # noqa: E731
        wait_for("two renewals", lambda: renewals() >= 2)
    finally:
        portal.seconds, portal.kube = 60, pods
    # The next is in a third of three seconds, or of sixty by then; it settles.
    assert portal._state(portal.reservations[identity]) == "settled"


def test_the_portal_is_away(hub, kube, portal, user, browser):
    """What it said before still counts, with what was granted since; who is not known is refused."""
    assert "Free now" in browser.get("spawn").text
    stranger = f"{user}-2"
    hub.add(stranger)
    portal.mode = "down"
    text = hub.begin_server(stranger, {"profile": slug(0)})
    assert "The usage portal does not answer" in text and "Try again in a minute" in text
    wait_for("the form to say so", lambda: "This is what it said at" in browser.get("spawn").text)
    assert hub.begin_server(user, {"profile": slug(1)}, "one") == "ready"
    assert hub.begin_server(user, {"profile": slug(1)}, "two") == "ready"
    text = hub.begin_server(user, {"profile": slug(1)}, "three")
    assert "2 GPUs reserved" in text and "it said so at" in text
    # The label is the key under which it can be handed in, and what the portal settles by.
    assert all(pod["metadata"]["labels"][LABEL] for pod in kube.of(user))
    portal.mode = "up"
    # It is not asked again for a moment, and a stranger's start is refused until it is.
    wait_for("the portal to be asked again", lambda: "This is what it said at" not in browser.get("spawn").text)
    assert hub.begin_server(stranger, {"profile": slug(1)}) == "ready"
    hub.end_server(stranger)


def test_a_late_reservation_is_handed_in(hub, kube, portal, user, browser):
    browser.get("spawn")
    kube.held = lambda pod: user in pod["metadata"]["name"]
    portal.mode = "error"
    assert hub.ask(user, {"profile": slug(2)}).status_code == 202
    wait_for("the pod", lambda: kube.of(user))
    key = kube.of(user)[0]["metadata"]["labels"][LABEL]
    assert key not in portal.reservations
    # The portal counts the pod itself; here it did not see it yet.
    pods, portal.kube = portal.kube, None
    portal.mode = "up"
    wait_for("the reservation", lambda: key in portal.reservations)
    portal.kube = pods
    kube.release(kube.of(user)[0]["metadata"]["name"])
    assert hub.outcome(user) == "ready"


@pytest.mark.parametrize("mode", ["slow", "down", "error"])
def test_an_unknown_user_while_the_portal_is_not_itself(hub, portal, user, mode):
    portal.mode = mode
    assert "The usage portal does not answer" in hub.begin_server(user, {"profile": slug(0)})


def test_the_hub_answers_while_it_waits_for_the_portal(hub, portal, user):
    portal.waiting.clear()
    portal.mode = "slow"
    hub.ask(user, {"profile": slug(0)})
    wait_for("the hub to wait", lambda: portal.waiting)
    assert requests.get(f"{hub.url}/hub/health", timeout=60).ok
    assert not portal.waiting[-1].is_closing()
    assert "The usage portal does not answer" in hub.outcome(user)


def test_budgets_end_servers(hub, kube, portal, user, browser):
    assert hub.begin_server(user, {"profile": slug(1)}, "one") == "ready"
    assert hub.begin_server(user, {"profile": slug(1)}, "two") == "ready"
    far = datetime.now(UTC) + timedelta(minutes=10)
    other = {"username": "root", "servername": "", "ends_at": far.isoformat(), "reason": "other"}
    end = {"username": user, "servername": "one", "ends_at": far.isoformat(), "reason": "Budget of <b>10</b> GPU hours"}
    portal.ends = [end, other]

    def notices(**headers):
        answer = requests.get(f"{hub.url}/hub/api/gpuhub/notices", headers=headers, timeout=60)
        return answer.json().get("notices", answer.status_code)

    wait_for("the notice", lambda: browser.api("GET", "gpuhub/notices").json()["notices"])
    (notice,) = browser.api("GET", "gpuhub/notices").json()["notices"]
    assert (notice["servername"], notice["reason"]) == ("one", end["reason"])
    assert 500 < notice["seconds"] <= 600
    assert notice["text"].startswith("Your server one will be stopped in 10 min")
    browser.session.headers["Accept-Language"] = "zh-CN"
    assert "您的服务器" in browser.api("GET", "gpuhub/notices").json()["notices"][0]["text"]
    # A server's own token: its own notice and no other's; without any, or of a service, none.
    tokens = {
        server: hub.api("POST", f"users/{user}/tokens", {"scopes": [f"access:servers!server={user}/{server}"]})
        for server in ("one", "two")
    }
    tokens = {server: answer.json()["token"] for server, answer in tokens.items()}
    assert [one["servername"] for one in notices(Authorization=f"token {tokens['one']}")] == ["one"]
    assert notices(Authorization=f"token {tokens['two']}") == []
    assert notices() == 403
    # An administrator gives more time, then takes it away.
    soon = datetime.now(UTC) + timedelta(seconds=1)
    portal.ends = [{**end, "ends_at": soon.isoformat()}]
    wait_for("the server to stop", lambda: set(hub.servers(user)) == {"two"})
    wait_for("its pod to go", lambda: len(kube.of(user)) == 1)
    portal.ends = []


def test_the_witness_tells_what_started_and_stopped(hub, kube, portal, user):
    portal.mode = "up"
    assert hub.begin_server(user, {"profile": slug(1)}) == "ready"
    (pod,) = kube.of(user)
    uid = pod["metadata"]["uid"]

    wait_for("the start to be told", lambda: told_of(portal, uid) == [("start", True)])
    portal.mode = "down"
    hub.end_server(user)
    assert told_of(portal, uid) == [("start", True)]
    portal.mode = "up"
    wait_for("the stop to be told", lambda: told_of(portal, uid) == [("start", True), ("stop", True)])
    (start, stop) = [event for event in portal.witness.values() if event["pod_uid"] == uid]
    assert start["at"] == pod["status"]["conditions"][0]["lastTransitionTime"]
    assert start["pod"]["username"] == user and start["pod"]["gpu"] == 1 and start["pod"]["node"] == "node-1"
    assert datetime.fromisoformat(stop["at"]).tzinfo


def told_of(portal, uid: str) -> list[tuple[str, bool]]:
    """What the witness told of a pod, and whether it says that it saw it happen."""
    return [(event["kind"], event["pod"]["exact"]) for event in portal.witness.values() if event["pod_uid"] == uid]


@pytest.mark.parametrize(("reason", "containers"), [("Evicted", False), ("OOMKilled", True), ("NodeShutdown", True)])
def test_the_witness_tells_of_pods_that_end_by_themselves(hub, kube, portal, user, browser, reason, containers):
    """When that was, somebody else has seen: the hub tells until when."""
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"
    pod = kube.of(user)[0]["metadata"]
    kube.end(pod["name"], reason, containers)

    def is_told() -> bool:
        browser.get("home")
        return told_of(portal, pod["uid"]) == [("start", True), ("stop", False)]

    wait_for("the stop to be told", is_told)
    wait_for("the pod to go", lambda: not kube.of(user))
    assert f"has ended: {reason}: Words of {reason}" in hub.log()
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"


def test_a_pod_that_its_node_refuses(hub, kube, portal, user):
    """As after a boot, until the node knows its devices: the start says so at once, and nothing was held."""
    kube.held = lambda pod: user in pod["metadata"]["name"]
    assert hub.ask(user, {"profile": slug(1)}).status_code == 202
    pod = wait_for("the pod", lambda: kube.of(user))[0]["metadata"]
    kube.end(pod["name"], "UnexpectedAdmissionError")
    text = hub.outcome(user)
    assert "ended before it ran, on node node-1: UnexpectedAdmissionError: Words of" in text and "Try again" in text
    wait_for("the pod to go", lambda: not kube.of(user))
    kube.held = lambda pod: False
    assert hub.begin_server(user, {"profile": slug(1)}) == "ready"
    wait_for("the next start to be told", lambda: told_of(portal, kube.of(user)[0]["metadata"]["uid"]))
    assert told_of(portal, pod["uid"]) == []


def test_languages(hub, kube, portal, user, browser):
    browser.session.headers["Accept-Language"] = "zh-TW,zh;q=0.9,en;q=0.8"
    page = browser.get("spawn").content.decode()
    assert 'lang="zh-Hant"' in page and "僅 CPU" in page and "現在可以啟動" in page
    words = "超過您的上限：需要 4 個 GPU，您的上限是 2 個 GPU。"
    assert words in page
    assert words in browser.post("spawn", profile=slug(4)).content.decode()
    # The start itself, as the progress tells it.
    answer = hub.api("POST", f"users/{user}/server", {"profile": slug(4)}, language="zh-TW")
    assert answer.status_code == 202 and words in hub.outcome(user)
    # And by the portal's own decision.
    problem = {"code": "none_free", "numbers": {"gpu": {"needed": 2, "largest_free": 0, "free": 0}}}
    portal.refuse = lambda wish: problem if wish["username"] == user else None
    try:
        assert hub.api("POST", f"users/{user}/server", {"profile": slug(2)}, language="zh-CN").status_code == 202
        assert "目前没有足够的空闲资源：需要 2 个 GPU" in hub.outcome(user)
    finally:
        portal.refuse = lambda wish: None


def test_the_witness_does_not_claim_to_have_seen_a_lost_pod_go(hub, kube, portal, user, browser):
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"
    uid = kube.of(user)[0]["metadata"]["uid"]
    kube.lose(kube.of(user)[0]["metadata"]["name"])

    def is_told() -> bool:
        # The page of a server looks whether it runs.
        browser.get("home")
        return told_of(portal, uid) == [("start", True), ("stop", False)]

    wait_for("the stop to be told", is_told)
    assert hub.begin_server(user, {"profile": slug(2)}) == "ready"
