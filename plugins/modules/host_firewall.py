#!/usr/bin/python
"""A host's own firewall lets the cluster work, and no more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_firewall
short_description: A host's active firewall lets a Kubernetes node work
description:
  - Does nothing on a host where neither ufw nor firewalld is active.
  - In ufw, adds rules with the comment C(gpuhub.platform), and deletes those of that comment that are not wanted.
    A rule that the site has already is left alone.
  - In firewalld, writes the zone C(gpuhub-pods) and the policies C(gpuhub-routed) and C(gpuhub-host), and reloads
    firewalld when they are not what runs. Refuses to where a reload would lose settings of the site that were never
    saved. Waits for kube-proxy's rules where a reload has taken them away, as it does with firewalld 1.3.
  - Drops packets to node ports from networks that are not named, by the nftables table C(gpuhub) and the unit
    C(gpuhub-node-ports.service), as kube-proxy lets them pass both firewalls.
version_added: 0.2.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  state:
    description:
      - V(present) opens what is needed where a firewall is active.
      - V(absent) takes everything away that this module ever set, whether the firewall is active or not.
    type: str
    choices: [present, absent]
    default: present
  openings:
    description: Ports of the host that networks may reach.
    type: list
    elements: dict
    default: []
    suboptions:
      setting:
        description: Name of the setting that the networks come from, for messages.
        type: str
        required: true
      networks:
        description: IPv4 addresses and networks.
        type: list
        elements: str
        default: []
      tcp:
        description: TCP ports.
        type: list
        elements: int
        default: []
      udp:
        description: UDP ports.
        type: list
        elements: int
        default: []
  pod_networks:
    description: Networks whose packets the host forwards to anywhere.
    type: list
    elements: str
    default: []
  node_ports:
    description: Who may reach the node ports of Kubernetes' services. Everybody, unless this is given.
    type: dict
    suboptions:
      range:
        description: All ports that services may have on nodes, as C(30000-32767).
        type: str
        required: true
      inside:
        description: Networks besides O(pod_networks) that may reach all of them.
        type: list
        elements: str
        default: []
      clients:
        description: Networks that may reach O(node_ports.ports).
        type: list
        elements: str
        default: []
      ports:
        description: Ports that O(node_ports.clients) may reach.
        type: list
        elements: int
        default: []
requirements:
  - nft, where node_ports is given
"""

EXAMPLES = r"""
- name: The hub is open to one network, and nodes reach each other
  gpuhub.platform.host_firewall:
    openings:
      - setting: firewall_client_networks
        networks: [192.0.2.0/24]
        tcp: [30080]
      - setting: firewall_node_networks
        networks: [198.51.100.11, 198.51.100.12]
        tcp: [10250]
        udp: [4789]
    pod_networks: [10.1.0.0/16]
    node_ports:
      range: 29781-32767
      inside: [198.51.100.11, 198.51.100.12]
      clients: [192.0.2.0/24]
      ports: [30080]
"""

RETURN = r"""
active:
  description: The firewall that is active, C(ufw) or C(firewalld). Empty where none is.
  type: str
  returned: always
clients:
  description: Networks that may reach the ports of O(node_ports.ports). Empty where no firewall is active.
  type: list
  elements: str
  returned: always
correct:
  description: Whether everything was as it should be before this run.
  type: bool
  returned: always
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import firewall
from ..module_utils.atomic_file import write_text
from ..module_utils.firewall import FirewallError

UFW_CONFIGURATION = Path("/etc/ufw/ufw.conf")
UFW_DEFAULTS = Path("/etc/default/ufw")
FIREWALLD_FOLDER = Path("/etc/firewalld")
TABLE_FILE = Path("/etc/gpuhub/node-ports.nft")
UNIT = "gpuhub-node-ports.service"
UNIT_FILE = Path("/etc/systemd/system", UNIT)

# kube-proxy looks every 30 seconds whether its rules are still there.
SERVICES_TIMEOUT_S = 90

UNIT_TEXT = """\
[Unit]
Description=Node ports are open to the networks that gpuhub.platform was told
After=nftables.service
Before=snap.microk8s.daemon-kubelite.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={nft} -f {file}
ExecStop={nft} delete table inet {table}

[Install]
WantedBy=multi-user.target
"""

# Returns the exit code, standard output and standard error of a command.
Run = Callable[..., "tuple[int, str, str]"]


def change(name: object, before: str, after: str) -> dict[str, str]:
    """One entry of a diff."""
    return {"before_header": str(name), "after_header": str(name), "before": before, "after": after}


def text_of(path: Path) -> str:
    """The text of a file; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def setting_of(path: Path, name: str) -> str:
    """A value of a file of NAME=value lines, without quotes; empty if it is not there."""
    found = re.search(rf"^\s*{name}\s*=\s*[\"']?(\w*)", text_of(path), re.MULTILINE)
    return found[1] if found else ""


def write(files: dict[Path, str]) -> None:
    """Make files equal to texts; an empty text removes one."""
    for path, text in files.items():
        if text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text, 0o644)
        else:
            path.unlink(missing_ok=True)


def checked(run: Run, *command: str) -> str:
    """Standard output of a command that must succeed."""
    code, out, err = run(list(command))
    if code:
        raise FirewallError(f"`{' '.join(command)}` ended with {code}: {(err or out).strip()}")
    return out


class Ufw:
    """Rules of ufw that have our comment."""

    def __init__(self, run: Run, wanted: dict[str, list[str]]) -> None:
        self._run = run
        self._wanted = wanted
        self._add, self._delete = firewall.ufw_plan(firewall.ufw_shown(checked(run, "ufw", "show", "added")), wanted)

    def changes(self) -> list[dict[str, str]]:
        if not self._add and not self._delete:
            return []
        return [change("ufw", *("".join(f"{rule}\n" for rule in rules) for rules in (self._delete, self._add)))]

    def apply(self) -> None:
        # What is wanted comes first, so that nothing is cut off in between.
        for rule in self._add:
            checked(self._run, "ufw", *self._wanted[rule], "comment", firewall.COMMENT)
        for rule in self._delete:
            checked(self._run, "ufw", *firewall.ufw_deletion(rule))


class Services:
    """kube-proxy's rules in iptables, if this host has any."""

    def __init__(self, run: Run, iptables: str | None, warn: Callable[[str], None]) -> None:
        self._run = run
        self._iptables = iptables
        self._warn = warn

    def there(self) -> bool:
        """Whether the rules are there; the one that is asked for is the last one that kube-proxy writes."""
        if not self._iptables:
            return False
        return "-j KUBE-NODEPORTS" in self._run([self._iptables, "-w", "-t", "nat", "-S", "KUBE-SERVICES"])[1]

    def wait(self) -> None:
        """Wait until they are there again."""
        deadline = time.monotonic() + SERVICES_TIMEOUT_S
        while not self.there():
            if time.monotonic() > deadline:
                self._warn(
                    f"firewalld's reload has emptied iptables, and kube-proxy has not written its rules again within "
                    f"{SERVICES_TIMEOUT_S} s: services do not answer here before kubelite runs"
                )
                return
            time.sleep(0.5)


class Firewalld:
    """Our zone and policies of firewalld, in its files and as it runs."""

    def __init__(self, run: Run, files: dict[str, str], active: bool, services: Services) -> None:
        self._run = run
        self._services = services
        self._files = {FIREWALLD_FOLDER / name: text for name, text in files.items()}
        self._ours = {path.stem for path in self._files}
        self._before = {path: text_of(path) for path in self._files}
        self._active = active
        self._stale: list[str] = []
        self._unsaved: list[str] = []
        if active:
            running, saved = self._listing(), self._listing("--permanent")
            names = self._ours & (running.keys() | saved.keys())
            self._stale = sorted(n for n in names if sorted(running.get(n, [])) != sorted(saved.get(n, [])))
            self._unsaved = firewall.firewalld_unsaved(
                {name: settings for name, settings in running.items() if name not in self._ours}, saved
            )
            self._source_is_free(running, files)

    def _listing(self, *permanent: str) -> dict[str, list[str]]:
        """Settings of all zones and policies, and the direct rules under the name `direct`."""
        ask = ("firewall-cmd", *permanent)
        found = {"direct": checked(self._run, *ask, "--direct", "--get-all-rules").splitlines()}
        for kind in ("zones", "policies"):
            found.update(firewall.firewalld_listing(checked(self._run, *ask, f"--list-all-{kind}")))
        return found

    def _source_is_free(self, zones: dict[str, list[str]], files: dict[str, str]) -> None:
        """firewalld refuses a network that is a source of two zones."""
        wanted = set(re.findall(r'<source address="([^"]+)"', files[f"zones/{firewall.ZONE}.xml"]))
        for name, settings in zones.items():
            sources = {word for line in settings if line.startswith("sources:") for word in line.split()[1:]}
            if name not in self._ours and sources & wanted:
                source = sorted(sources & wanted)[0]
                raise FirewallError(
                    f"firewalld has the pods' network {source} in zone '{name}'; it is to be in zone "
                    f"'{firewall.ZONE}'. Take it out: firewall-cmd --permanent --zone={name} --remove-source={source} "
                    "and then firewall-cmd --reload"
                )

    def changes(self) -> list[dict[str, str]]:
        found = [
            change(path, self._before[path], text) for path, text in self._files.items() if text != self._before[path]
        ]
        if not found and self._stale:
            lines = (f"{name} does not run as it is saved\n" for name in self._stale)
            found.append(change("firewalld", "".join(lines), ""))
        if found and self._unsaved:
            raise FirewallError(
                "firewalld must be reloaded, and would lose settings that were never saved: "
                f"{'; '.join(self._unsaved)}. Keep them (firewall-cmd --runtime-to-permanent) or let them go "
                "(firewall-cmd --reload), then run this again"
            )
        return found

    def apply(self) -> None:
        write(self._files)
        if not self._active:
            return
        served = self._services.there()
        try:
            checked(self._run, "firewall-cmd", "--reload")
        except FirewallError:
            write(self._before)  # with files that it refuses it would not come up after a reboot
            raise
        if served:
            self._services.wait()


class NodePorts:
    """Our table of nftables, in its file and as it runs."""

    def __init__(self, run: Run, nft: str | None, table: str) -> None:
        self._run = run
        self._nft = nft or ""
        self._files = {
            TABLE_FILE: table,
            UNIT_FILE: UNIT_TEXT.format(nft=self._nft, file=TABLE_FILE, table=firewall.TABLE) if table else "",
        }
        self._before = {path: text_of(path) for path in self._files}
        if table and not nft:
            raise FirewallError(
                "nft is not installed, and without it node ports would be open to every network: "
                "apt-get install nftables"
            )
        self._listed = self._list() if nft else ""
        self._expected = self._list(table) if table else ""
        self._enabled = bool(any(self._before.values())) and run(["systemctl", "is-enabled", "-q", UNIT])[0] == 0

    def _list(self, table: str = "") -> str:
        """How nft prints our table: as it runs, or as `table` would be, loaded in a network namespace of its own."""
        show = f"'{self._nft}' list table inet {firewall.TABLE}"
        if not table:
            return self._run(["sh", "-c", show])[1]
        code, out, err = self._run(["unshare", "--net", "sh", "-c", f"'{self._nft}' -f - && {show}"], data=table)
        if code:
            raise FirewallError(f"nft refuses the table for node ports: {err.strip()}")
        return out

    def changes(self) -> list[dict[str, str]]:
        found = [
            change(path, self._before[path], text) for path, text in self._files.items() if text != self._before[path]
        ]
        if self._listed != self._expected and not found:
            found.append(change("nftables", self._listed, self._expected))
        if self._expected and not self._enabled and not found:
            found.append(change(UNIT, "disabled\n", "enabled\n"))
        return found

    def apply(self) -> None:
        if self._expected:
            write(self._files)
            checked(self._run, "systemctl", "daemon-reload")
            checked(self._run, "systemctl", "enable", "-q", UNIT)
            checked(self._run, "systemctl", "restart", UNIT)
            return
        if self._before[UNIT_FILE]:
            checked(self._run, "systemctl", "disable", "-q", "--now", UNIT)
        write(self._files)
        checked(self._run, "systemctl", "daemon-reload")
        if self._nft and self._list():
            checked(self._run, self._nft, "delete", "table", "inet", firewall.TABLE)


def active_firewall(run: Run, ufw: str | None, firewalld: str | None) -> str:
    """Name of the firewall that is active; FirewallError if both are."""
    active = []
    if ufw and setting_of(UFW_CONFIGURATION, "ENABLED") == "yes":
        active.append("ufw")
    if firewalld and run(["systemctl", "is-active", "-q", "firewalld"])[0] == 0:
        active.append("firewalld")
    if len(active) > 1:
        raise FirewallError(
            "ufw and firewalld are both active, and each drops what only the other one has opened. Stop one of them: "
            "`ufw disable`, or `systemctl disable --now firewalld`"
        )
    return active[0] if active else ""


def parts_of(module: AnsibleModule, run: Run, active: str) -> list[Any]:
    """Everything on this host that has to be looked at."""
    options = module.params
    present = options["state"] == "present"
    tools = {name: module.get_bin_path(name) for name in ("ufw", "firewall-cmd", "nft")}
    wanted = firewall.openings(options["openings"])
    pods = firewall.networks(options["pod_networks"], "pod_networks")
    parts: list[Any] = []
    if active == "ufw" or (not present and tools["ufw"]):
        parts.append(Ufw(run, firewall.ufw_rules(wanted, pods) if present else {}))
    if active == "ufw" and setting_of(UFW_DEFAULTS, "DEFAULT_OUTPUT_POLICY") not in ("", "ACCEPT"):
        module.warn("ufw denies outgoing packets by default: the ways out to the other nodes are the site's to open")
    if active == "firewalld" or (not present and tools["firewall-cmd"]):
        files = firewall.firewalld_files(wanted, pods)
        running = active == "firewalld" or run(["systemctl", "is-active", "-q", "firewalld"])[0] == 0
        services = Services(run, module.get_bin_path("iptables"), module.warn)
        parts.append(Firewalld(run, files if present else dict.fromkeys(files, ""), running, services))
    if active == "firewalld" and setting_of(FIREWALLD_FOLDER / "firewalld.conf", "StrictForwardPorts") == "yes":
        raise FirewallError(
            "firewalld has StrictForwardPorts=yes, which closes every node port of Kubernetes. Set it to no in "
            f"{FIREWALLD_FOLDER}/firewalld.conf; node ports are open only to the networks named all the same"
        )
    table = ""
    if active and options["node_ports"]:
        asked = options["node_ports"]
        first, last = firewall.port_range(asked["range"], "node_ports.range")
        table = firewall.node_port_table(
            firewall.NodePorts(
                first,
                last,
                pods,
                firewall.networks([*asked["inside"], *pods], "firewall_node_networks"),
                firewall.networks(asked["clients"], "firewall_client_networks"),
                tuple(port for port in firewall.ports(asked["ports"], "node_ports.ports") if first <= port <= last),
            )
        )
    if table or TABLE_FILE.exists() or UNIT_FILE.exists():
        parts.append(NodePorts(run, tools["nft"], table))
    return parts


def main() -> None:
    """Look at everything, then change what differs."""
    networks = {"type": "list", "elements": "str", "default": []}
    numbers = {"type": "list", "elements": "int", "default": []}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "openings": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "setting": {"type": "str", "required": True},
                    "networks": networks,
                    "tcp": numbers,
                    "udp": numbers,
                },
            },
            "pod_networks": networks,
            "node_ports": {
                "type": "dict",
                "options": {
                    "range": {"type": "str", "required": True},
                    "inside": networks,
                    "clients": networks,
                    "ports": numbers,
                },
            },
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C", "LANGUAGE": "C"}
    run = module.run_command
    active, clients = "", ()
    try:
        if module.params["state"] == "present":
            active = active_firewall(run, module.get_bin_path("ufw"), module.get_bin_path("firewall-cmd"))
        if active and module.params["node_ports"]:
            clients = firewall.networks(module.params["node_ports"]["clients"], "firewall_client_networks")
        parts = parts_of(module, run, active)
        diff = [entry for part in parts for entry in part.changes()]
        if not module.check_mode:
            for part in parts:
                if part.changes():
                    part.apply()
    except FirewallError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(diff), correct=not diff, active=active, clients=list(clients), diff=diff)


if __name__ == "__main__":
    main()
