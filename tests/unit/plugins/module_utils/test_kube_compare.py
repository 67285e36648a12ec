"""Objects as they are against objects as they should be."""

from __future__ import annotations

import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import kube_compare as kc


def live(**changes):
    """A live ConfigMap with what an API server adds."""
    item = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "a",
            "namespace": "b",
            "uid": "1",
            "resourceVersion": "7",
            "generation": 2,
            "annotations": {"of-another": "x"},
            "managedFields": [{"manager": "helm"}],
        },
        "data": {"k": "v"},
    }
    item.update(changes)
    return item


WANTED = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}, "data": {"k": "v"}}


def test_replacement_keeps_what_others_put_on_the_object_and_nothing_else():
    item = live(data={"k": "edited", "added": "by hand"})
    body = kc.replacement(item, WANTED)
    assert body["data"] == {"k": "v"}
    assert body["metadata"] == {
        "name": "a",
        "namespace": "b",
        "annotations": {"of-another": "x"},
        "resourceVersion": "7",
    }
    assert "annotations" not in WANTED["metadata"], "the definition itself must not change"


@pytest.mark.parametrize(
    ("kind", "spec", "wanted", "expected"),
    [
        # A claim's spec is filled in by the API server and cannot change.
        ("PersistentVolumeClaim", {"volumeName": "pv", "x": 1}, {"x": 1}, {"volumeName": "pv", "x": 1}),
        ("Deployment", {"replicas": 3, "paused": True}, {"replicas": 1}, {"replicas": 1}),
    ],
)
def test_replacement_of_a_spec(kind, spec, wanted, expected):
    item = {"kind": kind, "metadata": {"name": "a", "resourceVersion": "1"}, "spec": spec}
    assert kc.replacement(item, {"kind": kind, "metadata": {"name": "a"}, "spec": wanted})["spec"] == expected


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, True),
        ({"status": {"phase": "Bound"}}, True),
        ({"metadata": {**live()["metadata"], "resourceVersion": "8", "generation": 3}}, True),
        ({"data": {"k": "w"}}, False),
        ({"data": {"k": "v", "more": ""}}, False),
        ({"metadata": {**live()["metadata"], "labels": {"a": "b"}}}, False),
    ],
)
def test_comparable(changes, equal):
    assert (kc.comparable(live()) == kc.comparable(live(**changes))) is equal


def test_a_secret_is_never_printed():
    secret = live(kind="Secret", data={"password": "aHVudGVyMg=="}, stringData={"token": "hunter3"})
    printed = json.dumps(kc.printable(secret))
    assert "aHVudGVyMg" not in printed
    assert "hunter3" not in printed
    other = live(kind="Secret", data={"password": "b3RoZXI="})
    assert kc.printable(secret)["data"] != kc.printable(other)["data"], "a change must still be seen"


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["text"], "document 1 is a str"),
        ([{"kind": "Pod", "metadata": {"name": "x"}}], "lacks apiVersion"),
        ([None, {"apiVersion": "v1", "kind": "Pod"}], "document 2 (Pod None) lacks metadata.name"),
    ],
)
def test_what_is_no_object_is_named(items, message):
    with pytest.raises(kc.KubeCompareError, match=message.replace("(", r"\(").replace(")", r"\)")):
        kc.validate(items)
