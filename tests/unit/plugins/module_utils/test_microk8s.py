"""What MicroK8s prints and keeps, by recorded examples."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import microk8s as m

SNAP_LIST = """\
Name      Version  Rev    Tracking       Publisher    Notes
core22    20250923 2139   -              canonical**  base
microk8s  v1.34.4  8148   1.34/stable    canonical\N{CHECK MARK}   disabled,classic
snapd     2.72     25577  latest/stable  canonical**  snapd
local     1.0      x1     -              -            -
"""


def test_snap_list():
    snaps = m.parse_snap_list(SNAP_LIST)
    assert snaps["microk8s"] == m.Snap("microk8s", "v1.34.4", "8148", ("disabled", "classic"))
    assert snaps["local"].notes == ()
    assert list(snaps) == ["core22", "microk8s", "snapd", "local"]


@pytest.mark.parametrize(
    ("text", "wanted", "expected"),
    [
        ("--a=1\n--b=2\n", {"--a": "3"}, "--a=3\n--b=2\n"),
        ("--a=1\n", {"--b": "2"}, "--a=1\n--b=2\n"),
        ("--a=1\n--b=2\n", {"--a": None}, "--b=2\n"),
        ("--a 1\n# why\n", {"--a": "2"}, "--a=2\n# why\n"),
        ("--a=1\n--a=9\n", {"--a": "1"}, "--a=1\n"),
        ("--ab=1\n", {"--a": "2"}, "--ab=1\n--a=2\n"),
        ("", {}, "\n"),
    ],
)
def test_with_arguments(text, wanted, expected):
    assert m.with_arguments(text, wanted) == expected
    assert m.with_arguments(expected, wanted) == expected, "a second time changes nothing"


STORY = [
    # wanted, then what the file holds
    ({"HTTP_PROXY": "http://p:1"}, "PATH=$PATH\nHTTP_PROXY=http://p:1\n"),
    ({"HTTP_PROXY": "http://p:2"}, "PATH=$PATH\nHTTP_PROXY=http://p:2\n"),
    ({"HTTP_PROXY": "http://p:2", "PATH": "/x"}, "PATH=/x\nHTTP_PROXY=http://p:2\n"),
    ({"PATH": None}, ""),
    ({}, "PATH=$PATH\n"),
    ({}, "PATH=$PATH\n"),
]


def test_what_is_no_longer_wanted_is_as_it_was():
    text, replaced = "PATH=$PATH\n", {}
    for wanted, expected in STORY:
        text, replaced = m.settle(text, wanted, replaced)
        assert text.strip() == expected.strip(), wanted
        assert m.settle(text, wanted, replaced) == (text, replaced), "a second time changes nothing"
    assert replaced == {}


def test_what_the_launch_configuration_has_set_goes():
    text, replaced = m.settle("HTTP_PROXY=http://p:1\n", {"HTTP_PROXY": "http://p:1"}, {})
    assert m.settle(text, {}, replaced) == ("\n", {})


def test_files_of_which_nothing_is_wanted_are_left_alone():
    assert m.settle("--a=1\n\n--b", {}, {}) == ("--a=1\n\n--b", {})


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("--root ${SNAP_COMMON}/var/lib/containerd\n", "/var/snap/microk8s/common/var/lib/containerd"),
        ("--state /run\n--root=/data/containerd/\n", "/data/containerd"),
        ("--state /run\n", ""),
    ],
)
def test_containerd_root(text, root):
    assert m.containerd_root(text) == root


def test_parse_arguments():
    text = '--a=1\n\n# no\n--b two\n--c\n--d="x=y"\n'
    assert m.parse_arguments(text) == {"--a": "1", "--b": "two", "--c": "", "--d": "x=y"}


TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (f'{{"token": "{TOKEN}/ab12", "urls": ["10.0.0.1:25000/{TOKEN}/ab12"]}}', f"10.9.9.9:25000/{TOKEN}/ab12"),
        (f'{{"token": "{TOKEN}/ab12", "urls": []}}', f"10.9.9.9:25000/{TOKEN}/ab12"),
    ],
)
def test_join_url_is_at_the_address_of_the_inventory(text, url):
    assert m.parse_join_url(text, "10.9.9.9") == url


@pytest.mark.parametrize("text", ["", "not json", "{}", '{"token": "short/ab", "urls": []}', "[1]"])
def test_join_url_of_something_else_is_refused(text):
    with pytest.raises(m.MicroK8sError, match="microk8s add-node"):
        m.parse_join_url(text, "10.9.9.9")


@pytest.mark.parametrize(
    ("code", "cure"), [(1, "port 25000"), (4, "address"), (6, "run the play again"), (77, "journalctl")]
)
def test_join_failure_names_the_cure_and_never_the_token(code, cure):
    said = m.join_failure(code, f"Connection failed to 10.0.0.1:25000/{TOKEN}/0123456789ab")
    assert cure in said
    assert TOKEN not in said


def test_launch_configuration():
    arguments = {"kubelet": {"--a": "1"}, "kube-proxy": {}, "containerd-env": {"A": "b"}}
    found = m.launch_configuration(arguments, extraSANs=[], addons=[{"name": "dns"}])
    assert found == {
        "version": "0.2.0",
        "extraKubeletArgs": {"--a": "1"},
        "extraContainerdEnv": {"A": "b"},
        "addons": [{"name": "dns"}],
    }


def test_launch_configuration_knows_its_services():
    with pytest.raises(m.MicroK8sError, match="kubelit'"):
        m.launch_configuration({"kubelit": {"--a": "1"}})


def test_worker_heads():
    provider = "tcp:\n  services:\n    kube-apiserver:\n      loadBalancer:\n        servers:\n"
    provider += "        - address: 10.0.0.1:16443\n"
    assert m.parse_worker_heads(provider) == ["10.0.0.1:16443"]
