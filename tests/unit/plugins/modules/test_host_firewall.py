"""A host's firewall; ufw, firewalld, nft and systemd are played by one object."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.firewall import COMMENT
from ansible_collections.gpuhub.platform.plugins.modules import host_firewall

from .runner import run

SITE = "allow 22/tcp"
OPENINGS = [
    {"setting": "firewall_client_networks", "networks": ["192.0.2.0/24"], "tcp": [30080]},
    {"setting": "firewall_node_networks", "networks": ["198.51.100.7", "198.51.100.9"], "tcp": [10250], "udp": [4789]},
]
NODE_PORTS = {"range": "30000-32767", "inside": ["198.51.100.7"], "clients": ["192.0.2.0/24"], "ports": [30080]}


class Host:
    """A host with both firewalls installed, both inactive, and a rule of the site in each."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.installed = {"ufw", "firewall-cmd", "nft"}
        self.rules = {SITE: ""}
        self.firewalld = False
        self.running = {"public": ["ports: 22/tcp"]}
        self.units = {"gpuhub-node-ports.service": False}
        self.table = ""
        self.log = []
        self.refuses_reload = False
        for name in ("etc/ufw", "etc/default", "etc/firewalld/zones", "etc/firewalld/policies"):
            (folder / name).mkdir(parents=True)
        self.set_ufw(False)

    def set_ufw(self, active):
        (self.folder / "etc/ufw/ufw.conf").write_text(f"# ufw\nENABLED={'yes' if active else 'no'}\n")

    def saved(self):
        found = {"public": ["ports: 22/tcp"]}
        for path in (self.folder / "etc/firewalld").glob("*/gpuhub-*.xml"):
            found[path.stem] = [f"text: {hash(path.read_text())}"]
        return found

    def run(self, command, data=None, **_):
        line = shlex.join(command)
        self.log.append(line)
        answer = getattr(self, "_" + command[0].replace("-", "_").rpartition("/")[2])(command[1:], data)
        return answer if isinstance(answer, tuple) else (0, answer or "", "")

    def _ufw(self, words, _):
        if words == ["show", "added"]:
            lines = (
                f"ufw {rule}" + (f" comment '{comment}'" if comment else "") for rule, comment in self.rules.items()
            )
            return "Added user rules:\n" + "\n".join(lines) + "\n"
        if "delete" in words:
            rule = [word for word in words if word != "delete"]
            assert words[:2] == (["route", "delete"] if "route" in words else ["delete", rule[0]])
            del self.rules[" ".join(rule)]
            return "Rule deleted\n"
        assert words[-2:] == ["comment", COMMENT]
        self.rules[" ".join(words[:-2])] = COMMENT
        return "Rule added\n"

    def _firewall_cmd(self, words, _):
        if words == ["--reload"]:
            if self.refuses_reload:
                return 105, "", "Error: INVALID_ADDR"
            self.running = self.saved()
            return "success\n"
        if "--direct" in words:
            return ""
        listed = self.saved() if "--permanent" in words else self.running
        wanted = (words[-1] == "--list-all-policies", ("gpuhub-host", "gpuhub-routed"))
        found = {name: lines for name, lines in listed.items() if (name in wanted[1]) == wanted[0]}
        return "".join(f"{name} (active)\n" + "".join(f"  {line}\n" for line in lines) for name, lines in found.items())

    def _systemctl(self, words, _):
        verb, unit = words[0], words[-1]
        if verb == "is-active":
            return 0 if self.firewalld else 3, "", ""
        if verb == "is-enabled":
            return 0 if self.units[unit] else 1, "", ""
        if verb in ("enable", "disable"):
            self.units[unit] = verb == "enable"
        if verb == "restart":
            self.table = self.listed(host_firewall.TABLE_FILE.read_text())
        if verb == "disable":
            self.table = ""
        return ""

    def listed(self, text):
        return f"listed {hash(text)}\n"

    def _sh(self, _, __):
        return self.table

    def _unshare(self, _, data):
        return self.listed(data)

    def _nft(self, _, __):
        self.table = ""

    def play(self, check=False, **arguments):
        return run(
            "host_firewall",
            check=check,
            **{"openings": OPENINGS, "pod_networks": ["10.1.0.0/16"], "node_ports": NODE_PORTS, **arguments},
        )


@pytest.fixture
def host(tmp_path, monkeypatch):
    found = Host(tmp_path)
    for name in ("UFW_CONFIGURATION", "UFW_DEFAULTS", "FIREWALLD_FOLDER", "TABLE_FILE", "UNIT_FILE"):
        monkeypatch.setattr(host_firewall, name, tmp_path / str(getattr(host_firewall, name))[1:])
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    monkeypatch.setattr(host_firewall.AnsibleModule, "run_command", lambda _, *a, **k: found.run(*a, **k))
    monkeypatch.setattr(
        host_firewall.AnsibleModule,
        "get_bin_path",
        lambda _, name: f"/usr/sbin/{name}" if name in found.installed else None,
    )
    return found


def activate(host, which):
    host.set_ufw(which == "ufw")
    host.firewalld = which == "firewalld"


def everything(host):
    files = {str(p): p.read_text() for p in host.folder.rglob("*") if p.is_file()}
    return dict(host.rules), dict(host.running), host.table, dict(host.units), files


def test_without_an_active_firewall_nothing_is_done(host):
    before = everything(host)
    result = host.play()
    assert (result["changed"], result["active"], result["correct"]) == (False, "", True)
    assert everything(host) == before
    assert host.log == ["systemctl is-active -q firewalld"]


@pytest.mark.parametrize("which", ["ufw", "firewalld"])
def test_opened_once_repaired_and_taken_away_without_a_trace(host, which):
    activate(host, which)
    before = everything(host)
    predicted = host.play(check=True)
    assert (predicted["changed"], predicted["correct"], predicted["active"]) == (True, False, which)
    assert everything(host) == before
    assert host.play()["changed"]
    opened = everything(host)
    assert host.table
    assert not host.play()["changed"]
    host.table = ""
    assert "nftables" in [entry["before_header"] for entry in host.play()["diff"]]
    assert everything(host) == opened
    assert host.play(state="absent")["changed"]
    assert everything(host) == before
    assert not host.play(state="absent")["changed"]


def test_ufw_a_deleted_rule_comes_back_and_another_network_replaces_the_old_one(host):
    activate(host, "ufw")
    host.play()
    rule = "allow from 198.51.100.7 to any port 4789 proto udp"
    del host.rules[rule]
    assert host.play()["changed"]
    assert host.rules[rule] == COMMENT
    moved = [{**OPENINGS[0], "networks": ["203.0.113.0/24"]}]
    host.play(openings=moved)
    assert list(host.rules) == [
        SITE,
        "route allow from 10.1.0.0/16",
        "allow from 203.0.113.0/24 to any port 30080 proto tcp",
    ]


def test_ufw_outgoing_packets_that_are_denied_are_named(host):
    activate(host, "ufw")
    (host.folder / "etc/default/ufw").write_text('DEFAULT_OUTPUT_POLICY="DROP"\n')
    assert "denies outgoing" in str(host.play()["warnings"])


def test_firewalld_what_runs_otherwise_than_saved_is_reloaded(host):
    activate(host, "firewalld")
    host.play()
    host.running["gpuhub-host"] = ["text: another"]
    assert host.play()["changed"]
    assert host.running == host.saved()


def test_firewalld_settings_of_the_site_that_a_reload_would_lose_are_named_before_any_change(host):
    activate(host, "firewalld")
    host.running["public"].append("ports: 8080/tcp")
    before = everything(host)
    failed = host.play(check=True)
    assert failed["failed"]
    assert "public: ports: 8080/tcp" in failed["msg"]
    assert host.play()["failed"]
    assert everything(host) == before


def test_firewalld_the_pods_network_in_a_zone_of_the_site_is_named(host):
    activate(host, "firewalld")
    host.running["trusted"] = ["sources: 10.1.0.0/16 192.0.2.0/24"]
    assert "--zone=trusted --remove-source=10.1.0.0/16" in host.play(check=True)["msg"]


def test_firewalld_a_refused_reload_leaves_no_file(host):
    activate(host, "firewalld")
    before = everything(host)
    host.refuses_reload = True
    assert "INVALID_ADDR" in host.play()["msg"]
    assert everything(host) == before


def test_firewalld_strict_forward_ports_are_named(host):
    activate(host, "firewalld")
    (host.folder / "etc/firewalld/firewalld.conf").write_text("StrictForwardPorts=yes\n")
    assert "StrictForwardPorts" in host.play(check=True)["msg"]


def test_both_firewalls_active_is_an_error(host):
    host.set_ufw(True)
    host.firewalld = True
    assert "both active" in host.play(check=True)["msg"]


def test_node_ports_without_nft_are_named(host):
    activate(host, "ufw")
    host.installed.remove("nft")
    assert "apt-get install nftables" in host.play(check=True)["msg"]


def test_node_ports_are_open_again_when_the_firewall_is_turned_off(host):
    activate(host, "ufw")
    host.play()
    host.set_ufw(False)
    assert host.play()["changed"]
    assert (host.table, host.units["gpuhub-node-ports.service"]) == ("", False)
    assert not host.play()["changed"]
