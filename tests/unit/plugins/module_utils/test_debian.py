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
        ("nginx\tinstalled\tok\n", []),
        ("nginx\tunpacked\tok\n", ["nginx"]),
        ("nginx\thalf-configured\tok\n", ["nginx"]),
        ("nginx\ttriggers-awaited\tok\n", ["nginx"]),
        ("nginx\tconfig-files\tok\n", ["nginx"]),
        ("nginx\tinstalled\treinstreq\n", ["nginx"]),
        ("nginx\tinstalled\tok\nnginx\tnot-installed\tok\n", []),  # of another architecture
        ("nginx-common\tinstalled\tok\n", ["nginx"]),
        ("", ["nginx"]),
    ],
)
def test_what_is_not_installed_to_the_end_is_lacking(status, missing):
    assert debian.lacking(["nginx"], debian.parse_status(status)) == missing


def test_an_index_has_a_paragraph_for_each_file_with_its_place():
    debs = [
        debian.Deb("b.deb", "Package: b\nVersion: 2\n", "sha256:" + "b" * 64, 20),
        debian.Deb("a.deb", "Package: a\nVersion: 1\nDescription: one\n more\n", "sha256:" + "a" * 64, 10),
    ]
    assert debian.packages_index(debs) == (
        f"Package: a\nVersion: 1\nDescription: one\n more\nFilename: ./a.deb\nSize: 10\nSHA256: {'a' * 64}\n"
        f"\nPackage: b\nVersion: 2\nFilename: ./b.deb\nSize: 20\nSHA256: {'b' * 64}\n"
    )
