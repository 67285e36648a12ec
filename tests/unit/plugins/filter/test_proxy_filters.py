"""The filters around the site's proxy."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuhub.platform.plugins.filter.proxy import FilterModule

FILTERS = FilterModule().filters()
CLUSTER = {"pod_network": "10.1.0.0/16", "service_network": "10.152.183.0/24", "domain": "cluster.local"}


def environment(http, https, **others):
    return FILTERS["proxy_environment"]({"http": http, "https": https}, hosts=["10.0.0.1"], **CLUSTER, **others)


def test_no_proxy_is_no_variable():
    assert environment("", "", extra=["10.20.0.0/16"]) == {}
    assert FILTERS["proxy_endpoints"](["", ""]) == []


def test_variables_and_places():
    found = environment("", "http://u:p@10.0.0.9:3128", names=["hub"], extra=["10.20.0.0/16"])
    assert found.keys() == {"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"}
    assert {"10.0.0.1", "hub", "10.20.0.0/16"} <= {*found["no_proxy"].split(",")}
    assert FILTERS["proxy_endpoints"](["http://u:p@10.0.0.9:3128"]) == [{"host": "10.0.0.9", "port": 3128}]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: environment("http://p", ""), "proxy_environment: HTTP_PROXY must be http://host:port"),
        (lambda: environment("http://p:1", "", extra=["*"]), "proxy_environment: what is reached without"),
        (lambda: FILTERS["proxy_endpoints"](["p:1"]), "proxy_endpoints: proxy must be http://host:port"),
    ],
)
def test_errors_are_the_filters(ask, says):
    with pytest.raises(AnsibleFilterError, match=says):
        ask()
