"""Bearer tokens: made, listed, rotated, revoked, and recognised."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit
from .database import Database
from .scopes import Scope
from .tables import token as table

# Found by secret scanners, and by people who see one where none should be.
PREFIX = "gpuhub_"
# Most tokens that are remembered; an installation has a handful.
_MOST_REMEMBERED = 1000
_ADMIN_FILE_NAME = "admin-token-file"


class TokenError(Exception):
    """What was asked of a token cannot be done."""


class NoTokenError(TokenError):
    """There is no token of this id."""


@dataclass(frozen=True)
class Token:
    """What is known about a token that is valid."""

    name: str
    scopes: frozenset[str]


def digest(text: str) -> bytes:
    """SHA-256 of a token; a fast hash is enough for 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _shown(row: Any) -> dict[str, Any]:
    return {column: value for column, value in row._mapping.items() if column != "digest"}


async def create(
    connection: AsyncConnection,
    actor: str,
    name: str,
    scopes: Iterable[Scope],
    expires_at: datetime | None = None,
    text: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Make a token and return its text, which is shown this once, and its row. `text` takes one that exists already."""
    text = text or PREFIX + secrets.token_urlsafe(32)
    row = {
        "id": uuid.uuid4(),
        "name": name,
        "digest": digest(text),
        "scopes": sorted({Scope(scope).value for scope in scopes}),
        "created_by": actor,
        "expires_at": expires_at,
    }
    made = (await connection.execute(sa.insert(table).values(row).returning(table))).one()
    await audit.record(connection, actor, "token.create", name, after=_audited(made))
    return text, _shown(made)


def _audited(row: Any) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "scopes": row.scopes,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
    }


async def rotate(connection: AsyncConnection, actor: str, token_id: uuid.UUID, overlap: timedelta) -> Any:
    """Make a successor with the same name, scopes and lifetime; the old one works for `overlap` more."""
    old = await _locked(connection, token_id)
    now = (await connection.execute(sa.select(sa.func.now()))).scalar_one()
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise TokenError("the token is revoked or expired; make a new one")
    lifetime = old.expires_at - old.created_at if old.expires_at else None
    ends = now + overlap if old.expires_at is None else min(now + overlap, old.expires_at)
    changed = sa.update(table).where(table.c.id == token_id).values(expires_at=ends).returning(table)
    after = (await connection.execute(changed)).one()
    await audit.record(connection, actor, "token.rotate", old.name, _audited(old), _audited(after))
    return await create(connection, actor, old.name, old.scopes, now + lifetime if lifetime else None)


async def revoke(connection: AsyncConnection, actor: str, token_id: uuid.UUID) -> None:
    """End a token now; one that has ended stays as it is."""
    old = await _locked(connection, token_id)
    if old.revoked_at is None:
        changed = sa.update(table).where(table.c.id == token_id).values(revoked_at=sa.func.now()).returning(table)
        after = (await connection.execute(changed)).one()
        await audit.record(connection, actor, "token.revoke", old.name, _audited(old), _audited(after))


async def _locked(connection: AsyncConnection, token_id: uuid.UUID) -> Any:
    row = (await connection.execute(sa.select(table).where(table.c.id == token_id).with_for_update())).one_or_none()
    if row is None:
        raise NoTokenError("there is no such token")
    return row


async def adopt(connection: AsyncConnection, actor: str, name: str, scopes: Iterable[Scope], text: str) -> bool:
    """Make a token of this text the only one of its name that the command has adopted; return whether that changed."""
    wanted = sorted({Scope(scope).value for scope in scopes})
    rows = (await connection.execute(sa.select(table).where(table.c.name == name).with_for_update())).all()
    live = [row for row in rows if row.revoked_at is None]
    same = [row for row in live if hmac.compare_digest(row.digest, digest(text)) and row.scopes == wanted]
    if same and len(live) == 1 and same[0].expires_at is None:
        return False
    for row in live:
        await revoke(connection, actor, row.id)
    # The digest is unique, also among those that are revoked.
    await connection.execute(sa.delete(table).where(table.c.digest == digest(text)))
    await create(connection, actor, name, wanted, text=text)
    return True


async def listed(connection: AsyncConnection, after: tuple[datetime, uuid.UUID] | None, limit: int) -> list[Any]:
    """Rows without digests, oldest first, behind the row whose time and id are `after`."""
    columns = [column for column in table.c if column.name != "digest"]
    query = sa.select(*columns).order_by(table.c.created_at, table.c.id).limit(limit)
    if after is not None:
        query = query.where(sa.tuple_(table.c.created_at, table.c.id) > sa.tuple_(*map(sa.literal, after)))
    return [row._mapping for row in (await connection.execute(query)).all()]


class Tokens:
    """Recognises tokens. What the database said is believed for `seconds`; this process's own changes count at once."""

    def __init__(self, database: Database, admin_file: Path | None, seconds: float) -> None:
        self._database, self._admin_file, self._seconds = database, admin_file, seconds
        self._known: dict[bytes, tuple[float, datetime | None, Token]] = {}
        self._admin: tuple[tuple[int, int], bytes] | None = None

    def forget(self) -> None:
        """Look every token up again: one was changed."""
        self._known.clear()

    def remembered(self, text: str) -> Token | None:
        """The token of this text if that is known without a look into the database, else None."""
        return self._remembered(digest(text))

    def _remembered(self, offered: bytes) -> Token | None:
        admin = self._admin_digest()
        if admin is not None and hmac.compare_digest(admin, offered):
            return Token(_ADMIN_FILE_NAME, frozenset({Scope.ADMIN.value}))
        known = self._known.get(offered)
        if known is None or time.monotonic() - known[0] >= self._seconds:
            return None
        return known[2] if known[1] is None or known[1] > datetime.now(UTC) else None

    async def recognise(self, text: str) -> Token | None:
        """The token of this text, or None where there is none, it is revoked or expired."""
        offered = digest(text)
        return self._remembered(offered) or await self._look_up(offered)

    async def _look_up(self, offered: bytes) -> Token | None:
        asked = time.monotonic()
        async with self._database.begin() as connection:
            row = (
                await connection.execute(sa.select(table, sa.func.now().label("now")).where(table.c.digest == offered))
            ).one_or_none()
            # The index has compared already; this compares without telling how much was equal.
            if row is None or not hmac.compare_digest(row.digest, offered):
                self._known.pop(offered, None)
                return None
            if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= row.now):
                self._known.pop(offered, None)
                return None
            if row.last_used_at is None or row.now - row.last_used_at > timedelta(minutes=1):
                used = sa.update(table).where(table.c.id == row.id).values(last_used_at=sa.func.now())
                await connection.execute(used)
        found = Token(row.name, frozenset(row.scopes))
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[offered] = (asked, row.expires_at, found)
        return found

    def _admin_digest(self) -> bytes | None:
        """The digest of the administrator's token. The file is read when it changes; gone or empty, there is none."""
        if self._admin_file is None:
            return None
        try:
            state = self._admin_file.stat()
            key = (state.st_mtime_ns, state.st_ino)
            if self._admin is None or self._admin[0] != key:
                text = self._admin_file.read_text(encoding="utf-8").strip()
                self._admin = (key, digest(text)) if text else None
        except (OSError, UnicodeDecodeError):
            self._admin = None
        return self._admin[1] if self._admin else None
