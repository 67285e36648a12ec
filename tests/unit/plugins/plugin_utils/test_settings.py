"""Variables of an inventory against specifications."""

from __future__ import annotations

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.gpuhub.platform.plugins.plugin_utils import settings
from ansible_collections.gpuhub.platform.plugins.plugin_utils.settings import Known

KNOWN = Known(
    {
        "hub_port": {"type": "int"},
        "hub_names": {"type": "list", "elements": "str"},
        "hub_mode": {"type": "str", "choices": ["a", "b"]},
        "hub_labels": {"type": "dict"},
        "hub_charts": {"type": "list", "elements": "dict", "options": {"name": {"type": "str", "required": True}}},
        "hub_on": {"type": "bool"},
        "hub_any": {"type": "raw"},
        "hub_token": {"type": "int", "no_log": True},
        "hub_very_long_setting": {"type": "str"},
    },
    ("gpuhub_", "hub_"),
    {"hub_old": "use hub_mode"},
)


def trusted(value):
    """A value as an inventory's file would have it: its templates are evaluated."""
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


def check(**variables):
    """Faults as text, and the names that are left for later."""
    variables = trusted({"inventory_hostname": "h1", "groups": {"head": ["h1"]}, **variables})
    faults, later = settings.check(variables, Templar(loader=DataLoader(), variables=variables), KNOWN)
    return [f"{fault.variable}: {fault.text}" for fault in faults], later


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"hub_port": 80},
        {"hub_port": "80"},
        {"hub_port": "{{ base + 1 }}", "base": "{{ 79 }}"},
        {"hub_names": ["a", "{{ inventory_hostname }}", 5]},
        {"hub_names": "{{ groups['head'] }}"},
        {"hub_names": "{{ groups['head'] | map('extract', dict(h1='x')) | ansible.builtin.union(['y']) }}"},
        {"hub_names": "{% set own = ['a'] %}{{ own }}"},
        {"hub_mode": "{% for letter in 'a' %}{{ letter }}{% endfor %}"},
        {"hub_mode": "{{ lookup('ansible.builtin.env', 'NOT_THERE') or 'a' }}"},
        {"hub_on": "yes"},
        {"hub_any": "x"},
        {"hub_charts": [{"name": "x"}]},
        {"hubs_own": 1, "hub": 2, "other_hub_port": "x"},
        {"hub_elsewhere": 1, "hub_vhost_1": 2, "gpuhub_foreign_variables": ["hub_elsewhere", "hub_vhost_*"]},
    ],
)
def test_what_can_be_right(variables):
    found, later = check(**variables)
    assert [line for line in found if not line.startswith("gpuhub_foreign_variables")] == []
    assert later == []


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"hub_prt": 1}, "hub_prt: no variable of this collection; did you mean hub_port?"),
        (
            {"hub_long_setting": 1},
            "hub_long_setting: no variable of this collection; did you mean hub_very_long_setting?",
        ),
        ({"hub_quite_different": 1}, "hub_quite_different: no variable of this collection"),
        ({"hub_old": 1}, "hub_old: was removed; use hub_mode"),
        ({"hub_port": "x"}, "hub_port: must be of type int, but is 'x'"),
        ({"hub_port": ""}, "hub_port: must be of type int, but is ''"),
        ({"hub_port": True}, "hub_port: must be of type int, but is true or false"),
        ({"hub_port": [80]}, "hub_port: must be of type int, but is a list"),
        ({"hub_port": None}, "hub_port: has no value"),
        ({"hub_port": 70000}, "hub_port: must be a port"),
        ({"hub_port": "{{ 'x' * 2 }}"}, "hub_port: must be of type int, but is 'xx'"),
        ({"hub_names": "a,b"}, "hub_names: must be a list, such as [a, b], but is a text; on the command line"),
        ({"hub_names": [["a"]]}, "hub_names: an element must be of type str, but is a list"),
        ({"hub_names": [None]}, "hub_names: an element has no value"),
        ({"hub_names": {"a": 1}}, "hub_names: must be a list, such as [a, b], but is a mapping"),
        ({"hub_mode": "c"}, "hub_mode: must be one of: a, b, got: c"),
        ({"hub_mode": {"a": 1}}, "hub_mode: must be of type str, but is a mapping"),
        ({"hub_labels": "a=b"}, "hub_labels: must be a mapping of names to values, but is a text"),
        ({"hub_charts": [{}]}, "hub_charts: missing required arguments: name"),
        ({"hub_charts": [{"name": "x", "nme": 1}]}, "hub_charts: hub_charts.nme. Supported parameters include: name"),
        ({"hub_on": "maybe"}, "hub_on: must be of type bool, but is 'maybe'"),
        ({"hub_token": "hunter2"}, "hub_token: must be of type int, but is something else"),
        ({"hub_port": "{{ 1 + }}"}, "hub_port: cannot be evaluated: "),
        ({"hub_port": "{{ own.typo }}", "own": {"port": 1}}, "hub_port: cannot be evaluated: "),
        ({"hub_port": "{{ 1 | no_such_filter }}"}, "hub_port: cannot be evaluated: "),
    ],
)
def test_what_cannot_be_right(variables, says):
    (found,), later = check(**variables)
    assert found.startswith(says)
    assert "hunter2" not in found
    assert later == []


@pytest.mark.parametrize(
    "variables",
    [
        {"hub_port": "{{ ansible_facts.port }}"},
        {"hub_port": "{{ ansible_facts.port | default('none') }}", "ansible_facts": {}},
        {"hub_port": "{{ 'x' if ansible_facts['os_family'] | default('') == 'Debian' else 'y' }}"},
        {"hub_port": "{{ ansible_port_of_a_fact | default('x') }}"},
        {"hub_port": "{{ hostvars['h2'].port | default('x') }}"},
        {"hub_port": "{{ registered.stdout | default('x') }}"},
        {"hub_mode": "{{ [later] | ansible.builtin.basename | default('x') }}"},
        {"hub_port": "{{ one }}", "one": "{{ two }}", "two": ["{{ ansible_facts.x | default('x') }}"]},
        {"hub_port": "{{ one }}", "one": "{{ hub_port }}{{ later }}"},
        {"hub_port": "{% if late is defined %}x{% endif %}"},
    ],
)
def test_what_depends_on_hosts_or_tasks_is_left_for_later(variables):
    assert check(**variables) == ([], [next(iter(variables))])


def test_everything_is_listed_at_once():
    found, later = check(hub_port="x", hub_mode="c", hub_prt=1, hub_names="{{ later }}")
    assert [line.partition(":")[0] for line in found] == ["hub_mode", "hub_port", "hub_prt"]
    assert later == ["hub_names"]


def test_a_text_that_nobody_trusts_is_no_template():
    faults, _ = settings.check({"hub_mode": "{{ 1 + }}"}, Templar(loader=DataLoader(), variables={}), KNOWN)
    assert faults[0].text == "must be one of: a, b, got: {{ 1 + }}"


def test_what_is_known_is_every_role_and_what_roles_share():
    known = settings.known()
    assert {"jupyterhub_admin_users", "microk8s_pod_cidr", "gpuhub_env_file"} <= known.options.keys()
    assert {"gpuhub_", "jupyterhub_", "offline_images_"} <= set(known.prefixes)
    assert all(name.startswith(known.prefixes) for name in known.options)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("jupterhub_admin_users", "jupyterhub_admin_users"),
        ("juypterhub_pvc_size", "jupyterhub_pvc_size"),
        ("gpu_hub_dns_servers", "gpuhub_dns_servers"),
        ("ansible_host", ""),
        ("groups", ""),
        ("admin_users", ""),
    ],
)
def test_names_that_are_almost_ours(name, meant):
    assert settings.mistaken_for(name) == meant
