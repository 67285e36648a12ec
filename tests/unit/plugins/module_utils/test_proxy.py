"""Variables of the site's proxy, and how programs read what is in them."""

from __future__ import annotations

import ipaddress
import subprocess
import urllib.request

import pytest
import requests.utils
from ansible_collections.gpuhub.platform.plugins.module_utils import proxy

CLUSTER = proxy.Cluster("10.1.0.0/16", "10.152.183.0/24", "cluster.local")
LOOPBACK = ["localhost", "127.0.0.1", "::1", "127.0.0.0/8"]
KUBERNETES = [
    "10.1.0.0/16",
    "10.152.183.0/24",
    "10.152.183.1",
    ".svc",
    ".svc.cluster.local",
    ".cluster.local",
    "cluster.local",
]


@pytest.mark.parametrize(
    ("hosts", "names", "extra", "first", "last"),
    [
        ([], [], [], [], []),
        (["10.0.0.1", "head", "10.0.0.1", ""], [], [], ["10.0.0.1", "head"], []),
        (["Head.Example.COM", "head.example.com"], [], [], ["head.example.com"], []),
        (["https://harbor.lan/gpuhub", "https://[fd00:0::1]:5000"], [], [], ["harbor.lan", "fd00::1"], []),
        (["gpu node", "a,b", "node[1]", "$(id)", "node_1"], [], [], ["node_1"], []),
        (["localhost", "127.0.0.1"], [], [], [], []),
        ([], ["hub", ".jhub"], ["10.9.0.0/16", ".Example.com"], [], ["hub", ".jhub", "10.9.0.0/16", ".example.com"]),
        (["10.0.0.1"], ["hub"], ["10.0.0.1", "hub", "10.1.0.0/16"], ["10.0.0.1"], ["hub"]),
    ],
)
def test_what_is_reached_directly(hosts, names, extra, first, last):
    assert proxy.no_proxy(hosts, CLUSTER, names, extra) == [*LOOPBACK, *first, *KUBERNETES, *last]


@pytest.mark.parametrize(
    "entry", ["*.example.com", "*", "a b", "http://x", "10.0.0.1:80", "10.0.0.1/8", "", ".", "a,b"]
)
def test_additions_that_programs_would_misunderstand(entry):
    with pytest.raises(proxy.ProxyError, match="what is reached without the proxy: must be an address, a network"):
        proxy.no_proxy([], CLUSTER, extra=[entry])


@pytest.mark.parametrize(
    ("http", "https", "expected"),
    [
        ("", "", {}),
        ("http://p:1", "", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "a,b"}),
        ("", "http://p:2/", {"HTTPS_PROXY": "http://p:2", "NO_PROXY": "a,b"}),
        ("http://p:1", "http://p:2", {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:2", "NO_PROXY": "a,b"}),
    ],
)
def test_environment(http, https, expected):
    both = expected | {name.lower(): value for name, value in expected.items()}
    assert proxy.environment(http, https, ["a", "b"]) == both


def test_endpoints():
    urls = ["http://user:secret@10.0.0.9:3128", "http://10.0.0.9:3128", "", "https://proxy.example.com:443/"]
    assert proxy.endpoints(urls) == [("10.0.0.9", 3128), ("proxy.example.com", 443)]


def test_errors_name_the_variable_and_never_the_password():
    with pytest.raises(proxy.ProxyError, match="HTTPS_PROXY must be http://host:port") as error:
        proxy.environment("", "socks5://user:secret@p:1", [])
    assert "secret" not in str(error.value)
    assert "'(hidden)@p:1'" in str(error.value)


# What pods ask: whom, and whether that goes through the proxy. Every reader of the variables must agree.
TARGETS = {
    "hub": False,
    "hub.jhub": False,
    "hub.jhub.svc": False,
    "hub.jhub.svc.cluster.local": False,
    "localhost": False,
    "127.0.0.1": False,
    "10.0.0.1": False,
    "worker1.lab": False,
    "10.152.183.1": False,
    "files.example.com": False,
    "pypi.org": True,
    "hub.example.org": True,
    "192.0.2.1": True,
    "notexample.com": True,
}
# Networks: a pod's address.
IN_A_NETWORK = {"10.1.2.3": False, "10.152.183.77": False, "10.2.0.1": True}
ENVIRONMENT = proxy.environment(
    "http://user:p%40ss@192.0.2.9:3128",
    "http://user:p%40ss@192.0.2.9:3128",
    proxy.no_proxy(["10.0.0.1", "worker1.lab"], CLUSTER, ["hub", ".jhub"], [".example.com"]),
)


@pytest.fixture
def environment(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("host", "proxied"), TARGETS.items())
def test_urllib(environment, host, proxied):
    assert bool(urllib.request.proxy_bypass_environment(f"{host}:80")) is not proxied


@pytest.mark.parametrize(("host", "proxied"), (TARGETS | IN_A_NETWORK).items())
def test_requests(environment, host, proxied):
    assert bool(requests.utils.get_environ_proxies(f"http://{host}/")) is proxied


def test_a_shell_takes_the_variables_as_they_are():
    """MicroK8s reads containerd's environment so."""
    text = "".join(f"{name}={value}\n" for name, value in ENVIRONMENT.items())
    read = subprocess.run(["bash", "-c", f"set -a\n{text}set +a\nexec env"], capture_output=True, text=True, check=True)
    assert set(text.splitlines()) <= set(read.stdout.splitlines())


def test_networks_are_networks():
    assert [entry for entry in proxy.no_proxy([], CLUSTER) if "/" in entry and ipaddress.ip_network(entry)] == [
        "127.0.0.0/8",
        CLUSTER.pods,
        CLUSTER.services,
    ]
