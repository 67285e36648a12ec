"""Secrets stay where they belong: planted ones are looked for wherever runs of site.yml could have shown them."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import certificates
import pytest
from harness import HEAD, LAB, WORKERS, Deployment, Play, wait_for
from sample import SEED, SOAK

HOSTS = [HEAD, *WORKERS]
ADMINISTRATORS = ["admin", "boss", "carol"]
GENERATED = [
    *(f"jupyterhub-{name}" for name in ("proxy-token", "cookie-secret", "crypt-key", "smoke-token")),
    *(f"jupyterhub-password-{name}" for name in ADMINISTRATORS),
    *(f"usage-portal-{name}" for name in ("admin-token", "hub-token", "hub-client-secret", "cookie-secret")),
    "usage-portal-database-password",
]
MICROK8S = "/var/snap/microk8s/current"
# Keys that hosts have made themselves.
MADE = {
    HEAD: {
        "authority's key": "cat /var/lib/gpuhub/pki/ca.key",
        "registry's key": "cat /var/lib/gpuhub/registry/tls/tls.key",
        "administrator's key": f"sed -n 's/^ *client-key-data: //p' {MICROK8S}/credentials/client.config",
        **{
            f"{name}'s key": f"cat {MICROK8S}/certs/{name}.key"
            for name in ("ca", "server", "serviceaccount", "front-proxy-client", "kubelet", "scheduler")
        },
    },
    **{worker: {"ssh key": "cat /etc/ssh/ssh_host_ed25519_key"} for worker in WORKERS},
}
ENV_FILE = """\
export AUTH_MODE=github
export GITHUB_CLIENT_ID=client
export GITHUB_CLIENT_SECRET="{0[GITHUB_CLIENT_SECRET]}"
export GITHUB_CALLBACK_URL=https://hub.example.com/hub/oauth_callback
"""
BROUGHT = (
    "GITHUB_CLIENT_SECRET",
    "registry password",
    "become password",
    "a value without an end",
    "site database password",
    "copy password",
)
# Where a run fails, by the settings that make it; what is spelled {name} is that secret.
FAILURES = {
    "settings, of what does not exist yet": {"gpuhub_env_ignore": []},
    "settings, a file with a fault": {"gpuhub_env_file": "faulty.env"},
    "offline_images, a registry that does not answer": {
        "offline_images_site_registry": "https://10.77.0.1:5999/gpu",
        "offline_images_site_registry_username": "robot",
        "offline_images_site_registry_password": "{registry password}",
    },
    "microk8s, a join": {"microk8s_token_ttl": 0},
    "offline_images, the registry's socket": {"__offline_images_socket": "/run/nobody-listens-here"},
    "jupyterhub, the file of values": {"__jupyterhub_values_file": "/proc/no/such/file"},
    "jupyterhub, helm": {"__jupyterhub_helm": "/bin/false"},
    "jupyterhub, the smoke test": {"jupyterhub_smoke_test_timeout": 1},
    "usage_portal, a database that is not there": {
        "usage_portal_database_url": "postgresql://portal:{site database password}@10.77.0.1:5999/portal",
        "usage_portal_ready_timeout": 12,
    },
}
# Never left out: it explains itself by objects, events and logs.
TIME_OUT = "jupyterhub, a hub that no node takes"
TIMES_OUT = {"jupyterhub_core_node": "nowhere", "jupyterhub_ready_timeout": 12}


class Watch(threading.Thread):
    """Notes the command line of every process on this machine, which are those of the hosts too."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.commands: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        looks: Counter[Path] = Counter()
        while not self.over.wait(0.02):
            present = list(Path("/proc").glob("[0-9]*"))
            looks = Counter({process: looks[process] for process in present})
            # A process becomes another program soon after its begin, or never.
            for process in (process for process in present if looks[process] < 25):
                looks[process] += 1
                try:
                    self.commands.add((process / "cmdline").read_bytes())
                except OSError:
                    continue  # it has ended

    def tokens(self) -> set[str]:
        """Tokens by which workers have joined. MicroK8s takes them in no other way than as an argument."""
        joins = b"\n".join(command for command in self.commands if b"\0join\0" in command)
        return {token.decode() for token in re.findall(rb":25000/([0-9a-f]{32})/", joins)}


class Runs:
    """Runs of site.yml at -vvvv with planted secrets, and what they have shown."""

    def __init__(self, deployment: Deployment, folder: Path) -> None:
        self.deployment, self.folder = deployment, folder
        self.secrets: dict[str, str] = {}
        self.plays: dict[str, Play] = {}
        self.watch = Watch()
        self.since = 0.0

    def plant(self) -> None:
        """Replace what the head has generated, read what hosts have made, write what the administrator brings."""
        self.since = time.time()
        for name in GENERATED:
            self.secrets[name] = token_hex(12 if "password" in name else 32)
        files = "/var/lib/gpuhub/secrets"
        lines = [f"printf %s {self.secrets[name]} > {files}/{name}; chmod 600 {files}/{name}" for name in GENERATED]
        self.deployment.on(HEAD, "\n".join(lines))
        for host, scripts in MADE.items():
            for name, script in scripts.items():
                words = [word for word in self.deployment.on(host, script).split() if len(word) >= 20]
                # The first line of a key is like that of all others of its kind.
                self.secrets[f"{host}: {name}"] = words[-1 if len(words) < 3 else 1]
        for name in BROUGHT:
            self.secrets[name] = token_hex(16)
        (self.folder / "jhub.env").write_text(ENV_FILE.format(self.secrets))
        fault = f"export AZUREAD_CLIENT_SECRET='{self.secrets['a value without an end']}\n"
        (self.folder / "faulty.env").write_text(ENV_FILE.format(self.secrets) + fault)
        pair = certificates.make(self.folder / "tls")
        self.secrets["nginx's key"] = pair.key_file.read_text().splitlines()[1]

    def play(self, name: str, playbook: str = "playbooks/site.yml", **settings: object) -> None:
        """Run the playbook as somebody does who looks for an error and keeps everything."""
        variables = {
            "jupyterhub_admin_users": ADMINISTRATORS,
            "ansible_become_password": self.secrets["become password"],
            "gpuhub_env_file": "jhub.env",
            "gpuhub_env_ignore": ["AUTH_MODE"],
            "nginx_enabled": True,
            "nginx_server_name": "hub.example.com",
            "nginx_certificate_file": str(self.folder / "tls/tls.crt"),
            "nginx_certificate_key_file": str(self.folder / "tls/tls.key"),
            # Nobody is there: the copy waits.
            "usage_portal_mysql_url": f"mysql://copy:{self.secrets['copy password']}@10.77.0.1:3999/usage",
            **{
                key: value.format_map(self.secrets) if isinstance(value, str) else value
                for key, value in settings.items()
            },
        }
        variables["gpuhub_env_file"] = str(self.folder / str(variables["gpuhub_env_file"]))
        (self.folder / "variables.json").write_text(json.dumps(variables))
        self.plays[name] = self.deployment.play(
            "-vvvv", "--diff", "-e", f"@{self.folder}/variables.json",
            playbook=playbook,
            ANSIBLE_LOG_PATH=str(self.folder / "log"),
            ANSIBLE_CACHE_PLUGIN="ansible.builtin.jsonfile",
            ANSIBLE_CACHE_PLUGIN_CONNECTION=str(self.folder / "facts"),
        )  # fmt: skip

    def forms(self) -> dict[bytes, str]:
        """Each secret as it is, in base64, in a URL, in JSON; with its name."""
        forms = {}
        for name, text in self.secrets.items():
            for form in (text, quote(text, safe=""), json.dumps(text)[1:-1]):
                forms[form.encode()] = name
            for shift in range(3):  # base64 of a longer text that begins anywhere before the secret
                forms[base64.b64encode(b"x" * shift + text.encode())[4:-4]] = name
        return forms

    def shown(self, look: str) -> list[str]:
        """What a look finds: place and name of each secret."""
        forms = self.forms()
        return sorted(
            {f"{place}: {forms[form]}" for place, text in LOOKS[look](self) for form in forms if form in text}
        )

    def printed(self, script: str) -> list[tuple[str, bytes]]:
        """What a script prints on each host."""
        return [(host, self.deployment.on(host, script).encode()) for host in HOSTS]

    def readable(self, where: list[str], *places: str) -> Iterator[tuple[str, bytes]]:
        """Files below places that nobody in particular can read, with the secrets in them."""
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        grep = ["grep", "-rasoHFf", "-", "--null", "--devices=skip", "--exclude-dir=proc", "--exclude-dir=sys", *places]
        found = subprocess.run([*where, *nobody, *grep], input=b"\n".join(self.forms()), stdout=subprocess.PIPE).stdout
        for line in found.splitlines():
            path, _, secret = line.partition(b"\0")
            yield f"{where[-1] if where else 'here'} {path.decode()}", secret


def on_hosts(runs: Runs) -> list[tuple[str, bytes]]:
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda host: list(runs.readable([str(LAB), "exec", host], "/")), HOSTS)
        return [file for files in found for file in files]


def on_the_control_node(runs: Runs) -> Iterable[tuple[str, bytes]]:
    there = [path for folder in ("/tmp", "/var/tmp") for path in Path(folder).iterdir()]
    new = [str(path) for path in there if path.lstat().st_mtime >= runs.since]
    return runs.readable([], *new) if new else []


def in_pods_logs(runs: Runs) -> Iterator[tuple[str, bytes]]:
    for pod in runs.deployment.objects("pods"):
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        log = runs.deployment.kubectl("-n", namespace, "logs", name, "--all-containers", "--ignore-errors")
        yield f"{namespace}/{name}", log.encode()


LOOKS = {
    "output": lambda runs: [(name, play.output.encode()) for name, play in runs.plays.items()],
    "deployment log": lambda runs: [("log", (runs.folder / "log").read_bytes())],
    "facts cache": lambda runs: [("facts", path.read_bytes()) for path in (runs.folder / "facts").iterdir()],
    "journals": lambda runs: runs.printed(f"journalctl --no-pager --all --since=@{runs.since:.0f}"),
    "pods' logs": in_pods_logs,
    "what Ansible leaves": lambda runs: runs.printed("find /root/.ansible -type f -exec cat {} +"),
    "command lines": lambda runs: [(repr(c[:90]), c) for c in runs.watch.commands if b"\0join\0" not in c],
    "files that everybody on a host can read": on_hosts,
    "files that everybody on the control node can read": on_the_control_node,
}


@pytest.fixture(scope="module")
def runs(deployment: Deployment, tmp_path_factory) -> Iterator[Runs]:
    """A drawn failure, in a soak all, then success and a time-out, watched; a worker is invited again."""
    runs = Runs(deployment, tmp_path_factory.mktemp("secrets"))
    runs.plant()
    deployment.on(HEAD, f"/snap/bin/microk8s remove-node {WORKERS[1]} --force")
    deployment.on(WORKERS[1], "/snap/bin/microk8s leave")
    runs.watch.start()
    names = list(FAILURES) if SOAK else random.Random(SEED).sample(list(FAILURES), 1)
    for name in names:
        runs.play(name, **FAILURES[name])
    runs.play("success")
    # The role alone: everything else has been seen.
    runs.play(TIME_OUT, "tests/e2e/role.yml", roles_to_run=["jupyterhub"], tasks_from="main", **TIMES_OUT)
    runs.secrets.update({f"join token {number}": token for number, token in enumerate(sorted(runs.watch.tokens()))})
    yield runs
    runs.watch.over.set()
    runs.watch.join()


def test_runs_failed_where_they_should_and_then_succeeded(runs):
    print(f"seed {SEED}: {', '.join(runs.plays)}")
    assert runs.plays["success"].code == 0, runs.plays["success"].output[-6000:]
    assert [name for name, play in runs.plays.items() if play.code == 0] == ["success"]


def test_there_are_enough_secrets(runs):
    assert len(set(runs.secrets.values())) == len(runs.secrets) > 20
    assert runs.watch.tokens()


@pytest.mark.parametrize("look", LOOKS)
def test_no_secret_is_shown(runs, look):
    assert runs.shown(look) == []


def test_join_tokens_are_withdrawn(runs, deployment):
    left = deployment.on(HEAD, f"cat {MICROK8S}/credentials/cluster-tokens.txt")
    assert not any(token in left for token in runs.watch.tokens())


def test_who_waits_sees_for_what_and_a_time_out_says_why(runs):
    output = runs.plays[TIME_OUT].output
    waiting = re.search(r"^waiting: \[head\.lab\] .* and ready: \d+ of 12 s: (.*)$", output, re.MULTILINE)
    assert waiting, output[-6000:]
    failed = output[output.index("not ready after 1") :]
    for told in ("Deployment jhub/hub: 0 of 1 pods", "FailedScheduling"):
        assert told in waiting[1]
        assert told in failed
    assert "pod jhub/hub-" in waiting[1]


def test_each_look_finds_what_is_planted_for_it(runs, deployment):
    """The control. It comes last, as it leaves its leaks behind."""
    name, secret = "registry password", runs.secrets["registry password"]
    encoded = base64.b64encode(f"robot:{secret}".encode()).decode()
    leak = {"ansible.builtin.set_fact": {"leak": secret, "cacheable": True}}
    (runs.folder / "leak.yml").write_text(json.dumps([{"hosts": "head", "gather_facts": False, "tasks": [leak]}]))
    runs.play("leak", playbook=str(runs.folder / "leak.yml"))
    container = {"name": "a", "image": "quay.io/jupyterhub/k8s-singleuser-sample:4.4.0", "command": ["echo", secret]}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leak", "namespace": "jhub"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }  # fmt: skip
    deployment.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    phase = ("-n", "jhub", "get", "pod", "leak", "-o", "jsonpath={.status.phase}")
    wait_for("the pod ran", lambda: deployment.kubectl(*phase) == "Succeeded")
    deployment.on(HEAD, f"logger 'leak {secret}'; sh -c 'sleep 1; true' {secret}")
    deployment.on(
        HEAD, f"echo {encoded} > /srv/leak; umask 077; echo {encoded} | tee /srv/private > /root/.ansible/leak"
    )
    here = Path("/var/tmp", f"leak-{os.getpid()}")
    here.write_text(encoded)
    planted = {
        "output": [f"leak: {name}"],
        "deployment log": [f"log: {name}"],
        "facts cache": [f"facts: {name}"],
        "journals": [f"{HEAD}: {name}"],
        "pods' logs": [f"jhub/leak: {name}"],
        "what Ansible leaves": [f"{HEAD}: {name}"],
        "files that everybody on a host can read": [f"{HEAD} /srv/leak: {name}"],
        "files that everybody on the control node can read": [f"here {here}: {name}"],
    }
    try:
        assert {look: runs.shown(look) for look in planted} == planted
        assert any(line.startswith("b'sh\\x00-c\\x00sleep 1") for line in runs.shown("command lines"))
    finally:
        here.unlink()
