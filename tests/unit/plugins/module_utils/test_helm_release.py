"""Helm's records of a release."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils.helm_release import (
    HelmReleaseError,
    helm_at_work,
    is_of,
    newest_release,
    split_history,
)


def records(*statuses):
    return [{"metadata": {"labels": {"version": str(n), "status": s}}} for n, s in enumerate(statuses, start=1)]


@pytest.mark.parametrize(
    ("statuses", "removed", "left"),
    [
        ([], [], ""),
        (["deployed"], [], "deployed"),
        (["superseded", "deployed"], [], "deployed"),
        (["pending-install"], ["1"], ""),
        (["failed"], ["1"], ""),
        (["failed", "pending-install"], ["2", "1"], ""),
        (["superseded", "deployed", "pending-upgrade"], ["3"], "deployed"),
        (["superseded", "deployed", "failed", "pending-rollback"], ["4", "3"], "deployed"),
        # A failure that a later revision has made good is history.
        (["superseded", "failed", "deployed"], [], "deployed"),
        (["superseded", "uninstalling"], ["2"], "superseded"),
        (["superseded"] * 9 + ["deployed", "pending-upgrade"], ["11"], "deployed"),
    ],
)
def test_split_history(statuses, removed, left):
    unfinished, status = split_history(reversed(records(*statuses)))
    assert [item["metadata"]["labels"]["version"] for item in unfinished] == removed
    assert status == left


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/snap/microk8s/current/bin/helm upgrade -i --reset-values jupyterhub /x.tgz", True),
        ("helm uninstall jupyterhub", True),
        ("helm --namespace jhub rollback jupyterhub 3", True),
        ("helm upgrade -i other /x.tgz", False),
        ("helm list --filter jupyterhub", False),
        ("helm get values jupyterhub", False),
        ("python3 helm.py upgrade jupyterhub", False),
        ("", False),
    ],
)
def test_helm_at_work(command, expected):
    assert helm_at_work([*command.split(" "), ""], "jupyterhub") is expected


def record(version, **release):
    """A release Secret as Helm stores it and the API server shows it."""
    text = json.dumps({"version": version, "info": {"status": "deployed"}, **release}).encode()
    data = base64.b64encode(base64.b64encode(gzip.compress(text))).decode()
    return {"metadata": {"labels": {"version": str(version)}}, "data": {"release": data}}


def test_newest_release_is_by_number_not_by_text():
    found = newest_release([record(9, manifest="nine"), record(10, manifest="ten"), record(2, manifest="two")])
    assert found["manifest"] == "ten"


def test_no_release():
    with pytest.raises(HelmReleaseError, match="not installed"):
        newest_release([])


@pytest.mark.parametrize(
    ("version", "values", "expected"),
    [
        ("4.4.0", {"a": {"b": 1}}, True),
        ("4.2.0", {"a": {"b": 1}}, False),
        ("4.4.0", {"a": {"b": 2}}, False),
        ("4.4.0", {"a": {"b": 1, "c": None}}, False),
        ("4.4.0", {}, False),
    ],
)
def test_a_revision_is_of_a_chart_and_values(version, values, expected):
    chart = {"metadata": {"name": "jupyterhub", "version": "4.4.0"}}
    assert is_of(newest_release([record(1, chart=chart, config={"a": {"b": 1}})]), version, values) is expected


def test_a_release_without_values_is_recorded_without_config():
    assert is_of({"chart": {"metadata": {"version": "1"}}, "config": None}, "1", {})
