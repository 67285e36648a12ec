"""The filter around hosts.toml files."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuhub.platform.plugins.filter.registry_mirrors import FilterModule

mirrors = FilterModule().filters()["registry_mirrors"]


def test_every_upstream_has_its_text():
    assert "https://10.0.0.1:5000/v2/quay.io" in mirrors(["quay.io"], "https://10.0.0.1:5000", "/ca")["quay.io"]


def test_errors_are_the_filter_s():
    with pytest.raises(AnsibleFilterError, match="registry_mirrors: "):
        mirrors(["quay.io"], "https://10.0.0.1:x", "/ca")
