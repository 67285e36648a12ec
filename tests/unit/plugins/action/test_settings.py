"""The action as its users meet it: ansible-playbook, inventories, files. No host of them can be reached."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sample
import yaml

REPOSITORY = Path(__file__).resolve().parents[4]
EXAMPLE = REPOSITORY / "tests/unit/plugins/module_utils/jhub.env.example"
UNBUILT = ["USE_GPU_OPERATOR", "ENABLE_IB", "ENABLE_IDLE_CULLER"]
HOSTILE = {
    "dots": "..",
    "up": "../../x",
    "slash": "a/b",
    "newline": "a\nb",
    "escape": "\x1b[2J",
    "unicode": "größe",
    "long": "a" * 253,
    "slug": "alice-b---5b5c3a2d9f1e7a604c1d",
    "platform": "gpuhub-smoke",
    "number": 12,
}


class Site:
    """An inventory of a head and two workers, in a folder of its own, and a playbook that shows what they see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = folder / "inventory"
        self.connected = folder / "connected"
        ssh = folder / "ssh"
        ssh.write_text(f"#!/bin/sh\ntouch {self.connected}\nexit 255\n")
        ssh.chmod(0o755)
        self.write(
            "inventory/hosts.yml",
            {
                "all": {
                    "vars": {"ansible_ssh_executable": str(ssh), "ansible_connection": "ssh"},
                    "children": {"head": {"hosts": {"h1": {}}}, "workers": {"hosts": {"w1": {}, "w2": {}}}},
                }
            },
        )

    def write(self, name: str, content: Any) -> Path:
        """A file of the site; what is no text becomes YAML."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    def vars(self, **variables: Any) -> None:
        """Variables of all hosts."""
        self.write("inventory/group_vars/all.yml", variables)

    def play(self, playbook: str | Path, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and output of ansible-playbook."""
        command = ["ansible-playbook", "-i", str(self.inventory), str(playbook), *arguments]
        settings = {"ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_LOG_PATH": str(self.folder / "log")}
        settings |= {
            "ANSIBLE_SSH_RETRIES": "0",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
        }
        environ = {**os.environ, **settings, **environment}
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def check(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """The playbook that only checks."""
        return self.play(REPOSITORY / "playbooks/settings.yml", *arguments, **environment)

    def seen(self, *arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
        """What each host has of the variables that jhub.env can set, after the check."""
        names = "{{ q('ansible.builtin.varnames', '^(jupyterhub|nginx|gpuhub_shared|usage_portal)_') }}"
        show = {"vars": {"names": names}, "ansible.builtin.debug": {"msg": {"seen": "{{ dict(names | zip(values)) }}"}}}
        show["vars"]["values"] = "{{ q('ansible.builtin.vars', *names) }}"
        check = {"ansible.builtin.import_playbook": str(REPOSITORY / "playbooks/settings.yml")}
        playbook = self.write("show.yml", [check, {"hosts": "all", "gather_facts": False, "tasks": [show]}])
        code, output = self.play(playbook, *arguments, ANSIBLE_CALLBACK_RESULT_FORMAT="json", **environment)
        assert code == 0, output
        results = re.findall(r"^ok: \[(\w+)\] => (\{.*?^\})", output, re.MULTILINE | re.DOTALL)
        shown = {host: json.loads(result)["msg"] for host, result in results}
        return {host: message["seen"] for host, message in shown.items()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose settings are right."""
    return Site(tmp_path)


def report(output: str) -> list[str]:
    """Findings of the last report in an output."""
    return re.findall(r"^ {10}- (.*)$", output, re.MULTILINE)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The report of an inventory in which everything is wrong that can be, given to site.yml."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.write("jhub.env", "PVC_SIZ=1Gi\nENABLE_NGINX_PROXY=true\nAUTH_MODE=$(id)\nUSE_GPU_OPERATOR=true\n")
    site.vars(
        gpuhub_env_file="jhub.env",
        jupyterhub_admn_users=["admin"],
        jupyterhub_node_port="many",
        jupyterhub_native_approval="nobody",
        jupyterhub_pvc_size="10GB",
        jupyterhub_memory_limit=None,
        microk8s_extra_sans="a,b",
        cluster_addons_dns_replicas="{{ ansible_facts.nodes | default('many') }}",
        gpuhub_shared_path="/mnt",
    )
    site.write("inventory/host_vars/w2.yml", {"jupyterhub_cpu_limit": "two"})
    hosts = yaml.safe_load((site.inventory / "hosts.yml").read_text())
    hosts["all"]["children"]["workers"]["hosts"] |= {
        f"x-{label}": {"jupyterhub_admin_users": ["admin", name]} for label, name in HOSTILE.items()
    }
    site.write("inventory/hosts.yml", hosts)
    code, output = site.play(REPOSITORY / "playbooks/site.yml", "-e", "jupyterhub_start_timeout=soon")
    assert code != 0
    assert not site.connected.exists()
    assert "changed=0" in output
    assert re.findall(r"^TASK \[(.*)\]", output, re.MULTILINE)[-1] == "Settings are known and can be right"
    return report(output)


@pytest.mark.parametrize(
    "pattern",
    [
        r"jupyterhub_admn_users: .* did you mean jupyterhub_admin_users\? \(all 13 hosts; .*all.yml:\d+\)",
        r"jupyterhub_node_port: must be of type int, but is 'many' \(all 13 hosts; ",
        r"jupyterhub_native_approval: must be one of: admin, auto, got: nobody",
        r"jupyterhub_pvc_size: must be an amount with its unit",
        r"jupyterhub_memory_limit: has no value; remove the line",
        r"microk8s_extra_sans: must be a list",
        r"gpuhub_shared_path: .* did you mean gpuhub_shared_storage_path\?",
        r"jupyterhub_cpu_limit: must be a number of cores.* \(w2; .*host_vars/w2.yml:1\)",
        r"jupyterhub_start_timeout: must be of type int, but is 'soon' \(all 13 hosts; .*-e",
        *(rf"jupyterhub_admin_users: must name users; not .* \(x-{label}; .*hosts.yml:\d+\)" for label in HOSTILE),
        r"\S*/jhub.env: line 1: PVC_SIZ is no name of jhub.env; did you mean PVC_SIZE\? \(all 13 hosts\)",
        r"\S*/jhub.env: line 2: ENABLE_NGINX_PROXY is true, but NGINX_PROXY_CERT_FILE is not set",
        r"\S*/jhub.env: line 3: AUTH_MODE: '\$' would be expanded",
        r"\S*/jhub.env: asks for what does not exist yet: USE_GPU_OPERATOR \(GPU Operator, line 4\)",
    ],
)
def test_everything_that_is_wrong_is_in_one_report(refused, pattern):
    assert [line for line in refused if re.match(pattern, line)], "\n".join(refused)


def test_nothing_else_is_in_the_report(refused):
    assert len(refused) == 9 + len(HOSTILE) + 6


def test_settings_that_are_right_let_the_play_go_on(site):
    """The control of the tests above: the next play connects, and that is seen."""
    code, _ = site.play(REPOSITORY / "playbooks/site.yml")
    assert code != 0
    assert site.connected.exists()


def test_the_check_alone_connects_to_nobody(site):
    site.vars(jupyterhub_core_node="{{ ansible_facts.nodename }}")
    code, output = site.check("-v")
    assert code == 0, output
    assert not site.connected.exists()
    assert re.search(r"unchecked:\n\s+- jupyterhub_core_node\n", output)
    assert set(re.findall(r"changed=(\d+)", output)) == {"0"}


@pytest.mark.parametrize("inventory", sample.draw(["single_node", "cluster", "airgap", "lab"], 2))
def test_our_own_inventories_are_right(site, inventory):
    code, output = site.check("-i", str(REPOSITORY / "inventories" / inventory))
    assert code == 0, output


def test_the_file_sets_variables_and_ansible_s_own_win(site):
    site.write("jhub.env", EXAMPLE.read_text())
    site.vars(gpuhub_env_file="jhub.env", gpuhub_env_ignore=UNBUILT, jupyterhub_admin_users=["root"])
    site.write("inventory/host_vars/w1.yml", {"jupyterhub_pvc_size": "5Gi"})
    seen = site.seen("-e", "nginx_server_name=other.example.com")
    assert seen["h1"] == {
        "gpuhub_shared_storage_path": "/your/cephfs/path",
        "jupyterhub_admin_users": ["root"],
        "jupyterhub_auth_mode": "native",
        "jupyterhub_native_approval": "auto",
        "jupyterhub_pvc_size": "128Gi",
        "jupyterhub_shared_storage_enabled": True,
        "jupyterhub_singleuser_image": "myorg/pytorch-jhub:24.10",
        "nginx_certificate_file": "/path/to/cert.crt",
        "nginx_certificate_key_file": "/path/to/cert.key",
        "nginx_enabled": True,
        "nginx_server_name": "other.example.com",
        "usage_portal_enabled": True,
        "usage_portal_url": "http://your-portal:29781",
    }
    assert seen["w1"] == {**seen["h1"], "jupyterhub_pvc_size": "5Gi"}


def test_the_play_says_what_it_read_and_what_it_did_not(site):
    site.write("jhub.env", EXAMPLE.read_text())
    ignore = ",".join(UNBUILT)
    code, output = site.check(
        "-e", "gpuhub_env_file=jhub.env", "-e", f"gpuhub_env_ignore=[{ignore}]", "-e", "jupyterhub_pvc_size=1Gi"
    )
    assert code == 0, output
    assert f"read: {site.folder}/jhub.env" in output
    assert "jupyterhub_pvc_size: PVC_SIZE" in output
    assert "IB_RESOURCE_NAME, IB_RESOURCE_COUNT (ENABLE_IB is ignored)" in output
    assert "AUTH_MODE=native lets everybody in" in output
    assert set(re.findall(r"changed=(\d+)", output)) == {"0"}


def test_no_secret_of_the_file_is_shown_or_kept(site):
    site.write("jhub.env", EXAMPLE.read_text().replace('SECRET="secret"', "SECRET=hunter2"))
    cache = {"ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile"}
    cache["ANSIBLE_CACHE_PLUGIN_CONNECTION"] = str(site.folder / "facts")
    arguments = ("-e", "gpuhub_env_file=jhub.env", "-vvv")
    for ignore in ("", json.dumps({"gpuhub_env_ignore": UNBUILT})):
        _, output = site.check(*arguments, *(["-e", ignore] if ignore else []), **cache)
        assert "PVC_SIZE" in output or "ENABLE_IB" in output
        assert "hunter2" not in output
    kept = [path for path in site.folder.rglob("*") if path.is_file() and path.name != "jhub.env"]
    assert kept
    assert not [path for path in kept if "hunter2" in path.read_text()]


def test_a_fact_cache_keeps_nothing_of_the_file(site):
    site.write("jhub.env", "PVC_SIZE=128Gi\n")
    cache = {"ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile"}
    cache["ANSIBLE_CACHE_PLUGIN_CONNECTION"] = str(site.folder / "facts")
    assert site.seen("-e", "gpuhub_env_file=jhub.env", **cache)["h1"] == {"jupyterhub_pvc_size": "128Gi"}
    assert site.seen(**cache)["h1"] == {}


def test_without_facts_as_variables_the_file_counts_too(site):
    site.write("jhub.env", "PVC_SIZE=128Gi\n")
    seen = site.seen("-e", "gpuhub_env_file=jhub.env", ANSIBLE_INJECT_FACT_VARS="0")
    assert seen["w2"] == {"jupyterhub_pvc_size": "128Gi"}


def test_a_part_of_the_play_has_the_settings_too(site):
    site.write("jhub.env", "PVC_SIZE=128Gi\n")
    code, output = site.check("-e", "gpuhub_env_file=jhub.env", "--tags", "a-part")
    assert code == 0, output
    assert "jupyterhub_pvc_size: 128Gi" in output


def test_braces_of_the_file_are_no_template(site):
    site.write("jhub.env", "GITHUB_CLIENT_ID='{{ 1 + 1 }}'\nAUTH_MODE=native\nSINGLEUSER_IMAGE='{{ 1 }}:2'\n")
    _, output = site.check("-e", "gpuhub_env_file=jhub.env")
    assert "'{{ 1 }}:2'" in output


def test_a_second_check_in_the_same_run_finds_the_same(site):
    site.write("jhub.env", "PVC_SIZE=128Gi\n")
    playbook = REPOSITORY / "playbooks/settings.yml"
    code, output = site.check(str(playbook), "-e", "gpuhub_env_file=jhub.env")
    assert code == 0, output
    first, second = re.findall(r"msg:\n((?: {8}.*\n)+)", output)
    assert first == second


@pytest.mark.parametrize("place", sample.draw(["inventory", "playbook", "."], 1))
def test_places_where_a_relative_path_is_looked_for(site, place):
    playbook = site.write("playbook/play.yml", (REPOSITORY / "playbooks/settings.yml").read_text())
    path = site.write(f"{place}/jhub.env", "PVC_SIZE=128Gi\n")
    code, output = site.play(playbook, "-e", "gpuhub_env_file=jhub.env")
    assert code == 0, output
    assert f"read: {path}" in output


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The report of hosts that each have something else that cannot be read."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.write("jhub.env", "PVC_SIZE=128Gi\n")
    site.write("vault.env", "$ANSIBLE_VAULT;1.1;AES256\n00\n")
    (site.folder / "latin1.env").write_bytes("PVC_SIZE=größe\n".encode("latin-1"))
    site.write("twice.env", "PVC_SIZE=1Gi\n")
    site.write("inventory/twice.env", "PVC_SIZE=2Gi\n")
    hosts = {
        "nothing": {"gpuhub_env_file": "nothing.env"},
        "list": {"gpuhub_env_file": ["jhub.env"]},
        "ignored": {"gpuhub_env_file": "jhub.env", "gpuhub_env_ignore": ["PVC"]},
        "mapping": {"gpuhub_env_file": "jhub.env", "gpuhub_env_ignore": {"PVC_SIZE": 1}},
        "vault": {"gpuhub_env_file": "vault.env"},
        "latin1": {"gpuhub_env_file": "latin1.env"},
        "twice": {"gpuhub_env_file": "twice.env"},
        "template": {"gpuhub_env_file": "{{ nowhere }}.env"},
    }
    site.write("inventory/more.yml", {"workers": {"hosts": hosts}})
    code, output = site.check()
    assert code != 0
    assert "Traceback" not in output
    return report(output)


@pytest.mark.parametrize(
    "pattern",
    [
        r"gpuhub_env_file: no file nothing.env; looked for .* \(nothing\)",
        r"gpuhub_env_file: must be of type path, but is a list \(list; .*more.yml:\d+\)",
        r".*jhub.env: gpuhub_env_ignore has PVC, which is no name of jhub.env \(ignored\)",
        r"gpuhub_env_ignore: .* is no list of names, such as \[ENABLE_IB\] \(mapping\)",
        r".*vault.* \(vault\)",
        r".*latin1.env: line 1: PVC_SIZE: a character that is not UTF-8 \(latin1\)",
        r"gpuhub_env_file: twice.env could be .*, which differ; write the whole path \(twice\)",
        r".*nowhere.* \(template\)",
    ],
)
def test_a_file_that_cannot_be_read_is_in_the_report(unreadable, pattern):
    assert len([line for line in unreadable if re.fullmatch(pattern, line)]) == 1, "\n".join(unreadable)
    assert len(unreadable) == 8


def test_a_secret_of_the_file_is_set_and_not_shown(site):
    text = "ENABLE_USAGE_LIMIT_ENFORCER=true\nUSAGE_PORTAL_URL=http://p:29781\nUSAGE_PORTAL_TOKEN=hunter2\n"
    site.write("jhub.env", text)
    arguments = ("-e", "gpuhub_env_file=jhub.env")
    for level in sample.draw(["", "-vvvv"], 1):
        code, output = site.check(*arguments, *filter(None, [level]))
        assert code == 0, output
        assert "usage_portal_token: (hidden)" in output and "hunter2" not in output
    assert "hunter2" not in (site.folder / "log").read_text()
    assert site.seen(*arguments)["w1"]["usage_portal_token"] == "hunter2"


def test_an_encrypted_file_is_read(site):
    path = site.write("jhub.env", "PVC_SIZE=128Gi\n")
    password = str(site.write("password", "secret"))
    subprocess.run(
        ["ansible-vault", "encrypt", "--vault-password-file", password, path], check=True, capture_output=True
    )
    assert "PVC_SIZE" not in path.read_text()
    code, output = site.check("-e", "gpuhub_env_file=jhub.env", "--vault-password-file", password)
    assert code == 0, output
    assert "jupyterhub_pvc_size: 128Gi" in output


def test_a_name_that_is_almost_ours_is_a_warning(site):
    site.vars(jupterhub_admin_users=["root"])
    code, output = site.check()
    assert code == 0
    assert "jupterhub_admin_users is no variable of this collection; did you mean jupyterhub_admin_users?" in output
