"""Names that are derived from user names."""

from __future__ import annotations

import itertools
import re

import pytest
import sample
from ansible_collections.gpuhub.platform.plugins.module_utils.usernames import RESERVED_PREFIX, SIGN_UP_PATTERN, slug

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@pytest.mark.parametrize("name", ["alice", "a", "7", "bob-2", "a" * 48, "1-2-3"])
def test_plain_names_stay(name):
    assert slug(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alice.b", "alice-b---"),
        ("jane@x.com", "jane-x-com---"),
        ("Alice", "alice---"),
        ("a" * 49, "a" * 25 + "---"),
        ("a--b", "a-b---"),
        ("-", "x---"),
        ("..", "x---"),
        ("../../etc/passwd", "etc-passwd---"),
        ("", "x---"),
        ("李", "x---"),
        ("\ud800", "x---"),
        ("alice\n", "alice---"),
        ("x---" + "0" * 20, "x-" + "0" * 20 + "---"),
    ],
)
def test_other_names_get_a_hash(name, expected):
    assert re.fullmatch(re.escape(expected) + "[0-9a-f]{20}", slug(name))


def test_slugs_are_labels_and_unique():
    alphabet = ["a", "B", "-", ".", "/", "@", "{", " ", "ü", "\n"]
    names = [
        "".join(letters)
        for length in range(sample.size(5, 6))
        for letters in itertools.product(alphabet, repeat=length)
    ]
    slugs = {slug(name) for name in names}
    assert len(slugs) == len(names)
    assert all(DNS_LABEL.fullmatch(value) and len(value) <= 48 for value in slugs)


def test_a_slug_of_a_slug_is_another_one():
    """A name that looks like somebody's slug must not lead to their folder."""
    assert slug(slug("alice.b")) != slug("alice.b")


@pytest.mark.parametrize("name", ["alice", "alice.b", "jane_doe@x.com", "b+c", "9", "a" * 48])
def test_names_that_people_may_choose(name):
    assert re.match(SIGN_UP_PATTERN, name)


@pytest.mark.parametrize(
    "name", ["", "Alice", ".a", "a.", "a..b", "a.-b", "a b", "a/b", "a\n", "a" * 49, "ü", "{a}", "a\0"]
)
def test_names_that_people_may_not_choose(name):
    assert not re.match(SIGN_UP_PATTERN, name)


def test_reserved_names_would_be_valid():
    """Otherwise the rule that refuses them would be of no use."""
    assert re.match(SIGN_UP_PATTERN, f"{RESERVED_PREFIX}smoke")
