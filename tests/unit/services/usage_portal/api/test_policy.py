"""Limits, groups, budgets and rates: what counts, what is refused, and who changed what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from portals import problem

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def written(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def limits(admin, user: str) -> tuple:
    found = admin.get(f"/users/{user}/limits").json()
    return found["cpu_limit_cores"], found["memory_limit_gib"], found["gpu_limit"]


def test_user_over_group_over_default(admin, ledger):
    assert limits(admin, "alice") == (None, None, None), "nothing is limited before somebody limits it"
    admin.put("/policy/default", json={"cpu": 8, "memory": "32Gi", "gpu": 1})
    assert limits(admin, "alice") == (8, 32, 1)
    admin.put("/policy/groups/vision", json={"gpu": 4, "members": ["alice", "bob"]})
    admin.put("/policy/groups/audio", json={"gpu": 2, "cpu": "unlimited", "members": ["alice"]})
    assert limits(admin, "alice") == (None, 32, 4) and limits(admin, "bob") == (8, 32, 4)
    admin.put("/policy/users/alice", json={"cpu": "500m", "memory": "1536Mi"})
    assert limits(admin, "alice") == (0.5, 1.5, 4)
    admin.delete("/policy/users/alice")
    admin.delete("/policy/groups/audio")
    assert limits(admin, "alice") == (8, 32, 4) and limits(admin, "carol") == (8, 32, 1)
    problem(admin.get("/policy/users/alice"), 404, "not_found")
    problem(admin.delete("/policy/groups/audio"), 404, "not_found")


def test_what_was_put_is_got(admin, ledger):
    document = {
        "cpu": "0.5",
        "gpu": "unlimited",
        "budgets": [{"gpu_hours": 100, "within": "30d"}, {"cpu_hours": "2.5", "every": "month"}],
        "members": ["alice", "bob"],
    }
    assert admin.put("/policy/groups/vision", json=document).json() == document
    assert admin.get("/policy/groups/vision").json() == document
    assert admin.get("/policy/groups").json()["items"] == [{"name": "vision", "entry": document}]
    for number in range(3):
        admin.put(f"/policy/users/u{number}", json={"gpu": number})
    first = admin.get("/policy/users", params={"limit": 2}).json()
    rest = admin.get("/policy/users", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["u0", "u1", "u2"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    "document",
    [
        {"gpu": -1},
        {"gpu": 10**9},
        {"gpu": True},
        {"gpu": 1.5},
        {"gpu": None},
        {"cpu": "many"},
        {"cpu": -0.5},
        {"cpu": "1e400"},
        {"memory": "32"},
        {"memory": "32Qi"},
        {"memory": "-1Gi"},
        {"gpus": 1},
        {"budgets": [{"gpu_hours": 1}]},
        {"budgets": [{"gpu_hours": 1, "every": "month", "within": "30d"}]},
        {"budgets": [{"gpu_hours": 1, "cpu_hours": 1, "every": "month"}]},
        {"budgets": [{"gpu_hours": 1, "every": "month"}, {"gpu_hours": 2, "every": "month"}]},
        {"budgets": [{"cost": 1, "every": "month"}]},
        {"members": ["alice"]},
    ],
    ids=str,
)
def test_absurd_limits_are_refused_and_change_nothing(admin, ledger, document):
    admin.put("/policy/users/alice", json={"gpu": 2})
    answer = admin.put("/policy/users/alice", json=document)
    # Not as the OpenAPI says, or as it says and not to be had together with the rest.
    found = problem(answer, answer.status_code, {422: "invalid", 409: "policy"}[answer.status_code])
    assert found["errors"]
    assert admin.get("/policy/users/alice").json() == {"gpu": 2}
    problem(admin.put("/policy/default", json={"cpu": 1, "gpu": 1}), 422, "invalid")


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "a%00b", "a%0ab", "A", "a" * 254, "%F0%9F%92%A9", "'; DROP TABLE token; --", "%FF", " x"]
)
def test_hostile_names_do_no_harm(admin, ledger, name):
    before = ledger.sql("SELECT count(*) FROM token")
    for answer in (
        admin.get(f"/users/{name}/limits"),
        admin.put(f"/policy/users/{name}", json={"gpu": 1}),
        admin.get("/sessions", params={"username": name}),
        admin.post("/sessions", json={"username": name}),
    ):
        assert answer.status_code in (200, 201, 404, 405, 409, 422), answer.text
    assert ledger.sql("SELECT count(*) FROM token") == before


def test_every_change_is_audited(portal, admin, ledger):
    token = admin.post("/tokens", json={"name": "ansible", "scopes": ["policy:write"]}).json()["token"]
    with portal.client(token) as client:
        for gpu in (1, 1, 2):
            client.put("/policy/users/alice", json={"gpu": gpu})
        client.put("/policy/groups/vision", json={"members": ["bob"]})
        client.put("/policy/groups/vision", json={"members": []})
        client.delete("/policy/users/alice")
    entries = admin.get("/audit", params={"limit": 1000}).json()["items"][:-1]
    assert {entry["actor"] for entry in entries} == {"ansible"}
    found = [(e["action"], e["subject"], e["before"], e["after"]) for e in reversed(entries)]
    assert found == [
        ("policy.put", "user/alice", None, {"gpu": 1}),
        ("policy.put", "user/alice", {"gpu": 1}, {"gpu": 2}),
        ("policy.put", "group/vision", None, {"members": ["bob"]}),
        ("policy.put", "group/vision", {"members": ["bob"]}, {"members": []}),
        ("policy.delete", "user/alice", {"gpu": 2}, None),
    ]
    of_alice = admin.get("/audit", params={"subject": "user/alice", "limit": 1}).json()
    assert of_alice["items"][0]["action"] == "policy.delete" and of_alice["next_cursor"]


def rate(start: datetime, gpu: str = "2.5", **more) -> dict:
    return {"from": written(start), "currency": "EUR", "gpu": {"A100": gpu, "default": "1"}, **more}


def costs(admin) -> list:
    period = {"by": "user", "from": written(HOUR - timedelta(days=30)), "to": written(HOUR), "step": "hour"}
    return [(row["from"], row["cost"]) for row in admin.get("/usage", params=period).json()["items"]]


def test_rates_never_rewrite_the_past(admin, ledger):
    hours = [HOUR - timedelta(hours=number) for number in (30, 20, 10)]
    for hour in hours:
        ledger.hour(written(hour), "alice", gpu_type="A100", gpu_seconds=3600)
    assert [cost for _, cost in costs(admin)] == [None, None, None]
    first = [rate(HOUR - timedelta(hours=25)), rate(HOUR - timedelta(hours=15), "3.25")]
    assert admin.put("/policy/rates", json={"rates": first}).status_code == 200
    before = costs(admin)
    assert [cost for _, cost in before] == [None, "2.500000", "3.250000"]

    refused = [
        rate(HOUR - timedelta(hours=15), "9"),  # another price
        rate(HOUR - timedelta(hours=25), cpu_hour="1"),
        rate(HOUR - timedelta(hours=26)),  # before the first
        rate(HOUR - timedelta(hours=20)),  # between
        rate(HOUR - timedelta(hours=1)),  # after the last, and yet in the past
        rate(HOUR),  # within the hour that runs
    ]
    for wanted in refused:
        answer = admin.put("/policy/rates", json={"rates": [wanted, rate(HOUR + timedelta(days=9))]})
        assert problem(answer, 409, "rate_in_the_past")["rates"] == [wanted["from"]]
        there = wanted["from"] in {item["from"] for item in first}
        withdrawn = admin.delete(f"/policy/rates/{wanted['from']}")
        problem(withdrawn, *((409, "rate_in_the_past") if there else (404, "not_found")))
        assert costs(admin) == before
    assert len(admin.get("/policy/rates").json()["rates"]) == 2

    future = rate(HOUR + timedelta(hours=2), "4")
    for price in ("4", "5"):
        answer = admin.put("/policy/rates", json={"rates": [{**future, "gpu": {"default": price}}, *first]})
        assert answer.status_code == 200 and len(answer.json()["rates"]) == 3
    assert answer.json()["rates"][-1]["gpu"] == {"default": "5"}
    assert admin.delete(f"/policy/rates/{future['from']}").status_code == 204
    assert costs(admin) == before
    assert [entry["action"] for entry in admin.get("/audit").json()["items"]] == ["rate.delete", *["rate.put"] * 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"currency": "USD"},
        {"currency": "euro"},
        {"gpu": {"A100": "-1", "default": "1"}},
        {"gpu": {"A100": "1"}},
        {"gpu": {"A100": "0.1234567", "default": "1"}},
        {"gpu": {"A100": 0.1, "default": "1"}},
        {"from": "2099-01-01T00:30:00Z"},
        {"from": "tomorrow"},
        {"from": 4102444800},
        {"cpu_hour": "1e9"},
    ],
    ids=str,
)
def test_absurd_rates_are_refused(admin, ledger, wrong):
    admin.put("/policy/rates", json={"rates": [rate(HOUR - timedelta(days=1))]})
    answer = admin.put("/policy/rates", json={"rates": [rate(HOUR + timedelta(days=1)) | wrong]})
    problem(answer, answer.status_code, {422: "invalid", 409: "policy"}[answer.status_code])
    assert len(admin.get("/policy/rates").json()["rates"]) == 1
