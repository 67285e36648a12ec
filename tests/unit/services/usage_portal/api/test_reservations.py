"""Who gets what is left, and who is refused and why."""

from __future__ import annotations

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sample
from portals import ADMIN_TOKEN, problem, wait_for

SEEDS = sample.draw(range(1, 101), 1)
CONNECTIONS = 64


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


def wish(username: str = "alice", **more) -> dict:
    return {"username": username, "cpu_milli": 1000, "memory_bytes": 2**30, **more}


def reserve(client: httpx.Client, username: str = "alice", **more) -> httpx.Response:
    return client.post("/reservations", json=wish(username, **more), headers=key())


async def rush(urls: list[str], bodies: list[dict]) -> list[httpx.Response]:
    """Send every body at once, each over a connection of its own, by turns to the replicas."""

    async def one(client: httpx.AsyncClient, body: dict, ready: asyncio.Barrier) -> httpx.Response:
        await client.get("/healthz")
        await ready.wait()
        return await client.post("/reservations", json=body, headers=key())

    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    clients = [
        httpx.AsyncClient(base_url=urls[number % len(urls)], headers=headers, timeout=60, verify=False)
        for number in range(len(bodies))
    ]
    ready = asyncio.Barrier(len(bodies))
    try:
        return await asyncio.gather(*(one(client, body, ready) for client, body in zip(clients, bodies, strict=True)))
    finally:
        await asyncio.gather(*(client.aclose() for client in clients))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_of_64_gets_the_last_gpu(replicas, ledger, seed):
    draw = random.Random(seed)
    nodes = draw.randint(1, 3)
    for number in range(nodes):
        ledger.node(f"n{number}", 4, draw.choice(["A100", "H100"]))
        ledger.pod(f"p{number}", "bob", node=f"n{number}", gpu=3 if number == 0 else 4)
    kind = ledger.sql("SELECT gpu_type FROM node_state WHERE node = 'n0'")[0][0]
    bodies = [wish(f"user{draw.randint(0, 9)}", gpu=1, gpu_type=draw.choice([kind, "any"])) for _ in range(CONNECTIONS)]
    answers = asyncio.run(rush([replica.url for replica in replicas], bodies))
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(refused) == CONNECTIONS - 1
    assert {problem(answer, 409, "none_free")["numbers"]["gpu"]["free"] for answer in refused} == {0}
    assert ledger.sql("SELECT count(*) FROM reservation") == [(1,)]


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_gets_more_than_their_limit_by_asking_often_at_once(replicas, ledger, seed):
    ledger.node("n0", 8)
    with replicas[0].client() as admin:
        document = {"cpu": 3, "memory": "16Gi", "gpu": 2}
        assert admin.put("/policy/users/alice", json=document).status_code == 200
    bodies = [wish(gpu=number % 2) for number in range(CONNECTIONS)]
    answers = asyncio.run(rush([replica.url for replica in replicas], bodies))
    granted = [answer.json() for answer in answers if answer.status_code == 201]
    assert len(granted) == 3, "three cores are the limit"
    assert sum(grant["gpu"] for grant in granted) <= 2
    assert {problem(a, 409, "over_limit")["status"] for a in answers if a.status_code != 201} == {409}


def test_a_refusal_has_the_numbers(admin, ledger):
    ledger.node("n0", 4)
    ledger.node("n1", 2, "H100")
    ledger.pod("p0", "bob", node="n0", gpu=3, gpu_type="A100", cpu_milli=500)
    free = problem(reserve(admin, gpu=2, gpu_type="a100"), 409, "none_free")
    assert free["numbers"]["gpu"] == {"needed": 2, "largest_free": 1, "free": 1} and free["until"] is None
    assert problem(reserve(admin, gpu=8), 409, "too_large")["numbers"]["gpu"] == {"needed": 8, "largest": 4}
    problem(reserve(admin, gpu=1, gpu_type="B300"), 409, "too_large")
    admin.put("/policy/users/bob", json={"gpu": 4})
    over = problem(reserve(admin, "bob", gpu=2), 409, "over_limit")
    assert over["numbers"] == {"gpu": {"needed": 2, "limit": 4, "used": 3, "reserved": 0}}
    assert reserve(admin, "bob", gpu=1, gpu_type="H100").status_code == 201


def test_a_home_on_a_node_can_only_have_what_that_node_has(admin, ledger):
    ledger.node("n0", 1)
    ledger.node("n1", 4)
    assert reserve(admin, gpu=1, home_node="n0").json()["home_node"] == "n0"
    problem(reserve(admin, gpu=1, home_node="n0"), 409, "none_free")
    assert reserve(admin, gpu=4, home_node="n1").status_code == 201


def test_a_budget_that_is_used_up_refuses_gpus_until_it_is_not(admin, ledger):
    ledger.node("n0", 4)
    admin.put("/policy/users/alice", json={"budgets": [{"gpu_hours": 2, "within": "30d"}]})
    began = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    ledger.hour(began.isoformat(), "alice", gpu_type="A100", gpu_seconds=7199)
    assert reserve(admin, gpu=1).status_code == 201
    ledger.sql("UPDATE rollup_hour SET gpu_seconds = 7200")
    refused = problem(reserve(admin, gpu=1), 409, "budget_used")
    assert list(refused["numbers"].values()) == [{"amount": 7200, "used": 7200}]
    again = (began + timedelta(hours=1, days=30)).isoformat().replace("+00:00", "Z")
    assert refused["until"] == again
    assert reserve(admin).status_code == 201, "without GPUs"
    state = admin.get("/users/alice/budgets").json()["items"]
    assert state == [{"resource": "gpu_hours", "window": "30d", "amount": 7200, "used": 7200, "again": again}]


def test_what_is_held_still_counts_against_a_budget(admin, ledger):
    ledger.node("n0", 4)
    admin.put("/policy/users/alice", json={"budgets": [{"gpu_hours": 2, "within": "1d"}]})
    ledger.pod("p0", "alice", node="n0", gpu=1, held_from=datetime.now(UTC) - timedelta(hours=2, minutes=1))
    problem(reserve(admin, gpu=1), 409, "budget_used")


def test_the_same_key_makes_one_reservation(admin, ledger):
    ledger.node("n0", 1)
    headers = key()
    first = admin.post("/reservations", json=wish(gpu=1), headers=headers)
    again = admin.post("/reservations", json=wish(gpu=1), headers=headers)
    assert first.status_code == again.status_code == 201 and first.json() == again.json()
    other = admin.post("/reservations", json=wish(gpu=0), headers=headers)
    problem(other, 409, "idempotency_key_reused")
    somebody = admin.post("/reservations", json=wish("bob", gpu=0), headers=headers)
    problem(somebody, 409, "idempotency_key_reused")
    admin.delete(f"/reservations/{first.json()['id']}")
    over = problem(admin.post("/reservations", json=wish(gpu=1), headers=headers), 409, "reservation_over")
    assert over["state"] == "released"
    problem(admin.post("/reservations", json=wish()), 422, "invalid")


def test_a_key_that_is_a_uuid_is_the_id(portal, admin, ledger):
    ledger.node("n0", 8)

    def made(identity: str, client: httpx.Client = admin, **more) -> httpx.Response:
        return client.post("/reservations", json=wish(gpu=1, **more), headers={"Idempotency-Key": identity})

    identity = str(uuid.uuid4())
    for _ in range(2):
        assert made(identity).json()["id"] == identity
    for other in (identity.upper(), identity.replace("-", ""), "alice/lab/1"):
        assert uuid.UUID(made(other).json()["id"]) != uuid.UUID(identity)
    problem(made(identity, cpu_milli=1), 409, "idempotency_key_reused")
    problem(made(identity, username="bob"), 409, "idempotency_key_reused")
    token = admin.post("/tokens", json={"name": "other", "scopes": ["reserve"]}).json()["token"]
    with portal.client(token) as client:
        problem(made(identity, client), 409, "idempotency_key_reused")
    # The id of another key's reservation is no key that is free.
    problem(made(made("alice/lab/1").json()["id"]), 409, "idempotency_key_reused")


def hand_in(client: httpx.Client, identity: str, **more) -> httpx.Response:
    body = wish(**more) | {"granted": True}
    return client.post("/reservations", json=body, headers={"Idempotency-Key": identity})


def counted(client: httpx.Client, outcome: str) -> float:
    name = f'usage_portal_reservations_total{{outcome="{outcome}"}}'
    found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0


def test_what_was_granted_while_the_portal_was_away_is_recorded(portal, admin, ledger):
    ledger.node("n0", 2)
    admin.put("/policy/users/alice", json={"gpu": 1})
    names = [str(uuid.uuid4()) for _ in range(2)]
    before = counted(admin, "recorded"), counted(admin, "recorded_beyond")
    for identity in names:
        grant = hand_in(admin, identity, gpu=1)
        assert (grant.status_code, grant.json()["id"], grant.json()["state"]) == (201, identity, "active")
    assert admin.get("/users/alice/limits").json()["usage"]["gpu"] == 2, "beyond the limit, as it is"
    assert (counted(admin, "recorded"), counted(admin, "recorded_beyond")) == (before[0] + 1, before[1] + 1)
    logged = [line["message"] for line in portal.logged() if names[1] in line["message"]]
    assert logged == [f"reservation {names[1]} is recorded beyond what could be granted: over_limit"]
    problem(reserve(admin, "bob", gpu=1), 409, "none_free")
    again = hand_in(admin, names[0], gpu=1)
    assert again.status_code == 201 and again.json()["id"] == names[0]
    problem(hand_in(admin, names[0], gpu=0), 409, "idempotency_key_reused")


@pytest.mark.parametrize("until", [None, "2026-01-02T00:00:00Z"], ids=["it holds", "it did hold"])
@pytest.mark.parametrize("earlier", [None, "active", "expired", "released"])
def test_what_is_handed_in_when_its_pod_is_known_is_settled(admin, ledger, until, earlier):
    ledger.node("n0", 4)
    identity = str(uuid.uuid4())
    if earlier:
        assert admin.post("/reservations", json=wish(gpu=1), headers={"Idempotency-Key": identity}).status_code == 201
        ledger.sql("UPDATE reservation SET state = %s", earlier)
    pod = {"reservation": identity, "gpu": 1, "cpu_milli": 1000, "memory_bytes": 2**30, "held_until": until}
    ledger.pod("p0", "alice", **pod)
    for _ in range(2):
        grant = hand_in(admin, identity, gpu=1)
        assert (grant.status_code, grant.json()["state"]) == (201, "settled")
    assert ledger.sql("SELECT id::text, pod_uid FROM reservation") == [(identity, "p0")]
    assert admin.get("/users/alice/limits").json()["usage"]["gpu"] == (0 if until else 1)


def test_what_is_handed_in_counts_again_unless_it_was_given_back(admin, ledger):
    ledger.node("n0", 1)
    identity = str(uuid.uuid4())
    first = admin.post("/reservations", json=wish(gpu=1), headers={"Idempotency-Key": identity})
    ledger.sql("UPDATE reservation SET expires_at = clock_timestamp()")
    problem(
        admin.post("/reservations", json=wish(gpu=1), headers={"Idempotency-Key": identity}), 409, "reservation_over"
    )
    grant = hand_in(admin, identity, gpu=1).json()
    assert grant["state"] == "active" and grant["expires_at"] > first.json()["expires_at"]
    problem(reserve(admin, "bob", gpu=1), 409, "none_free")
    admin.delete(f"/reservations/{identity}")
    assert problem(hand_in(admin, identity, gpu=1), 409, "reservation_over")["state"] == "released"


@pytest.mark.parametrize("stream", ["pods", "nodes"])
@pytest.mark.parametrize("how", ["DELETE FROM stream", "UPDATE stream SET followed_at = now() - interval '61 s'"])
def test_nothing_is_granted_by_knowledge_that_is_old(admin, ledger, stream, how):
    ledger.node("n0", 1)
    identity = str(uuid.uuid4())
    made = admin.post("/reservations", json=wish(cpu_milli=1), headers={"Idempotency-Key": identity})
    before = datetime.now(UTC)
    ledger.sql(f"{how} WHERE name = %s", stream)
    after = datetime.now(UTC)
    behind = reserve(admin, gpu=1)
    known_at = problem(behind, 503, "collector_behind").get("known_at")
    assert problem(admin.get("/readyz/collector"), 503, "collector_behind").get("known_at") == known_at
    if how.startswith("DELETE"):
        assert known_at is None
    else:
        assert before <= datetime.fromisoformat(known_at) + timedelta(seconds=61) <= after
    assert int(behind.headers["Retry-After"]) > 0
    # What is granted already stays so, and what a service has granted itself is recorded.
    again = admin.post("/reservations", json=wish(cpu_milli=1), headers={"Idempotency-Key": identity})
    assert again.status_code == 201 and again.json() == made.json()
    assert admin.put(f"/reservations/{identity}/renew").status_code == 200
    assert hand_in(admin, str(uuid.uuid4()), gpu=1).status_code == 201
    moment = datetime.now(UTC) - timedelta(seconds=50)
    ledger.followed(moment.isoformat())
    problem(reserve(admin, gpu=1), 409, "none_free")
    assert datetime.fromisoformat(admin.get("/readyz/collector").json()["known_at"]) == moment


def test_released_it_is_free_again(admin, ledger):
    ledger.node("n0", 1)
    made = reserve(admin, gpu=1).json()
    assert admin.get("/users/alice/limits").json()["usage"] == {"cpu_cores": 1, "memory_gib": 1, "gpu": 1}
    problem(reserve(admin, "bob", gpu=1), 409, "none_free")
    for _ in range(2):
        assert admin.delete(f"/reservations/{made['id']}").status_code == 204
    assert reserve(admin, "bob", gpu=1).status_code == 201
    problem(admin.put(f"/reservations/{made['id']}/renew"), 409, "reservation_over")
    problem(admin.delete(f"/reservations/{uuid.uuid4()}"), 404, "not_found")


def test_expired_it_is_free_again_and_cannot_be_renewed(admin, ledger):
    ledger.node("n0", 1)
    made = reserve(admin, gpu=1).json()
    ledger.sql("UPDATE reservation SET expires_at = clock_timestamp() + interval '0.2 s'")
    # Sooner than the portal looks for what it has to note as expired.
    wait_for("it expires", lambda: admin.get("/users/alice/limits").json()["usage"]["gpu"] == 0, 10)
    over = problem(admin.put(f"/reservations/{made['id']}/renew"), 409, "reservation_over")
    assert over["state"] == "expired"
    assert reserve(admin, "bob", gpu=1).status_code == 201


def test_renewed_it_lasts_longer(admin, ledger):
    ledger.node("n0", 1)
    made = reserve(admin, gpu=1).json()
    ledger.sql("UPDATE reservation SET expires_at = clock_timestamp() + interval '10 s'")
    renewed = admin.put(f"/reservations/{made['id']}/renew")
    assert renewed.status_code == 200 and renewed.json()["expires_at"] > made["expires_at"]


def test_settled_by_its_pod_it_does_not_count_twice(admin, ledger):
    ledger.node("n0", 1)
    made = reserve(admin, gpu=1).json()
    one = {"cpu_cores": 1, "memory_gib": 1, "gpu": 1}
    pod = {"reservation": made["id"], "gpu": 1, "cpu_milli": 1000, "memory_bytes": 2**30}
    ledger.pod("p0", "alice", held_from=None, **pod)
    assert admin.get("/users/alice/limits").json()["usage"] == one, "a pod without a node holds nothing"
    ledger.sql("UPDATE allocation SET held_from = now(), node = 'n0'")
    assert admin.get("/users/alice/limits").json()["usage"] == one
    assert admin.get("/capacity").json()["gpu_types"][-1] == {
        **{"gpu_type": "any", "total": 1, "held": 1},
        **{"reserved": 0, "free": 0},
    }
    ledger.sql("UPDATE allocation SET held_until = now()")
    assert admin.get("/users/alice/limits").json()["usage"]["gpu"] == 0
    assert reserve(admin, "bob", gpu=1).status_code == 201


def test_what_became_of_reservations_is_noted(admin, ledger, python_path, postgres, database):
    from gpuhub_portal import reservations
    from sqlalchemy.ext.asyncio import create_async_engine

    ledger.node("n0", 0)
    names = {reserve(admin, name).json()["id"]: name for name in ("settled", "expired", "late", "active", "released")}
    by_name = {name: made for made, name in names.items()}
    admin.delete(f"/reservations/{by_name['released']}")
    for name in ("expired", "late"):
        ledger.sql("UPDATE reservation SET expires_at = now() - interval '1 s' WHERE id = %s", by_name[name])
    for name in ("settled", "late"):
        ledger.pod(f"pod-{name}", name, reservation=by_name[name])

    async def tidy() -> None:
        engine = create_async_engine(postgres.url(database).replace("postgresql:", "postgresql+psycopg:"))
        async with engine.begin() as connection:
            await reservations.tidy(connection)
        await engine.dispose()

    asyncio.run(tidy())
    states = {names[item["id"]]: item["state"] for item in admin.get("/reservations").json()["items"]}
    assert states == {name: "settled" if name == "late" else name for name in by_name}
    assert ledger.sql("SELECT pod_uid FROM reservation WHERE id = %s", by_name["late"]) == [("pod-late",)]


def test_other_services_see_and_end_their_own_only(portal, admin, ledger):
    ledger.node("n0", 0)
    tokens = [
        admin.post("/tokens", json={"name": name, "scopes": ["reserve"]}).json()["token"] for name in ("hub", "jobs")
    ]
    with portal.client(tokens[0]) as hub, portal.client(tokens[1]) as jobs:
        made = reserve(hub).json()
        problem(jobs.delete(f"/reservations/{made['id']}"), 404, "not_found")
        problem(jobs.put(f"/reservations/{made['id']}/renew"), 404, "not_found")
        assert hub.put(f"/reservations/{made['id']}/renew").status_code == 200


def test_the_list_has_pages(admin, ledger):
    ledger.node("n0", 0)
    made = [reserve(admin, f"user{number}").json()["id"] for number in range(5)]
    found, cursor = [], None
    while True:
        page = admin.get("/reservations", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == made[::-1]
    for hostile in ("x", "e30", "WyIyMDI2Il0", "W10", "\N{BLACK HEART SUIT}"):
        problem(admin.get("/reservations", params={"cursor": hostile}), 404, "cursor")
