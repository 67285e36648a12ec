"""Tokens: what each may do, how long, and what is kept of them."""

from __future__ import annotations

import hashlib
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from portals import ADMIN_TOKEN, problem

SCOPES = [
    *("limits:read", "sessions:read", "sessions:write", "reserve", "policy:write", "witness:write", "enforcement"),
    "admin",
]
PERIOD = {"by": "user", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
SOME = uuid.uuid4()
EVENT = {"event_id": "1", "kind": "start", "pod_uid": "p", "at": "2026-01-01T00:00:00Z"}
# method, path, what is sent, scopes that are enough beside admin
OPERATIONS = [
    ("GET", "/users/alice/limits", {}, {"limits:read"}),
    ("GET", "/users/alice/profiles", {}, {"limits:read"}),
    ("GET", "/users/alice/budgets", {}, {"limits:read"}),
    ("GET", "/capacity", {}, {"limits:read"}),
    ("GET", "/sessions", {}, {"sessions:read"}),
    ("GET", "/sessions/s1", {}, {"sessions:read"}),
    ("POST", "/sessions", {"json": {"username": "alice"}}, {"sessions:write"}),
    ("PUT", "/sessions/s1/end", {}, {"sessions:write"}),
    (
        "POST",
        "/witness",
        {"json": {"events": [EVENT]}},
        {"witness:write"},
    ),
    ("GET", "/reservations", {}, {"reserve"}),
    ("POST", "/reservations", {"json": {"username": "alice"}, "headers": {"Idempotency-Key": "k"}}, {"reserve"}),
    ("PUT", f"/reservations/{SOME}/renew", {}, {"reserve"}),
    ("DELETE", f"/reservations/{SOME}", {}, {"reserve"}),
    ("GET", "/enforcement", {}, {"enforcement"}),
    ("GET", "/extensions", {}, {"policy:write"}),
    (
        "PUT",
        "/extensions/alice",
        {"json": {"until": "2099-01-01T00:00:00Z", "reason": "x"}},
        {"policy:write"},
    ),
    ("DELETE", "/extensions/alice", {}, {"policy:write"}),
    ("GET", "/policy/default", {}, {"policy:write"}),
    ("PUT", "/policy/default", {"json": {"cpu": 1, "memory": "1Gi", "gpu": 1}}, {"policy:write"}),
    ("GET", "/policy/users", {}, {"policy:write"}),
    ("GET", "/policy/users/alice", {}, {"policy:write"}),
    ("PUT", "/policy/users/alice", {"json": {}}, {"policy:write"}),
    ("DELETE", "/policy/users/alice", {}, {"policy:write"}),
    ("GET", "/policy/groups", {}, {"policy:write"}),
    ("GET", "/policy/groups/vision", {}, {"policy:write"}),
    ("PUT", "/policy/groups/vision", {"json": {}}, {"policy:write"}),
    ("DELETE", "/policy/groups/vision", {}, {"policy:write"}),
    ("GET", "/policy/rates", {}, {"policy:write", "sessions:read"}),
    ("PUT", "/policy/rates", {"json": {"rates": []}}, {"policy:write"}),
    ("DELETE", "/policy/rates/2099-01-01T00:00:00Z", {}, {"policy:write"}),
    ("GET", "/audit", {}, set()),
    ("GET", "/usage", {"params": PERIOD}, {"sessions:read"}),
    ("GET", "/usage.csv", {"params": PERIOD}, {"sessions:read"}),
    ("GET", "/tokens", {}, set()),
    ("POST", "/tokens", {"json": {"name": "x", "scopes": ["admin"]}}, set()),
    ("POST", f"/tokens/{SOME}/rotate", {}, set()),
    ("DELETE", f"/tokens/{SOME}", {}, set()),
]
OPEN = {"/healthz", "/readyz", "/readyz/collector", "/metrics", "/api/v1/auth/login", "/api/v1/auth/callback"}


def make(admin, *scopes: str, **more) -> dict:
    made = admin.post("/tokens", json={"name": "test", "scopes": list(scopes), **more})
    assert made.status_code == 201, made.text
    return made.json()


def test_every_operation_asks_for_its_scope(portal, admin, ledger):
    texts = {scope: make(admin, scope)["token"] for scope in SCOPES}
    with portal.client(None) as client:
        for method, path, sent, enough in OPERATIONS:
            for scope, text in texts.items():
                headers = {"Authorization": f"Bearer {text}", **sent.get("headers", {})}
                for prefix in ("", "/api/v1"):
                    answer = client.request(method, prefix + path, **{**sent, "headers": headers})
                    if scope in enough or scope == "admin":
                        assert answer.status_code not in (401, 403), (method, path, scope, answer.text)
                    else:
                        problem(answer, 403, "forbidden")


def test_nothing_but_health_and_login_is_open(portal, admin):
    """Every operation of the OpenAPI, so that none that is added is forgotten."""
    document = admin.get("/openapi.json").json()
    listed = {path for path in document["paths"] if path.startswith("/api/v1")}
    assert {p.split("?")[0].replace(str(SOME), "x") for _, p, _, _ in OPERATIONS}, "operations"
    with portal.client(None) as client:
        for path, operations in document["paths"].items():
            for method in operations:
                answer = client.request(method, path.replace("{", "").replace("}", ""))
                if path in OPEN:
                    assert answer.status_code != 401
                else:
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                    problem(answer, 401, "unauthorized")
    assert len(listed) >= 20


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer wrong",
        f"Basic {ADMIN_TOKEN}",
        ADMIN_TOKEN,
        f"Bearer {ADMIN_TOKEN} x",
        "Bearer \xff\xfe",
    ],
)
def test_what_is_no_token_is_refused(portal, ledger, header):
    with portal.client(None) as client:
        problem(client.get("/me", headers={"Authorization": header.encode("latin-1")}), 401, "unauthorized")


def test_a_token_ends_when_it_expires_or_is_revoked(portal, admin, ledger):
    made = make(admin, "limits:read", expires_at="2099-01-01T00:00:00Z")
    with portal.client(made["token"]) as client:
        assert client.get("/users/alice/limits").status_code == 200
        ledger.sql("UPDATE token SET expires_at = now() - interval '1 s'")
        problem(client.get("/users/alice/limits"), 401, "unauthorized")
        ledger.sql("UPDATE token SET expires_at = NULL")
        assert client.get("/users/alice/limits").status_code == 200
        for _ in range(2):
            assert admin.delete(f"/tokens/{made['id']}").status_code == 204
        problem(client.get("/users/alice/limits"), 401, "unauthorized")
    problem(admin.post(f"/tokens/{made['id']}/rotate"), 409, "token_over")
    problem(
        admin.post("/tokens", json={"name": "x", "scopes": ["admin"], "expires_at": "2020-01-01T00:00:00Z"}),
        409,
        "in_the_past",
    )


def test_rotated_both_work_for_a_while(portal, admin, ledger):
    old = make(admin, "limits:read")
    new = admin.post(f"/tokens/{old['id']}/rotate", json={"overlap_seconds": 600}).json()
    assert new["scopes"] == ["limits:read"] and new["name"] == old["name"] and new["token"] != old["token"]
    for text in (old["token"], new["token"]):
        with portal.client(text) as client:
            assert client.get("/users/alice/limits").status_code == 200
    newer = admin.post(f"/tokens/{new['id']}/rotate", json={"overlap_seconds": 0}).json()
    with portal.client(new["token"]) as client:
        problem(client.get("/users/alice/limits"), 401, "unauthorized")
    listed = admin.get("/tokens").json()["items"]
    assert [item["id"] for item in listed] == [old["id"], new["id"], newer["id"]]
    assert not any({"token", "digest"} & set(item) for item in listed)
    actions = [entry["action"] for entry in admin.get("/audit").json()["items"]]
    assert actions == ["token.create", "token.rotate", "token.create", "token.rotate", "token.create"]


def test_a_replica_learns_within_a_second_that_a_token_was_revoked(make_portal, database, admin, ledger):
    other = make_portal(database, cache_seconds=1).start()
    made = make(admin, "limits:read")
    with other.client(made["token"]) as client:
        assert client.get("/users/alice/limits").status_code == 200
        admin.delete(f"/tokens/{made['id']}")
        revoked = sent = time.monotonic()
        while client.get("/users/alice/limits").status_code == 200:
            # However long an answer takes: whoever asks a second later is refused.
            assert sent - revoked <= 1
            sent = time.monotonic()
    other.stop()


def test_only_a_digest_is_kept(admin, ledger):
    text = make(admin, "limits:read")["token"]
    assert ledger.sql("SELECT digest FROM token") == [(hashlib.sha256(text.encode()).digest(),)]
    dump = str(ledger.sql("SELECT token::text FROM token")) + str(ledger.sql("SELECT audit::text FROM audit"))
    assert text not in dump


def test_the_administrators_token_is_what_the_file_has_now(portal, admin, ledger):
    file = portal.log.parent / "admin-token"
    try:
        file.write_text("another-token-of-the-administrator\n")
        problem(admin.get("/me"), 401, "unauthorized")
        with portal.client("another-token-of-the-administrator") as client:
            assert client.get("/me").json()["admin"] is True
        file.write_text("")
        with portal.client(None) as client:
            problem(client.get("/me", headers={"Authorization": "Bearer"}), 401, "unauthorized")
    finally:
        file.write_text(f"{ADMIN_TOKEN}\n")


def test_commands_make_list_rotate_and_revoke(portal, admin, ledger, tmp_path):
    text = portal.command("token", "create", "hub", "--scope", "reserve", "--days", "1").stdout.strip()
    with portal.client(text) as client:
        assert client.get("/me").json()["scopes"] == ["reserve"]
        token_id = admin.get("/tokens").json()["items"][0]["id"]
        successor = portal.command("token", "rotate", token_id, "--overlap-seconds", "0").stdout.strip()
        problem(client.get("/me"), 401, "unauthorized")
    with portal.client(successor) as client:
        assert client.get("/me").status_code == 200
        listed = portal.command("token", "list").stdout
        assert token_id in listed and successor not in listed and "digest" not in listed
        new_id = admin.get("/tokens").json()["items"][1]["id"]
        assert portal.command("token", "revoke", new_id).returncode == 0
        problem(client.get("/me"), 401, "unauthorized")
    missing = portal.command("token", "revoke", str(SOME))
    assert missing.returncode == 1 and missing.stderr == "usage portal: there is no such token\n"


def test_a_token_of_a_file_is_adopted_once(portal, ledger, tmp_path):
    file = tmp_path / "hub-token"

    def adopt(text: str) -> str:
        file.write_text(text)
        return portal.command("token", "adopt", "hub", "--scope", "reserve", "--file", str(file)).stdout.strip()

    assert [adopt("token-of-the-hub-1"), adopt("token-of-the-hub-1"), adopt("token-of-the-hub-2")] == [
        "changed",
        "unchanged",
        "changed",
    ]
    with portal.client("token-of-the-hub-1") as old, portal.client("token-of-the-hub-2") as new:
        problem(old.get("/me"), 401, "unauthorized")
        assert new.get("/me").status_code == 200


def test_wrong_tokens_in_numbers_do_no_harm(portal, ledger):
    with portal.client(None) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.get("/me", headers={"Authorization": f"Bearer {n}"}), range(100)))
    assert {answer.status_code for answer in answers} == {401}
