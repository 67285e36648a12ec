"""Notebooks that end with their user's budget: when, for whom, and who is given more time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from portals import problem

MONTH = {"budgets": [{"gpu_hours": 2, "within": "30d"}]}


def now() -> datetime:
    return datetime.now(UTC)


def ends(client) -> dict[str, float]:
    """Server name -> seconds until it ends."""
    answer = client.get("/enforcement")
    assert answer.status_code == 200, answer.text
    return {
        item["servername"]: (datetime.fromisoformat(item["ends_at"]) - now()).total_seconds()
        for item in answer.json()["items"]
    }


def soon(seconds: float) -> object:
    """About as many seconds as this, some of which may have passed."""
    return pytest.approx(seconds - 20, abs=22)


def used(ledger, gpu_seconds: int, **more) -> None:
    ledger.hour((now() - timedelta(hours=5)).replace(minute=0, second=0, microsecond=0).isoformat(), "alice",
                gpu_seconds=gpu_seconds, **more)  # fmt: skip


def notebook(ledger, name: str = "", gpu: int = 1, **more) -> None:
    columns = {"servername": name, "gpu": gpu, "cpu_milli": 1000, "memory_bytes": 2**30, "kind": "notebook"}
    # Kubernetes has whole seconds.
    ledger.pod(f"pod-{name}", "alice", **columns | {"held_from": now().replace(microsecond=0)} | more)


def test_it_is_said_before_a_budget_is_used_up(replicas, admin, ledger):
    admin.put("/policy/users/alice", json=MONTH)
    used(ledger, 7200 - 2000)
    notebook(ledger, gpu=2)
    assert ends(admin) == {}, "in 1000 s, the notice is 900"
    ledger.sql("UPDATE rollup_hour SET gpu_seconds = 7200 - 1400")
    assert ends(admin) == {"": soon(700)}
    first = admin.get("/enforcement").json()["items"]
    assert [(item["username"], item["reason"]) for item in first] == [
        ("alice", "Your budget of 2 GPU hours within 30 days is used up.")
    ]
    with replicas[1].client() as other:
        assert other.get("/enforcement").json()["items"] == first, "all replicas say the same"
    notebook(ledger, "second", gpu=2)
    assert ends(admin) == {"": soon(350), "second": soon(350)}, "twice as fast"
    ledger.sql("UPDATE allocation SET held_until = now() WHERE servername = 'second'")
    assert ends(admin) == {"": soon(700)}, "and back"


def test_found_late_it_is_said_five_minutes_before(replicas, admin, ledger):
    used(ledger, 7200)
    notebook(ledger)
    assert ends(admin) == {}
    admin.put("/policy/users/alice", json=MONTH)
    assert ends(admin) == {"": soon(300)}
    first = admin.get("/enforcement").json()["items"]
    with replicas[1].client() as other:
        assert other.get("/enforcement").json()["items"] == first
    # Time passes: it stays what was said, also when it is over.
    ledger.sql("UPDATE enforcement SET ends_at = ends_at - interval '400 s'")
    assert ends(admin) == {"": soon(-100)}
    admin.put("/policy/users/alice", json={"budgets": [{"gpu_hours": 3, "within": "30d"}]})
    assert ends(admin) == {}
    admin.put("/policy/users/alice", json=MONTH)
    assert ends(admin) == {"": soon(300)}, "said anew"


def test_the_least_notice_is_a_setting(database, make_portal, ledger):
    portal = make_portal(database, least_notice_seconds=100).start()
    used(ledger, 7200)
    notebook(ledger)
    with portal.client() as client:
        client.put("/policy/users/alice", json=MONTH)
        assert ends(client) == {"": soon(100)}
    portal.stop()


def test_what_was_said_moves_sooner_with_notice_only(admin, ledger):
    admin.put("/policy/users/alice", json=MONTH)
    used(ledger, 7200 - 800)
    notebook(ledger)
    assert ends(admin) == {"": soon(800)}
    ledger.sql("UPDATE rollup_hour SET gpu_seconds = 7200")
    assert ends(admin) == {"": soon(300)}


@pytest.mark.parametrize(
    ("budget", "hour", "left"),
    [
        ({"gpu_hours": 1, "every": "month"}, {"gpu_seconds": 3600}, {"gpu"}),
        ({"cpu_hours": 1, "within": "1d"}, {"cpu_milli_seconds": 3_600_000}, {"gpu", "cpu"}),
        ({"cost": "1", "within": "1d"}, {"gpu_seconds": 3600, "gpu_type": "A100"}, {"gpu", "cpu"}),
    ],
    ids=["GPU hours leave notebooks without GPUs", "core hours", "cost"],
)
def test_who_ends(admin, ledger, budget, hour, left):
    rate = {"from": "2026-01-01T00:00:00Z", "currency": "EUR", "gpu": {"A100": "1", "default": "0"}}
    admin.put("/policy/rates", json={"rates": [rate]})
    admin.put("/policy/users/alice", json={"budgets": [budget]})
    used(ledger, **{"gpu_seconds": 0} | hour)
    if "month" in str(budget):
        # Five hours ago may have been another month.
        ledger.sql("UPDATE rollup_hour SET hour = date_trunc('hour', now())")
    notebook(ledger, "gpu")
    notebook(ledger, "cpu", gpu=0)
    notebook(ledger, "job", kind="job")
    notebook(ledger, "over", held_until=now() + timedelta(seconds=1))
    notebook(ledger, "scheduled", held_from=None)
    ledger.pod("other", "bob", kind="notebook", servername="bob's", gpu=1)
    assert set(ends(admin)) == left


def test_an_hour_counts_until_it_is_over(admin, ledger):
    """As when something is started: until all of it is outside of the window."""
    admin.put("/policy/users/alice", json={"budgets": [{"gpu_hours": 2, "within": "1d"}]})
    partly_within = (now() - timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
    ledger.hour(partly_within.isoformat(), "alice", gpu_seconds=7200)
    notebook(ledger)
    assert ends(admin) == {"": soon(300)}
    ledger.sql("UPDATE rollup_hour SET hour = hour - interval '1 hour'")
    assert ends(admin) == {}


def test_cost_is_predicted_by_present_prices(admin, ledger):
    rate = {"from": "2026-01-01T00:00:00Z", "currency": "EUR", "gpu": {"A100": "36", "default": "0"}, "cpu_hour": "18"}
    admin.put("/policy/rates", json={"rates": [rate | {"memory_gib_hour": "9"}]})
    # A second of 2 A100, 2 cores and 4 GiB: 0.02 + 0.01 + 0.01; 40 used at the price of an A100.
    admin.put("/policy/users/alice", json={"budgets": [{"cost": "60", "within": "30d"}]})
    used(ledger, 4000, gpu_type="A100")
    notebook(ledger, gpu=2, gpu_type="A100", cpu_milli=2000, memory_bytes=2**32)
    assert ends(admin) == {"": soon(500)}


def test_a_new_day_has_a_new_budget(admin, ledger, make_portal, database):
    """Used up at some time after midnight, it is not used up."""
    portal = make_portal(database, time_zone=_zone_in_which_it_is_late(), notice_seconds=86_400).start()
    with portal.client() as client:
        client.put("/policy/users/alice", json={"budgets": [{"gpu_hours": 2, "every": "day"}]})
        notebook(ledger)
        assert ends(client) == {}, "the day is over before"
        client.put("/policy/users/alice", json={"budgets": [{"gpu_hours": 2, "within": "1d"}]})
        assert ends(client) == {"": soon(7200)}
    portal.stop()


def _zone_in_which_it_is_late() -> str:
    """A zone where it is ten in the evening; the sign of these names is that of POSIX."""
    ahead = (22 - now().hour) % 24
    return f"Etc/GMT{-ahead:+d}" if ahead <= 12 else f"Etc/GMT{24 - ahead:+d}"


def test_an_extension_lets_notebooks_run_on(admin, ledger):
    ledger.node("n0", 4)
    admin.put("/policy/users/alice", json=MONTH)
    used(ledger, 7200)
    notebook(ledger)
    assert ends(admin) == {"": soon(300)}
    until = now() + timedelta(seconds=2000)
    body = {"until": until.isoformat(), "reason": "the deadline"}
    made = admin.put("/extensions/alice", json=body)
    assert made.status_code == 200 and made.json()["created_by"] == "admin-token-file", made.text
    assert ends(admin) == {}
    assert admin.get("/extensions").json() == {"items": [made.json()], "next_cursor": None}
    refused = admin.post("/reservations", json={"username": "alice", "gpu": 1}, headers={"Idempotency-Key": "1"})
    problem(refused, 409, "budget_used")
    admin.put("/extensions/alice", json=body | {"until": (now() + timedelta(seconds=600)).isoformat()})
    assert ends(admin) == {"": soon(600)}, "it ends with the extension, and that is said before"
    for _ in range(2):
        admin.put("/extensions/alice", json=body)
    assert admin.delete("/extensions/alice").status_code == 204
    assert ends(admin) == {"": soon(300)}
    problem(admin.delete("/extensions/alice"), 404, "not_found")
    audit = admin.get("/audit", params={"subject": "user/alice"}).json()["items"]
    actions = [
        (item["action"], (item["before"] or {}).get("reason"), (item["after"] or {}).get("reason")) for item in audit
    ]
    assert actions == [
        ("extension.delete", "the deadline", None),
        *[("extension.put", "the deadline", "the deadline")] * 2,
        ("extension.put", None, "the deadline"),
        ("policy.put", None, None),
    ], "the same again is no change"


def test_extensions_that_cannot_be(admin, ledger):
    body = {"until": (now() - timedelta(seconds=1)).isoformat(), "reason": "x"}
    problem(admin.put("/extensions/alice", json=body), 409, "in_the_past")
    later = body | {"until": (now() + timedelta(hours=1)).isoformat()}
    for wrong in (
        body | {"until": "tomorrow"},
        later | {"reason": ""},
        later | {"reason": "\0"},
        {"until": later["until"]},
    ):
        problem(admin.put("/extensions/alice", json=wrong), 422, "invalid")
    for name in ("c", "a", "b"):
        assert admin.put(f"/extensions/{name}", json=later).status_code == 200
    page = admin.get("/extensions", params={"limit": 2}).json()
    assert [item["username"] for item in page["items"]] == ["a", "b"]
    rest = admin.get("/extensions", params={"cursor": page["next_cursor"]}).json()
    assert [item["username"] for item in rest["items"]] == ["c"]
