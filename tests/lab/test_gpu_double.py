"""The double of NVIDIA's device plugin without a lab: its own tests, and which GPUs the lab gives to hosts."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import golang, gpus, instance, kube, storage

MACHINES = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210")


def test_the_program() -> None:
    """A kubelet and an API server of its own, over real sockets."""
    done = golang.go(gpus.SOURCE, "test", "-count=1", "./...")
    assert done.returncode == 0, done.stdout


def test_it_is_built_for_the_labs_kubernetes() -> None:
    found = re.findall(
        r"^\tk8s\.io/(?:apimachinery|client-go|kubelet) (\S+)", (gpus.SOURCE / "go.mod").read_text(), re.M
    )
    assert found == [kube.KUBERNETES.replace("v1.", "v0.")] * 3


@pytest.mark.parametrize(
    ("host", "chosen", "expected"),
    [
        ("head", {}, "0"),
        ("worker1", {}, "8xA100"),
        ("worker2", {}, "8xH100"),
        ("worker3", {}, "8xT4"),
        ("worker4", {}, "8xV100"),
        ("worker5", {}, "8xA100"),
        ("worker2", {"worker1": "1xT4"}, "8xH100"),
        ("worker2", {"worker2": "4xT4"}, "4xT4"),
        ("worker2", {"worker2": "0"}, "0"),
        ("head", {"head": "1xV100"}, "1xV100"),
    ],
)
def test_gpus_of_a_host(host: str, chosen: dict[str, str], expected: str) -> None:
    assert str(gpus.of(host, chosen)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "worker1", "worker1=", "worker1=8", "worker1=A100", "worker1=0xA100", "worker1=17xA100", "worker1=-1xT4",
     "worker1=1xK80", "worker1=8xA100 ", "worker21=8xA100", "node=8xA100", "=8xA100"],
)  # fmt: skip
def test_what_names_no_gpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no host is called|is neither 0 nor, as 8xA100, one of 1 to 16 GPUs of A100"):
        gpus.parse(text)


def test_a_host_is_told_what_it_has() -> None:
    assert gpus.describe(gpus.Gpus(0), MACHINES[0]) is None
    told = gpus.describe(gpus.Gpus(2, "V100"), MACHINES[0])
    assert {key: value for key, value in told.items() if key != "uuids"} == {
        "product": "Tesla V100-SXM2-32GB",
        "memory_mib": 32768,
        "family": "volta",
        "compute": "7.0",
        "machine": "Lab host",
    }


def test_an_id_belongs_to_its_host_and_index() -> None:
    first, second = (gpus.describe(gpus.Gpus(8, "A100"), machine)["uuids"] for machine in MACHINES)
    assert len({*first, *second}) == 16
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", identity) for identity in first)
    assert gpus.describe(gpus.Gpus(4, "T4"), MACHINES[0])["uuids"] == first[:4]


def test_the_state_remembers_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "_STATE", tmp_path)
    kept = storage.Storage(instance.Instance("labtest"))
    kept.live.mkdir(parents=True)
    # As an earlier version of the lab wrote it.
    (kept.live / "lab.json").write_text(json.dumps({"template": "/t", "workers": 2}))
    expected = {"templates": {"trixie": "/t"}, "os": {}, "workers": 2, "gpus": {}}
    assert kept.facts() == expected
    kept.note(gpus={"worker1": "4xT4"})
    kept.note(workers=3)
    assert kept.facts() == {**expected, "workers": 3, "gpus": {"worker1": "4xT4"}}
