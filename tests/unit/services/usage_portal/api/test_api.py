"""Limits, sessions, usage and capacity as clients meet them."""

from __future__ import annotations

import csv
import io
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from portals import problem


def test_limits_are_what_existing_clients_expect(admin, ledger):
    admin.put("/policy/users/alice", json={"cpu": "7500m", "memory": "48Gi", "gpu": 2})
    ledger.pod("p0", "alice", cpu_milli=1250, memory_bytes=3 * 2**29, gpu=1)
    ledger.pod("p1", "alice", cpu_milli=9000, held_until="2026-01-02T00:00:00Z")
    ledger.pod("p2", "alice", cpu_milli=9000, held_from=None)
    ledger.pod("p3", "bob", cpu_milli=9000)
    for path in ("/users/alice/limits", "/api/v1/users/alice/limits"):
        answer = admin.get(path)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.text == (
            '{"cpu_limit_cores":7.5,"memory_limit_gib":48,"gpu_limit":2,'
            '"usage":{"cpu_cores":1.25,"memory_gib":1.5,"gpu":1}}'
        )
    nobody = {"cpu_limit_cores": None, "memory_limit_gib": None, "gpu_limit": None}
    assert admin.get("/users/jane@x.com/limits").json() == {
        **nobody,
        "usage": {"cpu_cores": 0, "memory_gib": 0, "gpu": 0},
    }


def test_limits_are_at_most_a_second_old_and_rarely_read(make_portal, database, ledger):
    portal = make_portal(database, cache_seconds=1).start()

    def refreshes(client: httpx.Client) -> float:
        line = next(
            x for x in client.get("/metrics").text.splitlines() if x.startswith("usage_portal_limits_refreshes_total")
        )
        return float(line.split()[1])

    with portal.client() as client:
        assert client.get("/users/alice/limits").json()["usage"]["gpu"] == 0
        # What this portal changes itself shows at once.
        client.put("/policy/users/alice", json={"gpu": 3})
        assert client.get("/users/alice/limits").json()["gpu_limit"] == 3
        ledger.pod("p0", "alice", gpu=1)
        changed, before, asked = time.monotonic(), refreshes(client), 0
        while True:
            sent = time.monotonic()
            if client.get("/users/alice/limits").json()["usage"]["gpu"] == 0:
                # However long an answer takes: whoever asks a second later is told.
                assert sent - changed <= 1
            elif asked > 20:
                break
            asked += 1
        assert refreshes(client) - before <= time.monotonic() - changed + 1
    portal.stop()


def test_sessions_of_other_producers(admin, ledger):
    body = {"username": "alice", "kind": "job", "name": "train", "requests": {"gpu": 2, "cpu_milli": 4000}}
    made = admin.post("/sessions", json=body)
    assert made.status_code == 201
    session = made.json()
    assert session["state"] == "running" and session["source"] == "external" and session["requests"]["gpu"] == 2
    assert admin.get(f"/sessions/{session['id']}").json() == session
    ended = admin.put(f"/sessions/{session['id']}/end").json()
    assert ended["state"] == "ended" and ended["ended_at"] >= session["started_at"]
    again = admin.put(f"/sessions/{session['id']}/end", json={"ended_at": "2026-01-01T00:00:00Z"})
    assert again.status_code == 200 and again.json() == ended, "an end stays as it is"
    problem(admin.get("/sessions/nobody"), 404, "not_found")
    problem(admin.put("/sessions/nobody/end"), 404, "not_found")


def test_sessions_of_other_producers_belong_to_a_group(admin, ledger):
    for group in ("zoo", "vision", "audio"):
        admin.put(f"/policy/groups/{group}", json={"members": ["bob"] if group == "audio" else ["alice"]})
    for name in ("alice", "carol"):
        assert admin.post("/sessions", json={"username": name}).status_code == 201
    assert sorted(ledger.sql("SELECT username, group_name FROM session")) == [("alice", "vision"), ("carol", "")]


def test_a_session_is_recorded_once(admin, ledger):
    headers = {"Idempotency-Key": "run-1"}
    made = [admin.post("/sessions", json={"username": "alice"}, headers=headers) for _ in range(3)]
    assert {answer.status_code for answer in made} == {201} and len({answer.json()["id"] for answer in made}) == 1
    other = admin.post("/sessions", json={"username": "bob"}, headers=headers)
    problem(other, 409, "idempotency_key_reused")
    for _ in range(2):
        admin.post("/sessions", json={"username": "alice"})
    assert len(admin.get("/sessions").json()["items"]) == 3


def test_times_that_cannot_be_are_refused(admin, ledger):
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    problem(admin.post("/sessions", json={"username": "alice", "started_at": later}), 409, "in_the_future")
    body = {"username": "alice", "started_at": "2026-02-01T00:00:00Z"}
    session = admin.post("/sessions", json=body).json()
    before = admin.put(f"/sessions/{session['id']}/end", json={"ended_at": "2026-01-31T23:59:59Z"})
    assert problem(before, 409, "ends_before_start")["start"] == "2026-02-01T00:00:00Z"
    problem(admin.put(f"/sessions/{session['id']}/end", json={"ended_at": later}), 409, "in_the_future")
    for wrong in (
        "yesterday",
        "2026-13-01T00:00:00Z",
        "2026-01-01",
        0,
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
    ):
        problem(admin.post("/sessions", json={"username": "alice", "started_at": wrong}), 422, "invalid")


def test_sessions_of_pods_have_hours_and_cost(admin, ledger):
    admin.put(
        "/policy/rates",
        json={
            "rates": [
                {
                    "from": "2026-01-01T00:00:00Z",
                    "currency": "EUR",
                    "gpu": {"A100": "2", "default": "1"},
                    "cpu_hour": "0.01",
                },
                {"from": "2026-01-02T00:00:00Z", "currency": "EUR", "gpu": {"A100": "3", "default": "1"}},
            ]
        },
    )
    ledger.session("s1", "alice", "job", "2026-01-01T23:00Z", "2026-01-02T01:00Z")
    for number, kind in enumerate(("A100", "T4")):
        ledger.pod(
            f"p{number}",
            "alice",
            session_id="s1",
            node=f"n{number}",
            gpu_type=kind,
            gpu=2,
            cpu_milli=500,
            memory_bytes=2**30,
            held_from="2026-01-01T23:00:00Z",
            held_until="2026-01-02T01:00:00Z",
            until_source="inferred" if number else "observed",
        )
    session = admin.get("/sessions/s1").json()
    assert session["nodes"] == ["n0", "n1"] and session["gpu_types"] == ["A100", "T4"] and session["inferred"]
    assert (session["gpu_hours"], session["cpu_hours"], session["memory_gib_hours"]) == (8, 2, 4)
    # 2 x A100 at 2 and then at 3, 2 x T4 at 1 for two hours, a core hour of the first day.
    assert session["cost"] == "14.010000"
    problem(admin.put("/sessions/s1/end"), 409, "session_of_pods")


def test_sessions_can_be_chosen(admin, ledger):
    rows = [
        ("s0", "alice", "notebook", "2026-01-01T00:00Z", "2026-01-01T02:00Z"),
        ("s1", "bob", "job", "2026-01-01T01:00Z", "2026-01-01T03:00Z"),
        ("s2", "alice", "job", "2026-01-01T04:00Z", None),
    ]
    for row in rows:
        ledger.session(*row)

    def chosen(**filters: object) -> list[str]:
        answer = admin.get("/sessions", params=filters)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert chosen() == ["s2", "s1", "s0"]
    assert chosen(username="alice") == ["s2", "s0"] and chosen(kind="job") == ["s2", "s1"]
    assert chosen(state="running") == ["s2"] and chosen(state="ended") == ["s1", "s0"]
    assert chosen(**{"from": "2026-01-01T02:00:00Z"}) == ["s2", "s1"]
    assert chosen(to="2026-01-01T01:00:00+00:00") == ["s0"]
    page = admin.get("/sessions", params={"limit": 2}).json()
    assert [item["id"] for item in admin.get("/sessions", params={"cursor": page["next_cursor"]}).json()["items"]] == [
        "s0"
    ]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"kind": "x"}, {"from": "x"}, {"cursor": "x" * 1001}):
        assert admin.get("/sessions", params=wrong).status_code == 422


@pytest.fixture
def used(ledger):
    """Two days of two users."""
    ledger.hour(
        "2026-01-01T00:00Z",
        "alice",
        "vision",
        gpu_type="A100",
        gpu_seconds=7200,
        cpu_milli_seconds=3600000,
        memory_mib_seconds=3686400,
        sessions=1,
    )
    ledger.hour("2026-01-01T23:00Z", "alice", "vision", kind="job", gpu_type="H100", gpu_seconds=1800)
    ledger.hour("2026-01-02T05:00Z", "bob", gpu_seconds=0, cpu_milli_seconds=1800000, sessions=2)
    ledger.hour("2026-01-02T05:00Z", "=cmd|' /C calc'!A0", gpu_type="A100", gpu_seconds=3600)
    return ledger


def usage(admin, by: str, **more) -> list[tuple]:
    params = {"by": by, "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", **more}
    answer = admin.get("/usage", params=params)
    assert answer.status_code == 200, answer.text
    return [(row["from"][:13], row["key"], row["gpu_hours"], row["cpu_hours"]) for row in answer.json()["items"]]


def test_usage_is_added_up(admin, used):
    first = "2026-01-01T00"
    assert usage(admin, "user", username="alice") == [(first, "alice", 2.5, 1)]
    assert usage(admin, "group") == [(first, "", 1, 0.5), (first, "vision", 2.5, 1)]
    assert usage(admin, "gpu_type") == [(first, "", 0, 0.5), (first, "A100", 3, 1), (first, "H100", 0.5, 0)]
    assert usage(admin, "kind") == [(first, "job", 0.5, 0), (first, "notebook", 3, 1.5)]
    assert usage(admin, "kind", step="day") == [
        (first, "job", 0.5, 0),
        (first, "notebook", 2, 1),
        ("2026-01-02T00", "notebook", 1, 0.5),
    ]
    assert [row[0] for row in usage(admin, "user", step="hour", username="alice")] == [first, "2026-01-01T23"]
    assert usage(admin, "kind", to="2026-01-01T00:30:00Z") == [(first, "notebook", 2, 1)], "whole hours"
    assert usage(admin, "user", step="month", limit=1) == [("2026-01-01T00", "=cmd|' /C calc'!A0", 1, 0)]
    assert usage(admin, "user", to="2026-01-01T00:00:00Z") == []
    for wrong in ({"to": "2199-01-01T00:00:00Z"}, {"from": "2026-01-01"}, {"by": "x"}, {"step": "week"}):
        params = {"by": "user", "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", **wrong}
        assert admin.get("/usage", params=params).status_code == 422


def test_usage_has_pages(admin, used):
    params = {"by": "user", "step": "hour", "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", "limit": 1}
    found = []
    while True:
        page = admin.get("/usage", params=params).json()
        found += [(row["from"][:13], row["key"]) for row in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == [(hour, key) for hour, key, _, _ in usage(admin, "user", step="hour")] and len(found) == 4


def test_what_is_held_still_is_in_the_usage(admin, ledger):
    now = datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    ledger.hour(hour.isoformat(), "alice", gpu_type="A100", gpu_seconds=100)
    ledger.pod("p0", "alice", gpu_type="A100", gpu=2, held_from=hour - timedelta(minutes=90))
    rows = usage(
        admin,
        "user",
        **{
            "from": (hour - timedelta(hours=3)).isoformat(),
            "to": (now + timedelta(hours=2)).isoformat(),
            "step": "hour",
        },
    )
    assert [row[2] for row in rows[:2]] == [1, 2]
    assert rows[2][2] == pytest.approx((2 * (now - hour).total_seconds() + 100) / 3600, abs=0.01)
    assert len(rows) == 3


def test_days_are_those_of_the_portals_zone(make_portal, database, used):
    portal = make_portal(database, time_zone="Asia/Taipei").start()
    with portal.client() as client:
        rows = usage(client, "user", username="alice", step="day")
    assert rows == [("2025-12-31T16", "alice", 2, 1), ("2026-01-01T16", "alice", 0.5, 0)]
    portal.stop()


def test_usage_as_csv(admin, used):
    params = {"by": "user", "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"}
    answer = admin.get("/usage.csv", params=params)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="usage-by-user-20260101-20260103.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["key"], row["gpu_hours"], row["cost"]) for row in rows] == [
        ("'=cmd|' /C calc'!A0", "1.0", ""),
        ("alice", "2.5", ""),
        ("bob", "0.0", ""),
    ]


def test_capacity_and_profiles_say_what_is_free(admin, ledger):
    ledger.node("n0", 4)
    ledger.node("n1", 8, "H100")
    ledger.pod("p0", "bob", node="n0", gpu=3, gpu_type="A100")
    headers = {"Idempotency-Key": "1"}
    admin.post("/reservations", json={"username": "bob", "gpu": 2, "gpu_type": "H100"}, headers=headers)
    found = admin.get("/capacity").json()
    assert found["gpu_types"] == [
        {"gpu_type": "A100", "total": 4, "held": 3, "reserved": 0, "free": 1},
        {"gpu_type": "H100", "total": 8, "held": 0, "reserved": 2, "free": 6},
        {"gpu_type": "any", "total": 12, "held": 3, "reserved": 2, "free": 7},
    ]
    assert found["nodes"][0] == {
        **{"node": "n0", "gpu_type": "A100", "product": "NVIDIA-A100-SXM4-80GB", "state": "ready"},
        **{"total": 4, "unhealthy": 0, "held": 3, "free": 1},
        **{"cpu_milli": 64000, "free_cpu_milli": 64000, "memory_bytes": 2**39, "free_memory_bytes": 2**39},
    }
    admin.put("/policy/users/alice", json={"gpu": 4})
    ledger.pod("p1", "alice", node="n1", gpu_type="H100", cpu_milli=500)
    answer = admin.get("/users/alice/profiles").json()
    assert answer["limits"] == admin.get("/users/alice/limits").json()
    assert (answer["limits"]["gpu_limit"], answer["limits"]["usage"]["cpu_cores"]) == (4, 0.5)
    assert answer["capacity"] == found
    profiles = {item["slug"]: item for item in answer["items"]}
    assert profiles["gpu-a100-1"]["offered"] and profiles["gpu-h100-4"]["offered"]
    assert profiles["gpu-a100-2"]["reason"]["code"] == "none_free"
    assert profiles["gpu-any-8"]["reason"]["code"] == "over_limit"
    assert profiles["gpu-any-8"]["reason"]["numbers"]["gpu"] == {"needed": 8, "limit": 4, "used": 0, "reserved": 0}


@pytest.mark.parametrize(
    ("columns", "state", "free", "code"),
    [
        ({"schedulable": False}, "cordoned", (0, 0, 0), "none_free"),
        ({"ready": False}, "not ready", (0, 0, 0), "none_free"),
        ({"requested_cpu_milli": 63_500}, "ready", (4, 500, 2**39), "none_free"),
        ({"requested_memory_bytes": 2**39}, "ready", (4, 64_000, 0), "none_free"),
        ({"gpu": 0}, "ready", (0, 64_000, 2**39), "none_free"),
        ({"cpu_milli": 900}, "ready", (4, 900, 2**39), "too_large"),
        ({"taints": '[{"key": "team", "effect": "NoSchedule"}]'}, "ready", (4, 64_000, 2**39), "too_large"),
    ],
    ids=str,
)
def test_what_is_not_free_is_not_granted(admin, ledger, columns, state, free, code):
    """GPUs, cores and memory, for who may have anything; and a node that takes no pods has nothing."""
    ledger.node("n0", 4, **columns)
    (node,) = admin.get("/capacity").json()["nodes"]
    assert (node["state"], node["free"], node["free_cpu_milli"], node["free_memory_bytes"]) == (state, *free)
    body = {"username": "bob", "gpu": 1, "cpu_milli": 1000, "memory_bytes": 2**30}
    problem(admin.post("/reservations", json=body, headers={"Idempotency-Key": "1"}), 409, code)
    sizes = {item["slug"]: item for item in admin.get("/users/alice/profiles").json()["items"]}
    if code == "none_free":
        assert sizes["gpu-any-1"]["reason"]["code"] == code


def test_cores_and_memory_are_granted_once(admin, ledger):
    ledger.node("n0", 0, requested_cpu_milli=61_000)
    body = {"username": "bob", "cpu_milli": 2000, "memory_bytes": 2**30}
    assert admin.post("/reservations", json=body, headers={"Idempotency-Key": "1"}).status_code == 201
    numbers = problem(admin.post("/reservations", json=body, headers={"Idempotency-Key": "2"}), 409, "none_free")
    assert numbers["numbers"] == {"cpu_milli": {"needed": 2000, "largest_free": 1000}}


def test_what_spawners_saw_is_kept_once(portal, admin, ledger):
    event = {
        "event_id": "1",
        "kind": "start",
        "pod_uid": "p0",
        "at": "2026-01-01T00:00:00Z",
        "pod": {"namespace": "jhub"},
    }
    assert admin.post("/witness", json={"events": [event, event | {"event_id": "2"}]}).json() == {"new": 2, "known": 0}
    assert admin.post("/witness", json={"events": [event, event | {"event_id": "3"}]}).json() == {"new": 1, "known": 1}
    token = admin.post("/tokens", json={"name": "other", "scopes": ["witness:write"]}).json()["token"]
    with portal.client(token) as client:
        assert client.post("/witness", json={"events": [event]}).json() == {"new": 1, "known": 0}, "another producer"
    assert ledger.sql("SELECT count(*) FROM witness") == [(4,)]
    problem(admin.post("/witness", json={"events": []}), 422, "invalid")
    seen = {"node": "n", "gpu": 1, "exact": False, "more": "x"}
    assert admin.post("/witness", json={"events": [event | {"event_id": "4", "pod": seen}]}).json()["new"] == 1
    kept = {"node": "n", "gpu": 1, "exact": False}
    assert ledger.sql("SELECT pod FROM witness WHERE event_id = '4'") == [(kept,)], "what the ledger can read"
    for wrong in (
        {"gpu": "x"},
        {"gpu": -1},
        {"cpu_milli": 1e30},
        {"exact": "no"},
        {"node": 1},
        {"kind": "x"},
        {"pod": "\0"},
    ):
        problem(admin.post("/witness", json={"events": [event | {"event_id": "5", "pod": wrong}]}), 422, "invalid")


def test_unknown_paths_and_methods_are_problems(admin, ledger):
    problem(admin.get("/nothing"), 404, "not_found")
    problem(admin.delete("/capacity"), 405, "method_not_allowed")
    problem(admin.post("/sessions", content=b"{"), 422, "invalid")
    problem(admin.post("/sessions", content=b"\xff", headers={"Content-Type": "application/json"}), 422, "invalid")
