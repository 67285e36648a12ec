"""The policy in the database: limits and budgets of the default, groups and users, and rates.

Each change is checked with the whole policy by `gpuhub_core.quota_policy`, audited, and counted in a version, in one
transaction that holds the lock of the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from gpuhub_core import quota_policy
from gpuhub_core.quantities import Limits
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from . import audit, tables
from .problems import ProblemError

DEFAULT, GROUP, USER = "default", "group", "user"
_SECTIONS = {GROUP: "groups", USER: "users"}
# Before somebody writes a policy there is no limit but the hardware, as in installations without a portal.
UNLIMITED_DOCUMENT = dict.fromkeys(("cpu", "memory", "gpu"), "unlimited")


@dataclass(frozen=True)
class Current:
    """The policy as of a version."""

    version: int
    policy: quota_policy.Policy

    def limits(self, username: str) -> Limits:
        """What a user may have at a time."""
        return self.policy.limits_for(username)

    def budgets(self, username: str) -> list[quota_policy.Budget]:
        """What a user may use over a time."""
        return self.policy.budgets_for(username)


class Policies:
    """The policy, kept in memory until its version in the database is another."""

    def __init__(self, time_zone: str) -> None:
        self._time_zone = time_zone
        self._current: Current | None = None

    async def current(self, connection: AsyncConnection) -> Current:
        """The policy as it is committed now."""
        version = (await connection.execute(sa.select(tables.policy_state.c.version))).scalar_one()
        if self._current is None or self._current.version != version:
            self._current = Current(version, quota_policy.policy(await self.tree(connection)))
        return self._current

    async def tree(self, connection: AsyncConnection) -> dict[str, Any]:
        """The whole policy as the policy file writes it."""
        members: dict[str, list[str]] = {}
        listed = sa.select(tables.policy_member).order_by(tables.policy_member.c.username)
        for group, username in (await connection.execute(listed)).all():
            members.setdefault(group, []).append(username)
        tree: dict[str, Any] = {"time_zone": self._time_zone, "default": UNLIMITED_DOCUMENT, "groups": {}, "users": {}}
        for kind, name, document in (await connection.execute(sa.select(tables.policy_subject))).all():
            if kind == DEFAULT:
                tree["default"] = document
            elif kind == GROUP:
                tree["groups"][name] = {**document, "members": members.get(name, [])}
            else:
                tree["users"][name] = document
        tree["rates"] = await rates(connection)
        return tree

    async def put(
        self, connection: AsyncConnection, actor: str, kind: str, name: str, document: Mapping[str, Any]
    ) -> bool:
        """Make a subject's entry be `document` (a group's with `members`); whether it is new. Raises ProblemError."""
        tree = await self._locked(connection)
        before = _entry(tree, kind, name)
        _set_entry(tree, kind, name, dict(document))
        _check(tree)
        if before == document:
            return False
        kept = {key: value for key, value in document.items() if key != "members"}
        row = {"kind": kind, "name": name, "document": kept}
        await connection.execute(
            insert(tables.policy_subject)
            .values(row)
            .on_conflict_do_update(index_elements=["kind", "name"], set_={"document": kept})
        )
        if kind == GROUP:
            await self._set_members(connection, name, document.get("members", []))
        await self._changed(connection)
        await audit.record(connection, actor, "policy.put", _subject(kind, name), before, dict(document))
        return before is None

    async def delete(self, connection: AsyncConnection, actor: str, kind: str, name: str) -> None:
        """Remove a subject's entry. Raises ProblemError 404."""
        tree = await self._locked(connection)
        before = _entry(tree, kind, name)
        if before is None:
            raise ProblemError(404, "not_found", f"The policy says nothing about this {kind}.")
        subject = tables.policy_subject.c
        await connection.execute(sa.delete(tables.policy_subject).where(subject.kind == kind, subject.name == name))
        if kind == GROUP:
            await self._set_members(connection, name, [])
        await self._changed(connection)
        await audit.record(connection, actor, "policy.delete", _subject(kind, name), before)

    async def put_rates(self, connection: AsyncConnection, actor: str, wanted: Sequence[Mapping[str, Any]]) -> bool:
        """Add rates; return whether anything changed. Raises ProblemError.

        A rate whose time has come is never changed, nor is one put before or between such: what was used has its price.
        Only the first rates of all may begin in the past, when nothing had a price yet.
        """
        tree = await self._locked(connection)
        there = {rate["from"]: rate for rate in tree["rates"]}
        sent = {rate["from"]: rate for rate in wanted}
        if len(sent) < len(wanted):
            raise ProblemError(409, "policy", "Two rates begin at the same time; keep one of them.")
        new = {start: rate for start, rate in sent.items() if there.get(start) != rate}
        tree["rates"] = list((there | sent).values())
        _check(tree)
        now = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
        past = sorted(start for start in new if _instant(start) <= now)
        if past and there:
            raise ProblemError(
                409,
                "rate_in_the_past",
                "What was used has its price already: a rate can begin in the future only.",
                rates=past,
                now=now,
            )
        for start, rate in sorted(new.items()):
            values = _rate_row(rate) | {"created_by": actor}
            await connection.execute(
                insert(tables.rate).values(values).on_conflict_do_update(index_elements=["valid_from"], set_=values)
            )
            await audit.record(connection, actor, "rate.put", start, there.get(start), rate)
        if new:
            await self._changed(connection)
        return bool(new)

    async def delete_rate(self, connection: AsyncConnection, actor: str, valid_from: datetime) -> None:
        """Withdraw a rate that is still to come. Raises ProblemError 404 or 409."""
        tree = await self._locked(connection)
        start = _written(valid_from)
        found = next((rate for rate in tree["rates"] if rate["from"] == start), None)
        if found is None:
            raise ProblemError(404, "not_found", "No rate begins then.")
        now = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
        if valid_from <= now:
            raise ProblemError(
                409, "rate_in_the_past", "This rate holds or has held; what was used has its price already."
            )
        tree["rates"].remove(found)
        _check(tree)
        await connection.execute(sa.delete(tables.rate).where(tables.rate.c.valid_from == valid_from))
        await self._changed(connection)
        await audit.record(connection, actor, "rate.delete", start, found)

    async def _locked(self, connection: AsyncConnection) -> dict[str, Any]:
        """Lock the policy against other changes and return it."""
        await connection.execute(sa.select(tables.policy_state).with_for_update())
        return await self.tree(connection)

    async def _changed(self, connection: AsyncConnection) -> None:
        await connection.execute(sa.update(tables.policy_state).values(version=tables.policy_state.c.version + 1))

    async def _set_members(self, connection: AsyncConnection, group: str, members: Iterable[str]) -> None:
        rows = [{"group_name": group, "username": name} for name in sorted(set(members))]
        await connection.execute(sa.delete(tables.policy_member).where(tables.policy_member.c.group_name == group))
        if rows:
            await connection.execute(sa.insert(tables.policy_member), rows)


def _entry(tree: Mapping[str, Any], kind: str, name: str) -> Any:
    return tree["default"] if kind == DEFAULT else tree[_SECTIONS[kind]].get(name)


def _set_entry(tree: dict[str, Any], kind: str, name: str, document: dict[str, Any]) -> None:
    if kind == DEFAULT:
        tree["default"] = document
    else:
        tree[_SECTIONS[kind]][name] = document


def _subject(kind: str, name: str) -> str:
    return DEFAULT if kind == DEFAULT else f"{kind}/{name}"


def _check(tree: Mapping[str, Any]) -> None:
    try:
        quota_policy.policy(tree)
    except quota_policy.PolicyError as error:
        faults = [{"field": ".".join(map(str, fault.path)), "message": str(fault)[:300]} for fault in error.faults]
        raise ProblemError(409, "policy", str(error)[:1000], errors=faults) from error


# --- rates, as the API writes them: decimals as texts, so that no price passes through a binary fraction ---


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _decimal(micro: int) -> str:
    whole, part = divmod(micro, 10**6)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")


def _micro(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 10**6 + int(part.ljust(6, "0") or 0)


def rate_document(
    valid_from: datetime, currency: str, gpu: Mapping[str, str], cpu_hour: str, memory_gib_hour: str
) -> dict[str, Any]:
    """A rate in the one form in which it is compared: types in lower case, decimals without needless zeros."""
    return {
        "from": _written(valid_from),
        "currency": currency,
        "gpu": {kind.lower(): _decimal(_micro(price)) for kind, price in sorted(gpu.items())},
        "cpu_hour": _decimal(_micro(cpu_hour)),
        "memory_gib_hour": _decimal(_micro(memory_gib_hour)),
    }


def _rate_row(rate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "valid_from": _instant(rate["from"]),
        "currency": rate["currency"],
        "gpu_hour_micro": {kind: _micro(price) for kind, price in rate["gpu"].items()},
        "cpu_hour_micro": _micro(rate["cpu_hour"]),
        "memory_gib_hour_micro": _micro(rate["memory_gib_hour"]),
    }


async def rates(connection: AsyncConnection) -> list[dict[str, Any]]:
    """All rates, oldest first."""
    query = sa.select(tables.rate).order_by(tables.rate.c.valid_from)
    return [
        {
            "from": _written(row.valid_from),
            "currency": row.currency,
            "gpu": {kind: _decimal(price) for kind, price in sorted(row.gpu_hour_micro.items())},
            "cpu_hour": _decimal(row.cpu_hour_micro),
            "memory_gib_hour": _decimal(row.memory_gib_hour_micro),
        }
        for row in (await connection.execute(query)).all()
    ]
