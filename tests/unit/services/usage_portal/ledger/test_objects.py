"""What the ledger reads in objects of the Kubernetes API."""

from __future__ import annotations

import pytest
from gpuhub_portal.ledger import objects


def _pod(labels: dict | None = None, status: dict | None = None, **requests: str) -> dict:
    return {
        "metadata": {"uid": "u", "name": "p", "namespace": "jhub", "labels": labels or {}},
        "spec": {"nodeName": "n", "containers": [{"name": "main", "resources": {"requests": requests}}]},
        "status": status or {},
    }


NOTEBOOK = {"component": "singleuser-server"}


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ({}, (0, 0, 0)),
        ({"nvidia.com/gpu": "2", "cpu": "0.1m", "memory": "1e3"}, (2, 1, 1000)),
        # The author's word; the largest sum of a year must still be a number of the database.
        ({"nvidia.com/gpu": "9E", "cpu": "9E", "memory": "999999Ei"}, (10**6, 10**9, 2**50)),
    ],
)
def test_amounts_of_a_pod(requests, expected):
    pod = objects.observe_pod(_pod(NOTEBOOK, **requests), None)
    assert (pod.gpu, pod.cpu_milli, pod.memory_bytes) == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}, "A100"),
        ({"nvidia.com/gpu.product": "Tesla-T4-SHARED"}, "T4"),
        ({"nvidia.com/gpu.present": "true"}, "unknown"),
        ({}, ""),
    ],
)
def test_type_of_a_node(labels, expected):
    node = {"metadata": {"uid": "u", "name": "n", "labels": labels}}
    assert objects.observe_node(node, 0).gpu_type == expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, "UnexpectedAdmissionError"),
        ({"phase": "Failed", "reason": "OutOfnvidia.com/gpu", "containerStatuses": []}, "OutOfnvidia.com/gpu"),
        ({"phase": "Failed", "reason": "OutOfcpu", "containerStatuses": [{"name": "main", "state": {}}]}, ""),
        ({"phase": "Pending", "reason": "UnexpectedAdmissionError"}, ""),
        ({"phase": "Failed", "reason": "Evicted"}, ""),
        ({"phase": "Failed"}, ""),
    ],
)
def test_what_a_kubelet_has_refused(status, expected):
    assert objects.observe_pod(_pod(NOTEBOOK, status), None).refused == expected
