"""The module that computes profiles and checks a policy."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.modules import quota_profiles

from .runner import run

POLICY = """
default: {cpu: 8, memory: 32Gi, gpu: 1}
groups:
  vision: {gpu: 4, members: [alice]}
"""


def node(name, gpu):
    amounts = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": str(gpu)}
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": "Tesla-T4"}},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(name, gpu):
    limits = {"nvidia.com/gpu": str(gpu)}
    return {"spec": {"nodeName": name, "containers": [{"resources": {"limits": limits}}]}, "status": {}}


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yml"
    path.write_text(POLICY)
    return path


def test_static_profiles():
    result = run("quota_profiles", check=True, settings={"products": ["Tesla-T4"], "sizes": [1, 8]}, limits={"gpu": 4})
    assert result["changed"] is False
    assert result["limits"] == {"cpu_milli": None, "memory_bytes": None, "gpu": 4}
    assert [entry["slug"] for entry in result["profile_list"]] == ["cpu-2-8", "gpu-any-1", "gpu-t4-1"]
    reasons = {entry["slug"]: (entry["reason"] or {}).get("code") for entry in result["profiles"]}
    assert reasons["gpu-t4-8"] == "over_limit"


@pytest.mark.parametrize(
    ("user", "groups", "gpu"), [("bob", [], 1), ("alice", [], 4), ("bob", ["vision"], 4), ("", [], 1)]
)
def test_limits_of_a_policy(policy, user, groups, gpu):
    assert run("quota_profiles", policy=policy, user=user, groups=groups)["limits"]["gpu"] == gpu


def test_what_is_free(policy):
    result = run(
        "quota_profiles",
        settings={"sizes": [1, 2, 4]},
        policy=policy,
        user="alice",
        used={"cpu": "2", "gpu": 1},
        nodes=[node("w1", 4), node("w2", 2)],
        pods=[pod("w1", 3), pod("w2", 1)],
    )
    found = {entry["slug"]: entry for entry in result["profiles"]}
    assert found["gpu-t4-1"]["offered"]
    assert found["gpu-t4-2"]["reason"]["numbers"]["gpu"] == {"needed": 2, "largest_free": 1, "free": 2}
    assert found["gpu-t4-4"]["reason"]["code"] == "over_limit"


def test_nothing_offered_is_an_answer_too():
    result = run("quota_profiles", limits={"cpu": 0})
    assert result["profile_list"] == []
    assert {entry["reason"]["code"] for entry in result["profiles"]} == {"over_limit"}


def test_all_faults_of_a_policy_are_named_with_their_lines(policy):
    policy.write_text("default: {cpu: 8, memory: 32, gpu: 1}\nuser: {}\n")
    result = run("quota_profiles", policy=policy)
    assert result["failed"]
    assert result["msg"].splitlines() == [f"{policy}: {fault}" for fault in result["faults"]]
    assert [fault.partition(":")[0] for fault in result["faults"]] == ["line 1", "line 2"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"a: [", "line 1: not YAML"), (b"\xff", "can't decode byte"), (None, "No such file or directory")],
)
def test_a_policy_that_cannot_be_read(policy, content, says):
    policy.unlink() if content is None else policy.write_bytes(content)
    result = run("quota_profiles", policy=policy)
    assert result["failed"]
    assert result["msg"].startswith(f"{policy}: ")
    assert says in result["msg"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"settings": {"sizes": [0]}}, "sizes: is 0"),
        ({"settings": {"sizs": [1]}}, "Unsupported parameters"),
        ({"limits": {"memory": "1gb"}}, "'1gb' is no amount"),
        ({"limits": {"gpu": 1}, "policy": "x"}, "mutually exclusive"),
        ({"nodes": [{"metadata": {"name": "w"}, "status": {"allocatable": {"cpu": "?"}}}]}, "'?' is no amount"),
    ],
)
def test_wrong_arguments(arguments, says):
    result = run("quota_profiles", **arguments)
    assert result["failed"]
    assert says in result["msg"]


def test_without_pyyaml_only_the_policy_is_missing(policy, monkeypatch):
    monkeypatch.setattr(quota_profiles, "YAML_ERROR", "no module")
    assert "PyYAML" in run("quota_profiles", policy=policy)["msg"]
    assert "failed" not in run("quota_profiles")


def test_the_examples_work(tmp_path):
    policy = tmp_path / "policy.yml"
    policy.write_text(POLICY)
    for task in yaml.safe_load(quota_profiles.EXAMPLES):
        arguments = task.get("gpuhub.platform.quota_profiles")
        if arguments:
            templated = {"nodes": [node("w1", 4)], "pods": [], "policy": str(policy)}
            given = {name: templated.get(name, value) for name, value in arguments.items()}
            assert run("quota_profiles", **given)["profile_list"]
