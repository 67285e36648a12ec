"""Values that a type lets through and that cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils import setting_rules
from ansible_collections.gpuhub.platform.plugins.module_utils import setting_values as check
from ansible_collections.gpuhub.platform.plugins.module_utils.usernames import slug

REPOSITORY = Path(__file__).resolve().parents[4]
WRONG = {
    check.boolean: ["", "ture", "2", "enabled"],
    check.whole_number: ["", "0", "-1", "1.5", "1e3", "many", "9" * 10, "1١"],
    check.port: ["", "١", 0, 65536, "-1", "http", 100000],
    check.one_line: ["", " x", "x ", "a\nb", "a\0", "a\x1b[0m"],
    check.quantity: ["", "١Gi", "128", "10 Gi", "10gi", "10GB", "-1Gi", "0Gi", "Gi", "1e3Gi"],
    check.cores: ["", "0", "-1", "two", "1.5m", "0m"],
    check.absolute_path: ["", "x", "~/x", "/x/../y", "/..", "/x/./y", "/x{username}", "/x\n", "/a\0"],
    check.url: ["", "example.com", "ftp://x", "http://", "https://x y", "https://x:99999", "javascript:1", "http://[x"],
    check.registry: ["", "h.example.com", "http://h", "https://", "https://h:0", "https://h/Project", "https://u@h"],
    check.proxy: [
        "",
        "10.0.0.9:3128",
        "socks5://10.0.0.9:1080",
        "http://10.0.0.9",
        "http://10.0.0.9:0",
        "http://10.0.0.9:3128/x",
        "http://10.0.0.9:3128 ",
        "http://10.0.0.9:3128\n",
        "http://a b:3128",
        "http://-x:3128",
        "http://10.0.0.300:3128",
        "http://u:p@ss@10.0.0.9:3128",
        "http://u:$(id)@10.0.0.9:3128",
        "http://u:p%4@10.0.0.9:3128",
        "http://localhost:3128",
        "http://127.0.0.1:3128",
        "http://[::1]:3128",
    ],
    check.direct: ["", "*", "*.example.com", "a b", "http://x", "x:80", "10.0.0.1/8", "..x", "a,b"],
    check.image: ["", "me/nb", "Me/nb:1", "me/nb:", "me/../nb:1", "me/nb:1 2", "me/nb@sha256:12", 5],
    check.host_name: ["", "a b", "-x.com", "x_y.com", "x..com", "1.2.3", "a" * 64, "a." * 127 + "aa", "http://x"],
    check.label: ["", "Jhub", "a_b", "-a", "a-", "a.b", "a" * 64],
    check.resource: ["", "rdma", "/x", "rdma/", "Rdma/x", "rdma/x/y", "rdma/-x"],
    check.network: ["", "10.1.0.1/16", "10.1.0.0/33", "x/16"],
    check.address: ["", "dns.example.com", "10.1", "10.1.0.256"],
}
RIGHT = {
    check.boolean: ["true", "False", "yes", "0", "on"],
    check.whole_number: ["1", "3600", 5],
    check.port: ["1", 30080, 65535],
    check.one_line: ["x", "a b", "größe"],
    check.quantity: ["128Gi", "1.5Ti", "10G", "512Mi"],
    check.cores: ["2", "0.5", "500m", 4],
    check.absolute_path: ["/", "/mnt/shared", "/mnt/my share/", "/a..b"],
    check.url: ["http://h:29781", "https://h.example.com/hub/oauth_callback?x=1", "http://[::1]:80/"],
    check.registry: ["https://h", "https://10.0.0.5:5000/", "https://harbor.example.com/gpuhub", "https://[fd00::1]"],
    check.proxy: [
        "http://p:3128",
        "https://proxy.example.com:443/",
        "http://u:p%40s+s@10.0.0.9:3128",
        "http://[fd00::9]:1",
    ],
    check.direct: ["10.0.0.1", "10.0.0.0/8", "fd00::/8", "Files.example.com", ".example.com", "intranet"],
    check.image: ["me/nb:1", "h:5000/me/nb:1", "quay.io/me/nb@sha256:" + "0" * 64],
    check.host_name: ["hub", "jhub.example.com", "10.0.0.1", "fd00::1", "Hub.Example.COM"],
    check.label: ["jhub", "a-1", "1"],
    check.resource: ["rdma/rdma_shared_device", "nvidia.com/gpu"],
    check.network: ["10.1.0.0/16", "fd00::/48"],
    check.address: ["10.77.0.1", "fd00::1"],
}


@pytest.mark.parametrize(("rule", "value"), [(rule, value) for rule, values in WRONG.items() for value in values])
def test_wrong_values(rule, value):
    with pytest.raises(ValueError, match="must "):
        rule(value)


@pytest.mark.parametrize(("rule", "value"), [(rule, value) for rule, values in RIGHT.items() for value in values])
def test_right_values(rule, value):
    rule(value)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../../x",
        "a/b",
        "a\nb",
        "a\0b",
        "\x1b[31mroot",
        "Alice",
        "größe",
        "аdmin",  # the first letter is Cyrillic
        "a" * 253,
        "a--b",
        slug("alice.b"),
        "gpuhub-smoke",
        "{username}",
        " a",
        7,
        True,
        None,
        ["a"],
    ],
)
def test_hostile_and_impossible_administrators(name):
    text = setting_rules.fault("jupyterhub_admin_users", ["alice.b", name])
    assert text.startswith("must name users; not ")
    assert text.isprintable()
    assert len(text) < 300


def test_all_names_are_listed_by_reason():
    text = setting_rules.fault("jupyterhub_admin_users", ["a/b", "ok", "..", "gpuhub-x", "a/b"])
    assert text.startswith("must name users; not 'a/b', '..': names are made of ")
    assert "; not 'gpuhub-x': names that begin with gpuhub-" in text
    assert "ok" not in text


def test_two_names_with_one_folder(monkeypatch):
    """No two names have one by design; if slugs ever were shorter, this would say so."""
    monkeypatch.setattr(check.usernames, "slug", lambda name: name[:3])
    assert "'adminb': the folder adm is that of admina" in setting_rules.fault(
        "jupyterhub_admin_users", ["admina", "adminb"]
    )


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("jupyterhub_admin_users", [], "at least one"),
        ("gpuhub_dns_servers", ["10.0.0.1", "dns"], "has 'dns'; it must be an IP address"),
        ("gpuhub_shared_storage_path", "mnt", "absolute path"),
        ("jupyterhub_node_port", 70000, "port"),
        ("nginx_https_port", 0, "port"),
        ("gpuhub_http_proxy", "ftp://10.0.0.9:21", "but is 'ftp://10.0.0.9:21'"),
        ("gpuhub_https_proxy", "http://u:geheim@10.0.0.9", "but is '(hidden)@10.0.0.9'"),
        ("gpuhub_http_proxy", "http://localhost:3128", "where localhost is the pod itself"),
        ("gpuhub_no_proxy", ["10.0.0.0/8", "*.lan"], "has '*.lan'; it must be an address, a network"),
    ],
)
def test_rules_of_variables(variable, value, says):
    assert says in setting_rules.fault(variable, value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("gpuhub_shared_storage_path", ""),
        ("gpuhub_http_proxy", ""),
        ("gpuhub_no_proxy", []),
        ("jupyterhub_cpu_limit", ""),
        ("gpuhub_dns_servers", []),
        ("other", "x y"),
    ],
)
def test_values_that_may_be(variable, value):
    assert setting_rules.fault(variable, value) == ""


def test_every_rule_is_that_of_a_variable_and_lets_its_default_through():
    options = yaml.safe_load((REPOSITORY / "vars" / "settings.yml").read_text())["shared"]
    for path in REPOSITORY.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            options |= entry.get("options", {})
    assert setting_rules.RULES.keys() <= options.keys()
    for name, option in options.items():
        if "default" in option and "{{" not in str(option["default"]):
            assert setting_rules.fault(name, option["default"]) == "", name
