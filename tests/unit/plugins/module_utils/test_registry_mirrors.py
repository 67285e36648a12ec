"""hosts.toml files of the nodes."""

from __future__ import annotations

import base64
import tomllib

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.registry_mirrors import (
    RegistryMirrorsError,
    registry_mirrors,
)

CA = "/etc/gpuhub/registry-ca.crt"


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("https://10.77.0.11:5000", "https://10.77.0.11:5000/v2"),
        ("https://head.site:5000/", "https://head.site:5000/v2"),
        ("https://[fd00::1]:5000", "https://[fd00::1]:5000/v2"),
        ("https://harbor.site/gpu-hub/images", "https://harbor.site/v2/gpu-hub/images"),
    ],
)
def test_every_way_leads_to_the_registry(registry, base):
    found = registry_mirrors(["docker.io", "quay.io"], registry, CA)
    assert list(found) == ["docker.io", "quay.io"]
    for upstream, text in found.items():
        url = f"{base}/{upstream}"
        settings = {"capabilities": ["pull", "resolve"], "override_path": True, "ca": CA}
        assert tomllib.loads(text) == {"server": url, **settings, "host": {url: settings}}


def test_a_password_is_sent_whichever_way_is_taken():
    (text,) = registry_mirrors(["quay.io"], "https://harbor.site", "", "rob", 'pä"ss').values()
    document = tomllib.loads(text)
    header = {"Authorization": ["Basic " + base64.b64encode('rob:pä"ss'.encode()).decode()]}
    assert document["header"] == header
    assert document["host"]["https://harbor.site/v2/quay.io"]["header"] == header
    assert "ca" not in document


def test_images_bring_their_registries():
    images = ["registry.site/team/notebook:1", "myorg/pytorch:24.10", "quay.io/a/b:c"]
    found = registry_mirrors(["quay.io"], "https://10.0.0.1:5000", CA, images=images)
    assert list(found) == ["docker.io", "quay.io", "registry.site"]
    assert "https://10.0.0.1:5000/v2/registry.site" in found["registry.site"]


@pytest.mark.parametrize(
    ("upstream", "registry"),
    [
        ('quay.io"', "https://10.0.0.1:5000"),
        ("quay.io/x", "https://10.0.0.1:5000"),
        ("quay", "https://10.0.0.1:5000"),
        ("harbor.site:8443", "https://10.0.0.1:5000"),
        ("../x", "https://10.0.0.1:5000"),
        ("", "https://10.0.0.1:5000"),
        ("quay.io", 'https://head"\n:5000'),
        ("quay.io", ""),
        ("quay.io", "10.0.0.1:5000"),
        ("quay.io", "http://10.0.0.1:5000"),
        ("quay.io", "https://10.0.0.1:0"),
        ("quay.io", "https://10.0.0.1:70000"),
        ("quay.io", "https://me:secret@10.0.0.1"),
        ("quay.io", "https://10.0.0.1/../x"),
        ("quay.io", "https://10.0.0.1/x?y"),
    ],
)
def test_what_would_break_the_file_is_refused(upstream, registry):
    with pytest.raises(RegistryMirrorsError):
        registry_mirrors([upstream], registry, CA)
