"""A researcher in a browser: signs up, is approved, works on a worker, and finds everything again after a reboot."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import pytest
from harness import (
    HUB,
    OUTPUT,
    PAGE_TIMEOUT,
    WORKERS,
    Deployment,
    approve,
    browser_on_the_bastion,
    log_in,
    run_cell,
    sign_up,
    start_server,
    stop_server,
    wait_for,
)
from playwright.sync_api import Browser, Page, expect

RESEARCHER = "grace"
PASSWORD = secrets.token_urlsafe(18)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium on the bastion."""
    with browser_on_the_bastion() as browser:
        yield browser


@pytest.fixture(scope="module")
def researcher(browser) -> Iterator[Page]:
    """The researcher's own window."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(PAGE_TIMEOUT)
    yield page


def photograph(page: Page, name: str) -> None:
    page.screenshot(path=OUTPUT / f"{name}.png")


def pod_of(deployment: Deployment, name: str) -> dict:
    """The pod of a user's server, as the API server reports it."""
    pods = deployment.objects("pods", "-n", "jhub", "-l", "component=singleuser-server")
    found = [pod for pod in pods if pod["metadata"]["annotations"]["hub.jupyter.org/username"] == name]
    assert len(found) == 1, [pod["metadata"]["name"] for pod in pods]
    return found[0]


def boot_of(deployment: Deployment, node: str) -> str:
    """What tells one boot of a node from the next, as its kubelet reports it."""
    nodes = {item["metadata"]["name"]: item for item in deployment.objects("nodes")}
    return nodes[node]["status"]["nodeInfo"]["bootID"]


def test_sign_up_waits_for_an_administrator(researcher):
    sign_up(researcher, RESEARCHER, PASSWORD)
    photograph(researcher, "1-sign-up")
    log_in(researcher, RESEARCHER, PASSWORD)
    assert "/hub/login" in researcher.url, "not approved yet"


def test_the_administrator_approves(deployment, browser):
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    log_in(page, "admin", deployment.secret("jupyterhub-password-admin"))
    approve(page, RESEARCHER)
    photograph(page, "2-approval")


def test_a_server_starts_on_a_worker(deployment, researcher):
    log_in(researcher, RESEARCHER, PASSWORD)
    start_server(researcher, RESEARCHER)
    assert pod_of(deployment, RESEARCHER)["spec"]["nodeName"] in WORKERS


def test_a_cell_prints_the_pods_name(deployment, researcher):
    researcher.goto(f"{HUB}/user/{RESEARCHER}/lab?reset")
    researcher.locator(".jp-LauncherCard[data-category=Notebook]").first.click()
    printed = run_cell(researcher, "import socket; open('kept.txt', 'w').write('here'); print(socket.gethostname())")
    # JupyterLab's question about news from the internet would have come before the kernel.
    expect(researcher.locator(".Toastify__toast")).to_have_count(0)
    photograph(researcher, "3-notebook")
    assert printed == pod_of(deployment, RESEARCHER)["metadata"]["name"]


def test_the_server_and_its_file_survive_a_reboot_of_the_worker(deployment, researcher):
    pod = pod_of(deployment, RESEARCHER)
    worker = pod["spec"]["nodeName"]
    boot = boot_of(deployment, worker)
    deployment.on(worker, "systemctl reboot", check=False)
    wait_for(f"{worker} has booted again", lambda: boot_of(deployment, worker) != boot)

    def answers() -> bool:
        status, body = deployment.http(f"{HUB}/user/{RESEARCHER}/api")
        return status == 200 and "version" in json.loads(body)

    wait_for(f"{RESEARCHER}'s server answers again through the proxy", answers)
    assert pod_of(deployment, RESEARCHER)["spec"]["nodeName"] == worker
    assert researcher.goto(f"{HUB}/user/{RESEARCHER}/files/kept.txt").text() == "here"


def test_the_server_stops(deployment, researcher):
    researcher.goto(f"{HUB}/hub/home")
    photograph(researcher, "4-home")
    stop_server(researcher)
    wait_for(
        "the pod is gone",
        lambda: (
            not [
                pod
                for pod in deployment.objects("pods", "-n", "jhub", "-l", "component=singleuser-server")
                if pod["metadata"]["annotations"]["hub.jupyter.org/username"] == RESEARCHER
            ]
        ),
    )
    assert deployment.on("head", f"ls /mnt/shared/.gpuhub/homes/jhub/*{RESEARCHER}*/kept.txt")
