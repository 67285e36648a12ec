"""The lookup of the catalogue."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from ansible_collections.gpuhub.platform.plugins.lookup.catalogue import find

CATALOGUE = {"calico": {"version": "v3", "images": ["a", "b"]}, "empty": None}


@pytest.mark.parametrize(
    ("key", "value"),
    [("calico.version", "v3"), ("calico.images", ["a", "b"]), ("calico", CATALOGUE["calico"]), ("empty", None)],
)
def test_keys(key, value):
    assert find(CATALOGUE, key) == value


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("nothing", "the catalogue has calico, empty"),
        ("calico.nothing", "calico has images, version"),
        ("calico.version.x", "calico.version has no further keys"),
        ("", "has no ''"),
    ],
)
def test_an_unknown_key_says_which_there_are(key, words):
    with pytest.raises(AnsibleLookupError, match=words):
        find(CATALOGUE, key)


def test_the_collection_s_own_catalogue_is_read():
    plugin = lookup_loader.get("gpuhub.platform.catalogue")
    images, channel = plugin.run(["calico.images", "microk8s.channel"], {})
    assert len(images) == 3
    assert channel.count("/") == 1
