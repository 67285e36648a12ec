"""What a portal must be told to have a policy, and what it would refuse."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import pytest
import yaml
from ansible_collections.gpuhub.platform.plugins.module_utils.located_tree import read
from ansible_collections.gpuhub.platform.plugins.module_utils.portal_policy import PortalPolicyError, plan
from ansible_collections.gpuhub.platform.plugins.module_utils.quota_policy import PolicyError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DEFAULT = {"cpu": "unlimited", "memory": "unlimited", "gpu": "unlimited"}
EMPTY = {"time_zone": "UTC", "default": DEFAULT, "groups": {}, "users": {}, "rates": []}
EUR = {"from": "2026-01-01", "currency": "EUR", "gpu": "1"}


def tree(text: str):
    """A tree of texts, as the action sends it."""
    return read(text, functools.partial(yaml.compose, Loader=yaml.SafeLoader))[0]


def wanted(**entries):
    return {"default": DEFAULT, **entries}


def there(**entries):
    return {**EMPTY, **entries}


def rate(start, currency="EUR", gpu="1"):
    """A rate as the portal answers it."""
    gpu = gpu if isinstance(gpu, dict) else {"default": gpu}
    return {"from": start, "currency": currency, "gpu": gpu, "cpu_hour": "0", "memory_gib_hour": "0"}


def changes(*arguments, **options):
    return list(map(str, plan(*arguments, NOW, **options).changes))


def faults(*arguments, **options):
    with pytest.raises(PolicyError) as error:
        plan(*arguments, NOW, **options)
    return [str(fault) for fault in error.value.faults]


def test_each_entry_that_differs_is_set_once():
    text = """
    default: {cpu: 8, memory: 32Gi, gpu: 1}
    groups: {vision: {gpu: 4, members: [bob, alice, bob]}, audio: {cpu: unlimited}}
    users: {'no': {memory: 1.5Gi, budgets: []}, dave: {cpu: 0.5}}
    rates: [{from: 2026-01-01, currency: EUR, gpu: {A100: 2.50, default: 1}, cpu_hour: 0.02}]
    """
    found = plan(tree(text), there(users={"dave": {"cpu": "500m"}}), NOW)
    assert [(change.method, change.resource, change.document) for change in found.changes] == [
        (
            "PUT",
            ("rates",),
            {
                "rates": [
                    {
                        "from": "2026-01-01T00:00:00Z",
                        "currency": "EUR",
                        "gpu": {"a100": "2.5", "default": "1"},
                        "cpu_hour": "0.02",
                        "memory_gib_hour": "0",
                    }
                ]
            },
        ),
        ("PUT", ("default",), {"cpu": 8, "memory": "32Gi", "gpu": 1}),
        ("PUT", ("groups", "audio"), {"cpu": "unlimited", "members": []}),
        ("PUT", ("groups", "vision"), {"gpu": 4, "members": ["alice", "bob"]}),
        ("PUT", ("users", "no"), {"memory": "1536Mi", "budgets": []}),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"cpu": 0.5}, {"cpu": "500m"}),
        ({"cpu": "8"}, {"cpu": 8}),
        ({"cpu": None}, {"cpu": "unlimited"}),
        ({"memory": "2048Mi"}, {"memory": "2Gi"}),
        ({"memory": "0"}, {"memory": 0}),
        ({"budgets": [{"gpu_hours": 2.5, "every": "day"}]}, {"budgets": [{"gpu_hours": "2.50", "every": "day"}]}),
        (
            {"budgets": [{"gpu_hours": 1, "within": "30d"}, {"cpu_hours": 1, "every": "day"}]},
            {"budgets": [{"cpu_hours": "1", "every": "day"}, {"gpu_hours": "1", "within": "30d"}]},
        ),
    ],
)
def test_what_means_the_same_is_the_same(ours, theirs):
    assert changes(wanted(users={"alice": ours}), there(users={"alice": theirs})) == []
    assert changes(wanted(users={"alice": {}}), there(users={"alice": theirs})) == ["set users/alice"]


def test_what_a_plan_leads_to_needs_no_other():
    ours = wanted(groups={"g": {"gpu": 1, "members": ["a"]}}, users={"b": {"cpu": "0.001"}}, rates=[EUR])
    found = plan(ours, there(users={"c": {"gpu": 0}}), NOW)
    after = {**found.after, "rates": list(found.after["rates"].values()), "time_zone": "UTC"}
    assert plan(ours, after, NOW).changes == []
    assert found.after != found.before


def test_what_nobody_named_stays_or_is_purged():
    past, future = rate("2026-01-01T00:00:00Z"), rate("2027-01-01T00:00:00Z")
    has = there(groups={"g": {"gpu": 1, "members": []}}, users={"b": {"gpu": 0}}, rates=[past, future])
    assert changes(wanted(), has) == []
    assert plan(wanted(), has, NOW).kept == [
        "groups/g",
        "users/b",
        "rates/2026-01-01T00:00:00Z",
        "rates/2027-01-01T00:00:00Z",
    ]
    assert changes(wanted(), has, purge=True) == [
        "remove users/b",
        "remove groups/g",
        "remove rates/2027-01-01T00:00:00Z",
    ]
    assert plan(wanted(), has, NOW, purge=True).kept == ["rates/2026-01-01T00:00:00Z"]
    assert plan(wanted(users={"b": {}}, rates=[EUR]), has, NOW).kept == ["groups/g", "rates/2027-01-01T00:00:00Z"]


def test_rates_of_the_past_are_refused_all_at_once():
    has = there(rates=[rate("2026-01-01T00:00:00Z")])
    ours = [{**EUR, "gpu": "2"}, {**EUR, "from": "2026-02-01"}, {**EUR, "from": "2026-07-01"}]
    assert [text.partition("; ")[0] for text in faults(wanted(rates=ours), has)] == [
        "rates[0].from is 2026-01-01T00:00:00Z, which is past, and the portal has another price",
        "rates[1].from is 2026-02-01T00:00:00Z, which is past, and the portal has no rate that begins then",
    ]
    assert changes(wanted(rates=ours), there()) == ["set rates"], "the first rates of all may begin in the past"
    assert (
        plan(wanted(rates=[EUR, ours[2]]), has, NOW).changes[0].document["rates"][0]["from"] == "2026-07-01T00:00:00Z"
    )


def test_rates_come_before_what_needs_them_and_go_after():
    costs = {"alice": {"budgets": [{"cost": 1, "every": "month"}]}}
    assert changes(wanted(users=costs, rates=[EUR]), there()) == ["set rates", "set users/alice"]
    has = there(users=costs, rates=[rate("2027-01-01T00:00:00Z")])
    assert changes(wanted(), has, purge=True) == ["remove users/alice", "remove rates/2027-01-01T00:00:00Z"]
    other = wanted(rates=[{**EUR, "from": "2026-08-01", "currency": "USD"}])
    assert changes(other, there(rates=has["rates"]), purge=True) == ["remove rates/2027-01-01T00:00:00Z", "set rates"]


@pytest.mark.parametrize(
    ("ours", "theirs", "says"),
    [
        ({"users": {"alice": {"gpus": 1}}}, {}, "users.alice.gpus is not known"),
        ({"default": {"cpu": 1}}, {}, "default lacks memory, gpu"),
        ({"time_zone": "Europe/Berlin"}, {}, "time_zone is Europe/Berlin, and that of the portal UTC"),
        ({"users": {"a/b": {}}}, {}, "users.a/b is no name for the portal"),
        ({"groups": {"g" * 254: {}}}, {}, "is no name for the portal"),
        ({"groups": {"g": {"members": ["u" * 254]}}}, {}, "groups.g.members has a name of more than 253"),
        ({"groups": {"g": {"members": [f"u{n}" for n in range(10_001)]}}}, {}, "groups.g.members are 10001"),
        ({"users": {"a": {"memory": "1048577Ki"}}}, {}, "users.a.memory is 1073742848 bytes"),
        ({"users": {"a": {"memory": "100001Mi"}}}, {}, "users.a.memory is 104858648576 bytes"),
        ({"users": {"a": {"budgets": [{"gpu_hours": "0.125", "every": "day"}]}}}, {}, "gpu_hours has more digits"),
        ({"users": {"a": {"budgets": [{"gpu_hours": 1, "within": "1000d"}]}}}, {}, "within is 1000d"),
        (
            {"users": {"a": {"budgets": [{"gpu_hours": 1, "within": f"{n}d"} for n in range(1, 22)]}}},
            {},
            "users.a.budgets are 21",
        ),
        (
            {"rates": [{**EUR, "from": "2026-07-01T00:30:00Z"}]},
            {},
            "rates[0].from is 2026-07-01T00:30:00Z; prices begin",
        ),
        ({"rates": [{**EUR, "from": "1999-07-01"}]}, {}, "rates[0].from is 1999-07-01T00:00:00Z; prices begin"),
        ({"rates": [{**EUR, "gpu": "100000"}]}, {}, "rates[0] has a price of 100000"),
        (
            {"rates": [{**EUR, "from": "2026-07-01", "currency": "USD"}]},
            {"rates": [rate("2026-01-01T00:00:00Z")]},
            "rates[0].currency is USD, and that of rates that the portal keeps EUR",
        ),
    ],
)
def test_what_the_portal_would_refuse_is_found_before(ours, theirs, says):
    (found,) = faults({**wanted(), **ours}, there(**theirs))
    assert says in found


def test_all_that_is_wrong_is_said_at_once():
    ours = wanted(time_zone="Europe/Berlin", users={"a": {"memory": "1048577Ki"}}, rates=[{**EUR, "gpu": "2"}])
    assert len(faults(ours, there(rates=[rate("2026-01-01T00:00:00Z")]))) == 3


def test_dates_are_those_of_the_portal_s_zone():
    has = there(time_zone="Europe/Berlin")
    found = plan(wanted(rates=[{**EUR, "from": "2026-07-01"}]), has, NOW)
    assert list(found.after["rates"]) == ["2026-06-30T22:00:00Z"]
    assert plan(wanted(time_zone="Europe/Berlin"), has, NOW).changes == []


def test_a_portal_with_a_policy_that_nobody_knows():
    with pytest.raises(PortalPolicyError, match=r"users\.a\.gpus is not known"):
        plan(wanted(), there(users={"a": {"gpus": 1}}), NOW)
