"""Sizes that are offered, and the reasons of the others."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from ansible_collections.gpuhub.platform.plugins.module_utils import quota_profiles as q
from ansible_collections.gpuhub.platform.plugins.module_utils.pod_requests import NodeAccount
from ansible_collections.gpuhub.platform.plugins.module_utils.quantities import Limits, Resources
from ansible_collections.gpuhub.platform.plugins.module_utils.quota_policy import Budget, BudgetState
from ansible_collections.gpuhub.platform.plugins.module_utils.quota_profiles import Request, Settings, Situation
from hypothesis import given
from hypothesis import strategies as st
from kubespawner import spawner as kubespawner
from traitlets.config import Config

GIB = 2**30
A100, T4, V100 = "NVIDIA-A100-SXM4-80GB", "Tesla-T4", "Tesla-V100-SXM2-32GB"
KINDS = {A100: "A100", T4: "T4", V100: "V100", "": ""}
PLAIN = Settings(node_share_percent=100, cpu_per_gpu=None, memory_per_gpu=None)
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def node(name="w1", product=A100, gpu=8, cores=128, gib=1024, used=(0, 0, 0), healthy=None, **others):
    whole = Resources(cores * 1000, gib * GIB, gpu)
    return NodeAccount(
        name=name,
        gpu_type=KINDS[product],
        product=product,
        capacity=whole,
        allocatable=whole if healthy is None else replace(whole, gpu=healthy),
        used=Resources(used[0] * 1000, used[1] * GIB, used[2]),
        **{"extra": {}, **others},
    )


def situation(*nodes, limits=(None, None, None), **others):
    cores, gib, gpu = limits
    return Situation(
        limits=Limits(None if cores is None else int(cores * 1000), None if gib is None else int(gib * GIB), gpu),
        nodes=tuple(nodes),
        **others,
    )


def by_slug(found):
    return {profile.slug: profile for profile in found}


def codes(found):
    return {slug: profile.reason.code if profile.reason else "" for slug, profile in by_slug(found).items()}


# ---- which sizes there are


def test_sizes_come_in_an_order():
    nodes = [node("w2", V100), node("w1", A100), node("head", "", gpu=0)]
    found = q.profiles(situation(*nodes), replace(PLAIN, sizes=(1, 8)))
    assert [profile.slug for profile in found] == [
        "cpu-2-8", "gpu-any-1", "gpu-any-8", "gpu-a100-1", "gpu-a100-8", "gpu-v100-1", "gpu-v100-8",
    ]  # fmt: skip
    assert [profile.slug for profile in found if profile.default] == ["cpu-2-8"]
    assert found == q.profiles(situation(*reversed(nodes)), replace(PLAIN, sizes=(1, 8)))


def test_the_first_that_is_offered_is_the_default():
    found = q.profiles(situation(node(), limits=(1, 8, 1)), replace(PLAIN, sizes=(1,)))
    assert codes(found) == {"cpu-2-8": "over_limit", "gpu-any-1": "", "gpu-a100-1": ""}
    assert [profile.slug for profile in found if profile.default] == ["gpu-any-1"]


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        ([], []),
        ([node(product="", gpu=0)], []),
        # Labelled, but no device plugin offers any.
        ([node(gpu=0)], []),
        ([node(), node("w2", T4)], ["any", "A100", "T4"]),
        # Offers GPUs and does not say which.
        ([replace(node(), product="", gpu_type="unknown")], ["any"]),
        ([replace(node(), product="", gpu_type="")], []),
    ],
)
def test_types_are_those_that_exist(nodes, kinds):
    found = q.profiles(situation(*nodes), replace(PLAIN, sizes=(1,)))
    assert [profile.request.gpu_type for profile in found if profile.request.gpu_type] == kinds


@pytest.mark.parametrize(
    ("nodes", "limits", "config", "count", "cores", "gib"),
    [
        ([node()], (None, None, None), PLAIN, 2, 32, 256),
        ([node()], (None, None, None), replace(PLAIN, node_share_percent=90), 1, 14, 115),
        ([node()], (None, None, None), Settings(), 2, 16, 128),
        # The smallest share of the nodes that have so many.
        ([node(), node("w2", gpu=4, cores=16, gib=64)], (None, None, None), PLAIN, 4, 16, 64),
        ([node(), node("w2", gpu=4, cores=16, gib=64)], (None, None, None), PLAIN, 8, 128, 1024),
        # No node has so many: what it would be.
        ([node(gpu=4, cores=32, gib=64)], (None, None, None), PLAIN, 8, 64, 128),
        # Neither use nor unhealthy devices nor a node that is not ready change a size.
        ([node(used=(100, 900, 0), healthy=2)], (None, None, None), PLAIN, 2, 32, 256),
        ([node(repels="not ready")], (None, None, None), PLAIN, 2, 32, 256),
        # The user's own limit, shared by the GPUs that they may have.
        ([node()], (8, 32, 4), PLAIN, 1, 2, 8),
        ([node()], (8, 32, 4), PLAIN, 4, 8, 32),
        ([node()], (8, 32, 1), PLAIN, 1, 8, 32),
        ([node()], (8, 32, 0), PLAIN, 1, 8, 32),
        ([node()], (8, 32, 100), PLAIN, 8, 8, 32),
        ([node()], (8, 32, None), PLAIN, 1, 1, 4),
        # Below one core it is tenths, and never nothing.
        ([node(cores=2, gib=4)], (None, None, None), PLAIN, 1, 0.2, 0.5),
        ([node(cores=0, gib=0)], (None, None, None), PLAIN, 1, 0.1, 0.125),
        ([node()], (0, 0, 1), PLAIN, 1, 0.1, 0.125),
    ],
)  # fmt: skip
def test_cores_and_memory_are_in_proportion(nodes, limits, config, count, cores, gib):
    found = by_slug(q.profiles(situation(*nodes, limits=limits), config))[f"gpu-a100-{count}"]
    assert found.request.resources == Resources(int(cores * 1000), int(gib * GIB), count)


def test_rdma_is_there_a_second_time():
    config = replace(PLAIN, sizes=(1,), rdma_resource="rdma/hca")
    found = q.profiles(situation(node(extra={"rdma/hca": 1}), node("w2", T4)), config)
    assert [profile.slug for profile in found] == [
        "cpu-2-8", "gpu-any-1", "gpu-any-1-rdma", "gpu-a100-1", "gpu-a100-1-rdma", "gpu-t4-1",
    ]  # fmt: skip
    assert by_slug(found)["gpu-any-1-rdma"].free_gpu == 8
    none = q.profiles(situation(node(extra={"rdma/hca": 0}), node("w2", T4)), config)
    assert codes(none)["gpu-any-1-rdma"] == "none_free"
    assert "RDMA" in by_slug(none)["gpu-any-1-rdma"].reason.text_en
    assert all(not profile.request.rdma for profile in q.profiles(situation(node()), PLAIN))


def test_static_profiles_know_no_nodes():
    config = q.settings({"products": [T4, A100], "sizes": [1, 8], "cpu_per_gpu": 4, "memory_per_gpu": "16Gi"})
    found = q.profiles(Situation(limits=Limits(gpu=4)), config)
    assert codes(found) == {
        "cpu-2-8": "", "gpu-any-1": "", "gpu-any-8": "over_limit",
        "gpu-a100-1": "", "gpu-a100-8": "over_limit", "gpu-t4-1": "", "gpu-t4-8": "over_limit",
    }  # fmt: skip
    assert by_slug(found)["gpu-t4-1"].request.resources == Resources(4000, 16 * GIB, 1)
    assert by_slug(found)["gpu-t4-1"].free_gpu is None
    with pytest.raises(q.ProfilesError, match="cannot be unlimited where no nodes are known"):
        q.profiles(Situation(), replace(config, cpu_per_gpu=None))


# ---- reasons


def judge(request, *nodes, **others):
    return q.refusal(request, situation(*nodes, **others), PLAIN)


ONE = Request(Resources(1000, GIB, 1), "A100")


@pytest.mark.parametrize(
    ("request_", "others", "code", "text", "numbers"),
    [
        (
            Request(Resources(gpu=4), "any"),
            {"limits": (None, None, 2)},
            "over_limit",
            "Over your limit: 4 GPUs needed, your limit is 2 GPUs. Choose a smaller size, or ask an administrator",
            {"gpu": {"needed": 4, "limit": 2, "used": 0, "reserved": 0}},
        ),
        (
            Request(Resources(4000, gpu=2), "any"),
            {"limits": (8, None, 4), "used": Resources(6000, 0, 2), "reserved": Resources(gpu=1)},
            "over_limit",
            "Over your limit: 2 GPUs needed, your limit is 4 GPUs, 2 GPUs used, 1 GPU reserved; "
            "4 cores needed, your limit is 8 cores, 6 cores used. Choose a smaller size, or stop a server or job",
            {
                "cpu_milli": {"needed": 4000, "limit": 8000, "used": 6000, "reserved": 0},
                "gpu": {"needed": 2, "limit": 4, "used": 2, "reserved": 1},
            },
        ),
        (
            Request(Resources(gpu=16), "A100"),
            {},
            "too_large",
            "Needs more than any one node has: 16 A100 GPUs needed, the most is 8 A100 GPUs. Choose a smaller size.",
            {"gpu": {"needed": 16, "largest": 8}},
        ),
        (
            Request(Resources(200_000)),
            {},
            "too_large",
            "Needs more than any one node has: 200 cores needed, the most is 128 cores.",
            {"cpu_milli": {"needed": 200_000, "largest": 128_000}},
        ),
        (
            Request(Resources(gpu=1), "H100"),
            {},
            "too_large",
            "Needs more than any one node has: 1 H100 GPU needed, the most is 0 H100 GPUs.",
            {"gpu": {"needed": 1, "largest": 0}},
        ),
        (
            Request(Resources(gpu=6), "A100"),
            {},
            "none_free",
            "Not free now on any one node: 6 A100 GPUs needed, the most is 5 A100 GPUs, 8 in all. Choose",
            {"gpu": {"needed": 6, "largest_free": 5, "free": 8}},
        ),
        (
            Request(Resources(30_000, gpu=1), "A100"),
            {},
            "none_free",
            "Not free now on any one node: 30 cores needed beside the GPUs, the most is 28 cores. Choose",
            {
                "cpu_milli": {"needed": 30_000, "largest_free": 28_000},
                "gpu": {"needed": 1, "largest_free": 5, "free": 8},
            },
        ),
        (
            # The GPUs are on one node, the cores on the other.
            Request(Resources(20_000, gpu=5), "A100"),
            {},
            "none_free",
            "Not free now on any one node: 20 cores needed beside the GPUs, the most is 8 cores. Choose",
            {
                "cpu_milli": {"needed": 20_000, "largest_free": 8_000},
                "gpu": {"needed": 5, "largest_free": 5, "free": 8},
            },
        ),
        (
            Request(Resources(gpu=4), "A100"),
            {"home_node": "w2"},
            "none_free",
            "Not free now on w2 (where your home is): 4 A100 GPUs needed, the most is 3 A100 GPUs, 3 in all.",
            {"gpu": {"needed": 4, "largest_free": 3, "free": 3}},
        ),
        (
            Request(Resources(gpu=1), "A100"),
            {"home_node": "gone"},
            "too_large",
            "Needs more than gone (where your home is) has: 1 A100 GPU needed, the most is 0 A100 GPUs.",
            {"gpu": {"needed": 1, "largest": 0}},
        ),
    ],
)
def test_reasons(request_, others, code, text, numbers):
    nodes = [node(used=(120, 0, 3)), node("w2", used=(100, 0, 5))]
    found = judge(request_, *nodes, **others)
    assert found.code == code
    assert found.text_en.startswith(text)
    assert found.numbers == numbers
    assert found.until is None
    assert json.loads(json.dumps(found.as_dict()))["code"] == code


AGAIN = datetime(2026, 12, 1, tzinfo=UTC)
GPU_HOURS = BudgetState(Budget("gpu_hours", 200 * 3600, period="month"), 200 * 3600, AGAIN)
COST = BudgetState(Budget("cost", 10**6, days=7, currency="EUR"), 2 * 10**6, AGAIN.replace(day=9))


def test_a_budget_that_is_used_up():
    found = judge(ONE, node(), budgets=(GPU_HOURS,))
    assert found.code == "budget_used"
    assert found.text_en == (
        "Your budget of 200 GPU hours a month is used up; there is some again at 2026-12-01 00:00 UTC. "
        "A size without GPUs can be started. An administrator can extend it."
    )
    assert found.as_dict()["until"] == "2026-12-01T00:00:00Z"
    assert found.numbers == {"gpu_hours a month": {"amount": 720_000, "used": 720_000}}
    assert judge(Request(Resources(1000)), node(), budgets=(GPU_HOURS,)) is None
    assert judge(ONE, node(), budgets=(GPU_HOURS._replace(used=720_000 - 1),)) is None


def test_the_last_of_several_budgets_decides_when():
    found = judge(ONE, node(), budgets=(GPU_HOURS, COST))
    assert found.until == AGAIN.replace(day=9)
    assert "200 GPU hours a month and 1 EUR within 7 days" in found.text_en
    assert list(found.numbers) == ["gpu_hours a month", "cost within 7 days"]
    assert "without GPUs" not in found.text_en
    assert judge(Request(Resources(1000)), node(), budgets=(COST,)).until == AGAIN.replace(day=9)
    never = judge(ONE, node(), budgets=(GPU_HOURS, COST._replace(again=None)))
    assert (never.until, "no end" in never.text_en) == (None, True)


def test_what_waiting_cannot_change_comes_first():
    full = node(used=(0, 0, 8))
    big, small = Request(Resources(gpu=9), "any"), Request(Resources(gpu=2), "any")
    assert judge(big, full, limits=(None, None, 1), budgets=(GPU_HOURS,)).code == "too_large"
    assert judge(small, full, limits=(None, None, 1), budgets=(GPU_HOURS,)).code == "over_limit"
    assert judge(small, full, budgets=(GPU_HOURS,)).code == "budget_used"
    assert judge(small, full).code == "none_free"
    assert judge(small, node()) is None


def test_too_few_gpus_are_said_alone():
    found = judge(Request(Resources(100_000, gpu=6), "A100"), node(used=(120, 0, 3)))
    assert found.text_en.startswith(
        "Not free now on any one node: 6 A100 GPUs needed, the most is 5 A100 GPUs, 5 in all."
    )
    assert found.numbers["cpu_milli"] == {"needed": 100_000, "largest_free": 8_000}


def test_a_reason_always_names_something_that_is_short():
    # Eight GPUs stay free on one of the nodes, but perhaps not on the one that has the cores.
    pending = (Request(Resources(gpu=2), "A100"),)
    found = judge(Request(Resources(100_000, gpu=8), "A100"), node(), node("w2", used=(64, 0, 0)), pending=pending)
    assert found.numbers["gpu"] == {"needed": 8, "largest_free": 7, "free": 14}
    assert "8 A100 GPUs needed, the most is 7 A100 GPUs" in found.text_en


def test_a_node_that_no_label_leads_to_has_nothing_for_anybody():
    hidden = replace(node("w2"), product="", gpu_type="")
    assert judge(Request(Resources(gpu=4), "any"), node(gpu=1), hidden).code == "too_large"


def test_unhealthy_devices_are_not_free_but_there():
    request = Request(Resources(gpu=8), "any")
    assert judge(request, node(healthy=7)).code == "none_free"


def test_taints():
    kept = node(taints=(GPU_TAINT,))
    assert judge(ONE, kept) is None
    assert judge(Request(Resources(1000)), kept).code == "too_large"
    assert judge(ONE, node(taints=({**GPU_TAINT, "key": "team"},))).code == "too_large"
    mine = replace(PLAIN, cpu_tolerations=({"key": "team", "operator": "Exists"},))
    assert q.refusal(ONE, situation(node(taints=({**GPU_TAINT, "key": "team"},))), mine) is None


# ---- what is pending


@pytest.mark.parametrize(
    ("levels", "amount", "left"),
    [
        ([8, 5, 3], 0, [8, 5, 3]),
        ([8, 5, 3], 2, [6, 5, 3]),
        ([8, 5, 3], 6, [3, 4, 3]),
        ([8, 5, 3], 5, [4, 4, 3]),
        ([3, 3], 1, [2, 3]),
        ([3, 3], 99, [0, 0]),
        ([0, 0], 1, [0, 0]),
        ([], 3, []),
    ],
)
def test_taking_from_the_freest(levels, amount, left):
    assert q.take_from_freest(levels, amount) == left


LEVELS = st.lists(st.integers(0, 12), min_size=1, max_size=6)


@given(LEVELS, st.integers(0, 80))
def test_it_is_one_unit_after_the_other_from_the_highest(levels, amount):
    expected = list(levels)
    for _ in range(min(amount, sum(levels))):
        expected[expected.index(max(expected))] -= 1
    assert q.take_from_freest(levels, amount) == expected


@given(LEVELS, st.integers(0, 80), st.data())
def test_a_higher_level_lowers_none(levels, amount, data):
    more = list(levels)
    more[data.draw(st.integers(0, len(levels) - 1))] += data.draw(st.integers(1, 9))
    before, after = q.take_from_freest(levels, amount), q.take_from_freest(more, amount)
    assert all(one <= other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("pending", "free"),
    [
        ([], {"any": (20, 8), "A100": (16, 8), "T4": (4, 4)}),
        ([("A100", 2)], {"any": (18, 8), "A100": (14, 8), "T4": (4, 4)}),
        ([("A100", 8)], {"any": (12, 8), "A100": (8, 8), "T4": (4, 4)}),
        ([("A100", 2), ("A100", 2)], {"any": (16, 6), "A100": (12, 6), "T4": (4, 4)}),
        ([("any", 8)], {"any": (12, 8), "A100": (8, 8), "T4": (4, 4)}),
        ([("any", 3)], {"any": (17, 8), "A100": (13, 8), "T4": (1, 1)}),
        ([("T4", 3), ("T4", 3)], {"any": (16, 8), "A100": (16, 8), "T4": (0, 0)}),
        # It fits nowhere, now or ever.
        ([("T4", 9)], {"any": (20, 8), "A100": (16, 8), "T4": (4, 4)}),
        ([("any", 4), ("A100", 4)], {"any": (12, 4), "A100": (8, 4), "T4": (0, 0)}),
        ([("", 0)], {"any": (20, 8), "A100": (16, 8), "T4": (4, 4)}),
        ([("H100", 3)], {"any": (20, 8), "A100": (16, 8), "T4": (4, 4)}),
    ],
)
def test_what_was_granted_to_others_is_not_free(pending, free):
    requests = tuple(Request(Resources(gpu=count), kind) for kind, count in pending)
    nodes = [node("w1"), node("w2"), node("w3", T4, gpu=4)]
    found = q.profiles(situation(*nodes, pending=requests), replace(PLAIN, sizes=(1,)))
    assert {p.request.gpu_type: (p.free_gpu, p.largest_free_gpu) for p in found if p.request.gpu_type} == free


def test_pending_cores_and_rdma_are_not_free_either():
    config = replace(PLAIN, rdma_resource="rdma/hca")
    request = Request(Resources(100_000, GIB, 1), "any", rdma=True)
    one = situation(node(extra={"rdma/hca": 1}))
    assert q.refusal(request, one, config) is None
    for pending in (Request(Resources(50_000)), Request(Resources(gpu=1), "A100", rdma=True)):
        assert q.refusal(request, replace(one, pending=(pending,)), config).code == "none_free"


@given(
    st.lists(st.tuples(st.sampled_from([A100, T4]), st.integers(0, 5)), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(["any", "A100", "T4"]), st.integers(1, 4)), max_size=3),
    st.sampled_from(["any", "A100", "T4"]),
)
def test_no_gpu_is_promised_twice(nodes, pending, kind):
    """Against every way in which what is pending can come to be on nodes."""
    accounts = [node(f"w{number}", product, gpu) for number, (product, gpu) in enumerate(nodes)]
    where = situation(*accounts, pending=tuple(Request(Resources(gpu=count), kind) for kind, count in pending))
    largest = 0
    for count in range(1, 6):
        if q.refusal(Request(Resources(gpu=count), kind), where, PLAIN) is None:
            largest = count
    places = [[n for n, one in enumerate(accounts) if wanted in ("any", one.gpu_type)] for wanted, _count in pending]
    for placement in itertools.product(*places):
        free = [gpu for _product, gpu in nodes]
        for number, (_kind, count) in zip(placement, pending, strict=True):
            free[number] -= count
        if min(free) >= 0:
            blocks = [gpu for one, gpu in zip(accounts, free, strict=True) if kind in ("any", one.gpu_type)]
            assert largest <= max(blocks, default=0)


# ---- properties

CORES, GIBS, GPUS = st.integers(0, 64), st.integers(0, 256), st.integers(0, 8)
AMOUNTS = st.builds(lambda cores, gib, gpu: Resources(cores * 500, gib * GIB // 2, gpu), CORES, GIBS, GPUS)
LIMITS = st.builds(
    lambda cores, gib, gpu: Limits(cores and cores * 700, gib and gib * GIB // 3, gpu),
    st.none() | CORES, st.none() | GIBS, st.none() | GPUS,
)  # fmt: skip
NODES = st.lists(
    st.builds(
        lambda product, gpu, cores, held: node(product=product, gpu=gpu if product else 0, cores=cores, gib=cores * 4,
                                               used=held, extra={"rdma/hca": 2}),
        st.sampled_from([A100, T4, ""]), st.integers(0, 8), st.integers(0, 128),
        st.tuples(st.integers(0, 64), st.integers(0, 256), st.integers(0, 8)),
    ),
    max_size=4,
).map(lambda nodes: tuple(replace(one, name=f"w{number}") for number, one in enumerate(nodes)))  # fmt: skip
PENDING = st.lists(st.builds(Request, AMOUNTS, st.sampled_from(["", "any", "A100", "T4"]), st.booleans()), max_size=3)
SITUATIONS = st.builds(
    Situation, limits=LIMITS, used=AMOUNTS, reserved=AMOUNTS, nodes=NODES, pending=PENDING.map(tuple),
    home_node=st.sampled_from(["", "", "w0"]),
)  # fmt: skip
CONFIGS = st.sampled_from(
    [Settings(rdma_resource="rdma/hca"), PLAIN, replace(PLAIN, node_share_percent=37, sizes=(1, 3))]
)


def offered(where, config):
    return {profile.slug for profile in q.profiles(where, config) if profile.offered}


@given(SITUATIONS, CONFIGS)
def test_nothing_that_is_offered_is_above_limit_minus_use_minus_reservations(where, config):
    found = q.profiles(where, config)
    for profile in found:
        resources, fits_somewhere = profile.request.resources, False
        for one in where.nodes:
            fits_somewhere |= resources.fits_in(one.free) and bool(not resources.gpu or one.gpu_type)
        if profile.offered:
            held = (where.used + where.reserved).amounts()
            for asked, had, limit in zip(resources.amounts(), held, where.limits.amounts(), strict=True):
                assert not asked or limit is None or had + asked <= limit
            assert fits_somewhere
            assert resources.cpu_milli > 0 < resources.memory_bytes
        else:
            assert profile.reason.code in ("over_limit", "budget_used", "too_large", "none_free")
            assert json.dumps(profile.as_dict())
    assert len({profile.slug for profile in found}) == len(found)
    assert all(re.fullmatch(r"[a-z0-9-]+", profile.slug) for profile in found)
    assert [profile.slug for profile in found if profile.default] == [p.slug for p in found if p.offered][:1]


@given(SITUATIONS, CONFIGS, AMOUNTS, st.sampled_from(["cpu_milli", "memory_bytes", "gpu"]))
def test_more_of_a_limit_takes_no_size_away(where, config, more, name):
    """But for one reason: a size becomes more with the user's share, and that much may not be free at the moment."""
    limit = getattr(where.limits, name)
    raised = [None] if limit is None else [None, limit + getattr(more, name)]
    for other in raised:
        after = replace(where, limits=replace(where.limits, **{name: other}))
        lost = offered(where, config) - offered(after, config)
        assert {by_slug(q.profiles(after, config))[slug].reason.code for slug in lost} <= {"none_free"}
        # What is free aside there is none.
        config = replace(config, cpu_per_gpu=8000, memory_per_gpu=64 * GIB, products=(A100,))
        assert offered(replace(where, nodes=None), config) <= offered(replace(after, nodes=None), config)


@given(SITUATIONS, CONFIGS, AMOUNTS)
def test_less_in_use_or_reserved_takes_no_size_away(where, config, more):
    fewer = offered(replace(where, used=where.used + more), config)
    assert fewer <= offered(where, config)
    assert offered(replace(where, reserved=where.reserved + more), config) == fewer


@given(SITUATIONS, CONFIGS, AMOUNTS, st.data())
def test_more_that_is_free_takes_no_size_away(where, config, more, data):
    if where.nodes:
        number = data.draw(st.integers(0, len(where.nodes) - 1))
        nodes = list(where.nodes)
        nodes[number] = replace(nodes[number], used=(nodes[number].used - more).at_least_zero())
        assert offered(where, config) <= offered(replace(where, nodes=tuple(nodes)), config)
    assert offered(where, config) <= offered(replace(where, pending=where.pending[1:]), config)


@given(SITUATIONS, CONFIGS)
def test_the_list_and_a_request_are_judged_alike(where, config):
    for profile in q.profiles(where, config):
        assert q.refusal(profile.request, where, config) == profile.reason


# ---- KubeSpawner


@pytest.fixture
def pods(monkeypatch):
    """Pods as KubeSpawner makes them: one spawner, every profile after every other, from its JSON."""
    monkeypatch.setattr(kubespawner, "load_config", lambda **_: None)
    monkeypatch.setattr(kubespawner, "shared_client", lambda _: None)
    config = replace(PLAIN, sizes=(1, 2), rdma_resource="rdma/hca")
    found = q.profiles(situation(node(extra={"rdma/hca": 2}), node("w2", T4), limits=(9, 33, 3)), config)
    profiles = json.loads(json.dumps(q.profile_list(found, config)))
    chart = {"profile_list": profiles, "mem_limit": "1G", "extra_resource_limits": {"other/thing": "1"}}
    user = SimpleNamespace(name="alice", id=1, escaped_name="alice")
    spawner = kubespawner.KubeSpawner(_mock=True, config=Config(KubeSpawner=chart), user=user, hub=SimpleNamespace())
    monkeypatch.setattr(spawner, "get_env", dict)
    monkeypatch.setattr(spawner, "get_args", list)

    async def make():
        made = {}
        for profile in [*profiles, *reversed(profiles)]:
            spawner.user_options = {"profile": profile["slug"]}
            await spawner.load_user_options()
            pod = (await spawner.get_pod_manifest()).to_dict()
            # It shares dictionaries with the spawner, which the next profile changes.
            made.setdefault(profile["slug"], []).append(copy.deepcopy(pod["spec"]))
        return made

    return asyncio.run(make())


def test_pods_have_what_their_profile_says(pods):
    (container,) = pods["gpu-a100-2-rdma"][0]["containers"]
    assert container["resources"]["limits"] == {
        "cpu": 9, "memory": 33 * GIB, "nvidia.com/gpu": "2", "rdma/hca": "1", "other/thing": "1",
    }  # fmt: skip
    assert container["resources"]["requests"] == {
        "cpu": 9, "memory": 33 * GIB, "nvidia.com/gpu": "2", "rdma/hca": "1",
    }  # fmt: skip
    assert container["security_context"]["capabilities"]["add"] == ["IPC_LOCK"]
    terms = pods["gpu-a100-2-rdma"][0]["affinity"]["node_affinity"][
        "required_during_scheduling_ignored_during_execution"
    ]
    assert terms["node_selector_terms"][0]["match_expressions"] == [
        {"key": "nvidia.com/gpu.product", "operator": "In", "values": [A100]}
    ]
    tolerated = [toleration["key"] for toleration in pods["gpu-a100-2-rdma"][0]["tolerations"]]
    assert tolerated == ["hub.jupyter.org/dedicated", "hub.jupyter.org_dedicated", "nvidia.com/gpu"]


def test_nothing_stays_of_the_profile_before(pods):
    assert {slug for slug, (first, again) in pods.items() if first != again} == set()
    (container,) = pods["cpu-2-8"][1]["containers"]
    for stated in (container["resources"]["limits"], container["resources"]["requests"]):
        assert not {"nvidia.com/gpu", "rdma/hca"} & set(stated)
    assert not container["security_context"]["capabilities"]["add"]
    assert not (pods["cpu-2-8"][1]["affinity"] or {}).get("node_affinity")


def test_an_empty_list_is_never_given():
    with pytest.raises(q.ProfilesError, match=r"no size can be started\. Over your limit: 2 cores"):
        q.profile_list(q.profiles(situation(node(), limits=(1, None, 0)), PLAIN), PLAIN)
    with pytest.raises(q.ProfilesError, match="Set sizes or cpu_sizes"):
        q.profile_list([], PLAIN)


# ---- settings


def test_settings_as_people_write_them():
    written = {
        "sizes": ["4", 1, 1],
        "cpu_sizes": [{"cpu": "4", "memory": "16Gi"}, {"cpu": 0.5, "memory": "1Gi"}],
        "cpu_per_gpu": "unlimited",
        "memory_per_gpu": "100G",
        "node_share_percent": "80",
        "products": [T4],
        "gpu_resource": "nvidia.com/gpu.shared",
        "rdma_resource": "",
        "cpu_tolerations": [],
    }
    found = q.settings(written)
    assert found == Settings(
        sizes=(1, 4),
        cpu_sizes=(Resources(500, GIB), Resources(4000, 16 * GIB)),
        cpu_per_gpu=None,
        memory_per_gpu=10**11,
        node_share_percent=80,
        products=(T4,),
        gpu_resource="nvidia.com/gpu.shared",
        cpu_tolerations=(),
    )
    assert [toleration["key"] for toleration in found.tolerations] == ["nvidia.com/gpu.shared"]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"size": [1]}, "size is no setting of profiles; there are sizes, cpu_sizes"),
        ({"sizes": 4}, "sizes: is no list; write numbers of GPUs"),
        ({"sizes": [0]}, "sizes: is 0; write an amount above it"),
        ({"sizes": [1.5]}, "sizes: 1.5 is no amount; write it like 4, a whole number"),
        ({"cpu_sizes": [{"cpu": 1}]}, "cpu_sizes: is no list of sizes; write them like"),
        ({"cpu_sizes": {"cpu": 1, "memory": 1}}, "cpu_sizes: is no list of sizes"),
        ({"cpu_sizes": [{"cpu": 1, "memory": "1gb"}]}, "cpu_sizes: '1gb' is no amount; write it like 16Gi"),
        ({"cpu_per_gpu": "no"}, "cpu_per_gpu: 'no' is no amount"),
        ({"memory_per_gpu": 0}, "memory_per_gpu: is 0; write an amount above it"),
        ({"node_share_percent": 101}, "node_share_percent: is 101; write a number from 1 to 100"),
        ({"products": ["<b>"]}, "products: is no list of products; write the nodes' label"),
        ({"products": T4}, "products: is no list of products"),
        ({"gpu_resource": "gpu"}, "gpu_resource: 'gpu' is no resource of a node"),
        ({"rdma_resource": "rdma/"}, "rdma_resource: 'rdma/' is no resource of a node"),
        ({"cpu_tolerations": ["x"]}, "cpu_tolerations: is no list of tolerations"),
        (
            {"sizes": 4, "products": 5},
            "sizes: is no list; write numbers of GPUs, such as [1, 2, 4, 8]; products: is no",
        ),
    ],
)
def test_settings_that_cannot_be_right(written, says):
    with pytest.raises(q.ProfilesError) as error:
        q.settings(written)
    assert str(error.value).startswith(says)


def test_asking_for_nothing_of_a_node_that_is_not_there():
    reason = q.refusal(Request(Resources()), situation(node(), home_node="gone"), Settings())
    assert (reason.code, reason.numbers) == ("too_large", {})
    assert "gone (where your home is) has: there is no such node." in reason.text_en
