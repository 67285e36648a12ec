"""The database gone and back, schemas of other versions, settings that cannot be right, secrets in logs."""

from __future__ import annotations

import uuid
from subprocess import PIPE

import pytest
from portals import ADMIN_TOKEN, TIMEOUT, Ledger, Postgres, problem, wait_for

KNOWN_AT = "\nusage_portal_known_at_timestamp_seconds"


@pytest.fixture(scope="module")
def own(make_portal):
    """A cluster that can be stopped, and a portal on it."""
    with Postgres() as cluster:
        portal = make_portal("postgres", database_url=cluster.url(), database_pool_timeout=2)
        assert portal.command("migrate").returncode == 0
        yield cluster, portal.start()


def test_a_database_that_is_gone_comes_back_without_a_restart(own):
    cluster, portal = own
    period = {"by": "user", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
    with portal.client() as client:
        token = client.post("/tokens", json={"name": "x", "scopes": ["limits:read"]}).json()["token"]
        assert client.get("/readyz").status_code == 200
        cluster.stop()
        try:
            requests = [
                ("GET", "/readyz", {}),
                ("GET", "/users/alice/limits", {}),
                ("GET", "/users/alice/limits", {"headers": {"Authorization": f"Bearer {token}"}}),
                (
                    "POST",
                    "/reservations",
                    {"json": {"username": "a"}, "headers": {"Idempotency-Key": uuid.uuid4().hex}},
                ),
                ("GET", "/usage.csv", {"params": period}),
                ("PUT", "/policy/users/alice", {"json": {"gpu": 1}}),
            ]
            for method, path, sent in requests:
                answer = client.request(method, path, **sent)
                problem(answer, 503, "unavailable")
                assert int(answer.headers["Retry-After"]) > 0
            assert client.get("/healthz").status_code == 200, "who restarts it mends nothing"
            assert f"{KNOWN_AT} NaN" in client.get("/metrics").text
        finally:
            cluster.start()
        wait_for("the portal is ready", lambda: client.get("/readyz").status_code == 200)
        ledger = Ledger(cluster.connect())
        assert f"{KNOWN_AT} 0.0" in client.get("/metrics").text
        ledger.followed("2026-03-01T12:00:00Z")
        assert f"{KNOWN_AT} 1.7723664e+09" in client.get("/metrics").text
        ledger.followed()
        ledger.node("n0", 0)
        for method, path, sent in requests:
            assert client.request(method, path, **sent).status_code in (200, 201), path


def test_a_restart_between_two_requests_is_not_seen(own):
    cluster, portal = own
    with portal.client() as client:
        assert client.get("/sessions").status_code == 200
        cluster.stop()
        cluster.start()
        assert client.get("/sessions").status_code == 200


def test_it_starts_without_a_database(own, make_portal):
    cluster, _ = own
    cluster.stop()
    try:
        portal = make_portal("postgres", database_url=cluster.url()).start()
        with portal.client() as client:
            problem(client.get("/readyz"), 503, "unavailable")
    finally:
        cluster.start()
    with portal.client() as client:
        wait_for("the portal is ready", lambda: client.get("/readyz").status_code == 200)
    portal.stop()


def test_an_outdated_schema_is_refused(postgres, make_portal):
    name = postgres.create("outdated")
    portal = make_portal(name)
    refused = portal.command("serve")
    assert refused.returncode == 1 and refused.stderr == (
        "usage portal: the database's schema is outdated: revision none, this portal needs 0003_changes;"
        " run `python -m gpuhub_portal migrate` first\n"
    )
    assert portal.command("token", "list").stderr == refused.stderr


def test_pods_that_start_in_any_order_wait_for_each_other(own, make_portal):
    """The portal for the migration, the migration for the database."""
    cluster, _ = own
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE ordered")
    cluster.stop()
    portal = make_portal("ordered", database_url=cluster.url("ordered"))
    schema, migration = portal.begin("wait", stderr=PIPE), portal.begin("migrate", "--wait", "60", stderr=PIPE)
    for waiting in (schema, migration):
        assert waiting.stderr.readline().startswith("usage portal: waiting: the database is not available: ")
    cluster.start()
    assert migration.wait(TIMEOUT) == 0, migration.stderr.read()
    assert schema.wait(TIMEOUT) == 0, schema.stderr.read()
    cluster.stop()
    try:
        impatient = portal.command("migrate")
        assert (impatient.returncode, impatient.stderr) == (1, "usage portal: the database is not available\n")
    finally:
        cluster.start()


def test_a_newer_schema_is_refused_and_not_touched(postgres, migrated, make_portal):
    name = postgres.create("newer", migrated)
    portal = make_portal(name)
    with postgres.connect(name) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999_future'")
        for command in (["serve"], ["migrate", "--wait", "60"], ["wait"]):
            refused = portal.command(*command)
            assert refused.returncode == 1 and refused.stderr.count("\n") == 1
            assert "newer than this portal: revision 9999_future is unknown" in refused.stderr
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999_future",)]


def test_a_schema_that_appears_later_is_looked_at(postgres, make_portal, own):
    cluster, _ = own
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE late")
    url = cluster.url("late")
    cluster.stop()
    portal = make_portal("late", database_url=url).start()
    cluster.start()
    with portal.client() as client:
        wait_for("the schema is refused", lambda: client.get("/readyz").json()["code"] == "schema")
        assert portal.command("migrate").returncode == 0
        assert client.get("/readyz").status_code == 200
    portal.stop()


def test_migrations_make_the_tables_that_the_code_knows(postgres, database, python_path):
    import sqlalchemy as sa
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from gpuhub_portal.database import migrate
    from gpuhub_portal.ledger.tables import metadata

    name = postgres.create("compared")
    engine = sa.create_engine(postgres.url(name).replace("postgresql:", "postgresql+psycopg:"))
    migrate(engine.url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        query = "SELECT conname FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        checks = {row[0] for row in connection.execute(sa.text(query))}
    engine.dispose()
    # Alembic compares no checks.
    holders = [holder for table in metadata.tables.values() for holder in (table, *table.columns)]
    constraints = {constraint for holder in holders for constraint in holder.constraints}
    assert checks == {found.name for found in constraints if isinstance(found, sa.CheckConstraint)}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"database_url": ""}, "the database URL is none"),
        ({"database_url": "mysql://u:planted-password@h/d"}, "must be PostgreSQL"),
        ({"database_url_file": "/nowhere"}, "either USAGE_PORTAL_DATABASE_URL or"),
        ({"time_zone": "Mars/Phobos"}, "USAGE_PORTAL_TIME_ZONE: is no time zone"),
        ({"listen_port": "tcp://10.152.183.7:8080"}, "USAGE_PORTAL_LISTEN_PORT: "),
        ({"cache_seconds": "60"}, "USAGE_PORTAL_CACHE_SECONDS: "),
        ({"hub_url": "http://localhost:8000/hub"}, "USAGE_PORTAL_HUB_URL needs USAGE_PORTAL_HUB_CLIENT_SECRET_FILE"),
        ({"profiles": '{"sizes": [0]}'}, "USAGE_PORTAL_PROFILES: sizes: is 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_are_named(make_portal, database, settings, text):
    refused = make_portal(database, **settings).command("serve")
    assert refused.returncode == 1 and refused.stderr.startswith("usage portal: ") and refused.stderr.count("\n") == 1
    assert text in refused.stderr and "planted" not in refused.stderr


def test_logs_hold_no_secret(own):
    """Planted in every place that a client can put one."""
    cluster, portal = own
    with portal.client() as client:
        made = client.post("/tokens", json={"name": "x", "scopes": ["limits:read"]}).json()["token"]
        planted = [made, ADMIN_TOKEN, "planted-password", "planted-query", "planted-body", "planted-wrong-token"]
        client.get("/users/alice/limits", headers={"Authorization": f"Bearer {made}"})
        client.get("/me", headers={"Authorization": "Bearer planted-wrong-token"})
        client.get("/api/v1/auth/callback", params={"code": "planted-query", "state": "planted-query"})
        client.get("/sessions", params={"cursor": "planted-query"})
        client.post("/tokens", json={"name": {"token": "planted-body"}, "scopes": ["planted-body"]})
        with cluster.connect() as connection:
            # An error that nobody foresaw, with statement and values in its text.
            connection.execute("ALTER TABLE witness ADD CONSTRAINT planted CHECK (event_id <> 'planted-body')")
            event = {"event_id": "planted-body", "kind": "start", "pod_uid": "p", "at": "2026-01-01T00:00:00Z"}
            failed = problem(client.post("/witness", json={"events": [event]}), 500, "failed")
            connection.execute("ALTER TABLE witness DROP CONSTRAINT planted")
        cluster.stop()
        client.get("/sessions")
        cluster.start()
        wait_for("the portal is ready", lambda: client.get("/readyz").status_code == 200)
    text, lines = portal.log.read_text(), portal.logged()
    assert [secret for secret in planted if secret in text] == []
    assert any(line.get("request_id") == failed["request_id"] and "exception" in line for line in lines)
    assert {"GET", "POST"} <= {line.get("method") for line in lines}


def test_metrics_count_what_happened(portal, admin, ledger):
    ledger.node("n0", 1)

    def value(name: str) -> float:
        found = [line for line in admin.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0

    granted, refused = (
        f'usage_portal_reservations_total{{outcome="{outcome}"}}' for outcome in ("granted", "none_free")
    )
    before = value(granted), value(refused)
    for number in range(3):
        admin.post("/reservations", json={"username": "a", "gpu": 1}, headers={"Idempotency-Key": str(number)})
    assert (value(granted), value(refused)) == (before[0] + 1, before[1] + 2)
    text = admin.get("/metrics").text
    assert 'route="/reservations",status="409"' in text and "alice" not in text
    admin.get("/nowhere/that/exists")
    assert "nowhere" not in admin.get("/metrics").text
