"""What each firewall must hold."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import firewall
from ansible_collections.gpuhub.platform.plugins.module_utils.firewall import COMMENT, FirewallError, NodePorts, Opening

CLIENTS = Opening("192.0.2.0/24", "tcp", (80, 443, 30080))
OVERLAY = Opening("198.51.100.7", "udp", (4789,))
# As `ufw show added` of ufw 0.36.2 prints it.
SHOWN = f"""Added user rules (see 'ufw status' for running firewall):
ufw allow 22/tcp
ufw allow from 192.0.2.0/24 to any port 80,443,30080 proto tcp comment '{COMMENT}'
ufw allow from 198.51.100.7 to any port 4789 proto udp comment '{COMMENT}'
ufw route allow from 10.1.0.0/16 comment '{COMMENT}'
ufw allow in on vxlan.calico
ufw limit 2222/tcp comment 'by the site'
"""
RULES = [
    "allow from 192.0.2.0/24 to any port 80,443,30080 proto tcp",
    "allow from 198.51.100.7 to any port 4789 proto udp",
    "route allow from 10.1.0.0/16",
]


@pytest.mark.parametrize(
    ("given", "usual"),
    [
        (["192.0.2.9/24"], ("192.0.2.0/24",)),
        (["192.0.2.7/32", " 192.0.2.7"], ("192.0.2.7",)),
        (["192.0.2.200", "192.0.2.0/24"], ("192.0.2.0/24",)),
        (["198.51.100.7", "192.0.2.7"], ("192.0.2.7", "198.51.100.7")),
        (["192.0.2.12", "192.0.2.13"], ("192.0.2.12/31",)),
        (["0.0.0.0/0"], ("0.0.0.0/0",)),
        ([], ()),
    ],
)
def test_networks(given, usual):
    assert firewall.networks(given, "x") == usual


@pytest.mark.parametrize("wrong", ["worker7", "192.0.2.0/33", "2001:db8::/32", "", "192.0.2.1-9", None])
def test_a_wrong_network_is_named_with_its_setting(wrong):
    with pytest.raises(FirewallError, match=rf"^firewall_client_networks holds '{wrong}'"):
        firewall.networks([wrong], "firewall_client_networks")


@pytest.mark.parametrize("wrong", [0, 65536, -1, "http"])
def test_a_wrong_port_is_named(wrong):
    with pytest.raises(FirewallError, match=f"x holds '{wrong}'"):
        firewall.ports([wrong], "x")


@pytest.mark.parametrize("wrong", ["30000", "32767-30000", "0-1", "30000-65536", "a-b"])
def test_a_wrong_range_is_named(wrong):
    with pytest.raises(FirewallError, match=f"x is '{wrong}'"):
        firewall.port_range(wrong, "x")


def test_openings_of_one_network_become_one():
    both = [
        {"setting": "a", "networks": ["192.0.2.0/24"], "tcp": [443, 80], "udp": [4789]},
        {"setting": "b", "networks": ["192.0.2.0/24", "198.51.100.7"], "tcp": [80, 30080]},
        {"setting": "c", "networks": [], "tcp": [1]},
    ]
    assert sorted(firewall.openings(both)) == [
        Opening("192.0.2.0/24", "tcp", (80, 443, 30080)),
        Opening("192.0.2.0/24", "udp", (4789,)),
        Opening("198.51.100.7", "tcp", (80, 30080)),
    ]


def test_ufw_has_what_is_wanted():
    wanted = firewall.ufw_rules([CLIENTS, OVERLAY], ["10.1.0.0/16"])
    assert list(wanted) == RULES
    assert firewall.ufw_plan(firewall.ufw_shown(SHOWN), wanted) == ([], [])


def test_ufw_everybody_is_shown_in_another_way():
    wanted = firewall.ufw_rules([CLIENTS._replace(network="0.0.0.0/0")], [])
    assert {shown: " ".join(command) for shown, command in wanted.items()} == {
        "allow 80,443,30080/tcp": "allow from 0.0.0.0/0 to any port 80,443,30080 proto tcp"
    }


def test_ufw_a_rule_no_longer_wanted_goes_and_those_of_the_site_stay():
    assert firewall.ufw_plan(firewall.ufw_shown(SHOWN), [RULES[0], "allow 443/tcp"]) == (["allow 443/tcp"], RULES[1:])
    assert firewall.ufw_plan(firewall.ufw_shown(SHOWN), []) == ([], RULES)


def test_ufw_a_rule_that_the_site_has_already_is_the_sites():
    shown = firewall.ufw_shown("ufw allow 443/tcp comment 'web'\nufw allow 80/tcp\n")
    assert firewall.ufw_plan(shown, ["allow 443/tcp", "allow 80/tcp"]) == ([], [])
    assert firewall.ufw_plan(shown, []) == ([], [])


@pytest.mark.parametrize("action", ["deny", "reject", "limit"])
def test_ufw_a_rule_of_the_site_that_says_the_contrary_is_named(action):
    with pytest.raises(FirewallError, match=f"`ufw delete {action} from 192.0.2.0/24"):
        firewall.ufw_plan({f"{action} from 192.0.2.0/24 to any port 80,443,30080 proto tcp": ""}, RULES)


def test_ufw_deletes_a_route_in_another_order():
    assert firewall.ufw_deletion(RULES[2]) == ["route", "delete", "allow", "from", "10.1.0.0/16"]
    assert firewall.ufw_deletion("allow 80/tcp") == ["delete", "allow", "80/tcp"]


def test_firewalld_files():
    files = firewall.firewalld_files([CLIENTS, OVERLAY], ["10.1.0.0/16"])
    assert sorted(files) == ["policies/gpuhub-host.xml", "policies/gpuhub-routed.xml", "zones/gpuhub-pods.xml"]
    assert files["policies/gpuhub-host.xml"].count("<accept/>") == 4
    assert (
        '<source address="198.51.100.7"/>\n    <port port="4789" protocol="udp"/>' in files["policies/gpuhub-host.xml"]
    )
    assert '<source address="10.1.0.0/16"/>' in files["zones/gpuhub-pods.xml"]


def test_firewalld_what_a_reload_would_lose_is_found_whatever_the_order():
    running = firewall.firewalld_listing(
        "public (default, active)\n  target: default\n  interfaces: eth0\n  ports: 8080/tcp\n  rich rules: \n"
        '\trule family="ipv4" source address="192.0.2.9" reject\n\ntrusted\n  target: ACCEPT\n'
    )
    saved = firewall.firewalld_listing(
        "trusted\n  target: ACCEPT\n\npublic (default)\n  target: default\n  interfaces: \n  ports: \n  rich rules: \n"
    )
    assert firewall.firewalld_unsaved(running, running) == []
    assert firewall.firewalld_unsaved(running, saved) == [
        "public: ports: 8080/tcp",
        'public: rule family="ipv4" source address="192.0.2.9" reject',
    ]


def test_a_table_without_clients_has_no_empty_elements():
    table = firewall.node_port_table(NodePorts(30000, 32767, ("10.1.0.0/16",), ("192.0.2.7",), (), ()))
    assert "{  }" not in table
    assert "@clients" not in table
    assert "drop" in table
