"""Grants of resources to what is about to start, atomic across any number of portals on one database.

Who decides holds the user's lock, and that of what is free; both are advisory locks of the transaction, always taken in
this order. Statements after them see whatever was committed before (READ COMMITTED), so two decisions about the same
GPU never rest on the same knowledge.

A reservation counts as use until it is released, has expired, or is settled: by a pod with its id in the label
`gpuhub.io/reservation`, from the transaction on in which the ledger records that this pod holds something.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from gpuhub_core.quantities import Resources
from gpuhub_core.quota_profiles import Reason
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from .ledger import tables as ledger
from .problems import ProblemError
from .rules import Rules
from .tables import reservation as table

# First keys of the advisory locks; the second is a hash, and a collision only makes two decisions wait for each other.
_USER_LOCK, _FREE_LOCK = 5201, 5202


@dataclass(frozen=True)
class Wish:
    """What is to be granted, on one node; on `home_node` if the user's home is bound to one."""

    username: str
    kind: str
    cpu_milli: int
    memory_bytes: int
    gpu: int
    gpu_type: str = "any"
    home_node: str | None = None

    def digest(self) -> bytes:
        """Equal for equal wishes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


async def grant(connection: AsyncConnection, rules: Rules, owner: str, key: str, wish: Wish, seconds: int) -> Any:
    """Return a new reservation, or the one that this owner's key has made already. Raises ProblemError 409 or 503."""
    await _lock(connection, wish.username)
    known = await _by_key(connection, owner, key, wish)
    if known is not None:
        if known.state != "active":
            raise _over(known)
        return known
    await rules.check_knowledge(connection)
    reason = await _judge(connection, rules, wish)
    if reason is not None:
        raise ProblemError(409, reason.code, reason.text_en, numbers=reason.numbers, until=reason.until)
    return await _write(connection, owner, key, wish, seconds)


async def record(
    connection: AsyncConnection, rules: Rules, owner: str, key: str, wish: Wish, seconds: int
) -> tuple[Any, Reason | None]:
    """Return a reservation of what its owner has granted already, and why it would have been refused, if it would.

    It is settled if a pod with its id holds or has held something, and counts like any other if not. One that has
    expired counts again: its owner has had no other way to renew it. Raises ProblemError 409 where it was released.
    """
    await _lock(connection, wish.username)
    known = await _by_key(connection, owner, key, wish)
    identity = known.id if known is not None else _identity(key)
    pod = await _pod_of(connection, identity)
    if pod is not None:
        settled = {"state": "settled", "pod_uid": pod.pod_uid, "ended_at": pod.held_from}
        return await _write(connection, owner, key, wish, seconds, **settled), None
    if known is not None and known.state == "active":
        return known, None
    if known is not None and known.state != "expired":
        raise _over(known)
    reason = await _judge(connection, rules, wish)
    return await _write(connection, owner, key, wish, seconds), reason


async def _judge(connection: AsyncConnection, rules: Rules, wish: Wish) -> Reason | None:
    amounts = Resources(wish.cpu_milli, wish.memory_bytes, wish.gpu)
    return await rules.refusal(connection, wish.username, amounts, wish.gpu_type, wish.home_node)


def _identity(key: str) -> uuid.UUID:
    """The id of the reservation that a key makes: the key where it is a UUID, as its pod's label may be already."""
    try:
        identity = uuid.UUID(key)
    except ValueError:
        return uuid.uuid4()
    return identity if str(identity) == key else uuid.uuid4()


async def _pod_of(connection: AsyncConnection, identity: uuid.UUID) -> Any:
    """The pod that holds or has held what a reservation grants; of several the first."""
    pod = ledger.allocation.c
    query = sa.select(pod.pod_uid, pod.held_from).where(
        pod.reservation == str(identity), pod.reservation != sa.text("''"), pod.held_from.is_not(None)
    )
    return (await connection.execute(query.order_by(pod.held_from, pod.pod_uid).limit(1))).one_or_none()


async def _write(connection: AsyncConnection, owner: str, key: str, wish: Wish, seconds: int, **columns: Any) -> Any:
    """Make the reservation of a key, or make it anew."""
    now = sa.func.clock_timestamp()
    state = {"state": "active", "expires_at": now + timedelta(seconds=seconds), "ended_at": None, "pod_uid": None}
    state |= columns
    row = asdict(wish) | {
        "id": _identity(key),
        "owner": owner,
        "idempotency_key": key,
        "request_digest": wish.digest(),
        "gpu_type": wish.gpu_type if wish.gpu else None,
        "created_at": now,
    }
    made = insert(table).values(row | state)
    made = made.on_conflict_do_update(index_elements=["owner", "idempotency_key"], set_=state)
    return (await connection.execute(made.returning(table))).one()


async def _lock(connection: AsyncConnection, username: str) -> None:
    """Take the user's lock, then that of what is free.

    One lock for all nodes and types: a decision takes some milliseconds, and one for `any` would need all of them.
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_USER_LOCK, sa.func.hashtext(username))))
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_FREE_LOCK, 0)))


async def _by_key(connection: AsyncConnection, owner: str, key: str, wish: Wish) -> Any:
    """The reservation that a key has made, with its state as of now; None if none. Raises ProblemError 409."""
    over = sa.and_(table.c.state == "active", table.c.expires_at <= sa.func.clock_timestamp())
    columns = [column for column in table.c if column is not table.c.state]
    query = sa.select(*columns, sa.case((over, "expired"), else_=table.c.state).label("state")).where(
        sa.or_(sa.and_(table.c.owner == owner, table.c.idempotency_key == key), table.c.id == _identity(key))
    )
    found = (await connection.execute(query)).all()
    if any((row.owner, row.idempotency_key, row.request_digest) != (owner, key, wish.digest()) for row in found):
        raise ProblemError(409, "idempotency_key_reused", "This Idempotency-Key was sent before with another request.")
    return found[0] if found else None


def _over(known: Any) -> ProblemError:
    return ProblemError(
        409,
        "reservation_over",
        "The reservation that this Idempotency-Key has made is over; ask with a new key.",
        id=str(known.id),
        state=known.state,
    )


async def renew(connection: AsyncConnection, owner: str | None, reservation_id: uuid.UUID, seconds: int) -> Any:
    """Let a reservation last `seconds` from now. Raises ProblemError 404, or 409 where it is over."""
    row = await _own(connection, owner, reservation_id)
    # The locks of a decision: who reads that it has expired must not grant its GPU while it is renewed.
    await _lock(connection, row.username)
    now = sa.func.clock_timestamp()
    changed = (
        sa.update(table)
        .where(table.c.id == reservation_id, table.c.state == "active", table.c.expires_at > now)
        .values(expires_at=sa.func.greatest(table.c.expires_at, now + timedelta(seconds=seconds)))
        .returning(table)
    )
    renewed = (await connection.execute(changed)).one_or_none()
    if renewed is None:
        state = (await _own(connection, owner, reservation_id)).state
        state = "expired" if state == "active" else state
        raise ProblemError(409, "reservation_over", f"The reservation is {state}; ask for another one.", state=state)
    return renewed


async def release(connection: AsyncConnection, owner: str | None, reservation_id: uuid.UUID) -> None:
    """Give a reservation back; one that is over stays as it is. Raises ProblemError 404."""
    await _own(connection, owner, reservation_id)
    await connection.execute(
        sa.update(table)
        .where(table.c.id == reservation_id, table.c.state == "active")
        .values(state="released", ended_at=sa.func.clock_timestamp())
    )


async def _own(connection: AsyncConnection, owner: str | None, reservation_id: uuid.UUID) -> Any:
    """The row; of another owner there is none. `owner` None is an administrator."""
    row = (await connection.execute(sa.select(table).where(table.c.id == reservation_id))).one_or_none()
    if row is None or (owner is not None and row.owner != owner):
        raise ProblemError(404, "not_found", "There is no such reservation.")
    return row


async def tidy(connection: AsyncConnection) -> None:
    """Note which reservations are settled or have expired. They do not count since; this is for those who look."""
    pod = ledger.allocation.c
    seen = sa.and_(pod.reservation == sa.cast(table.c.id, sa.Text), pod.reservation != sa.text("''"))
    await connection.execute(
        sa.update(table)
        .where(table.c.state.in_(["active", "expired"]), seen, pod.held_from.is_not(None))
        .values(state="settled", pod_uid=pod.pod_uid, ended_at=pod.held_from)
    )
    await connection.execute(
        sa.update(table)
        .where(table.c.state == "active", table.c.expires_at <= sa.func.clock_timestamp())
        .values(state="expired", ended_at=table.c.expires_at)
    )


async def listed(
    connection: AsyncConnection,
    *,
    username: str | None,
    state: str | None,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> Sequence[Any]:
    """Reservations, latest first, behind the one whose time and id are `after`."""
    query = sa.select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
    if username is not None:
        query = query.where(table.c.username == username)
    if state is not None:
        query = query.where(table.c.state == state)
    if after is not None:
        query = query.where(
            sa.tuple_(table.c.created_at, table.c.id) < sa.tuple_(sa.literal(after[0]), sa.literal(after[1]))
        )
    return (await connection.execute(query)).all()
