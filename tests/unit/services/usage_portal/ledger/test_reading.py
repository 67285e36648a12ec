"""Objects of the Kubernetes API field by field: what is read, from where, and what stands for what is not there."""

from __future__ import annotations

import uuid
from dataclasses import asdict

import pytest
import service_imports  # noqa: F401
from gpuhub_portal.ledger import objects
from gpuhub_portal.ledger.facts import Pod
from gpuhub_portal.ledger.objects import Node, NodeState, Requests

SESSIONS = uuid.UUID("0b5ef1a6-5a5b-4c53-9d1f-0f8f6f3d2a47")
# The tenth second of a day, and later ones.
AT = 1_782_864_010


def _text(seconds: int) -> str:
    return f"2026-07-01T00:00:{seconds:02}Z"


def _pod(labels: dict | None = None, annotations: dict | None = None, **status) -> dict:
    resources = {"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "1500m", "memory": "1Gi"}}
    return {
        "metadata": {
            "uid": "u-1",
            "name": "p-1",
            "namespace": "jhub",
            "creationTimestamp": _text(10),
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {"nodeName": "n-1", "containers": [{"name": "main", "resources": resources}]},
        "status": status,
    }


COMMON = {"pod_uid": "u-1", "namespace": "jhub", "pod": "p-1", "node": "n-1"}
COMMON |= {"gpu": 2, "cpu_milli": 1500, "memory_bytes": 2**30, "created_at": AT, "scheduled_at": AT}
NOTEBOOK = {
    "component": "singleuser-server",
    "hub.jupyter.org/username": "slug",
    "hub.jupyter.org/servername": "slug-2",
}
JOB = {"gpuhub.io/job": "train", "gpuhub.io/username": "slug"}


@pytest.mark.parametrize(
    ("labels", "annotations", "kind", "username", "servername"),
    [
        (
            NOTEBOOK,
            {"hub.jupyter.org/username": "al\0ice@x", "hub.jupyter.org/servername": "se\0cond"},
            *("notebook", "alice@x", "second"),
        ),
        (NOTEBOOK, None, "notebook", "slug", "slug-2"),
        ({"component": "singleuser-server"}, {}, "notebook", "", ""),
        # A job's pod that says it is a notebook is one: the hub's word is older.
        (NOTEBOOK | JOB, None, "notebook", "slug", "slug-2"),
        (JOB, {"gpuhub.io/username": "bob@x"}, "job", "bob@x", "train"),
        (JOB, None, "job", "slug", "train"),
        ({"gpuhub.io/job": "train"}, None, "job", "", "train"),
        ({"component": "hub"}, {"hub.jupyter.org/username": "x"}, "other", "", ""),
        (None, None, "other", "", ""),
    ],
)
def test_whose_a_pod_is(labels, annotations, kind, username, servername):
    session = "job/jhub/train" if kind == "job" else f"{kind}/u-1"
    expected = Pod(
        **COMMON,
        kind=kind,
        username=username,
        servername=servername,
        session_id=str(uuid.uuid5(SESSIONS, session)),
        last_seen_at=7,
    )
    assert objects.observe_pod(_pod(labels, annotations), 7) == expected


def test_its_reservation():
    assert objects.observe_pod(_pod(NOTEBOOK | {"gpuhub.io/reservation": "r-1"}), None).reservation == "r-1"
    assert objects.observe_pod(_pod(NOTEBOOK), None).reservation == ""


@pytest.mark.parametrize("spec", [None, {}, {"nodeName": ""}, {"nodeName": None}])
def test_one_without_a_node_is_not_kept(spec):
    assert objects.observe_pod(_pod(NOTEBOOK) | {"spec": spec}, None) is None


def test_one_that_is_nobodys_and_has_no_gpu_is_not_kept():
    pod = _pod({"component": "hub"})
    del pod["spec"]["containers"][0]["resources"]["limits"]
    assert objects.observe_pod(pod, None) is None
    pod["metadata"]["labels"] = JOB
    assert objects.observe_pod(pod, None).gpu == 0


def _scheduled(status: str = "True", at: str | None = _text(20)) -> dict:
    others = [{"status": "True", "lastTransitionTime": _text(55)}, {"type": "Ready", "status": "True"}]
    return {"conditions": [*others, {"type": "PodScheduled", "status": status, "lastTransitionTime": at}]}


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        (_scheduled(), 20),
        (_scheduled() | {"startTime": _text(30)}, 20),
        (_scheduled("False") | {"startTime": _text(30)}, 30),
        (_scheduled(at=None) | {"startTime": _text(30)}, 30),
        ({"startTime": _text(30)}, 30),
        ({"startTime": "1970-01-01T00:00:00Z"}, 10),
        ({"conditions": None}, 10),
        (None, 10),
    ],
)
def test_since_when_it_holds(status, seconds):
    pod = _pod(NOTEBOOK) | {"status": status}
    assert objects.observe_pod(pod, None).scheduled_at == AT - 10 + seconds


def _container(running: int = 0, ended: tuple[int, int] | None = None, before: int = 0) -> dict:
    """A container's status: since when it runs, when it began and ended, when the one before it began."""
    state: dict = {"running": {"startedAt": _text(running)}} if running else {}
    if ended:
        state = {"terminated": {"startedAt": _text(ended[0]), "finishedAt": _text(ended[1])}}
    last = {"terminated": {"startedAt": _text(before), "finishedAt": _text(before + 1)}} if before else {}
    return {"name": "main", "state": state, "lastState": last}


@pytest.mark.parametrize(
    ("main", "init", "started", "finished"),
    [
        ([], [], None, None),
        (None, None, None, None),
        ([_container()], [], None, None),
        ([_container(20)], [], 20, None),
        ([_container(30), _container(20)], [], 20, None),
        ([_container(30, before=15)], [], 15, None),
        ([_container(ended=(20, 40))], [], 20, 40),
        ([_container(ended=(20, 40)), _container(ended=(25, 50))], [], 20, 50),
        ([_container(ended=(20, 50)), _container(ended=(25, 40))], [], 20, 50),
        ([_container(ended=(20, 40)), _container(25)], [], 20, None),
        ([_container(ended=(20, 40)), _container()], [], 20, None),
        # What comes first does not count as its start; a sidecar that ends last does as its end.
        ([_container(30)], [_container(ended=(12, 20))], 30, None),
        ([_container(ended=(20, 40))], [_container(ended=(12, 20))], 20, 40),
        ([_container(ended=(20, 40))], [_container(ended=(12, 45))], 20, 45),
        ([_container(ended=(20, 40))], [_container(12)], 20, 40),
        ([], [_container(ended=(12, 20))], None, None),
    ],
)
@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed"])
def test_when_its_containers_began_and_ended(phase, main, init, started, finished):
    obj = _pod(NOTEBOOK, phase=phase, containerStatuses=main, initContainerStatuses=init)

    def at(seconds: int | None) -> int | None:
        return None if seconds is None else AT - 10 + seconds

    pod, over = objects.observe_pod(obj, None), phase != "Running"
    assert (pod.started_at, pod.finished_at) == (at(started), at(finished) if over else None)
    assert objects.finished_at(obj) == at(finished)
    assert objects.ended_without_trace(obj) == (over and finished is None)


def test_a_pod_without_a_status_has_not_ended():
    assert objects.finished_at({"status": None}) is None
    assert not objects.ended_without_trace({"status": None}) and not objects.ended_without_trace({})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("2026-07-01T00:00:10Z", AT),
        ("2026-07-01T02:00:10.999999+02:00", AT),
        ("2026-07-01T00:00:10", AT),
        ("1970-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:01Z", 1),
        ("0001-01-01T00:00:00Z", None),
    ],
)
def test_times(text, seconds):
    assert objects.seconds(text) == seconds


@pytest.mark.parametrize(("text", "number"), [(None, 0), ("", 0), ("12", 12), ("1a", 0), ("-1", 0)])
def test_versions(text, number):
    assert objects.version(text) == number


def _node(**parts) -> dict:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": _text(20), "lastHeartbeatTime": _text(30)}
    amounts = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8", "pods": "110", "ephemeral-storage": "1Ti"}
    plugins = {"rdma/hca": "16", "nvidia.com/mig-1g.5gb": "2", "attachable-volumes-csi-x/y": "25"}
    return {
        "metadata": {
            "uid": "n-uid",
            "name": "n-1",
            "resourceVersion": "77",
            "creationTimestamp": _text(10),
            "labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
        },
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {**amounts, **plugins, "nvidia.com/gpu": "7", "cpu": "63500m"},
            "capacity": amounts,
            "conditions": [{"type": "DiskPressure", "status": "False", "lastTransitionTime": _text(55)}, ready],
        },
        **parts,
    }


def test_a_node():
    found = objects.observe_node(_node(), 99)
    assert found == Node("n-uid", "n-1", 77, True, AT + 10, AT + 20, 7, "A100")
    assert found.offered == 7


@pytest.mark.parametrize(("created", "since"), [(_text(10), AT), (None, 99)])
def test_a_node_that_says_little(created, since):
    metadata = {"uid": "n-uid", "name": "n-1", "creationTimestamp": created}
    found = objects.observe_node({"metadata": metadata, "status": None}, 99)
    assert found == Node("n-uid", "n-1", 0, False, since, since, 0, "")
    found = objects.observe_node(_node(status={"allocatable": {"nvidia.com/gpu": "8"}, "conditions": []}), 99)
    assert (found.ready, found.gpu, found.offered) == (False, 8, 0)


def test_what_a_node_has():
    assert objects.observe_state(_node()) == NodeState(
        node="n-1",
        node_uid="n-uid",
        product="NVIDIA-A100-SXM4-80GB",
        gpu_type="A100",
        gpu_capacity=8,
        gpu=7,
        cpu_milli=63_500,
        memory_bytes=512 * 2**30,
        ready=True,
        schedulable=True,
        taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        extended={"nvidia.com/mig-1g.5gb": 2, "rdma/hca": 16},
    )


def test_a_node_that_is_cordoned_and_away():
    found = objects.observe_state(_node(spec={"unschedulable": True}, status={}))
    assert asdict(found) | {"product": "", "gpu_type": ""} == asdict(
        NodeState("n-1", "n-uid", "", "", 0, 0, 0, 0, ready=False, schedulable=False)
    )
    assert objects.observe_state(_node(spec=None)).schedulable


def test_what_any_pod_takes():
    pod = _pod({"component": "hub"}, phase="Running")
    pod["spec"]["containers"][0]["resources"]["limits"]["rdma/hca"] = "2"
    slices = {"nvidia.com/mig-1g.5gb": "1"}
    pod["spec"]["initContainers"] = [{"name": "i", "resources": {"requests": slices, "limits": slices, "claims": []}}]
    pod["spec"]["containers"].append({"name": "bare"})
    assert objects.observe_requests(pod) == Requests(
        "u-1", "n-1", 1500, 2**30, {"nvidia.com/mig-1g.5gb": 1, "rdma/hca": 2}
    )
    for phase in ("Succeeded", "Failed"):
        assert objects.observe_requests(pod | {"status": {"phase": phase}}) is None
    assert objects.observe_requests(pod | {"spec": pod["spec"] | {"nodeName": None}}) is None


def test_an_amount_that_cannot_be_read_is_none():
    pod = _pod(NOTEBOOK, phase="Running")
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "much"
    assert objects.observe_pod(pod, None).gpu == 0
    assert objects.observe_requests(pod) == Requests("u-1", "n-1", 0, 0)
