"""What dpkg says, and what apt is told."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import debian


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n', "debian-13"),
        ("ID=ubuntu\nVERSION_ID='24.04'\n", "ubuntu-24.04"),
        ("ID=debian\n", ""),  # testing and unstable have no release
        ("", ""),
    ],
)
def test_a_distribution_is_named_with_its_release(text, expected):
    assert debian.distribution(text) == expected


@pytest.mark.parametrize(
    ("status", "missing"),
    [
        ("nginx\tinstalled\tok\thttpd, nginx-abi\n", []),
        ("nginx\tunpacked\tok\t\n", ["nginx"]),
        ("nginx\thalf-configured\tok\t\n", ["nginx"]),
        ("nginx\ttriggers-awaited\tok\t\n", ["nginx"]),
        ("nginx\tconfig-files\tok\t\n", ["nginx"]),
        ("nginx\tinstalled\treinstreq\t\n", ["nginx"]),
        ("nginx\tinstalled\tok\t\nnginx\tnot-installed\tok\t\n", []),  # of another architecture
        ("nginx-common\tinstalled\tok\t\n", ["nginx"]),
        ("", ["nginx"]),
    ],
)
def test_what_is_not_installed_to_the_end_is_lacking(status, missing):
    assert debian.lacking(["nginx"], debian.parse_status(status)) == missing


def test_what_packages_provide_is_read():
    assert debian.parse_status("exim4\tinstalled\tok\tmail-transport-agent, default-mta (= 1)\n") == {
        "exim4": ["mail-transport-agent", "default-mta"]
    }


@pytest.mark.parametrize(
    ("relation", "groups"),
    [
        ("", []),
        ("libc6 (>= 2.38)", [["libc6"]]),
        ("nginx-common (= 1-2), iproute2", [["nginx-common"], ["iproute2"]]),
        ("debconf (>= 0.5) | debconf-2.0, python3:any", [["debconf", "debconf-2.0"], ["python3"]]),
        ("libstdc++6 [amd64], , a1", [["libstdc++6"], ["a1"]]),
    ],
)
def test_a_field_of_relations_is_read(relation, groups):
    assert debian.alternatives(relation) == groups


DEPENDS = {"nginx": "nginx-common, libssl3t64 | libssl, httpd-helper", "nginx-common": "", "helper": "nginx", "x": ""}
PROVIDES = {"helper": "httpd-helper"}


@pytest.mark.parametrize(
    ("wanted", "installed", "needed", "missing"),
    [
        (["nginx"], ["libssl3t64"], {"nginx", "nginx-common", "helper"}, {}),
        (["nginx"], ["libssl"], {"nginx", "nginx-common", "helper"}, {}),
        (["nginx"], [], {"nginx", "nginx-common", "helper"}, {"libssl3t64 or libssl": "nginx"}),
        (["x"], [], {"x"}, {}),
        (["x"], ["x"], {"x"}, {}),
        (["ufw"], [], set(), {}),
        ([], [], set(), {}),
    ],
)
def test_what_packages_need_in_turn_is_found(wanted, installed, needed, missing):
    assert debian.closure(wanted, DEPENDS, PROVIDES, installed) == (needed, missing)


def test_an_index_has_a_paragraph_for_each_file_with_its_place():
    debs = [
        debian.Deb("b.deb", "Package: b\nVersion: 2\n", "sha256:" + "b" * 64, 20),
        debian.Deb("a.deb", "Package: a\nVersion: 1\nDescription: one\n more\n", "sha256:" + "a" * 64, 10),
    ]
    assert debian.packages_index(debs) == (
        f"Package: a\nVersion: 1\nDescription: one\n more\nFilename: ./a.deb\nSize: 10\nSHA256: {'a' * 64}\n"
        f"\nPackage: b\nVersion: 2\nFilename: ./b.deb\nSize: 20\nSHA256: {'b' * 64}\n"
    )
