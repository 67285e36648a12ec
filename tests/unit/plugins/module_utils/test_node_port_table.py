"""The table for node ports as every nft reads it."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.firewall import NodePorts, node_port_table


@pytest.mark.parametrize(("ports", "rules"), [((), 2), ((30080,), 3), ((29781, 30080), 3)])
def test_rules_name_the_protocols_before_ports(ports: tuple[int, ...], rules: int) -> None:
    """nft 1.0.6 does not know what a number in `ct original proto-dst` is otherwise."""
    networks = {"pods": ("10.1.0.0/16",), "inside": ("10.77.0.12",), "clients": ("192.0.2.0/24",)}
    table = node_port_table(NodePorts(first=30000, last=32767, ports=ports, **networks))
    matching = [line.strip() for line in table.splitlines() if "proto-dst" in line]
    assert len(matching) == rules
    assert all(line.startswith("meta l4proto { tcp, udp, sctp } ") for line in matching), matching
