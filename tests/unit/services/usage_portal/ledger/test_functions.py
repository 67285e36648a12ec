"""The pure functions of the ledger: idle pieces, steps of capacity, hours."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from gpuhub_portal.ledger import capacity, idle, rollups
from gpuhub_portal.ledger.capacity import Step
from gpuhub_portal.ledger.facts import Hold, Loss, Pod


def _value(pieces: list[idle.Piece], at: int) -> int:
    return sum(level for since, until, level in pieces if since <= at and (until is None or at < until))


def test_shift_is_the_sum_and_has_one_form():
    chance = random.Random(1)
    for _ in range(500):
        changes = []
        for _ in range(chance.randint(0, 8)):
            since = chance.randint(0, 20)
            changes.append((since, chance.choice((None, since, since + chance.randint(1, 9))), chance.randint(-2, 2)))
        half = len(changes) // 2
        at_once, in_two = idle.shift([], changes), idle.shift(idle.shift([], changes[:half]), changes[half:])
        assert at_once == in_two
        for at in range(35):
            assert _value(at_once, at) == _value(changes, at)
        assert idle.final_level(at_once) == _value(changes, 10**6)
        for (_, until, level), (since, _, following) in itertools.pairwise(at_once):
            assert until is not None and until <= since
            assert until < since or level != following, "two pieces of one level"
        assert all(level for _, _, level in at_once)


STEP = Step("uid", 100, 100, 100, "node", "A100", 4, "joined", 1)


def test_steps_in_any_order_are_the_same_steps():
    steps = [
        STEP,
        replace(STEP, since=200, gpu=0, reason="not_ready", version=2),
        replace(STEP, since=300, gpu=4, reason="ready", version=3),
        replace(STEP, since=300, gpu=3, reason="devices", version=4),
    ]
    expected = [
        replace(steps[0], until=200),
        replace(steps[1], until=300),
        replace(steps[3], until=None),
    ]
    chance = random.Random(2)
    for _ in range(50):
        drawn = [*steps, chance.choice(steps)]
        chance.shuffle(drawn)
        half = chance.randint(0, len(drawn))
        assert capacity.merge([*capacity.merge(drawn[:half]), *drawn[half:]]) == expected


def test_loss_of_a_node():
    steps = capacity.merge(
        [
            STEP,
            replace(STEP, since=200, earliest=160, gpu=0, reason="not_ready", version=2),
            replace(STEP, since=300, reason="ready", version=3),
            replace(STEP, since=400, earliest=390, gpu=0, reason="not_ready", version=4),
            replace(STEP, since=500, earliest=500, gpu=0, reason="removed", version=5),
        ]
    )
    assert capacity.loss_at(steps, 199) is None
    assert capacity.loss_at(steps, 200) == Loss(160, 200)
    assert capacity.loss_at(steps, 300) is None
    assert capacity.loss_at(steps, 450) == Loss(390, 400)
    assert capacity.loss_at(steps, 9000) == Loss(390, 400), "removed after it was lost: lost when it was lost"
    again = Step("uid2", 600, 600, 600, "node", "A100", 4, "joined", 9)
    assert capacity.loss_at([*steps, again], 550) == Loss(390, 400)
    assert capacity.loss_at([*steps, again], 600) is None, "another node of that name is there"
    assert capacity.loss_at(steps[:1], 50) is None


def test_node_removed_while_it_was_ready():
    steps = capacity.merge([STEP, replace(STEP, since=500, earliest=480, gpu=0, reason="removed", version=5)])
    assert capacity.loss_at(steps, 501) == Loss(480, 500)


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (10, 10, []),
        (10, 20, [(0, 10)]),
        (3590, 3610, [(0, 10), (3600, 10)]),
        (3600, 7200, [(3600, 3600)]),
        (3599, 7201, [(0, 1), (3600, 3600), (7200, 1)]),
    ],
)
def test_seconds_by_hour(since, until, expected):
    assert list(rollups.seconds_by_hour(since, until)) == expected


def test_contribution_of_an_interval():
    sums = rollups.new_sums()
    pod = Pod("p", username="alice", kind="notebook", gpu_type="T4", gpu=2, cpu_milli=1500, memory_bytes=(3 << 20) - 1)
    rollups.add(sums, pod, Hold(3590, 3610), 1)
    rollups.add(sums, pod, Hold(3590), 1)
    rollups.add(sums, pod, None, 1)
    key = ("alice", "", "notebook", "T4")
    assert sums == {(0, *key): [20, 15000, 30, 0], (3600, *key): [20, 15000, 30, 0]}
    rollups.add(sums, pod, Hold(3590, 3610), -1)
    assert not any(map(any, sums.values()))
