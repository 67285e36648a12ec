"""Policies: who may have how much, and what it costs."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils import quota_policy
from ansible_collections.gpuhub.platform.plugins.module_utils.located_tree import read
from ansible_collections.gpuhub.platform.plugins.module_utils.quantities import Limits
from ansible_collections.gpuhub.platform.plugins.module_utils.quota_policy import Budget, PolicyError, policy
from hypothesis import example, given
from hypothesis import strategies as st

GIB = 2**30
DEFAULT = "default: {cpu: 8, memory: 32Gi, gpu: 1}\n"


def load(text):
    return policy(*read(text, functools.partial(yaml.compose, Loader=yaml.SafeLoader)))


def faults(text):
    with pytest.raises(PolicyError) as error:
        load(text)
    return str(error.value).splitlines()


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


EXAMPLE = """
default: {cpu: 8, memory: 32Gi, gpu: 1}
groups:
  vision: {gpu: 4, members: [alice, bob], budgets: [{gpu_hours: 200, every: month}]}
  nlp:
    gpu: 2
    cpu: 64
    members: [bob]
    budgets:
      - {gpu_hours: 300, every: month}
      - {cost: 99.50, within: 7d}
  free: {memory: unlimited, gpu: 0}
users:
  carol: {cpu: unlimited, gpu: 8, budgets: [{gpu_hours: 100, within: 30d}]}
  dave: {gpu: 0, budgets: []}
rates: [{from: 2026-01-01, gpu: {A100: 2.5, default: 1.0}, cpu_hour: 0.02, memory_gib_hour: 0.003, currency: EUR}]
"""


@pytest.mark.parametrize(
    ("user", "groups", "limits"),
    [
        ("nobody", [], (8000, 32 * GIB, 1)),
        ("alice", [], (8000, 32 * GIB, 4)),
        # Of several groups the most generous, each resource for itself.
        ("bob", [], (64_000, 32 * GIB, 4)),
        ("bob", ["free"], (64_000, None, 4)),
        # A group counts before the default, even if it gives less.
        ("nobody", ["free"], (8000, None, 0)),
        ("nobody", ["unheard-of"], (8000, 32 * GIB, 1)),
        # What is said of the user counts before all groups.
        ("carol", ["vision", "nlp"], (None, 32 * GIB, 8)),
        ("carol", ["free"], (None, None, 8)),
        ("dave", ["vision"], (8000, 32 * GIB, 0)),
    ],
)
def test_limits(user, groups, limits):
    assert load(EXAMPLE).limits_for(user, groups) == Limits(*limits)


@pytest.mark.parametrize(
    ("user", "groups", "budgets"),
    [
        ("nobody", [], []),
        ("alice", [], ["200 GPU hours a month"]),
        ("bob", [], ["99.5 EUR within 7 days", "300 GPU hours a month"]),
        ("carol", ["vision"], ["100 GPU hours within 30 days"]),
        ("dave", ["vision"], []),
    ],
)
def test_budgets(user, groups, budgets):
    assert [str(budget) for budget in load(EXAMPLE).budgets_for(user, groups)] == budgets


def test_the_default_s_budgets_are_for_those_who_have_no_others():
    text = DEFAULT.replace("gpu: 1", "gpu: 1, budgets: [{cpu_hours: 0.5, every: day}]")
    found = load(text + "groups: {a: {members: [alice], gpu: 2}, b: {members: [bob], budgets: []}}")
    assert found.budgets_for("alice") == found.budgets_for("x") == [Budget("cpu_hours", 1_800_000, period="day")]
    assert found.budgets_for("bob") == []


def test_the_example_of_the_documentation_is_one():
    page = (Path(__file__).parents[4] / "docs" / "quotas.md").read_text(encoding="utf-8")
    found = load(re.search("```yaml\n(time_zone.*?)```", page, re.DOTALL)[1])
    assert found.limits_for("alice") == Limits(8000, 32 * GIB, 4)
    assert found.limits_for("carol") == Limits(None, 32 * GIB, 8)
    assert found.rate_at(utc(2025, 12, 31, 23)).gpu_hour("A100") == 2_500_000


def test_json_is_a_policy_too():
    tree = {"default": {"cpu": 0.5, "memory": "1Gi", "gpu": 2}, "users": {"12": {"gpu": 1.0}}}
    assert policy(tree).limits_for("12") == Limits(500, GIB, 1)
    assert policy({**tree, "users": {"al": {"gpu": None}}}).limits_for("al").gpu is None
    with pytest.raises(PolicyError, match=r"\Ausers\.12\.gpu is True; write 4, or unlimited\Z"):
        policy({**tree, "users": {"12": {"gpu": True}}})


def test_names_need_no_quotes():
    found = load(DEFAULT + "users: {no: {gpu: 2}, 12: {gpu: 3}, 1e3: {gpu: 4}, null: {gpu: 5}}")
    assert [found.limits_for(name).gpu for name in ("no", "12", "1e3", "null")] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "default lacks cpu, memory, gpu; write what everybody may have, or unlimited"),
        ("default: {cpu: 1, memory: 1Gi}", "line 1: default lacks gpu; write what everybody may have, or unlimited"),
        ("[]", "is []; write names with values, or remove the line"),
        ("default: 5", "line 1: default is 5; write names with values, or remove the line"),
        (DEFAULT + "groups:", "line 2: groups is empty; write names with values, or remove the line"),
        (DEFAULT + "user: {}", "line 2: user is not known; did you mean users?; there are default, groups"),
        (DEFAULT + "users:\n  al: {gpus: 1}", "line 3: users.al.gpus is not known; did you mean gpu?; there are cpu"),
        (DEFAULT + "users: {al: {members: [b]}}", "line 2: users.al.members is not known; there are"),
        (DEFAULT + "users: {al: {gpu: -1}}", "line 2: users.al.gpu is -1; write 4, or unlimited"),
        (DEFAULT + "users: {al: {gpu: 0.5}}", "line 2: users.al.gpu is 0.5; write 4, or unlimited"),
        (DEFAULT + "users: {al: {gpu: none}}", "line 2: users.al.gpu is none; write 4, or unlimited"),
        (DEFAULT + "users: {al: {gpu: }}", "line 2: users.al.gpu is empty; write 4, or unlimited"),
        (DEFAULT + "users: {al: {gpu: [1]}}", "line 2: users.al.gpu is ['1']; write 4, or unlimited"),
        (DEFAULT + "users: {al: {memory: 32GB}}", "line 2: users.al.memory is 32GB; write 32Gi, or unlimited"),
        (DEFAULT + "users: {al: {memory: 32}}", "line 2: users.al.memory is 32, which is 32 bytes; write a unit"),
        (DEFAULT + "users: {al: {cpu: 1e9}}", "line 2: users.al.cpu is 1e9, more than there can be"),
        (DEFAULT + "users: {al: {gpu: 1000001}}", "line 2: users.al.gpu is 1000001, more than there can be"),
        (DEFAULT + "users: {al: {memory: 2Ei}}", "line 2: users.al.memory is 2Ei, more than there can be"),
        (DEFAULT + "users: {Al: {gpu: 1}}", "line 2: users.Al is nobody: the hub has names in lower case"),
        (DEFAULT + 'users: {"a\\nb": {gpu: 1}}', "line 2: users.a\\nb is no name: names are printable"),
        (DEFAULT + 'users: {"": {gpu: 1}}', "line 2: users. is no name"),
        (DEFAULT + "groups: {a: {members: alice}}", "line 2: groups.a.members is alice; write a list, such as [a, b]"),
        (DEFAULT + "groups: {a: {members: [{}]}}", "line 2: groups.a.members[0] is {}, which is no text"),
        (DEFAULT + "groups: {a: {members: [B]}}", "line 2: groups.a.members[0] is nobody"),
        (DEFAULT + "time_zone: Mars", "line 2: time_zone is Mars; write a zone's name, such as Europe/Berlin or UTC"),
        (DEFAULT + "time_zone: ../../etc/passwd", "line 2: time_zone is ../../etc/passwd; write"),
        (DEFAULT + "time_zone: [UTC]", "line 2: time_zone is ['UTC']; write"),
    ],
)  # fmt: skip
def test_faults(text, fault):
    (found,) = faults(text)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("budget", "fault"),
    [
        ("{every: month}", "counts nothing; write one of gpu_hours, cpu_hours, cost"),
        ("{gpu_hours: 1, cpu_hours: 1, every: month}", "counts gpu_hours and cpu_hours; write one of"),
        ("{gpu_hours: 1}", "needs either every (day, week, month) or within, such as 30d"),
        ("{gpu_hours: 1, every: day, within: 1d}", "needs either every"),
        ("{gpu_hours: 1, every: year}", ".every is year; write day, week or month"),
        ("{gpu_hours: 1, every: [day]}", ".every is ['day']; write day, week or month"),
        ("{gpu_hours: 1, within: 30}", ".within is 30; write days, such as 30d, 3660d at most"),
        ("{gpu_hours: 1, within: 0d}", ".within is 0d; write days"),
        ("{gpu_hours: 1, within: 3661d}", ".within is 3661d; write days"),
        ("{gpu_hours: -1, every: day}", ".gpu_hours is -1; write a number of hours"),
        ("{gpu_hours: many, every: day}", ".gpu_hours is many; write a number of hours"),
        ("{gpu_hours: 0.0001, every: day}", ".gpu_hours is 0.0001, which is counted no finer than 1/3600"),
        ("{cpu_hours: 999999999999, every: day}", None),
        ("{gpu_hours: 1, evry: day}", ".evry is not known; did you mean every?; there are"),
        ("{cost: 1, every: day}", ".cost counts money, but nothing has a price; write rates as well"),
        ("5", "is 5; write names with values"),
    ],
)
def test_faults_of_budgets(budget, fault):
    text = DEFAULT + f"users:\n  al:\n    budgets:\n    - {budget}"
    if fault is None:
        assert load(text).budgets_for("al")
    else:
        found = [line.replace("budgets[0] ", "budgets[0]") for line in faults(text)]
        assert any(line.startswith(f"line 5: users.al.budgets[0]{fault}") for line in found)


def test_a_budget_for_the_same_time_is_there_once():
    text = DEFAULT + "users: {al: {budgets: [{gpu_hours: 1, every: day}, {gpu_hours: 2, every: day}]}}"
    assert faults(text) == ["line 2: users.al.budgets has gpu_hours twice for the same time; keep one of them"]
    assert len(faults(text.replace("day", "[day]"))) == 3


@pytest.mark.parametrize(
    ("rate", "fault"),
    [
        ("{currency: EUR}", "lacks from; a rate is like"),
        ("{from: 2026-01-01}", "lacks currency; a rate is like"),
        ("{from: 2026-13-01, currency: EUR}", ".from is 2026-13-01; write a date"),
        ("{from: soon, currency: EUR}", ".from is soon; write a date"),
        ("{from: 0001-01-01T00:00+14:00, currency: EUR}", ".from is 0001-01-01T00:00+14:00; write a date"),
        ("{from: 2026-01-01, currency: euro}", ".currency is euro; write its three letters"),
        ("{from: 2026-01-01, currency: EUR, cpu: 1}", ".cpu is not known; there are from, gpu, cpu_hour"),
        ("{from: 2026-01-01, currency: EUR, cpu_hour: -1}", ".cpu_hour is -1; write a number of money"),
        ("{from: 2026-01-01, currency: EUR, cpu_hour: 0.0000001}", ".cpu_hour is 0.0000001, which is counted no finer"),
        (
            "{from: 2026-01-01, currency: EUR, cpu_hour: 1000001}",
            ".cpu_hour is 1000001 an hour, more than there can be",
        ),
        ("{from: 2026-01-01, currency: EUR, gpu: {T4: 1}}", ".gpu lacks default, the price of GPUs of all other types"),
        ("{from: 2026-01-01, currency: EUR, gpu: {T4: 1, t4: 2, default: 0}}", ".gpu.t4 is there twice"),
        ("{from: 2026-01-01, currency: EUR, gpu: x}", ".gpu is x; write a number of money"),
        ("x", "is x; write names with values"),
    ],
)
def test_faults_of_rates(rate, fault):
    (found,) = faults(DEFAULT + f"rates:\n- {rate}")
    assert found.replace("rates[0] ", "rates[0]").startswith(f"line 3: rates[0]{fault}")


def test_rates_agree_with_each_other():
    start = "{from: 2026-01-01, currency: EUR}"
    assert faults(DEFAULT + f"rates:\n- {start}\n- {start}") == [
        "line 4: rates[1].from is the beginning of another rate too; keep one of them"
    ]
    assert faults(DEFAULT + f"rates:\n- {start}\n- {{from: 2027-01-01, currency: USD}}") == [
        "line 4: rates[1].currency is USD, and that of rates above EUR; sums need one"
    ]


def test_all_faults_are_said_at_once_in_the_order_of_lines():
    found = faults("users:\n  al: {gpu: x}\n  Bo: {cpu: x}\nrates:\n- {}\ndefault: {cpu: 1, gpu: 1}\ntime_zon: UTC")
    assert [line.split(":")[0] for line in found] == ["line 2", "line 3", "line 3", "line 5", "line 6", "line 7"]


KEYS = st.sampled_from(
    [*quota_policy._TOP, *quota_policy._ENTRY, *quota_policy._BUDGET, *quota_policy._RATE, "members"]
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                KEYS | st.text(max_size=3),
                inner,
                max_size=5,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_is_given_is_a_policy_or_has_faults(tree):
    try:
        assert policy(tree).limits_for("x")
    except PolicyError as error:
        assert error.faults


LEVEL = st.none() | st.integers(0, 9)


@given(LEVEL, st.lists(LEVEL, max_size=3), st.integers(0, 9), st.integers(0, 9))
def test_limits_never_shrink_when_something_is_raised(own, groups, default, more):
    def limit(own, groups, default):
        entries = [{} if level is None else {"gpu": level} for level in groups]
        tree = {
            "default": {"cpu": 1, "memory": "1Gi", "gpu": default},
            "groups": {f"g{number}": {**entry, "members": ["al"]} for number, entry in enumerate(entries)},
            "users": {"al": {} if own is None else {"gpu": own}},
        }
        return policy(tree).limits_for("al").gpu

    before = limit(own, groups, default)
    assert limit(own, groups, default + more) >= before
    assert limit(None if own is None else own + more, groups, default) >= before
    assert limit(own, [None if level is None else level + more for level in groups], default) >= before
    # A stated limit never gives more than was stated anywhere.
    assert before in {own, default, *groups}


# ---- windows


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("period", "now", "start", "end"),
    [
        ("day", utc(2026, 3, 28, 22, 30), utc(2026, 3, 27, 23), utc(2026, 3, 28, 23)),
        ("day", utc(2026, 3, 29, 12), utc(2026, 3, 28, 23), utc(2026, 3, 29, 22)),  # 23 hours long
        ("day", utc(2026, 10, 25, 12), utc(2026, 10, 24, 22), utc(2026, 10, 25, 23)),  # 25 hours long
        ("week", utc(2026, 11, 22, 12), utc(2026, 11, 15, 23), utc(2026, 11, 22, 23)),
        ("week", utc(2026, 11, 22, 23), utc(2026, 11, 22, 23), utc(2026, 11, 29, 23)),
        ("month", utc(2026, 11, 30, 23), utc(2026, 11, 30, 23), utc(2026, 12, 31, 23)),
        ("month", utc(2026, 1, 31, 12), utc(2025, 12, 31, 23), utc(2026, 1, 31, 23)),
        ("month", utc(2028, 2, 29, 12), utc(2028, 1, 31, 23), utc(2028, 2, 29, 23)),
    ],
)
def test_windows_of_the_calendar(period, now, start, end):
    assert Budget("gpu_hours", 1, period=period, zone=BERLIN).window(now) == (start, end)


ZONES = ["Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia", "America/Sao_Paulo"]


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(ZONES),
)
@example(datetime(2010, 11, 7, 2, 45), "day", "America/St_Johns")
@example(datetime(2011, 12, 30, 9), "day", "Pacific/Apia")
@example(datetime(2018, 11, 4, 3), "day", "America/Sao_Paulo")
def test_windows_follow_each_other(now, period, zone):
    now = now.replace(tzinfo=UTC)
    budget = Budget("gpu_hours", 1, period=period, zone=ZoneInfo(zone))
    start, end = budget.window(now)
    assert start <= now < end
    assert budget.window(end)[0] == end
    assert budget.window(start) == (start, end)


NOW = utc(2026, 11, 22, 12, 30)


@pytest.mark.parametrize(
    ("window", "used", "total", "again"),
    [
        ({"period": "day"}, [(utc(2026, 11, 22, 3), 9)], 9, None),
        ({"period": "day"}, [(utc(2026, 11, 22, 3), 10)], 10, utc(2026, 11, 23)),
        ({"period": "day"}, [(utc(2026, 11, 21, 3), 10)], 0, None),
        ({"days": 2}, [(utc(2026, 11, 21, 3), 10)], 10, utc(2026, 11, 23, 4)),
        ({"days": 2}, [(utc(2026, 11, 21, 3), 4), (utc(2026, 11, 22, 3), 10)], 14, utc(2026, 11, 24, 4)),
        ({"days": 2}, [(utc(2026, 11, 21, 3), 5), (utc(2026, 11, 22, 3), 9)], 14, utc(2026, 11, 23, 4)),
        # The hour that the window begins in counts until it is out of it.
        ({"days": 1}, [(utc(2026, 11, 21, 12), 10)], 10, utc(2026, 11, 22, 13)),
        ({"days": 1}, [(utc(2026, 11, 21, 11), 10)], 0, None),
        ({"days": 1}, [(utc(2026, 11, 23, 1), 10)], 0, None),
    ],
)
def test_states(window, used, total, again):
    state = Budget("gpu_hours", 10, **window).state(used, NOW)
    assert (state.used, state.again, state.is_used_up) == (total, again, total >= 10)


def test_nothing_is_never_there_again():
    for window in ({"period": "day"}, {"days": 1}):
        state = Budget("gpu_hours", 0, **window).state([], NOW)
        assert (state.is_used_up, state.again) == (True, None)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), max_size=9), st.integers(1, 20), st.integers(1, 5))
def test_when_there_is_some_again_there_is(used, amount, days):
    hours = [(NOW.replace(minute=0) - timedelta(hours=hour), seconds) for hour, seconds in used]
    budget = Budget("gpu_hours", amount, days=days)
    state = budget.state(hours, NOW)
    if state.is_used_up:
        assert state.again > NOW
        assert not budget.state(hours, state.again).is_used_up
        assert budget.state(hours, state.again - timedelta(seconds=1)).is_used_up


# ---- prices


def test_rates_at_an_instant():
    text = """
    - {from: 2026-06-01, currency: EUR, gpu: 3}
    - {from: "2026-01-01T12:00:00Z", currency: EUR, gpu: {A100: 2.5, default: 1}}
    """
    found = load(f"{DEFAULT}time_zone: Europe/Berlin\nrates:{text}")
    assert found.rate_at(utc(2026, 1, 1, 11, 59)) is None
    first = found.rate_at(utc(2026, 1, 1, 12))
    assert [first.gpu_hour(kind) for kind in ("A100", "a100", "T4")] == [2_500_000, 2_500_000, 1_000_000]
    assert found.rate_at(utc(2026, 5, 31, 21, 59)) == first
    assert found.rate_at(utc(2026, 5, 31, 22)).gpu_hour("A100") == 3_000_000
    assert found.currency == "EUR"


def test_cost_is_exact():
    rate = load(EXAMPLE).rate_at(utc(2026, 2, 1))
    cost = rate.cost("A100", 3600 * 4, 3600 * 1000 * 8, 3600 * 1024 * 64)
    assert cost == 4 * 2_500_000 + 8 * 20_000 + 64 * 3_000
    assert rate.cost("T4", gpu_seconds=1) == Fraction(1_000_000, 3600)
    # A second at a time costs the same as all at once.
    assert sum(rate.cost("T4", 1, 7, 5) for _ in range(3600)) == rate.cost("T4", 3600, 7 * 3600, 5 * 3600)
    assert [quota_policy.micro(Fraction(*value)) for value in ((1, 3), (1, 2), (2, 3), (7, 1))] == [0, 1, 1, 7]
