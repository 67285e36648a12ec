"""The filter that makes JupyterHub's profiles."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuhub.platform.plugins.filter.quota_profiles import FilterModule

profiles = FilterModule().filters()["quota_profiles"]


def test_static_profiles():
    found = profiles({"products": ["Tesla-T4"], "sizes": [1, 8]}, limits={"gpu": 4})
    assert [entry["slug"] for entry in found] == ["cpu-2-8", "gpu-any-1", "gpu-t4-1"]
    assert [entry["default"] for entry in found] == [True, False, False]
    assert found[2]["kubespawner_override"]["extra_resource_limits"] == {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: profiles({"size": []}), "quota_profiles: size is no setting of profiles"),
        (lambda: profiles({}, limits={"cpu": "x"}), "quota_profiles: 'x' is no amount"),
        (lambda: profiles({"sizes": []}, limits={"cpu": 1}), "quota_profiles: no size can be started"),
        (lambda: profiles({"sizes": [], "cpu_sizes": []}), "quota_profiles: no size can be started"),
    ],
)
def test_errors_are_the_filter_s(ask, says):
    with pytest.raises(AnsibleFilterError, match=says):
        ask()
