"""The filter around hosts.toml files."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuhub.platform.plugins.filter.registry_mirrors import FilterModule

mirrors = FilterModule().filters()["registry_mirrors"]


def test_a_port_may_be_a_text():
    assert "https://10.0.0.1:5000/v2/quay.io" in mirrors(["quay.io"], "10.0.0.1", "5000", "/ca")["quay.io"]


@pytest.mark.parametrize("port", ["x", 0])
def test_errors_are_the_filter_s(port):
    with pytest.raises(AnsibleFilterError, match="registry_mirrors: "):
        mirrors(["quay.io"], "10.0.0.1", port, "/ca")
