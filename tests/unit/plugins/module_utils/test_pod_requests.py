"""What pods hold and what nodes have left."""

from __future__ import annotations

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import pod_requests as p
from ansible_collections.gpuhub.platform.plugins.module_utils.quantities import Resources
from hypothesis import given
from hypothesis import strategies as st


def container(cpu=0, gpu=0, name="c", always=False, **others):
    requests = {"cpu": f"{cpu}m", "memory": f"{cpu}Mi", "nvidia.com/gpu": str(gpu)}
    return {
        "name": name,
        "resources": {"requests": requests},
        **({"restartPolicy": "Always"} if always else {}),
        **others,
    }


def pod(*containers, init=(), node="w1", phase="Running", status=None, **spec):
    return {
        "spec": {"nodeName": node, "containers": list(containers), "initContainers": list(init), **spec},
        "status": {"phase": phase, **(status or {})},
    }


def amounts(cpu, gpu=0):
    return Resources(cpu, cpu * 2**20, gpu)


@pytest.mark.parametrize(
    ("containers", "init", "expected"),
    [
        ([container(100, 1), container(50)], [], amounts(150, 1)),
        ([container(100)], [container(300), container(200)], amounts(300)),
        ([container(400)], [container(300)], amounts(400)),
        # Only GPUs of the init container are more: amount by amount.
        ([container(400)], [container(300, 2)], amounts(400, 2)),
        # A sidecar runs on beside the containers.
        ([container(100)], [container(50, always=True)], amounts(150)),
        # What comes after a sidecar is beside it, what comes before is not.
        ([container(100)], [container(50, always=True), container(200)], amounts(250)),
        ([container(100)], [container(200), container(50, always=True)], amounts(200)),
        ([container(10)], [container(50, always=True), container(60, always=True), container(20)], amounts(130)),
        ([], [], amounts(0)),
    ],
)
def test_containers(containers, init, expected):
    assert p.pod_requests(pod(*containers, init=init)) == expected


def test_overhead_comes_on_top():
    overhead = {"cpu": "250m", "memory": "120Mi"}
    assert p.pod_requests(pod(container(100), overhead=overhead)) == Resources(350, 220 * 2**20)


def test_requests_of_the_whole_pod_count_instead():
    whole = {"requests": {"cpu": "2"}, "limits": {"cpu": "4", "memory": "9Gi"}}
    assert p.pod_requests(pod(container(100, 1), resources=whole)) == Resources(2000, 100 * 2**20, 1)


def test_a_limit_alone_is_a_request():
    only = {"resources": {"limits": {"cpu": "2", "nvidia.com/gpu": 1}, "requests": {"cpu": "1"}}}
    assert p.pod_requests(pod(only)) == Resources(1000, 0, 1)


@pytest.mark.parametrize(
    ("spec", "actual", "allocated", "reason", "cpu"),
    [
        (200, 100, 100, "Deferred", 200),  # growing: the new amount is kept free
        (100, 200, 200, "", 200),  # shrinking: the old one is held still
        (100, 100, 150, "", 150),
        (900, 100, 100, "Infeasible", 100),  # never comes
    ],
)
def test_a_container_that_is_resized(spec, actual, allocated, reason, cpu):
    status = {
        "containerStatuses": [
            {
                "name": "c",
                "resources": {"requests": {"cpu": f"{actual}m"}},
                "allocatedResources": {"cpu": f"{allocated}m"},
            }
        ],
        "conditions": [{"type": "PodResizePending", "reason": reason}] if reason else [],
    }
    found = p.pod_requests(pod(container(spec, 1), status=status))
    assert (found.cpu_milli, found.gpu) == (cpu, 1)


@given(st.lists(st.tuples(st.integers(0, 99), st.booleans()), max_size=5), st.lists(st.integers(0, 99), max_size=3))
def test_a_pod_holds_what_any_moment_of_it_needs(init, containers):
    """Against the definition: run the init containers one by one, then all containers."""
    moments, sidecars = [0], 0
    for cpu, always in init:
        moments.append(sidecars + cpu)
        sidecars += cpu if always else 0
    moments.append(sidecars + sum(containers))
    found = p.pod_requests(
        pod(*(container(cpu) for cpu in containers), init=[container(cpu, always=always) for cpu, always in init])
    )
    assert found == amounts(max(moments))


def node(name="w1", gpu=8, allocatable=None, product="Tesla-T4", ready=True, taints=(), unschedulable=False, **extra):
    whole = {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": str(gpu), **extra}
    labels = {"nvidia.com/gpu.product": product, "role": "user"} if product else {}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": list(taints), "unschedulable": unschedulable},
        "status": {
            "capacity": whole,
            "allocatable": {**whole, "nvidia.com/gpu": str(gpu if allocatable is None else allocatable)},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


@pytest.mark.parametrize(
    ("one", "held"),
    [
        (pod(container(1, 2)), 2),
        (pod(container(1, 2), phase="Pending"), 2),  # scheduled, its image is pulled
        (pod(container(1, 2), phase="Unknown"), 2),
        ({**pod(container(1, 2)), "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, 2),
        (pod(container(1, 2), phase="Succeeded"), 0),
        (pod(container(1, 2), phase="Failed"), 0),
        (pod(container(1, 2), node=None, phase="Pending"), 0),
        (pod(container(1, 2), node="w2"), 0),
    ],
)
def test_which_pods_hold_something(one, held):
    (found,) = p.account([node()], [one])
    assert found.free.gpu == 8 - held


def test_accounts():
    nodes = [
        node("w2", gpu=4, allocatable=3, product="NVIDIA-A100-SXM4-80GB"),
        node("w1"),
        node("w3", ready=False),
        node("w4", unschedulable=True),
        node("head", gpu=0, product=""),
    ]
    found = {one.name: one for one in p.account(nodes, [pod(container(500, 3)), pod(container(0, 1), node="w2")])}
    assert list(found) == ["head", "w1", "w2", "w3", "w4"]
    assert found["w1"].free == Resources(63_500, 256 * 2**30 - 500 * 2**20, 5)
    assert (found["w2"].gpu_type, found["w2"].unhealthy_gpu, found["w2"].free.gpu) == ("A100", 1, 2)
    assert (found["w3"].repels, found["w3"].free, found["w3"].allocatable.gpu) == ("not ready", Resources(), 8)
    assert (found["w4"].repels, found["w4"].free) == ("cordoned", Resources())
    assert p.free_by_type(found.values()) == {"A100": (2, 2), "T4": (5, 5)}


def test_more_held_than_there_is_leaves_nothing():
    (found,) = p.account([node(allocatable=1)], [pod(container(1, 4))])
    assert found.free.gpu == 0


def test_a_selector_leaves_nodes_out():
    assert [one.name for one in p.account([node(), node("head", product="")], [], {"role": "user"})] == ["w1"]


def test_further_resources():
    nodes = [node(**{"rdma/hca": "63"}), node("w2"), node("w3", ready=False, **{"rdma/hca": "63"})]
    one = pod({"name": "c", "resources": {"limits": {"rdma/hca": "2"}}})
    assert [dict(found.extra) for found in p.account(nodes, [one], extra=["rdma/hca"])] == [
        {"rdma/hca": 61},
        {},
        {"rdma/hca": 0},
    ]


def test_another_resource_for_gpus():
    (found,) = p.account([node(**{"nvidia.com/gpu.shared": "32"})], [], gpu_resource="nvidia.com/gpu.shared")
    assert found.free.gpu == 32


GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("taint", "toleration", "admitted"),
    [
        (GPU_TAINT, {"key": "nvidia.com/gpu", "operator": "Exists"}, True),
        (GPU_TAINT, {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
        (GPU_TAINT, {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        (GPU_TAINT, {"operator": "Exists"}, True),
        (GPU_TAINT, {"key": "nvidia.com/gpu", "value": "present"}, True),
        (GPU_TAINT, {"key": "nvidia.com/gpu", "value": "other"}, False),
        (GPU_TAINT, {"key": "team", "operator": "Exists"}, False),
        ({**GPU_TAINT, "effect": "PreferNoSchedule"}, {"key": "team", "operator": "Exists"}, True),
    ],
)
def test_taints(taint, toleration, admitted):
    (found,) = p.account([node(taints=[taint])], [])
    assert found.admits([toleration]) is admitted
