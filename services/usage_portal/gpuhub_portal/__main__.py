"""Commands: serve, collector, migrate, wait, sync, books, openapi, and tokens without an API."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import runpy
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from . import logs, tokens
from .database import Database, NewerSchemaError, SchemaError, UnavailableError, migrate
from .scopes import Scope
from .settings import Settings, SettingsError, load, read_secret

_ACTOR = "command line"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpuhub_portal", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="answer requests until told to stop")
    commands.add_parser("collector", help="record what pods hold, until told to stop")
    migration = commands.add_parser("migrate", help="bring the database to this version and time zone")
    migration.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for a database that is away")
    commands.add_parser("wait", help="return once the database has the schema of this version")
    commands.add_parser("openapi", help="print the OpenAPI document")
    sync = commands.add_parser("sync", help="keep a copy of sessions and usage in a MySQL or MariaDB")
    sync.add_argument("--once", action="store_true", help="end when all is copied, instead of going on")
    sync.add_argument("--full", action="store_true", help="copy everything anew")
    books = commands.add_parser("books", help="GPU hours of each node, held and idle; fails where they do not balance")
    books.add_argument("--hours", type=float, default=24, help="of the last hours (24)")
    token = commands.add_parser("token", help="tokens").add_subparsers(dest="token_command", required=True)
    create = token.add_parser("create", help="make a token and print it, once")
    create.add_argument("name")
    create.add_argument("--days", type=float, help="until it expires; without it never")
    adopt = token.add_parser("adopt", help="accept the token in a file, and no other of this name")
    adopt.add_argument("name")
    adopt.add_argument("--file", type=Path, required=True)
    for command in (create, adopt):
        command.add_argument(
            "--scope", action="append", required=True, choices=[scope.value for scope in Scope], dest="scopes"
        )
    token.add_parser("list", help="what is known about tokens, as JSON")
    rotate = token.add_parser("rotate", help="make a successor and print it, once")
    rotate.add_argument("id", type=uuid.UUID)
    rotate.add_argument("--overlap-seconds", type=int, default=3600, help="how long the old one works beside it")
    revoke = token.add_parser("revoke", help="end a token now")
    revoke.add_argument("id", type=uuid.UUID)
    return parser


def _serve(settings: Settings) -> None:
    import uvicorn

    from .app import create_app

    logs.configure(settings.log_level, settings.secrets())
    # A database that is away may come; until then requests are told so.
    with suppress(UnavailableError):
        asyncio.run(_check(settings))
    uvicorn.run(
        create_app(settings),
        host=settings.listen_address,
        port=settings.listen_port,
        log_config=None,
        access_log=False,
        server_header=False,
        # The X-Forwarded headers of whoever asks are nobody's business here.
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )


def _until(action: Callable[[], Any], seconds: float) -> None:
    """Do it again each second until it can be done, and say what is waited for."""
    # What is waited for is said below, once.
    logging.disable(logging.WARNING)
    deadline, said = time.monotonic() + seconds, ""
    while True:
        try:
            return action()
        except NewerSchemaError:
            raise
        except (SchemaError, UnavailableError) as error:
            if time.monotonic() >= deadline:
                raise
            text = f"{error}: {str(error.__cause__).splitlines()[0]}" if error.__cause__ else str(error)
            if text != said:
                said = text
                print(f"usage portal: waiting: {said}", file=sys.stderr, flush=True)
            time.sleep(1)


async def _check(settings: Settings) -> None:
    database = Database(settings.database(), pool_size=1)
    try:
        await database.check()
    finally:
        await database.close()


async def _with_database(settings: Settings, action: Callable[[Any], Awaitable[Any]]) -> Any:
    database = Database(settings.database(), pool_size=1)
    try:
        async with database.begin() as connection:
            return await action(connection)
    finally:
        await database.close()


def _books(settings: Settings, hours: float) -> None:
    from .ledger import reports

    async def read(connection: Any) -> list[reports.Books]:
        now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
        return await reports.books(connection, now - timedelta(hours=hours), now)

    nodes = asyncio.run(_with_database(settings, read))
    print(f"{'node':<30} {'held':>12} {'idle':>12} {'capacity':>12} {'over':>12}   GPU hours")
    for node in nodes:
        amounts = (node.held, node.idle, node.capacity, node.over)
        line = " ".join(f"{amount / 3600:>12.4f}" for amount in amounts)
        print(f"{node.node:<30} {line}" + (f"   off by {node.difference} s" if node.difference else ""))
    if any(node.difference for node in nodes):
        sys.exit("usage portal: held and idle are not capacity and over; docs/data-model.md says what to look at")


def _token(settings: Settings, arguments: argparse.Namespace) -> None:
    async def act(connection: Any) -> Any:
        if arguments.token_command == "create":
            now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
            expires_at = now + timedelta(days=arguments.days) if arguments.days is not None else None
            return (await tokens.create(connection, _ACTOR, arguments.name, arguments.scopes, expires_at))[0]
        if arguments.token_command == "adopt":
            text = read_secret(arguments.file, "--file")
            changed = await tokens.adopt(connection, _ACTOR, arguments.name, arguments.scopes, text)
            return "changed" if changed else "unchanged"
        if arguments.token_command == "rotate":
            overlap = timedelta(seconds=arguments.overlap_seconds)
            return (await tokens.rotate(connection, _ACTOR, arguments.id, overlap))[0]
        if arguments.token_command == "revoke":
            return await tokens.revoke(connection, _ACTOR, arguments.id)
        return json.dumps([dict(row) for row in await tokens.listed(connection, None, 10_000)], default=str, indent=2)

    printed = asyncio.run(_with_database(settings, act))
    if printed is not None:
        print(printed)


def main() -> None:
    """Run a command; what is wrong is said in one line, and the exit status is 1."""
    arguments = _parser().parse_args()
    try:
        settings = load()
        if arguments.command == "serve":
            _serve(settings)
        elif arguments.command == "migrate":
            _until(lambda: migrate(settings.database(), settings.time_zone), arguments.wait)
        elif arguments.command == "collector":
            runpy.run_module("gpuhub_portal.collector", run_name="__main__")
        elif arguments.command == "wait":
            _until(lambda: asyncio.run(_check(settings)), float("inf"))
        elif arguments.command == "sync":
            from . import mysql_sync

            mysql_sync.run(settings, once=arguments.once, full=arguments.full)
        elif arguments.command == "books":
            _books(settings, arguments.hours)
        elif arguments.command == "openapi":
            from .app import create_app

            print(json.dumps(create_app(settings).openapi(), indent=2, sort_keys=True))
        else:
            _token(settings, arguments)
    except (SettingsError, SchemaError, UnavailableError, tokens.TokenError) as error:
        sys.exit(f"usage portal: {error}")
    except SQLAlchemyError as error:
        sys.exit(f"usage portal: the database refuses: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
