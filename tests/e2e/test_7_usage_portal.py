"""GPUs with limits: who sees and starts what, who is refused and why, and who had them for how long."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from harness import (
    HUB,
    LAB,
    OUTPUT,
    PAGE_TIMEOUT,
    PORTAL,
    REPOSITORY,
    WORKERS,
    Deployment,
    Play,
    approve,
    browser_on_the_bastion,
    log_in,
    sign_up,
    start_server,
    stop_server,
    wait_for,
)
from playwright.sync_api import Browser, Page
from sample import SOAK

POLICY = f"-eusage_portal_policy_file={REPOSITORY}/tests/e2e/data/policy.yml"
USERS = {name: secrets.token_urlsafe(18) for name in ("alice", "bob", "carol")}
GPU = "nvidia.com/gpu"
NOTICE = re.compile("will be stopped")
# What a change of the portal's settings concerns. Whole runs of site.yml with and without it are those of other parts.
ROLES = ["usage_portal", "jupyterhub"]
# Seconds between the notice and the end at the least, by the lab's inventory.
LEAST_NOTICE = 120


@pytest.fixture(scope="module")
def deployed(deployment) -> Play:
    """A run with a policy."""
    return deployment.role(ROLES, "main", POLICY)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium on the bastion."""
    with browser_on_the_bastion() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(deployment, deployed, browser) -> dict[str, Page]:
    """A window of each user, who has an account and is logged in."""
    found = {}
    for name in (*USERS, "admin"):
        found[name] = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
        found[name].set_default_timeout(PAGE_TIMEOUT)
    for name, password in USERS.items():
        sign_up(found[name], name, password)
    log_in(found["admin"], "admin", deployment.secret("jupyterhub-password-admin"))
    approve(found["admin"], *USERS)
    for name, password in USERS.items():
        log_in(found[name], name, password)
    return found


def ask(deployment: Deployment, path: str, *arguments: str, expected: int = 200) -> Any:
    """The portal's answer to its administrator."""
    token = deployment.secret("usage-portal-admin-token")
    status, body = deployment.http(f"{PORTAL}/{path}", "-H", f"Authorization: Bearer {token}", *arguments)
    assert status == expected, body
    return json.loads(body or "null")


def sizes(page: Page) -> dict[str, str]:
    """What the form offers: for each size by its slug "" or why it cannot be started."""
    page.goto(f"{HUB}/hub/spawn")
    found = {}
    for choice in page.locator("input[name=profile]").all():
        state = page.locator(f"#{choice.get_attribute('aria-describedby')}").inner_text()
        found[choice.get_attribute("value")] = "" if choice.is_enabled() else state
    return found


def pod_of(deployment: Deployment, name: str) -> dict[str, Any] | None:
    """A user's server."""
    pods = deployment.objects("pods", "-n", "jhub", "-l", "component=singleuser-server")
    found = [pod for pod in pods if pod["metadata"]["annotations"]["hub.jupyter.org/username"] == name]
    return found[0] if found else None


def ends(deployment: Deployment, name: str) -> list[dict[str, Any]]:
    """Which servers of a user end, as the portal says."""
    return [end for end in ask(deployment, "enforcement")["items"] if end["username"] == name]


def budget_of_36_seconds(deployment: Deployment, name: str) -> str:
    """Have a user's server end by a budget that is used up soon; when it ends."""
    document = json.dumps({"budgets": [{"gpu_hours": "0.01", "every": "month"}]})
    ask(deployment, f"api/v1/policy/users/{name}", "-X", "PUT", "--json", document)
    return wait_for("the end is known", lambda: ends(deployment, name))[0]["ends_at"]


def held_from(pod: dict[str, Any]) -> str:
    """Since when a pod has held what it requests: since it was given a node."""
    conditions = pod["status"]["conditions"]
    return next(each["lastTransitionTime"] for each in conditions if each["type"] == "PodScheduled")


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_deploys_with_a_policy(deployed):
    assert deployed.code == 0, deployed.output[-6000:]
    assert deployed.changed_tasks() == ["gpuhub.platform.usage_portal : The portal has the policy of the file"]


def test_limits_are_answered_as_existing_clients_want_them(deployment, deployed):
    assert ask(deployment, "users/alice/limits") == {
        "cpu_limit_cores": 1,
        "memory_limit_gib": 16,
        "gpu_limit": 2,
        "usage": {"cpu_cores": 0, "memory_gib": 0, "gpu": 0},
    }


def test_nothing_is_answered_without_a_token(deployment, deployed):
    for path in ("users/alice/limits", "sessions", "capacity", "api/v1/usage?by=user"):
        assert deployment.http(f"{PORTAL}/{path}")[0] == 401, path
        assert deployment.http(f"{PORTAL}/{path}", "-H", "Authorization: Bearer wrong")[0] == 401, path


def test_a_limit_of_two_offers_two_and_says_why_not_four_and_eight(pages):
    offered = sizes(pages["alice"])
    pages["alice"].screenshot(path=OUTPUT / "7-sizes.png", full_page=True)
    assert [offered[f"gpu-a100-{number}"] for number in (1, 2)] == ["", ""]
    for number in (4, 8):
        assert re.search(rf"limit.*{number} GPUs.*2", offered[f"gpu-a100-{number}"], re.S | re.I), offered
    assert offered["gpu-h100-2"] == ""


@pytest.mark.parametrize(
    ("body", "says"),
    [({"profile": "gpu-a100-4"}, "limit"), ({"profile": "gpu-any-8"}, "limit"), ({"profile": "gpu-a100-3"}, "no size")],
)
def test_the_api_is_no_way_around_the_form(deployment, pages, body, says):
    pages["alice"].goto(f"{HUB}/hub/home")
    status, text = pages["alice"].evaluate(
        """async body => {
            const headers = {'X-XSRFToken': window.jhdata.xsrf_token, 'Content-Type': 'application/json'};
            const options = {method: 'POST', headers: headers, body: JSON.stringify(body)};
            const answer = await fetch('/hub/api/users/alice/server', options);
            return [answer.status, await answer.text()];
        }""",
        body,
    )
    # JupyterHub answers before it has asked the spawner; what came of it is on the page of the start.
    assert status == 202, text

    def page() -> str:
        pages["alice"].goto(f"{HUB}/hub/spawn-pending/alice")
        return pages["alice"].inner_text("body")

    wait_for("the reason", lambda: says in page())
    assert pod_of(deployment, "alice") is None


@pytest.fixture(scope="module")
def ending(deployment, pages) -> Iterator[str]:
    """When Carol's server ends, some time after that was said first: all other tests run meanwhile."""
    start_server(pages["carol"], "carol", "gpu-h100-1")
    yield budget_of_36_seconds(deployment, "carol")
    ask(deployment, "api/v1/policy/users/carol", "-X", "DELETE", expected=204)


@pytest.fixture(scope="module")
def running(deployment, pages, ending) -> dict[str, Any]:
    """Alice's pod with two GPUs."""
    start_server(pages["alice"], "alice", "gpu-a100-2")
    return pod_of(deployment, "alice")


def test_two_gpus_are_hers(deployment, running):
    assert running["spec"]["nodeName"] == "worker1", "the one with A100"
    (container,) = running["spec"]["containers"]
    assert container["resources"]["limits"][GPU] == "2"
    name = running["metadata"]["name"]
    printed = deployment.kubectl("-n", "jhub", "exec", name, "--", "printenv", "NVIDIA_VISIBLE_DEVICES")
    assert len(set(printed.strip().split(","))) == 2
    used = wait_for("the portal counts them", lambda: ask(deployment, "users/alice/limits")["usage"]["gpu"])
    assert used == 2


def test_others_see_fewer_free(deployment, pages, running):
    offered = sizes(pages["bob"])
    assert offered["gpu-a100-4"] == ""
    assert re.search(r"8 GPUs.*6|8.*needed.*6", offered["gpu-a100-8"], re.S), offered
    assert offered["gpu-h100-4"] == ""
    assert re.search(r"8 GPUs.*7|8.*needed.*7", offered["gpu-h100-8"], re.S), "Carol has one"


def test_people_log_in_with_their_account_of_the_hub(pages, running):
    page = pages["alice"].context.new_page()
    page.goto(f"{PORTAL}/api/v1/auth/login?next=/api/v1/users/alice/limits")
    assert page.url == f"{PORTAL}/api/v1/users/alice/limits"
    assert json.loads(page.inner_text("body"))["usage"]["gpu"] == 2
    assert page.evaluate("async () => (await fetch('/api/v1/users/bob/limits')).status") == 403
    page.close()


@pytest.fixture(scope="module")
def on_a_budget(deployment, pages) -> Iterator[Page]:
    """Bob's notebook, in a month for which he has 36 seconds of a GPU."""
    start_server(pages["bob"], "bob", "gpu-h100-1")
    budget_of_36_seconds(deployment, "bob")
    yield pages["bob"]
    ask(deployment, "api/v1/policy/users/bob", "-X", "DELETE", expected=204)


def test_a_budget_that_runs_out_is_said_in_jupyterlab(deployment, on_a_budget):
    def notified() -> bool:
        # It asks once a minute, and when it is opened.
        on_a_budget.goto(f"{HUB}/user/bob/lab?reset")
        on_a_budget.locator(".jp-LauncherCard").first.wait_for()
        return on_a_budget.get_by_text(NOTICE).count() > 0

    wait_for("the notice", notified)
    on_a_budget.screenshot(path=OUTPUT / "7-notice.png")
    (end,) = ends(deployment, "bob")
    assert end["servername"] == ""
    assert 0 < seconds(end["ends_at"]) - time.time() <= LEAST_NOTICE


def test_an_administrator_gives_more_time(deployment, on_a_budget):
    until = datetime.fromtimestamp(time.time() + 3600, UTC).isoformat(timespec="seconds")
    document = json.dumps({"until": until, "reason": "a paper"})
    ask(deployment, "api/v1/extensions/bob", "-X", "PUT", "--json", document)
    assert ends(deployment, "bob") == []
    wait_for("the notice is gone", lambda: on_a_budget.get_by_text(NOTICE).count() == 0)
    assert pod_of(deployment, "bob")


def test_what_is_used_up_does_not_start_again(pages, on_a_budget):
    stop_server(on_a_budget)
    on_a_budget.locator("#start", has_text="Start My Server").wait_for()
    offered = sizes(on_a_budget)
    assert re.search(r"budget.*used up", offered["gpu-h100-1"], re.S | re.I), offered
    assert [why for size, why in offered.items() if size.startswith("cpu-")] == [""], offered


def test_the_hours_are_those_of_the_containers(deployment, pages, running):
    started = running["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    # Kubernetes' own account of the end, read before the pod is gone.
    finished: list[str] = []

    def ended() -> bool:
        pod = pod_of(deployment, "alice")
        if pod is None:
            return True
        for status in pod["status"].get("containerStatuses", []):
            if "terminated" in status["state"]:
                finished.append(status["state"]["terminated"]["finishedAt"])
        return False

    before = time.time()
    stop_server(pages["alice"])
    wait_for("the pod is gone", ended)
    after = time.time()

    def session() -> Any:
        (found,) = ask(deployment, "sessions?username=alice")["items"]
        return found["state"] == "ended" and found

    found = wait_for("the session is over", session)
    held = seconds(found["ended_at"]) - seconds(found["started_at"])
    assert found["started_at"] == held_from(running)
    assert seconds(found["started_at"]) <= seconds(started)
    if finished:
        assert found["ended_at"] == finished[-1]
    assert int(before) <= seconds(found["ended_at"]) <= after + 1
    assert found["gpu_hours"] == pytest.approx(2 * held / 3600, abs=0.001)
    assert found["nodes"] == ["worker1"] and found["gpu_types"] == ["A100"] and not found["inferred"]
    assert float(found["cost"]["amount"]) > 0 if isinstance(found["cost"], dict) else found["cost"]


def test_the_books_balance(deployment, running):
    portal = "exec -n usage-portal deploy/usage-portal -c portal -- python3 -m gpuhub_portal books"
    lines = [line.split() for line in deployment.kubectl(*portal.split()).splitlines()[1:]]
    nodes = {node: list(map(float, amounts)) for node, *amounts in lines}
    for held, idle, capacity, _ in (nodes[name] for name in WORKERS):
        assert held > 0
        assert held + idle == pytest.approx(capacity, abs=0.001)


def test_a_second_run_changes_nothing(deployment, pages):
    again = deployment.role(ROLES, "main", POLICY)
    assert (again.code, again.changed) == (0, 0), again.changed_tasks()


def test_a_policy_that_is_wrong_changes_nothing(deployment, tmp_path):
    file = tmp_path / "policy.yml"
    file.write_text("default: {cpu: 8, memory: 32Gi, gpu: 1}\nusers:\n  alice: {gpu: many}\n")
    # site.yml comes to the same tasks before it changes anything.
    play = deployment.role(["usage_portal"], "images", f"-eusage_portal_policy_file={file}")
    assert play.code != 0 and play.changed == 0
    assert re.search(rf"{file}: line 3: users.alice.gpu is many", " ".join(play.output.split())), play.output[-3000:]


def test_a_server_ends_with_its_budget(deployment, ending):
    """Not before the time that was said, and soon after."""
    wait_for("the server is stopped", lambda: pod_of(deployment, "carol") is None)

    def session() -> Any:
        (found,) = ask(deployment, "sessions?username=carol")["items"]
        return found["state"] == "ended" and found

    found = wait_for("the session is over", session)
    assert seconds(found["ended_at"]) - seconds(found["started_at"]) >= LEAST_NOTICE, found
    # The hub asks twice a minute.
    assert 0 <= seconds(found["ended_at"]) - seconds(ending) <= 120


def test_without_a_portal_sizes_are_the_same_for_everybody(deployment, pages):
    play = deployment.role(ROLES, "main", "-eusage_portal_enabled=false")
    assert play.code == 0, play.output[-6000:]
    assert deployment.objects("pods", "-n", "usage-portal") == []
    assert deployment.objects("persistentvolumeclaims", "-n", "usage-portal"), "what was recorded stays"
    # Alice's limit was the portal's.
    offered = sizes(pages["alice"])
    assert {offered[f"gpu-{kind}-{number}"] for kind in ("any", "a100", "h100") for number in (1, 2, 4, 8)} == {""}
    if SOAK:
        again = deployment.role(ROLES, "main", "-eusage_portal_enabled=false")
        assert (again.code, again.changed) == (0, 0), again.changed_tasks()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[tuple[str, str]]:
    """Address and token of a portal of another system, on the bastion."""
    address, port, token = "10.77.0.1", 8088, secrets.token_hex(16)
    script = Path(__file__).with_name("limits_portal.py")
    with subprocess.Popen([LAB, "run", sys.executable, script, address, str(port), token]) as running:
        yield f"http://{address}:{port}", token
        running.terminate()


def test_limits_of_another_system_hold(deployment, pages, elsewhere):
    url, token = elsewhere
    # It knows no nodes; these fit into those of the lab.
    sizes_that_fit = {
        "products": ["NVIDIA-A100-SXM4-80GB"],
        **{"cpu_per_gpu": 1, "memory_per_gpu": "1Gi", "cpu_sizes": [{"cpu": "500m", "memory": "1Gi"}]},
    }
    settings = {"usage_portal_url": url, "usage_portal_token": token, "jupyterhub_sizes": sizes_that_fit}
    play = deployment.role(ROLES, "main", "-e", json.dumps(settings))
    assert play.code == 0, play.output[-6000:]
    assert token not in play.output
    offered = sizes(pages["alice"])
    assert offered["gpu-a100-1"] == "", offered
    assert re.search(r"limit", offered["gpu-a100-2"]), "one of two is in use"
    start_server(pages["alice"], "alice", "gpu-a100-1")
    used = pod_of(deployment, "alice")["spec"]["containers"][0]["resources"]["limits"][GPU]
    assert used == "1"
    stop_server(pages["alice"])
    wait_for("the pod is gone", lambda: pod_of(deployment, "alice") is None)


def test_back_at_the_portal_everything_is_there(deployment, running):
    back = deployment.role(ROLES, "main", POLICY)
    assert back.code == 0, back.output[-6000:]
    # The API server's history may tell of the time without the portal, too.
    sessions = {each["started_at"]: each["state"] for each in ask(deployment, "sessions?username=alice")["items"]}
    assert sessions[held_from(running)] == "ended", sessions
