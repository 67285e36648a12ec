"""Secrets stay where they belong: planted ones are looked for wherever a run of site.yml could have left them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import pytest
from harness import HEAD, WORKERS, Deployment, wait_for

NOBODY = 65534
ADMINISTRATORS = ["admin", "boss", "carol"]
PLANTED = [
    "jupyterhub-proxy-token", "jupyterhub-cookie-secret", "jupyterhub-crypt-key", "jupyterhub-smoke-token",
    *(f"jupyterhub-password-{name}" for name in ADMINISTRATORS),
]  # fmt: skip
# Keys and tokens that a host makes itself, as texts of the files' lines that are no heading.
FOUND = {
    HEAD: {
        "authority's key": "cat /var/lib/gpuhub/pki/ca.key",
        "registry's key": "find /var/lib/gpuhub/registry -name tls.key -exec cat {} +",
        "cluster administrator's credential": (
            "sed -n 's/^ *\\(client-key-data\\|token\\): //p' /var/snap/microk8s/current/credentials/client.config"
        ),
        "cluster authority's key": "cat /var/snap/microk8s/current/certs/ca.key",
        "API server's key": "cat /var/snap/microk8s/current/certs/server.key",
        "service accounts' key": "cat /var/snap/microk8s/current/certs/serviceaccount.key",
        "front proxy's key": "cat /var/snap/microk8s/current/certs/front-proxy-client.key",
        "kubelet's key": "cat /var/snap/microk8s/current/certs/kubelet.key",
        "scheduler's key": "cat /var/snap/microk8s/current/certs/scheduler.key",
    },
    **{host: {"ssh host key": "cat /etc/ssh/ssh_host_ed25519_key"} for host in WORKERS},
}
# What makes a task fail, and the role that it belongs to.
FAILURES = {
    "microk8s": {"microk8s_token_ttl": 0},
    "offline_images": {"__offline_images_socket": "/run/nobody-listens-here"},
    "jupyterhub, files of secrets": {"__jupyterhub_values_file": "/proc/no/such/file"},
    "jupyterhub, helm": {"__jupyterhub_helm": "/bin/false"},
    "jupyterhub, a hub that no node takes": {"jupyterhub_core_node": "nowhere", "jupyterhub_ready_timeout": 12},
    "jupyterhub, smoke test": {"jupyterhub_smoke_test_timeout": 1},
}


class Canaries:
    """Secrets by name, and the forms in which each would be recognised."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def forms(self) -> dict[bytes, str]:
        """Each secret as it is, in base64, in a URL, in JSON; with its name."""
        result = {}
        for name, text in self.known.items():
            for form in (text, quote(text, safe=""), json.dumps(text)[1:-1]):
                result[form.encode()] = name
            for shift in range(3):  # base64 of a longer text that begins anywhere before the secret
                result[base64.b64encode(b"x" * shift + text.encode())[4:-4]] = name
        return result

    def in_(self, text: str | bytes) -> list[str]:
        """Names of the secrets that a text shows."""
        content = text.encode() if isinstance(text, str) else text
        return sorted({name for form, name in self.forms().items() if form in content})


class Watch(threading.Thread):
    """Notes the command line and environment of every process on this machine, hosts' included, and the join tokens."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.commands: set[bytes] = set()
        self.environments: dict[bytes, bytes] = {}
        self.tokens: set[str] = set()
        self.rounds = 0
        self._over = threading.Event()
        lab = os.environ.get("GPUHUB_LAB_NAME") or "lab"
        self._credentials = Path("/var/lib/gpuhub-lab", lab, "live/hosts", HEAD, "snap/microk8s")

    def run(self) -> None:
        while not self._over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    command = (process / "cmdline").read_bytes()
                    self.commands.add(command)
                    # A pod's environment is the chart's: Kubernetes puts the proxy's and notebooks' tokens there.
                    if b"kubepods" not in (process / "cgroup").read_bytes():
                        self.environments[(process / "environ").read_bytes()] = command
                except OSError:
                    continue  # it has ended
            for file in self._credentials.glob("*/credentials/cluster-tokens.txt"):
                with suppress(FileNotFoundError):  # it is being replaced
                    self.tokens |= {line.partition("|")[0] for line in file.read_text().split()}
            self.rounds += 1

    def end(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def watching() -> Iterator[Watch]:
    watch = Watch()
    watch.start()
    wait_for("the first look", lambda: watch.rounds)
    try:
        yield watch
    finally:
        watch.end()


class Run:
    """A deployment with planted secrets, at -vvvv, that fails at one task after the other and then succeeds."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment, self.folder = deployment, folder
        self.canaries = Canaries()
        self.outputs: dict[str, str] = {}
        self.codes: dict[str, int] = {}
        self.since = ""
        self.watch = Watch()

    def plant(self) -> None:
        """Replace what the head has generated, read what hosts have made, note the time."""
        for name in PLANTED:
            self.canaries.known[name] = token_hex(32 if "password" not in name else 12)
            path = f"/var/lib/gpuhub/secrets/{name}"
            self.deployment.on(HEAD, f"umask 077; printf %s {self.canaries.known[name]} > {path}")
        for host, places in FOUND.items():
            for name, script in places.items():
                lines = [
                    line for line in self.deployment.on(host, script).split() if len(line) >= 20 and "--" not in line
                ]
                assert lines, f"{host} has no {name}"
                # The second line of a key: the first ones of one kind are all alike.
                self.canaries.known[f"{host}: {name}"] = lines[min(1, len(lines) - 1)]
        # Secrets of the administrator, by a file of variables.
        for name in ("ansible_become_password", "ansible_sudo_pass"):
            self.canaries.known[name] = token_hex(16)
        self.since = self.deployment.on(HEAD, "date +%s").strip()

    def detach(self, worker: str) -> None:
        """Take a worker out of the cluster, so that it is invited again."""
        self.deployment.on(HEAD, f"/snap/bin/microk8s remove-node {worker} --force")
        self.deployment.on(worker, "/snap/bin/microk8s leave")

    def play(self, name: str, **settings: object) -> None:
        variables = self.folder / "private.json"
        variables.touch(0o600)
        private = {key: self.canaries.known[key] for key in ("ansible_become_password", "ansible_sudo_pass")}
        variables.write_text(json.dumps({"jupyterhub_admin_users": ADMINISTRATORS, **private, **settings}))
        done = self.deployment.play(
            "-vvvv", "--diff", "-e", f"@{variables}",
            ANSIBLE_LOG_PATH=str(self.folder / "deployment.log"),
            ANSIBLE_CACHE_PLUGIN="ansible.builtin.jsonfile",
            ANSIBLE_CACHE_PLUGIN_CONNECTION=str(self.folder / "facts"),
        )  # fmt: skip
        variables.unlink()
        self.outputs[name], self.codes[name] = done.output, done.code

    # What a run leaves

    def processes(self) -> list[str]:
        """Secrets in command lines and environments."""
        found = [f"{name}: {command[:90]!r}" for command in self.watch.commands for name in self.canaries.in_(command)]
        for environment, command in self.watch.environments.items():
            found += [f"{name}: environment of {command[:90]!r}" for name in self.canaries.in_(environment)]
        return found

    def journals(self) -> list[str]:
        """Secrets in the journals of the hosts."""
        return [
            f"{host}: {name}"
            for host in [HEAD, *WORKERS]
            for name in self.canaries.in_(
                self.deployment.on(host, f"journalctl --no-pager --all --since=@{self.since}")
            )
        ]

    def logs_of_pods(self) -> list[str]:
        """Secrets in the logs of the platform's pods."""
        found = []
        for pod in self.deployment.objects("pods"):
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            log = self.deployment.kubectl("-n", namespace, "logs", name, "--all-containers", "--ignore-errors")
            found += [f"{namespace}/{name}: {secret}" for secret in self.canaries.in_(log)]
        return found

    def readable_on_hosts(self) -> list[str]:
        """Files on hosts that show a secret to everybody."""
        return [
            f"{host}: {path}"
            for host in [HEAD, *WORKERS]
            for path in self._grep(["lab/lab", "exec", host], ["/"], ["--exclude-dir=proc", "--exclude-dir=sys"])
        ]

    def readable_here(self) -> list[str]:
        """Files that this run left on the control node and that show a secret to everybody."""
        places = [path for place in ("/tmp", "/var/tmp") for path in Path(place).glob("*")]
        places = [
            str(p)
            for p in places
            if p != self.folder and not p.is_symlink() and p.lstat().st_mtime > float(self.since) - 5
        ]
        return self._grep([], places, []) if places else []

    def _grep(self, where: list[str], places: list[str], options: list[str]) -> list[str]:
        """Paths of the files, as far as nobody in particular can read them, in which a secret is."""
        nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        grep = [
            "grep",
            "--recursive",
            "--files-with-matches",
            "--no-messages",
            "--text",
            "--devices=skip",
            "-F",
            "-f",
            "-",
        ]
        patterns = b"\n".join(self.canaries.forms())
        done = subprocess.run([*where, *nobody, *grep, *options, *places], input=patterns, stdout=subprocess.PIPE)
        return done.stdout.decode().splitlines()

    def left_behind(self) -> list[str]:
        """Files of Ansible on hosts and on the control node that outlive a run and show a secret to anybody."""
        found = []
        for host in [HEAD, *WORKERS]:
            left = self.deployment.on(host, "cat $(find /root/.ansible -type f) /dev/null")
            found += [f"{host}: {name}" for name in self.canaries.in_(left)]
        for file in [self.folder / "deployment.log", *sorted((self.folder / "facts").glob("*"))]:
            found += [f"{file.name}: {name}" for name in self.canaries.in_(file.read_bytes())]
        return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gpuhub-secrets-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def run(deployment: Deployment, folder: Path) -> Iterator[Run]:
    """Failures in one role after the other, then success, watched."""
    deployment.lab("load", "deployed")
    wait_for("everything runs", deployment.works, 180)
    run = Run(deployment, folder)
    run.plant()
    run.detach(WORKERS[1])
    with watching() as watch:
        for name, settings in FAILURES.items():
            run.play(name, **settings)
        run.play("success")
    run.watch = watch
    for number, token in enumerate(sorted(watch.tokens)):
        run.canaries.known[f"join token {number}"] = token
    yield run
    deployment.lab("load", "deployed")
    wait_for("everything runs", deployment.works, 180)


def test_the_runs_failed_where_they_should_and_then_succeeded(run):
    assert run.codes["success"] == 0, run.outputs["success"][-6000:]
    assert [name for name, code in run.codes.items() if code == 0] == ["success"]


def test_who_waits_sees_for_what_and_a_time_out_says_why(run):
    output = run.outputs["jupyterhub, a hub that no node takes"]
    waiting = re.search(r"^waiting: \[head\.lab\] .*JupyterHub is ready: \d+ of 12 s: (.*)$", output, re.MULTILINE)
    assert waiting, output[-6000:]
    for told in ("Deployment jhub/hub: 0 of 1 pods", "pod jhub/hub-", "on no node yet: Pending", "FailedScheduling"):
        assert told in waiting[1]
    failed = output[output.index("not ready after 1") :]
    assert "Deployment jhub/hub: 0 of 1 pods" in failed
    assert "FailedScheduling" in failed


def test_there_are_enough_secrets(run):
    assert len(run.canaries.known) >= 20
    assert any(name.startswith("join token") for name in run.canaries.known)


def test_no_output_shows_one(run):
    shown = {name: run.canaries.in_(output) for name, output in run.outputs.items()}
    assert not any(shown.values()), shown


def test_no_log_and_no_cache_shows_one(run):
    assert any((run.folder / "facts").iterdir()), "nothing was cached"
    assert run.left_behind() == []


def test_no_journal_shows_one(run):
    assert run.journals() == []


def test_no_pod_logs_one(run):
    assert run.logs_of_pods() == []


def test_no_process_shows_one(run):
    """But a join token, which MicroK8s takes in no other way than as an argument; it is withdrawn after the join."""
    assert run.watch.rounds > 100
    shown = [line for line in run.processes() if not re.match(r"join token \d+: b'.*\bjoin", line)]
    assert shown == []


def test_join_tokens_are_withdrawn(run, deployment):
    left = deployment.on(HEAD, "cat /var/snap/microk8s/current/credentials/cluster-tokens.txt")
    assert run.watch.tokens
    assert not any(token in left for token in run.watch.tokens)


def test_no_file_shows_one_to_everybody(run):
    assert run.readable_on_hosts() == []
    assert run.readable_here() == []


def test_planted_leaks_are_found(run, deployment, folder):
    """The control: each of the looks above finds what is planted for it."""
    name, secret = "jupyterhub-smoke-token", run.canaries.known["jupyterhub-smoke-token"]
    encoded = base64.b64encode(f"user:{secret}".encode()).decode()
    assert run.canaries.in_(f"before {secret} after") == [name]
    assert run.canaries.in_(encoded) == [name]
    deployment.on(WORKERS[0], f"logger 'leak {secret}'; echo {encoded} > /srv/leak; mkdir -p /root/.ansible/tmp")
    deployment.on(HEAD, f"umask 077; echo {secret} > /root/.ansible/leak")
    here = Path(tempfile.mkdtemp(prefix="gpuhub-leak-", dir="/var/tmp"))
    here.chmod(0o755)
    (here / "leak").write_text(secret)
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leak", "namespace": "jhub"},
        "spec": {"restartPolicy": "Never", "containers": [
            {"name": "a", "image": "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0", "command": ["echo", secret]}]},
    }  # fmt: skip
    deployment.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    try:
        phase = ("-n", "jhub", "get", "pod", "leak", "-o", "jsonpath={.status.phase}")
        wait_for("the pod ran", lambda: deployment.kubectl(*phase) == "Succeeded")
        assert f"jhub/leak: {name}" in run.logs_of_pods()
        assert f"{WORKERS[0]}: {name}" in run.journals()
        assert run.readable_on_hosts() == [f"{WORKERS[0]}: /srv/leak"]
        assert run.readable_here() == [f"{here}/leak"]
        assert f"{HEAD}: {name}" in run.left_behind()
        with watching() as watch:
            deployment.on(WORKERS[0], f"sh -c 'sleep 0.3; true {secret}'; LEAK={secret} sleep 0.3")
        run.watch = watch
        found = run.processes()
        assert any(line.startswith(f"{name}: b'sh") for line in found), found
        assert any(line.startswith(f"{name}: environment of b'sleep") for line in found), found
        (folder / "deployment.log").open("a").write(secret)
        assert f"deployment.log: {name}" in run.left_behind()
    finally:
        deployment.on(WORKERS[0], "rm /srv/leak")
        deployment.on(HEAD, "rm /root/.ansible/leak")
        deployment.kubectl("-n", "jhub", "delete", "pod", "leak", "--ignore-not-found")
        shutil.rmtree(here)
