"""A deployed lab, and the ways in which its users meet it: playbooks, the API server, a browser."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
LAB = REPOSITORY / "lab" / "lab"
sys.path.insert(0, str(LAB.parent))

from gpuhub_lab.host import Host
from gpuhub_lab.instance import Instance
from gpuhub_lab.process import LabError
from gpuhub_lab.storage import Storage

CACHE = Path(os.environ.get("GPUHUB_LAB_CACHE") or Path.home() / ".cache" / "gpuhub-lab")
OUTPUT = REPOSITORY / "tests" / "output"
# What is waited for comes about in seconds. On a busy machine it may take minutes, which is nobody's fault.
PATIENCE = 300
PAGE_TIMEOUT = 1000 * PATIENCE  # of Playwright, in milliseconds
expect.set_options(timeout=PAGE_TIMEOUT)
HEAD, WORKERS = "head", ["worker1", "worker2"]
HUB = "http://10.77.0.11:30080"
PORTAL = "http://10.77.0.11:29781"
API_SERVER = "https://10.77.0.11:16443"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return the first true answer of `condition`; fail, naming `what`, when the time is over."""
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        answer = condition()
        if answer:
            return answer
        now = time.monotonic()
        assert now < deadline, f"{what}: not within {seconds:.0f} s"
        # Questions take a core from what they wait for: they have a third of the time.
        time.sleep(max(0.5, 2 * (now - asked)))


@contextmanager
def browser_on_the_bastion(*flags: str, **environment: str) -> Iterator[Browser]:
    """Chromium in the lab's network."""
    OUTPUT.mkdir(exist_ok=True)
    wrapper = OUTPUT / "chromium-on-the-bastion"
    wrapper.write_text(f'#!/bin/sh\nexec "{LAB}" run /usr/bin/chromium "$@"\n')
    wrapper.chmod(0o755)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(wrapper), args=[*CHROMIUM_FLAGS, *flags], env={**os.environ, **environment}
        )
        yield browser
        browser.close()


def sign_up(page: Page, name: str, password: str) -> None:
    """Ask for an account."""
    page.goto(f"{HUB}/hub/signup")
    page.fill("input[name=username]", name)
    page.fill("input[name=signup_password]", password)
    page.fill("input[name=signup_password_confirmation]", password)
    page.click("input[type=submit], button[type=submit]")
    expect(page.locator("body")).to_contain_text(re.compile("sent to the admin|created", re.I))


def log_in(page: Page, name: str, password: str) -> None:
    """Log in at the hub."""
    page.goto(f"{HUB}/hub/login")
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", password)
    page.click("input[type=submit], button[type=submit]")


def approve(page: Page, *names: str) -> None:
    """Let people in, as the administrator whose page it is."""
    for name in names:
        page.goto(f"{HUB}/hub/authorize")
        row = page.locator("tr", has_text=name)
        row.get_by_text("Authorize", exact=True).click()
        page.goto(f"{HUB}/hub/authorize")
        expect(row).to_contain_text("Yes")


def start_server(page: Page, name: str, size: str = "", hub: str = HUB) -> None:
    """Start the server of a user who is logged in, of a size or the one that is chosen already; until it is open."""
    page.goto(f"{hub}/hub/spawn")
    if "/user/" not in page.url:
        if size:
            page.check(f"input[name=profile][value={size}]")
        page.click("#spawn_form button[type=submit]")
    page.wait_for_url(re.compile(rf"/user/{name}/"), timeout=PAGE_TIMEOUT)


def stop_server(page: Page, hub: str = HUB) -> None:
    """Have the server of a user who is logged in stopped; the page says when it is."""
    # The button does nothing until the page's scripts have come.
    page.goto(f"{hub}/hub/home", wait_until="networkidle")
    page.click("#stop")


def run_cell(page: Page, code: str, index: int = 0) -> str:
    """Run code in a cell of the notebook that is open in JupyterLab and return what it printed."""
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=PAGE_TIMEOUT)
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(index)
    # Aimed at the editor, not at what has the focus: JupyterLab takes that while it still opens the notebook.
    editor = cell.locator(".cm-content")
    output = cell.locator(".jp-OutputArea-output pre")

    def ran() -> bool:
        # JupyterLab forgets what is written when it makes the editor anew, as it learns the kernel's language, and what
        # is run in the moment in which it connects to the kernel: no number, no asterisk.
        if cell.locator(".jp-InputPrompt").first.inner_text().strip() == "[ ]:":
            if editor.inner_text().strip() == code:
                editor.press("Shift+Enter")
            else:
                editor.fill(code)
        return output.count() > 0

    wait_for("the cell's output", ran)
    return output.inner_text().strip()


@dataclass(frozen=True)
class Play:
    """What one run of ansible-playbook printed."""

    code: int
    output: str

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        """Counters of the recap by host."""
        lines = re.findall(r"^(\S+)\s+: (ok=.*)$", self.output, re.MULTILINE)
        return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", counters)} for host, counters in lines}

    @property
    def changed(self) -> int:
        """Changed tasks on all hosts together."""
        return sum(host["changed"] for host in self.recap.values())

    def changed_tasks(self) -> list[str]:
        """Names of the tasks that changed something, or would."""
        names, current = [], ""
        for line in self.output.splitlines():
            if match := re.match(r"TASK \[(.*)\]", line):
                current = match[1]
            elif line.startswith("changed: ") and current not in names:
                names.append(current)
        return names


class Deployment:
    """The lab with the platform on it."""

    def lab(self, *arguments: str, check: bool = True) -> str:
        """Run `lab/lab ARGUMENTS` and return what it printed."""
        done = subprocess.run([LAB, *arguments], capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == 0 or not check, f"lab {shlex.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def load(self, save: str) -> None:
        """Go back to a saved state; make names the lab in GPUHUB_LAB_FROM whose saves this one takes over."""
        source = os.environ.get("GPUHUB_LAB_FROM")
        known = json.loads(self.lab("status", "--json"))["saves"]
        self.lab("load", save, *(["--from", source] if source and save not in known else []))
        if save != "bare":
            wait_for("everything runs", self.works)

    def shared(self, save: str | None = None) -> Path:
        """The storage that all hosts mount, or what a saved state has of it, of the lab that make names if so."""
        if save is None:
            return Storage(Instance.current()).shared
        source = os.environ.get("GPUHUB_LAB_FROM")
        return Storage(Instance.named(source) if source else Instance.current()).find_save(save) / "shared"

    def on(self, host: str, script: str, check: bool = True) -> str:
        """Run a shell script on a host."""
        try:
            done = Host(Instance.current(), host).execute(["bash", "-c", script], capture_output=True)
        except LabError as error:  # it is down
            assert not check, f"{host}: {script}: {error}"
            return ""
        assert done.returncode == 0 or not check, f"{host}: {script}: {done.stdout}{done.stderr}"
        return done.stdout

    def bastion(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the lab's network. It has this machine's resolver: `lab run` has the lab's."""
        inside = ["nsenter", f"--net=/run/netns/{Instance.current().switch}", "--", *command]
        return subprocess.run(inside, capture_output=True, text=True)

    def play(
        self,
        *arguments: str,
        playbook: str = "playbooks/site.yml",
        inventory: str = "inventories/lab",
        **environment: str,
    ) -> Play:
        """Run a playbook as the administrator on the bastion does."""
        command = [LAB, "run", "ansible-playbook", "-i", inventory, playbook, *arguments]
        settings = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1", **environment}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        OUTPUT.mkdir(exist_ok=True)
        lab = os.environ.get("GPUHUB_LAB_NAME") or "lab"
        (OUTPUT / f"play-{lab}-{time.strftime('%H%M%S')}.log").write_text(done.stdout)
        return Play(done.returncode, done.stdout)

    def role(self, names: list[str], tasks_from: str, *arguments: str, **environment: str) -> Play:
        """Run some tasks of roles on the head, and nothing else. No notebook proves them: the tests themselves do."""
        chosen = {"roles_to_run": names, "tasks_from": tasks_from, "jupyterhub_smoke_test": "never"}
        return self.play("-e", json.dumps(chosen), *arguments, playbook="tests/e2e/role.yml", **environment)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the head's network, whose firewall lets nobody else ask: its start costs half of what it does
        on the head itself."""
        instance = Instance.current()
        files = Host(instance, HEAD).files / "snap/microk8s"
        revision = (files / "current").readlink().name
        access = f"--kubeconfig={files / revision}/credentials/client.config"
        network = f"--net=/run/netns/{instance.namespace(HEAD)}"
        command = ["nsenter", network, "--", CACHE / "kube/kubelite", "kubectl", access, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        assert done.returncode == 0, f"kubectl {shlex.join(arguments)}: {done.stderr}"
        return done.stdout

    def objects(self, kinds: str, *arguments: str) -> list[dict[str, Any]]:
        """The objects of some kinds, of all namespaces unless `arguments` say otherwise."""
        where = arguments or ("--all-namespaces",)
        return json.loads(self.kubectl("get", kinds, "-o", "json", *where))["items"]

    def attempts(self, reset: bool = False) -> dict[str, list[dict[str, Any]]]:
        """What tried to leave the lab."""
        return json.loads(self.lab("attempts", *(["--reset"] if reset else [])))

    def http(self, url: str, *arguments: str) -> tuple[int, str]:
        """Status and body of a request from the bastion; status 0 when nobody answers."""
        out = self.bastion("curl", "-sS", "-m", "10", "-w", "\n%{http_code}", *arguments, url)
        body, _, status = out.stdout.rpartition("\n")
        return int(status or 0), body

    def await_api_server(self) -> None:
        """Wait until the API server answers, whoever asks."""
        wait_for("the API server", lambda: self.http(f"{API_SERVER}/readyz", "-k")[0] in (200, 401, 403))

    def works(self) -> bool:
        """Whether every workload has its pods and the hub answers through its proxy."""
        try:
            workloads = [item["status"] for item in self.objects("deployments,daemonsets,statefulsets")]
        except AssertionError:  # the API server does not answer yet
            return False
        complete = all(
            status.get("availableReplicas", 0) >= status.get("replicas", 0)
            and status.get("numberReady", 0) >= status.get("desiredNumberScheduled", 0)
            for status in workloads
        )
        return complete and self.http(f"{HUB}/hub/api")[0] == 200

    def secret(self, name: str) -> str:
        """A generated secret, as the summary's command shows it."""
        return self.on(HEAD, f"cat /var/lib/gpuhub/secrets/{name}").strip()
