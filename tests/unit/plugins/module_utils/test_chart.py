"""Images that a rendered chart will run."""

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.chart import ChartError, images


def pod(*names, **others):
    return {"containers": [{"name": "c", "image": name} for name in names], **others}


def found(*documents):
    return images(documents, json.loads)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Pod", "spec": pod("a:1")},
        {"kind": "Deployment", "spec": {"template": {"spec": pod("a:1")}}},
        {"kind": "StatefulSet", "spec": {"replicas": 0, "template": {"spec": pod("a:1")}}},
        {"kind": "DaemonSet", "spec": {"template": {"spec": pod("a:1")}}},
        {"kind": "Job", "spec": {"template": {"spec": pod("a:1")}}},
        {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": pod("a:1")}}}}},
        {"kind": "PodTemplate", "template": {"spec": pod("a:1")}},
        {"kind": "List", "items": [{"kind": "Pod", "spec": pod("a:1")}]},
        {"kind": "TrainJob", "spec": {"replicas": [{"template": {"spec": pod("a:1")}}]}},
        {"kind": "Pod", "spec": pod(initContainers=[{"image": "a:1"}])},
        {"kind": "Pod", "spec": pod(ephemeralContainers=[{"image": "a:1"}])},
        {"kind": "Pod", "spec": pod(volumes=[{"name": "x"}, {"image": {"reference": "a:1"}}])},
    ],
)
def test_pods_are_found_in_every_kind(document):
    assert found(document) == ["docker.io/library/a:1"]


def test_all_are_sorted_and_each_is_there_once():
    assert found({"kind": "Pod", "spec": pod("b:1", "a:1")}, None, {"kind": "Pod", "spec": pod("a:1")}) == [
        "docker.io/library/a:1",
        "docker.io/library/b:1",
    ]


def test_what_is_no_pod_has_no_images():
    assert found({"kind": "ConfigMap", "data": {"image": "x:1", "containers": "y:1"}}, {"kind": "Service"}) == []


def secret(values, encode=True):
    text = json.dumps(values)
    data = {"data": {"values.yaml": base64.b64encode(text.encode()).decode()}}
    return {
        "kind": "Secret",
        "metadata": {"name": "hub"},
        **(data if encode else {"stringData": {"values.yaml": text}}),
    }


OFF = {"blockWithIptables": False}


@pytest.mark.parametrize(
    ("singleuser", "expected"),
    [
        ({"image": {"name": "quay.io/n/b", "tag": "4.4.0"}, "cloudMetadata": OFF}, ["quay.io/n/b:4.4.0"]),
        ({"image": {"name": "quay.io/n/b", "tag": 4}, "cloudMetadata": OFF}, ["quay.io/n/b:4"]),
        ({"image": {"name": "quay.io/n/b", "tag": ""}, "cloudMetadata": OFF}, ["quay.io/n/b:latest"]),
        ({"networkTools": {"image": {"name": "q.io/t/t", "tag": "1"}}, "cloudMetadata": OFF}, []),
        ({"networkTools": {"image": {"name": "q.io/t/t", "tag": "1"}}}, ["q.io/t/t:1"]),
        ({"networkTools": {"image": {"name": "q.io/t/t", "tag": "1"}}, "cloudMetadata": {}}, ["q.io/t/t:1"]),
        ({"extraContainers": [{"image": "q.io/x/y:1"}], "cloudMetadata": OFF}, ["q.io/x/y:1"]),
        ({"initContainers": {"a": {"image": "q.io/x/y:1"}}, "cloudMetadata": OFF}, ["q.io/x/y:1"]),
        (
            {"profileList": [{"kubespawner_override": {"image": "q.io/x/y:1"}}], "cloudMetadata": OFF},
            ["q.io/x/y:1"],
        ),
        (
            {
                "profileList": [
                    {"profile_options": {"i": {"choices": {"c": {"kubespawner_override": {"image": "q.io/x/y:1"}}}}}}
                ],
                "cloudMetadata": OFF,
            },
            ["q.io/x/y:1"],
        ),
        (None, []),
    ],
)
@pytest.mark.parametrize("encode", [True, False])
def test_what_the_hub_starts_later_is_found(singleuser, expected, encode):
    assert found(secret({"singleuser": singleuser}, encode)) == expected


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"kind": "Pod", "metadata": {"name": "p"}, "spec": pod("Not a name")}, "Pod p: 'Not a name'"),
        ({"no": "kind"}, "not an object of Kubernetes"),
        ("text", "not an object of Kubernetes"),
        ({"kind": "Secret", "metadata": {"name": "hub"}, "data": {"values.yaml": "%%%"}}, "Secret hub"),
    ],
)
def test_what_cannot_be_read_is_named(document, named):
    with pytest.raises(ChartError, match=named):
        found(document)
