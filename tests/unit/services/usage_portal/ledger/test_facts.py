from __future__ import annotations

import random
from dataclasses import replace

import pytest
from gpuhub_portal.ledger.facts import FIELDS, Hold, Loss, Pod, hold, merge

HELD = Pod("p", node="n", scheduled_at=100)


def _drawn(chance: random.Random) -> Pod:
    """Any facts about one pod."""
    values = {}
    for name in FIELDS[1:]:
        if name.endswith(("_at", "_start", "_stop")) or name == "witness_gone_by":
            values[name] = chance.choice((None, 1, 2, 3))
        elif name in ("gpu", "cpu_milli", "memory_bytes"):
            values[name] = chance.choice((0, 5))
        elif name not in ("gone_after", "gone_by"):
            values[name] = chance.choice(("", "same"))
    by = chance.choice((None, 1, 2, 3))
    return Pod("p", **values, gone_by=by, gone_after=None if by is None else chance.randint(0, by))


def test_merge_does_not_depend_on_order_or_repetition():
    chance = random.Random(5)
    for _ in range(2000):
        a, b, c = (_drawn(chance) for _ in range(3))
        assert merge(a, b) == merge(b, a)
        assert merge(merge(a, b), c) == merge(a, merge(b, c))
        assert merge(merge(a, b), a) == merge(a, b)


def test_of_bounds_of_witnesses_the_earliest_counts():
    one, other = (Pod("p", witness_gone_by=at) for at in (5, 9))
    assert merge(one, other).witness_gone_by == 5


def test_nothing_known_adds_nothing():
    chance = random.Random(6)
    for _ in range(100):
        pod = _drawn(chance)
        assert merge(pod, Pod("p")) == pod


@pytest.mark.parametrize(
    ("facts", "loss", "expected"),
    [
        pytest.param({"scheduled_at": None}, None, None, id="never scheduled"),
        pytest.param({}, None, Hold(100), id="still held"),
        pytest.param({"finished_at": 150}, None, Hold(100, 150, "observed", 150, 150), id="containers finished"),
        pytest.param(
            {"finished_at": 150, "gone_after": 160, "gone_by": 160, "witness_stop": 155},
            Loss(90, 120),
            Hold(100, 150, "observed", 150, 150),
            id="containers' times win over everything",
        ),
        pytest.param(
            {"gone_after": 160, "gone_by": 160}, None, Hold(100, 160, "observed", 160, 160), id="removal seen"
        ),
        pytest.param(
            {"gone_after": 160, "gone_by": 160, "witness_stop": 155},
            None,
            Hold(100, 160, "observed", 160, 160),
            id="observed wins over witness",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 160, "witness_stop": 155},
            None,
            Hold(100, 155, "witness", 155, 155),
            id="witness within the gap",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 160, "witness_stop": 130},
            None,
            Hold(100, 140, "inferred", 140, 160),
            id="a witness that contradicts what was seen is not believed",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 160}, None, Hold(100, 140, "inferred", 140, 160), id="gone after a gap"
        ),
        pytest.param(
            {"gone_after": 900, "gone_by": 900},
            Loss(130, 170),
            Hold(100, 170, "inferred", 130, 900),
            id="node lost: until it was given up, at least until its last sign of life",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 900},
            Loss(130, 170),
            Hold(100, 140, "inferred", 130, 900),
            id="node lost within a gap",
        ),
        pytest.param(
            {"finished_at": 90}, None, Hold(100, 100, "observed", 100, 100), id="a clock is behind: never negative"
        ),
        pytest.param({"gone_after": 50, "gone_by": 60}, None, Hold(100, 100, "inferred", 100, 100), id="and here"),
        pytest.param({"witness_stop": 120}, None, Hold(100), id="a witness does not end what is still there"),
        pytest.param(
            {"scheduled_at": None, "witness_start": 110, "witness_stop": 120},
            None,
            Hold(110, 120, "witness", 120, 120),
            id="only a witness saw it",
        ),
        pytest.param(
            {"scheduled_at": None, "witness_start": 110, "witness_stop": 120, "node": ""},
            None,
            None,
            id="a witness that names no node saw nothing held",
        ),
        pytest.param({"scheduled_at": None, "witness_start": 110}, None, None, id="it may still be waiting"),
        pytest.param(
            {"gone_after": 140, "gone_by": 160, "witness_gone_by": 155},
            None,
            Hold(100, 140, "inferred", 140, 155),
            id="a witness who found out later bounds the end",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 160, "witness_gone_by": 170},
            None,
            Hold(100, 140, "inferred", 140, 160),
            id="later than the gap",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 160, "witness_gone_by": 130},
            None,
            Hold(100, 140, "inferred", 140, 160),
            id="and contradicts what was seen",
        ),
        pytest.param(
            {"gone_after": 140, "gone_by": 900, "witness_gone_by": 300},
            Loss(130, 170),
            Hold(100, 140, "inferred", 130, 300),
            id="and the node was lost",
        ),
        pytest.param(
            {"refused": "UnexpectedAdmissionError", "gone_after": 130, "gone_by": 130},
            None,
            Hold(100, 100, "observed", 100, 100),
            id="refused by its kubelet: it never held anything",
        ),
        pytest.param(
            {"refused": "UnexpectedAdmissionError", "started_at": 105, "gone_after": 130, "gone_by": 130},
            None,
            Hold(100, 130, "observed", 130, 130),
            id="refused after a boot: it did before",
        ),
        pytest.param({"witness_gone_by": 120}, None, Hold(100), id="nor does one who found out later"),
        pytest.param(
            {"scheduled_at": None, "witness_start": 110, "witness_gone_by": 150},
            None,
            Hold(110, 110, "inferred", 110, 150),
            id="only a witness saw it, who found out later",
        ),
    ],
)
def test_what_follows_from_facts(facts, loss, expected):
    assert hold(replace(HELD, **facts), loss) == expected


def test_bounds_hold_whatever_the_facts():
    chance = random.Random(7)
    for _ in range(5000):
        at = chance.randint(0, 4)
        held = hold(_drawn(chance), chance.choice((None, Loss(chance.randint(0, at), at))))
        if held and held.until is not None:
            assert held.since <= held.until
            assert held.earliest <= held.until <= held.latest, held
