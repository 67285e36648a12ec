"""kube-proxy's rules on a host whose firewalld empties iptables when it is reloaded."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.gpuhub.platform.plugins.modules import host_firewall

RULE = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n"
EMPTY = "-N KUBE-SERVICES\n"
GONE = ""


@pytest.fixture
def apply(tmp_path, monkeypatch):
    """A function that has firewalld reload; returns how often iptables was asked, and the warnings."""
    monkeypatch.setattr(host_firewall, "FIREWALLD_FOLDER", tmp_path)
    clock = itertools.count()
    monkeypatch.setattr(host_firewall.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(host_firewall.time, "sleep", lambda _seconds: None)

    def run(answers, iptables="/usr/sbin/iptables"):
        answered, asked, warnings = iter(answers), [], []

        def command(words, **_):
            if words[0] != iptables:
                return 0, "", ""
            asked.append(words)
            return 0, next(answered), ""

        services = host_firewall.Services(command, iptables, warnings.append)
        host_firewall.Firewalld(command, host_firewall.firewall.firewalld_files([], []), True, services).apply()
        return len(asked), warnings

    return run


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([GONE], 1),  # no kube-proxy: nothing to wait for
        ([EMPTY], 1),
        ([RULE, RULE], 2),  # a firewalld that leaves iptables alone
        ([RULE, GONE, EMPTY, RULE], 4),
    ],
)
def test_rules_that_were_there_are_waited_for(apply, answers, asked):
    assert apply(answers) == (asked, [])


def test_a_host_without_iptables_has_nothing_to_lose(apply):
    assert apply([], iptables=None) == (0, [])


def test_rules_that_do_not_come_back_are_a_warning(apply):
    asked, (warning,) = apply(itertools.chain([RULE], itertools.repeat(GONE)))
    assert asked > 2
    assert "kube-proxy has not written its rules again within 90 s" in warning
