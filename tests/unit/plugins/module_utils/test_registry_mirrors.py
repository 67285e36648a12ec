"""hosts.toml files of the nodes."""

from __future__ import annotations

import tomllib

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.registry_mirrors import (
    RegistryMirrorsError,
    registry_mirrors,
)

CA = "/etc/gpuhub/registry-ca.crt"


@pytest.mark.parametrize(
    ("head", "authority"),
    [("10.77.0.11", "10.77.0.11:5000"), ("head.site", "head.site:5000"), ("fd00::1", "[fd00::1]:5000")],
)
def test_every_way_leads_to_the_head(head, authority):
    found = registry_mirrors(["docker.io", "quay.io"], head, 5000, CA)
    assert list(found) == ["docker.io", "quay.io"]
    for upstream, text in found.items():
        document = tomllib.loads(text)
        url = f"https://{authority}/v2/{upstream}"
        settings = {"capabilities": ["pull", "resolve"], "override_path": True, "ca": CA}
        assert document == {"server": url, **settings, "host": {url: settings}}


@pytest.mark.parametrize(
    ("upstream", "head", "port"),
    [
        ('quay.io"', "10.0.0.1", 5000),
        ("quay.io/x", "10.0.0.1", 5000),
        ("quay", "10.0.0.1", 5000),
        ("harbor.site:8443", "10.0.0.1", 5000),
        ("../x", "10.0.0.1", 5000),
        ("", "10.0.0.1", 5000),
        ("quay.io", 'head"\n', 5000),
        ("quay.io", "", 5000),
        ("quay.io", "10.0.0.1", 0),
        ("quay.io", "10.0.0.1", 70000),
    ],
)
def test_what_would_break_the_file_is_refused(upstream, head, port):
    with pytest.raises(RegistryMirrorsError):
        registry_mirrors([upstream], head, port, CA)
