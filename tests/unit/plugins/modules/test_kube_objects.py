"""kube_objects against an API server made of dicts, in which others are at work too."""

from __future__ import annotations

import copy
import json

import pytest
from ansible_collections.gpuhub.platform.plugins.modules import kube_objects

from .runner import run


class OutdatedError(Exception):
    """What the API server answers to an outdated change."""


class InvalidError(Exception):
    """What it answers to a change of what cannot be changed."""


class Cluster:
    """Objects by kind and name. `others` functions are called before the next changes, one each."""

    def __init__(self, *items, others=()):
        self.items = {(i["kind"], i["metadata"]["name"]): with_version(i, "1") for i in items}
        self.others, self.asked = list(others), []

    def knows(self, item):
        return True

    def get(self, item):
        self.asked.append(f"get {item['metadata']['name']}")
        return copy.deepcopy(self.items.get((item["kind"], item["metadata"]["name"])))

    def list(self, api_version, kind, namespace=None):
        self.asked.append(f"list {kind}")
        return [copy.deepcopy(item) for (of, _), item in self.items.items() if of == kind]

    def _change(self, item, dry_run):
        if self.others:
            self.others.pop(0)(self)
        key = (item["kind"], item["metadata"]["name"])
        live = self.items.get(key)
        if (live or {}).get("metadata", {}).get("resourceVersion") != item["metadata"].get("resourceVersion"):
            raise OutdatedError("outdated")
        if live and item["kind"] == "Job" and live["spec"] != item["spec"]:
            raise InvalidError("field is immutable")
        result = with_version(item, item["metadata"].get("resourceVersion", "1") + ("" if dry_run else "+"))
        if not dry_run:
            self.items[key] = result
        return copy.deepcopy(result)

    create = replace = _change

    def delete(self, item):
        del self.items[item["kind"], item["metadata"]["name"]]


def with_version(item, version):
    return {**copy.deepcopy(item), "metadata": {**item["metadata"], "resourceVersion": version}}


def config_map(name, value):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "a"}, "data": {"k": value}}


def touch(cluster):
    """Somebody else writes something that is none of our business."""
    cluster.items = {
        key: with_version(item, item["metadata"]["resourceVersion"] + "'") for key, item in cluster.items.items()
    }


def job(image, *conditions):
    item = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "migrate", "namespace": "a"},
        "spec": {"template": {"spec": {"containers": [{"name": "migrate", "image": image}]}}},
    }
    return {**item, "status": {"conditions": list(conditions)}} if conditions else item


def add(name):
    return lambda cluster: cluster.items.setdefault(("ConfigMap", name), with_version(config_map(name, "theirs"), "9"))


@pytest.fixture
def use(monkeypatch):
    def with_cluster(*items, others=()):
        cluster = Cluster(*items, others=others)
        monkeypatch.setattr(kube_objects.kube, "connect", lambda module: cluster)
        monkeypatch.setattr(kube_objects.kube, "is_conflict", lambda error: isinstance(error, OutdatedError))
        monkeypatch.setattr(kube_objects.kube, "is_invalid", lambda error: isinstance(error, InvalidError))
        return cluster

    return with_cluster


def test_few_objects_are_asked_for_one_by_one_and_many_as_a_list(use):
    items = [config_map(name, "v") for name in "xyz"]
    few = use(*items)
    assert not run("kube_objects", definition=items[:2])["changed"]
    assert few.asked == ["get x", "get y"]
    many = use(*items)
    assert not run("kube_objects", definition=items)["changed"]
    assert many.asked == ["list ConfigMap"]


@pytest.mark.parametrize("check", [False, True])
def test_what_differs_is_repaired_and_what_lacks_is_created(use, check):
    cluster = use(config_map("x", "edited"), config_map("y", "v"))
    before = copy.deepcopy(cluster.items)
    result = run("kube_objects", check=check, definition=[config_map(name, "v") for name in "xyz"])
    assert (result["repaired"], result["created"]) == (["ConfigMap a/x"], ["ConfigMap a/z"])
    assert (cluster.items == before) is check


@pytest.mark.parametrize("check", [False, True])
def test_what_shall_not_be_there_goes_in_the_same_execution(use, check):
    cluster = use(config_map("x", "v"), config_map("y", "v"))
    gone = [config_map("y", ""), config_map("z", "")]
    result = run("kube_objects", check=check, definition=config_map("x", "v"), absent=gone)
    assert result["changed"]
    assert (result["repaired"], result["deleted"]) == ([], ["ConfigMap a/y"])
    assert (("ConfigMap", "y") in cluster.items) is check
    assert run("kube_objects", check=check, definition=config_map("x", "v"), absent=gone)["changed"] is check


@pytest.mark.parametrize("others", [[touch], [touch, touch], [lambda _: None, touch]])
def test_what_somebody_else_changes_meanwhile_is_looked_at_again(use, others):
    cluster = use(config_map("x", "edited"), others=others)
    assert run("kube_objects", definition=config_map("x", "v"))["repaired"] == ["ConfigMap a/x"]
    assert cluster.items["ConfigMap", "x"]["data"] == {"k": "v"}


def test_what_somebody_else_creates_meanwhile_is_repaired(use):
    cluster = use(others=[add("x")])
    assert run("kube_objects", definition=config_map("x", "v"))["repaired"] == ["ConfigMap a/x"]
    assert cluster.items["ConfigMap", "x"]["data"] == {"k": "v"}


def test_what_always_changes_is_given_up_by_name(use):
    use(config_map("x", "edited"), others=[touch] * 9)
    result = run("kube_objects", definition=config_map("x", "v"))
    assert result["failed"]
    assert result["msg"] == "ConfigMap a/x: outdated"


def test_objects_are_deleted(use):
    cluster = use(config_map("x", "v"))
    assert run("kube_objects", definition=[config_map("x", ""), config_map("y", "")], state="absent")["deleted"] == [
        "ConfigMap a/x"
    ]
    assert cluster.items == {}


def test_what_was_listed_is_read_anew_when_it_is_outdated(use):
    cluster = use(*(config_map(name, "edited") for name in "xyz"), others=[touch])
    result = run("kube_objects", definition=[config_map(name, "v") for name in "xyz"])
    assert result["repaired"] == ["ConfigMap a/x", "ConfigMap a/y", "ConfigMap a/z"]
    assert cluster.asked == ["list ConfigMap", "get x", "get y", "get z"]


FAILED = {"type": "Failed", "status": "True"}


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("live", "anew"),
    [
        (job("a:1"), False),
        (job("a:1", {"type": "Complete", "status": "True"}), False),
        (job("a:1", {**FAILED, "status": "False"}), False),
        (job("a:1", FAILED), True),
        (job("a:0"), True),
    ],
)
def test_a_job_that_is_another_one_or_has_failed_is_made_anew(use, live, anew, check):
    cluster = use(live)
    before = copy.deepcopy(cluster.items)
    result = run("kube_objects", check=check, definition=job("a:1"))
    assert (result["changed"], result["repaired"]) == (anew, ["Job a/migrate"] if anew else [])
    assert (cluster.items == before) is (check or not anew)
    if anew and not check:
        assert "status" not in cluster.items["Job", "migrate"]
        assert not run("kube_objects", definition=job("a:1"))["changed"]


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("live", [(), ("bGl2ZQ==",)])
def test_a_secret_is_shown_by_name_alone_and_all_else_in_full(use, live, check):
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    identity = {"name": "token", "namespace": "a"}
    secrets = [{"apiVersion": "v1", "kind": "Secret", "metadata": identity, "data": {"t": value}} for value in live]
    cluster = use(namespace, config_map("x", "edited"), *secrets)
    wanted = {**identity, "data": {"t": "d2FudGVk", "none": ""}}
    result = run("kube_objects", check=check, definition=[config_map("x", "v"), namespace], secrets=[wanted])
    shown = json.dumps(result)
    assert [part["after_header"] for part in result["diff"]] == ["Secret a/token", "ConfigMap a/x"]
    assert '"edited"' in shown
    assert '"v1"' in shown
    assert not [secret for secret in ("d2FudGVk", "bGl2ZQ==") if secret in shown]
    if not check:
        assert cluster.items["Secret", "token"]["data"] == wanted["data"]
        assert not run("kube_objects", definition=namespace, secrets=[wanted])["changed"]
        assert run("kube_objects", definition=[], secrets=[identity], state="absent")["deleted"] == ["Secret a/token"]
