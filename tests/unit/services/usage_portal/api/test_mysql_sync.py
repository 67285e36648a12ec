"""The copy in a MariaDB is that of the portal's tables, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sample
from mariadb import MariaDB
from portals import TABLES, Ledger, Postgres, wait_for

HOUR = "2026-03-01T10:00:00Z"
RATE = "INSERT INTO rate VALUES (%s, 'EUR', '{\"a100\": 2500000, \"default\": 1000000}', 20000, 3000, now(), 'test')"


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A running server."""
    with MariaDB() as server:
        yield server


class Copy:
    """A source, a target, and what is in them. `settings` are those of a process that copies."""

    def __init__(self, mariadb: MariaDB, source: str, dsn: str, portal) -> None:
        self.mariadb, self.dsn, self.portal = mariadb, dsn, portal
        self._source = source
        self.name = mariadb.create("copy")
        self.portal.environment["USAGE_PORTAL_MYSQL_URL"] = mariadb.url(self.name)

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn, autocommit=True, options="-c TimeZone=UTC")

    def use(self, action: Any, limit: int = 500) -> Any:
        """The result of an async function that is given what copies."""
        from gpuhub_portal.database import Database
        from gpuhub_portal.mysql_sync import Sync, Target
        from sqlalchemy import make_url

        async def go() -> Any:
            database = Database(make_url(self._source).set(drivername="postgresql+psycopg"), pool_size=1)
            target = Target(make_url(self.mariadb.url(self.name)).set(drivername="mysql+pymysql"))
            try:
                return await action(Sync(database, target, limit))
            finally:
                target.close()
                await database.close()

        return asyncio.run(go())

    def all(self, limit: int = 500) -> int:
        """Copy until there is nothing more; the number of steps."""

        async def go(sync: Any) -> int:
            steps = 1
            while await sync.step():
                steps += 1
            return steps

        return self.use(go, limit)

    def process(self, **settings: Any) -> Any:
        """`python -m gpuhub_portal sync`, as it is deployed."""
        return self.portal.begin("sync", **{"mysql_interval_seconds": 0.05, **settings})

    def rows(self, query: str) -> list[tuple]:
        return self.mariadb.rows(self.name, query)

    def position(self) -> str:
        return self.rows("SELECT position FROM usage_sync")[0][0]

    def there(self) -> tuple[list, list]:
        """What is in the target."""
        sessions = "SELECT id, username, started_at, ended_at FROM usage_session ORDER BY id"
        hours = "SELECT hour, username, group_name, kind, gpu_type, gpu_seconds, cpu_milli_seconds, sessions"
        return self.rows(sessions), sorted(self.rows(f"{hours} FROM usage_hour"))

    def here(self) -> tuple[list, list]:
        """The same of the source."""
        sessions = 'SELECT id, username, started_at, ended_at FROM session ORDER BY id COLLATE "C"'
        hours = "SELECT hour, username, group_name, kind, gpu_type, gpu_seconds, cpu_milli_seconds, sessions"
        with self.connect() as connection:
            found = [connection.execute(query).fetchall() for query in (sessions, f"{hours} FROM rollup_hour")]
        plain = [[tuple(map(self._plain, row)) for row in rows] for rows in found]
        return plain[0], sorted(plain[1])

    def is_complete(self) -> bool:
        """Whether the target has what the source has. Its tables are made one after the other."""
        made = {name for (name,) in self.rows("SHOW TABLES")}
        return made >= {"usage_session", "usage_hour", "usage_sync"} and self.there() == self.here()

    @staticmethod
    def _plain(value: Any) -> Any:
        return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value


def truncate(connection: psycopg.Connection) -> None:
    connection.execute(f"TRUNCATE {', '.join((*TABLES, 'session_change', 'rollup_change'))}")


@pytest.fixture
def copy(mariadb, postgres, database, make_portal) -> Copy:
    """An empty source and an empty target."""
    with postgres.connect(database) as connection:
        truncate(connection)
    return Copy(mariadb, postgres.url(database), postgres.dsn(database), make_portal(database))


@pytest.fixture
def source(copy) -> Iterator[Ledger]:
    """To put things into the source."""
    with copy.connect() as connection:
        yield Ledger(connection)
        # Others find no notes of theirs.
        truncate(connection)


def fill(source: Ledger, number: int) -> None:
    """Sessions that have ended and hours of theirs."""
    for count in range(number):
        source.session(f"s{count:03}", f"u{count % 7}", "notebook", HOUR, "2026-03-01T11:00:00Z")
        hour = f"2026-03-{count % 28 + 1:02}T{count // 28:02}:00:00Z"
        source.hour(hour, "alice", add_up=False, gpu_seconds=count, sessions=1)
    source.add_up_hours()


def test_what_the_tables_hold(copy, source):
    source.sql(RATE, "2026-01-01T00:00:00Z")
    held = {"held_from": HOUR, "held_until": "2026-03-01T12:00:00Z", "until_earliest": HOUR}
    held |= {"until_latest": "2026-03-01T12:00:00Z", "until_source": "inferred", "node": "n1", "gpu_type": "A100"}
    source.pod("p", "alice", session_id="s", gpu=2, cpu_milli=500, memory_bytes=2**30, **held)
    source.session("s", "alice", "notebook", HOUR, "2026-03-01T12:00:00Z")
    source.session("running", "bob", "other", "2026-03-01T10:00:00.25+01:00", None)
    source.sql("UPDATE session SET requests = '{\"gpu\": 1}', source = 'external' WHERE id = 'running'")
    amounts = {"gpu_seconds": 7200, "cpu_milli_seconds": 1_800_000, "memory_mib_seconds": 3_686_400, "sessions": 1}
    source.hour(HOUR, "alice", "vision", **amounts | {"gpu_type": "A100"})
    copy.all()
    columns = "id, username, kind, source, started_at, ended_at, requests, nodes, gpu_types, gpu_seconds, "
    columns += "cpu_milli_seconds, memory_mib_seconds, cost, currency, inferred"
    begin, end = datetime(2026, 3, 1, 10), datetime(2026, 3, 1, 12)
    # 2 h of 2 GPUs at 2.50, of half a core at 0.02 and of one GiB at 0.003
    sums = (Decimal(14400), Decimal(3_600_000), Decimal(7_372_800), Decimal("10.026"), "EUR", 1)
    lists, nothing = ("[]", "[]"), (Decimal(0), Decimal(0), Decimal(0), None, "EUR", 0)
    assert copy.rows(f"SELECT {columns} FROM usage_session ORDER BY id DESC") == [
        ("s", "alice", "notebook", "pod", begin, end, "{}", '["n1"]', '["A100"]', *sums),
        (
            "running",
            "bob",
            "other",
            "external",
            datetime(2026, 3, 1, 9, 0, 0, 250_000),
            None,
            '{"gpu": 1}',
            *lists,
            *nothing,
        ),
    ]
    columns = "hour, username, group_name, kind, gpu_type, gpu_seconds, cpu_milli_seconds, memory_mib_seconds"
    assert copy.rows(f"SELECT {columns}, sessions, cost, currency FROM usage_hour") == [
        (begin, "alice", "vision", "notebook", "A100", 7200, 1_800_000, 3_686_400, 1, Decimal("5.013"), "EUR")
    ]


def test_nothing_new_is_nothing_written(copy, source):
    fill(source, 30)
    assert copy.all(limit=7) > 4
    assert copy.there() == copy.here()
    before = copy.rows("SELECT id, synced_at FROM usage_session ORDER BY id"), copy.position()
    (complete,) = copy.rows("SELECT synced_at FROM usage_sync")
    assert copy.all() == 1
    assert (copy.rows("SELECT id, synced_at FROM usage_session ORDER BY id"), copy.position()) == before
    assert copy.rows("SELECT synced_at FROM usage_sync")[0] > complete, "until when it is complete is known"


def test_late_changes_are_taken_along(copy, source):
    fill(source, 5)
    source.session("open", "alice", "notebook", HOUR, None)
    copy.all()
    source.sql("UPDATE session SET ended_at = %s WHERE id = 'open'", "2026-03-01T13:00:00Z")
    source.sql("UPDATE rollup_hour SET gpu_seconds = gpu_seconds + 5 WHERE hour = '2026-03-02'")
    source.sql("DELETE FROM rollup_hour WHERE gpu_seconds = 3")
    source.sql("DELETE FROM session WHERE id = 's001'")
    source.sql(
        "INSERT INTO rollup_hour (hour, username, group_name, kind, gpu_type, gpu_seconds) VALUES"
        " ('2026-03-01', 'alice', '', 'notebook', '', 9), ('2026-03-01', 'new', '', 'notebook', '', 9)"
        " ON CONFLICT (hour, username, group_name, kind, gpu_type) DO UPDATE SET gpu_seconds = excluded.gpu_seconds"
    )
    copy.all()
    assert copy.there() == copy.here()
    assert len(copy.there()[0]) == 5 and len(copy.there()[1]) == 5


def test_a_transaction_that_commits_late_is_not_overlooked(copy, source):
    """The first to write is the last to commit, after others have been copied."""
    source.session("s0", "alice", "notebook", HOUR, None)
    with psycopg.connect(copy.dsn) as early, psycopg.connect(copy.dsn) as later:
        Ledger(early).session("early", "alice", "notebook", HOUR, None)
        Ledger(early).hour(HOUR, "alice", gpu_seconds=1)
        Ledger(later).session("later", "alice", "notebook", HOUR, None)
        later.commit()
        source.session("last", "alice", "notebook", HOUR, None)
        copy.all()
        assert [row[0] for row in copy.there()[0]] == ["s0"], "what comes before the oldest that is under way"
        early.commit()
    copy.all()
    assert copy.there() == copy.here() and len(copy.there()[0]) == 4


@pytest.mark.parametrize("seed", sample.draw(range(3), 1))
def test_writers_at_the_same_time(copy, source, seed):
    """Transactions that overlap in every way, while it is copied; in the end all is there as it is."""
    fill(source, 20)

    def write(number: int) -> None:
        choose = random.Random(f"{seed}/{number}")
        with psycopg.connect(copy.dsn) as connection:
            for _ in range(40):
                for _ in range(choose.randint(1, 3)):
                    name = f"s{choose.randrange(30):03}"
                    connection.execute(
                        "INSERT INTO session (id, username, started_at, source) VALUES (%s, %s, %s, 'pod')"
                        " ON CONFLICT (id) DO UPDATE SET username = excluded.username",
                        [name, f"{number}-{choose.random()}", HOUR],
                    )
                    # In turn, so that nobody waits for each other in a circle.
                    if choose.random() < 0.7:
                        connection.commit()
                connection.execute("DELETE FROM rollup_hour WHERE gpu_seconds = %s", [choose.randrange(20)])
                connection.rollback() if choose.random() < 0.2 else connection.commit()

    def forgiving(number: int) -> None:
        try:
            write(number)
        except psycopg.errors.DeadlockDetected:
            forgiving(number + 100)

    writers = [threading.Thread(target=forgiving, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        copy.all(limit=5)
    for writer in writers:
        writer.join()
    copy.all(limit=5)
    assert copy.there() == copy.here()


def test_killed_again_and_again(copy, source):
    fill(source, 60)
    copy.all()
    positions, kills = set(), sample.size(3, 8)
    for number in range(kills):
        source.sql("UPDATE session SET username = %s", f"user {number}")
        source.sql("UPDATE rollup_hour SET gpu_seconds = gpu_seconds + %s", number)
        before = copy.position()
        process = copy.process(mysql_batch=4)
        wait_for("it has come further", lambda before=before: copy.position() != before)
        process.kill()
        process.wait()
        positions.add(copy.position())
    assert len(positions) == kills
    assert copy.portal.command("sync", "--once").returncode == 0
    assert copy.there() == copy.here()


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_answer_that_was_not_heard(copy, source, monkeypatch, when):
    """The transaction was committed or not, and nobody knows."""
    from gpuhub_portal.mysql_sync import Target, TargetAwayError

    fill(source, 12)
    real = Target.write

    def lost(self, *arguments):
        if when == "after":
            real(self, *arguments)
        raise TargetAwayError("planted")

    for _ in range(sample.size(6, 12)):
        monkeypatch.setattr(Target, "write", lost)
        with pytest.raises(TargetAwayError):
            copy.use(lambda sync: sync.step(), limit=3)
        monkeypatch.setattr(Target, "write", real)
        copy.use(lambda sync: sync.step(), limit=3)
    copy.all()
    assert copy.there() == copy.here()


def test_two_at_the_same_time(copy, source):
    fill(source, 100)
    processes = [copy.process(mysql_batch=3) for _ in range(2)]
    try:
        for number in range(5):
            source.sql("UPDATE rollup_hour SET gpu_seconds = gpu_seconds + %s", number)
        wait_for("all is copied", copy.is_complete)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    copy.all()
    assert copy.there() == copy.here()


def test_either_side_goes_away_and_comes_back(mariadb, python_path, make_portal):
    with Postgres() as cluster:
        database = cluster.create("own")
        portal = make_portal(database, database_url=cluster.url(database))
        assert portal.command("migrate").returncode == 0
        copy = Copy(mariadb, cluster.url(database), cluster.dsn(database), portal)
        # Before it has begun.
        cluster.stop()
        process = copy.process()
        try:
            wait_for("it waits", lambda: "database is not available" in portal.log.read_text())
            cluster.start()
            with copy.connect() as connection:
                Ledger(connection).session("s1", "alice", "notebook", HOUR, None)
            wait_for("it is copied", copy.is_complete)
            mariadb.stop()
            with copy.connect() as connection:
                Ledger(connection).session("s2", "alice", "notebook", HOUR, None)
            wait_for("it waits", lambda: "target is not available" in portal.log.read_text())
            mariadb.start()
            wait_for("it is copied", lambda: copy.there() == copy.here())
            cluster.restart()
            with copy.connect() as connection:
                Ledger(connection).session("s3", "alice", "notebook", HOUR, None)
            wait_for("it is copied", lambda: copy.there() == copy.here())
            assert process.poll() is None and "planted" not in portal.log.read_text()
        finally:
            process.kill()
            process.wait()


def test_a_source_that_was_restored_is_copied_anew(copy, source, postgres, make_portal):
    """Its numbers are another cluster's: some have not come here yet, and what was written since is gone."""
    fill(source, 10)
    source.session("lost", "alice", "notebook", HOUR, None)
    copy.all()
    position = copy.position()
    # What a dump of a cluster with more transactions leaves behind.
    for table in ("session_change", "rollup_change"):
        source.sql(f"ALTER TABLE {table} RENAME TO old")
        source.sql(f"CREATE TABLE {table} (LIKE old INCLUDING ALL)")
        source.sql(f"INSERT INTO {table} SELECT * FROM old")
        source.sql("DROP TABLE old")
        source.sql(f"UPDATE {table} SET changed = changed + 1000000000000")
    source.sql("ALTER TABLE session DISABLE TRIGGER USER")
    source.sql("DELETE FROM session WHERE id = 'lost'")
    source.sql("ALTER TABLE session ENABLE TRIGGER USER")
    source.sql("DELETE FROM session_change WHERE id = 'lost'")
    copy.all()
    assert copy.there() == copy.here() and len(copy.there()[0]) == 10
    assert copy.position() != position
    source.session("new", "alice", "notebook", HOUR, None)
    copy.all()
    assert copy.there() == copy.here()


def test_a_source_that_was_set_back_is_copied_anew(copy, source):
    fill(source, 3)
    copy.all()
    # The copy has come further than the source ever was.
    further = copy.position().replace('["session_change", ', '["session_change", 9')
    assert further != copy.position()
    copy.mariadb.rows(copy.name, "UPDATE usage_sync SET position = %s", further)
    source.sql("UPDATE session SET username = 'bob'")
    copy.all()
    assert copy.there() == copy.here()


def test_a_target_that_was_set_back_catches_up(copy, source):
    fill(source, 8)
    copy.all()
    saved = {name: copy.rows(f"SELECT * FROM {name}") for name in ("usage_session", "usage_hour", "usage_sync")}
    source.sql("UPDATE session SET username = 'bob'")
    source.sql("DELETE FROM rollup_hour WHERE gpu_seconds > 5")
    copy.all()
    for name, rows in saved.items():
        copy.rows(f"DELETE FROM {name}")
        for row in rows:
            copy.mariadb.rows(copy.name, f"INSERT INTO {name} VALUES ({', '.join(['%s'] * len(row))})", *row)
    assert copy.there() != copy.here()
    copy.all()
    assert copy.there() == copy.here()


def test_the_first_rates_price_what_was_copied_before(copy, source):
    fill(source, 3)
    copy.all()
    assert copy.rows("SELECT DISTINCT cost, currency FROM usage_hour") == [(None, None)]
    source.sql(RATE, "2026-01-01T00:00:00Z")
    copy.all()
    assert copy.rows("SELECT gpu_seconds, cost, currency FROM usage_hour ORDER BY gpu_seconds") == [
        (0, Decimal("0"), "EUR"),
        (1, Decimal("0.000278"), "EUR"),
        (2, Decimal("0.000556"), "EUR"),
    ]


def test_everything_anew_when_told_so(copy, source):
    fill(source, 4)
    copy.all()
    copy.rows("UPDATE usage_session SET username = 'wrong'")
    copy.rows(
        "INSERT INTO usage_hour SELECT 'foreign', hour, '', '', '', '', 1, 1, 1, 1, NULL, NULL, 0, hour "
        "FROM usage_hour LIMIT 1"
    )
    assert copy.portal.command("sync", "--once").returncode == 0
    assert copy.there() != copy.here()
    assert copy.portal.command("sync", "--once", "--full").returncode == 0
    assert copy.there() == copy.here()


@pytest.mark.parametrize(
    "name", ["größe", "\U0001f4a9", "x ", "x", "X", "x\t", "'; DROP TABLE usage_hour; --", "%s", "ascii" * 300, "\\"]
)
def test_hostile_names_are_copied_as_they_are(copy, source, name):
    for other in (name, "x", "é", "e"):
        source.sql(
            "INSERT INTO rollup_hour (hour, username, group_name, kind, gpu_type) VALUES (%s, %s, %s, 'job', '')"
            " ON CONFLICT DO NOTHING",
            HOUR,
            other,
            other,
        )
        source.sql(
            "INSERT INTO session (id, username, started_at, source) VALUES (%s, %s, %s, 'pod') ON CONFLICT DO NOTHING",
            str(len(other)) + str(hash(other)),
            other,
            HOUR,
        )
    copy.all()
    assert copy.there() == copy.here()


def test_what_was_there_before_the_notes(mariadb, postgres, python_path, make_portal):
    """A portal that is upgraded: migrations note all that there is."""
    from alembic import command
    from gpuhub_portal.database import _alembic
    from sqlalchemy import make_url

    name = postgres.create("upgraded")
    command.upgrade(_alembic(make_url(postgres.url(name)).set(drivername="postgresql+psycopg")), "0002_ledger")
    portal = make_portal(name)
    copy = Copy(mariadb, postgres.url(name), postgres.dsn(name), portal)
    with copy.connect() as connection:
        fill(Ledger(connection), 6)
    refused = portal.command("sync", "--once")
    assert refused.returncode == 1 and "run `python -m gpuhub_portal migrate` first" in refused.stderr
    assert portal.command("migrate").returncode == 0
    assert portal.command("sync", "--once").returncode == 0
    assert copy.there() == copy.here() and len(copy.there()[0]) == 6


def test_a_source_whose_user_has_few_rights(copy, postgres, database, source):
    """The portal's own user owns its tables and nothing else."""
    source.sql("DROP ROLE IF EXISTS plain")
    source.sql("CREATE ROLE plain LOGIN")
    source.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
    fill(source, 2)
    copy.portal.environment["USAGE_PORTAL_DATABASE_URL"] = postgres.url(database).replace("postgres:", "plain:", 1)
    done = copy.portal.command("sync", "--once")
    source.sql("DROP OWNED BY plain")
    assert done.returncode == 0, done.stderr
    assert copy.there() == copy.here()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mysql_url": None}, "set either USAGE_PORTAL_MYSQL_URL or USAGE_PORTAL_MYSQL_URL_FILE"),
        ({"mysql_url": "planted"}, "the MySQL URL is none"),
        (
            {"mysql_url": "postgresql://u:planted-1@h/d"},
            "must be MySQL or MariaDB, but its URL begins with postgresql:",
        ),
        ({"mysql_url": None, "mysql_url_file": "/nowhere"}, "USAGE_PORTAL_MYSQL_URL_FILE: /nowhere cannot be read"),
        ({"mysql_batch": "0"}, "USAGE_PORTAL_MYSQL_BATCH: "),
        ({"mysql_url": "mysql://portal:planted-1@127.0.0.1:1/d"}, "the target is not available: "),
        ({"mysql_url": "wrong password"}, "Access denied for user 'portal'@'localhost'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_right_are_named(copy, settings, says):
    if settings.get("mysql_url") == "wrong password":
        settings = {"mysql_url": copy.mariadb.url(copy.name, "planted-wrong")}
    for name, value in settings.items():
        variable = f"USAGE_PORTAL_{name.upper()}"
        copy.portal.environment.pop(variable, None)
        copy.portal.environment |= {variable: value} if value is not None else {}
    done = copy.portal.command("sync", "--once")
    assert done.returncode == 1 and says in done.stderr and "planted" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_tables_of_a_newer_portal_are_left_alone(copy, source):
    fill(source, 1)
    copy.all()
    copy.rows("UPDATE usage_sync SET version = 2")
    before = copy.there()
    source.sql("UPDATE session SET username = 'bob'")
    done = copy.portal.command("sync", "--once")
    assert done.returncode == 1 and "tables are of version 2, this portal writes 1" in done.stderr
    assert copy.there() == before
