"""A real hub on loopback, with the archive that the role ships, and without a proxy: logins need none."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sample
import spawn_doubles
from ansible_collections.gpuhub.platform.plugins.module_utils import core_archive
from ansible_collections.gpuhub.platform.plugins.module_utils import jupyterhub_values as values
from harness import wait_for
from zygote import Process, Zygote

COLLECTION = Path(__file__).parents[4]
# Seconds; bcrypt is slow by design, and more so on a busy machine.
TIMEOUT = 180
# In the folder of each hub: where it is is read when the client of Kubernetes is imported.
KUBECONFIG = "kubeconfig"

_ANY_CONFIG = """
import functools, json, os
import bcrypt
from jupyterhub.proxy import Proxy
import gpuhub_hub

bcrypt.gensalt = functools.partial(bcrypt.gensalt, int(os.environ["BCRYPT_ROUNDS"]))

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {}

gpuhub_hub.setup(c, json.loads(os.environ["GPUHUB_SETTINGS"]))
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.hub_bind_url = os.environ["HUB_URL"]
c.JupyterHub.bind_url = os.environ["HUB_URL"]
c.JupyterHub.cookie_secret = bytes(32)
c.JupyterHub.cleanup_servers = False
"""

CONFIG = (
    _ANY_CONFIG
    + """
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.services = [{"name": "gpuhub-smoke", "api_token": "a" * 64}]
c.JupyterHub.load_roles = [json.loads(os.environ["SMOKE_ROLE"])]
c.Authenticator.auth_refresh_age = int(os.environ["REFRESH_AGE"])
"""
)


SPAWNING_CONFIG = (
    _ANY_CONFIG
    + """
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"root"}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services = [{"name": "tester", "api_token": os.environ["TESTER"]}]
c.JupyterHub.load_roles = [{
    "name": "tester",
    "services": ["tester"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "tokens"],
}]
# As zero-to-jupyterhub has it: the API answers before a server has started.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": float(os.environ.get("SLOW_SPAWN", 0))}
c.JupyterHub.concurrent_spawn_limit = 0
c.Spawner.consecutive_failure_limit = int(os.environ.get("FAILURE_LIMIT", 2))
c.Spawner.start_timeout = float(os.environ.get("START_TIMEOUT", 60))
c.Spawner.http_timeout = 60
c.KubeSpawner.namespace = "jhub"
c.KubeSpawner.image = "notebook:1"
c.KubeSpawner.port = int(os.environ["NOTEBOOK_PORT"])
c.KubeSpawner.cmd = ["jupyterhub-singleuser"]
c.KubeSpawner.pod_name_template = "jupyter-{user_slug}--{servername}"
c.KubeSpawner.extra_resource_limits = {"nvidia.com/gpu": "8"}
"""
)


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """The archive as the hub's container has it."""
    path = tmp_path_factory.mktemp("core") / core_archive.FILE_NAME
    path.write_bytes(core_archive.pack(core_archive.members(COLLECTION)))
    sys.path.insert(0, str(path))
    return path


@pytest.fixture(scope="session")
def start_hub(archive) -> Iterator[Callable[..., Any]]:
    """What starts a hub's process; in a soak it is a Python of its own, as it is deployed."""
    arguments = ["jupyterhub", "-f", "config.py"]
    if sample.SOAK:
        yield lambda **options: subprocess.Popen([sys.executable, "-m", *arguments], **options)
        return
    modules = ["jupyterhub.app", "kubespawner", "nativeauthenticator"]
    with Zygote(str(archive), modules, KUBECONFIG=KUBECONFIG) as zygote:
        yield lambda **options: zygote.start(arguments, **options)


class Hub:
    """A hub as a process of its own. Its database stays when it is started again."""

    config = CONFIG

    def __init__(self, folder: Path, archive: Path, start_hub: Callable[..., Any], smoke_role: dict) -> None:
        self.folder, self._archive, self._start_hub, self._role = folder, archive, start_hub, smoke_role
        self.process: subprocess.Popen | Process | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        (folder / "config.py").write_text(self.config)

    def start(self, administrators: dict, approval: str, refresh_age: int = 300, **auth) -> None:
        """Start it and wait until it answers; a login older than `refresh_age` seconds is looked at again."""
        settings = {
            "auth": {
                "mode": "native",
                "administrators": administrators,
                "approval": approval,
                "minimum_password_length": 10,
                "allowed_failed_logins": 3,
                "lockout_seconds": 600,
                **auth,
            }
        }
        self.launch(settings, SMOKE_ROLE=json.dumps(self._role), REFRESH_AGE=str(refresh_age))

    def launch(self, settings: dict, **variables: str) -> None:
        """Start it with `settings` of gpuhub_hub.setup, and wait until it answers."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self._archive),
            "GPUHUB_SETTINGS": json.dumps(settings),
            "HUB_URL": self.url,
            # 12 are its own; each that is left out halves what a password costs.
            "BCRYPT_ROUNDS": str(sample.size(4, 12)),
            **variables,
        }
        with (self.folder / "log").open("a") as log:
            self.process = self._start_hub(cwd=self.folder, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            try:
                if requests.get(f"{self.url}/hub/health", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError(self.log())

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(TIMEOUT)
            self.process = None

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def browser(self) -> Browser:
        return Browser(self.url)


class SpawningHub(Hub):
    """A hub that starts servers in a cluster, for people whose password is anything, and with a service `tester`."""

    config = SPAWNING_CONFIG
    token = "t" * 64

    def begin(self, kube: spawn_doubles.Kube, settings: dict, **variables: str) -> None:
        """Start it, with sizes as `settings` say."""
        (self.folder / KUBECONFIG).write_text(kube.kubeconfig())
        native = {"administrators": {"root": "initial-of-root"}, "approval": "auto", "minimum_password_length": 10}
        auth = {"mode": "native", **native, "allowed_failed_logins": 3, "lockout_seconds": 600}
        self.launch(
            {"auth": auth, **settings},
            KUBECONFIG=KUBECONFIG,
            NOTEBOOK_PORT=str(kube.notebook_port),
            TESTER=self.token,
            **variables,
        )

    def portal(self, portal: spawn_doubles.Portal, **settings) -> dict:
        """Settings for a portal, quick to notice that it is away or back."""
        waits = {"timeout_seconds": 5, "retry_seconds": 0.1, "reuse_seconds": 1, "enforcement_seconds": 0.5}
        state = {"state_file": str(self.folder / "gpuhub.sqlite")}
        address = {"url": portal.url, "token_file": str(portal.token_file), "external": portal.external}
        return {"portal": {**address, **waits, **state, **settings}, "sizes": spawn_doubles.SIZES}

    def api(self, method: str, path: str, body: object = None, language: str = "", **options) -> requests.Response:
        headers = {"Authorization": f"token {self.token}", "Accept-Language": language}
        data = None if body is None else json.dumps(body)
        return requests.request(
            method, f"{self.url}/hub/api/{path}", data=data, headers=headers, timeout=TIMEOUT, **options
        )

    def add(self, *names: str) -> None:
        """Make users."""
        assert self.api("POST", "users", {"usernames": list(names)}).status_code == 201

    def ask(self, user: str, body: object = None, server: str = "") -> requests.Response:
        """Ask for a server through the API."""
        return self.api("POST", f"users/{user}/servers/{server}" if server else f"users/{user}/server", body)

    def outcome(self, user: str, server: str = "") -> str:
        """What became of a server that was asked for: `ready`, or why not."""
        # Between the end of a start and the note that it failed the hub knows of neither, for a moment.
        return wait_for("an outcome", lambda: self._outcome(user, server), TIMEOUT)

    def _outcome(self, user: str, server: str) -> str:
        path = f"users/{user}/servers/{server}/progress" if server else f"users/{user}/server/progress"
        with self.api("GET", path, stream=True) as answer:
            if answer.status_code != 200:
                return ""
            for line in answer.iter_lines():
                event = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if event.get("ready"):
                    return "ready"
                if event.get("failed"):
                    return event["message"]
        raise AssertionError("the progress ended without an end")

    def begin_server(self, user: str, body: object = None, server: str = "") -> str:
        """Ask for a server, and return what became of it."""
        answer = self.ask(user, body, server)
        assert answer.status_code in (201, 202), answer.text
        return self.outcome(user, server)

    def end_server(self, user: str, server: str = "") -> None:
        """Stop a server and wait until it has."""
        path = f"users/{user}/servers/{server}" if server else f"users/{user}/server"
        assert self.api("DELETE", path).status_code in (202, 204)
        wait_for(f"{user}/{server} to stop", lambda: server not in self.servers(user))

    def servers(self, user: str) -> dict:
        return self.api("GET", f"users/{user}").json()["servers"]


class Browser:
    """What a browser does with the hub's forms."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, requests.Session()

    def post(self, page: str, **fields: str) -> requests.Response:
        self.session.get(f"{self.url}/hub/{page}", timeout=TIMEOUT)
        fields["_xsrf"] = self.session.cookies.get("_xsrf", path="/hub/")
        return self.session.post(f"{self.url}/hub/{page}", data=fields, timeout=TIMEOUT, allow_redirects=False)

    def login(self, name: str, password: str) -> bool:
        """Whether the hub let the user in."""
        answer = self.post("login", username=name, password=password)
        assert answer.status_code in (200, 302), answer.text
        return answer.status_code == 302

    def sign_up(self, name: str, password: str) -> str:
        """The hub's answer as plain text, from its alert."""
        answer = self.post("signup", username=name, signup_password=password, signup_password_confirmation=password)
        assert answer.status_code == 200, answer.text
        alert = re.search(r'class="alert (alert-\w+)[^>]*>(.*?)</div>', answer.text, re.DOTALL)
        assert alert, answer.text
        return " ".join(re.sub(r"<[^>]+>", " ", alert[1] + " " + alert[2]).split())

    def decide(self, page: str, **fields: str) -> int:
        """Status of a form of the approval page, sent as it is."""
        return self.post(page, **fields).status_code

    def _forms(self, name: str) -> dict[str, tuple[str, dict[str, str]]]:
        """Buttons beside a name on the approval page: label -> where its form leads, and what it sends."""
        rows = re.findall(r"<tr.*?</tr>", self.get("authorize").text, re.DOTALL)
        row = next((row for row in rows if f"<td>{name}</td>" in row), "")
        forms = re.findall(r'<form action="(.*?)" method="post">(.*?)</form>', row, re.DOTALL)
        fields = re.compile(r'<input type="hidden" name="(.*?)" value="(.*?)">')
        return {re.search(r">(\w+)</button>", form)[1]: (action, dict(fields.findall(form))) for action, form in forms}

    def buttons(self, name: str) -> set[str]:
        """Labels of the buttons beside a name on the approval page."""
        return set(self._forms(name))

    def press(self, name: str, label: str) -> None:
        """Send the form of a button as the page has it."""
        action, fields = self._forms(name)[label]
        answer = self.session.post(self.url + action, data=fields, timeout=TIMEOUT)
        assert answer.url == f"{self.url}/hub/authorize", answer.text

    def get(self, path: str) -> requests.Response:
        return self.session.get(f"{self.url}/hub/{path}", timeout=TIMEOUT)

    def api(self, method: str, path: str, body: dict | None = None) -> requests.Response:
        headers = {"X-XSRFToken": self.session.cookies.get("_xsrf", path="/hub/")}
        return self.session.request(method, f"{self.url}/hub/api/{path}", json=body, headers=headers, timeout=TIMEOUT)

    def is_administrator(self) -> bool:
        return self.get("authorize").status_code == 200


@pytest.fixture(scope="module")
def make_hub(tmp_path_factory, archive, start_hub, smoke_role):
    """A function that returns a new hub, not started yet. All are stopped after the module."""
    hubs: list[Hub] = []

    def make() -> Hub:
        hubs.append(Hub(tmp_path_factory.mktemp("hub"), archive, start_hub, smoke_role))
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.stop()


@pytest.fixture(scope="module")
def make_spawning_hub(tmp_path_factory, archive, start_hub):
    """A function that returns a new hub that starts servers, not started itself yet."""
    hubs: list[SpawningHub] = []

    def make() -> SpawningHub:
        hubs.append(SpawningHub(tmp_path_factory.mktemp("hub"), archive, start_hub, {}))
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.stop()


@pytest.fixture(scope="module")
def make_kube():
    """A function that returns a new cluster."""
    servers: list[spawn_doubles.Server] = []

    def make() -> spawn_doubles.Kube:
        servers.append(spawn_doubles.Kube())
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def make_portal():
    """A function that returns a new portal."""
    servers: list[spawn_doubles.Server] = []

    def make(*arguments, **options) -> spawn_doubles.Portal:
        servers.append(spawn_doubles.Portal(*arguments, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def smoke_role() -> dict:
    """The role of the smoke test's service, as the chart's values state it."""
    path = COLLECTION / "tests" / "unit" / "plugins" / "module_utils" / "jupyterhub_settings.json"
    example = json.loads(path.read_text())
    role = values.build(example["settings"], example["secrets"])["hub"]["loadRoles"][values.SMOKE_TEST]
    return {"name": values.SMOKE_TEST, **role}
