"""What the hub asks the usage portal, over connections that are kept.

Every answer is checked before it is believed: a portal that is away, slow, broken or lying is one that is away
(PortalAwayError), and never an exception that the caller does not know.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl
from gpuhub_core.gpu_products import ANY
from gpuhub_core.quantities import (
    BYTES_PER_GIB,
    LARGEST,
    RESOURCE_NAMES,
    Limits,
    QuantityError,
    Resources,
    parse_count,
    parse_cpu,
    parse_memory,
)
from gpuhub_core.quota_profiles import Profile, Reason, Request

_MOST_BYTES = 4 * 2**20
_LONGEST_TEXT = 500
# Seconds; a portal may answer what it has counted a moment ago.
_OLDEST_LIMITS = 1.0
# Of the statuses from 400 on those that say nothing of the request: a wrong token, too much at a time.
_UNDECIDED = (401, 403, 408, 429)
# A portal that does not know what happens in the cluster now, and so decides nothing; it answers all else.
_COLLECTOR_BEHIND = "collector_behind"


class PortalAwayError(Exception):
    """The portal gave no answer that can be used; the text says what happened, for the log.

    `age`: of one that answers, but decides nothing, how old its knowledge is in seconds, if it says so.
    """

    age: float = 0


class PortalRefusedError(Exception):
    """The portal's decision against a request: `status`, and of the problem `code`, `detail`, `numbers`, `until`.

    `state` is that of a reservation which is over.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = _text(problem.get("code"), "code", empty=True)
        self.detail = _text(problem.get("detail"), "detail", empty=True)
        self.numbers = _mapping(problem.get("numbers") or {}, "numbers")
        self.until = _time(problem.get("until"))
        self.state = _text(problem.get("state"), "state", empty=True)
        super().__init__(f"{status} {self.code}: {self.detail}")


@dataclass(frozen=True)
class Account:
    """What a portal said about a user. It knows whatever happened before `sent_at` (time.monotonic())."""

    sent_at: float
    limits: Limits
    usage: Resources
    profiles: tuple[Profile, ...] = ()
    # Free GPUs by type, and of all types under `any`; None where the portal does not tell.
    free: Mapping[str, int] | None = None
    # When it was here; what ran out before may not be in it.
    received_at: float = field(default_factory=time.monotonic)
    # The same for people.
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass(frozen=True)
class Reservation:
    """A grant of the portal, good for `seconds` from when it was asked for; once `settled`, as long as its pod is."""

    id: str
    seconds: float
    settled: bool = False


def _text(value: Any, name: str, empty: bool = False) -> str:
    if value is None and empty:
        return ""
    if not isinstance(value, str) or not (value or empty):
        raise PortalAwayError(f"{name} is no text")
    return value[:_LONGEST_TEXT]


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise PortalAwayError(f"{name} is {str(value)[:40]!r}, and no amount")
    return value


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        raise PortalAwayError(f"{str(value)[:40]!r} is no time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PortalAwayError(f"{name} is no object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise PortalAwayError(f"{name} is no list")
    return value


def read_profile(value: Any) -> Profile:
    """Return a profile as `gpuhub_core.quota_profiles.Profile.as_dict` states it. Raises PortalAwayError."""
    stated = _mapping(value, "a profile")
    slug = _text(stated.get("slug"), "a profile's slug")
    resources = Resources(*(_count(stated.get(name), f"{slug}.{name}") for name in RESOURCE_NAMES))
    reason = None
    if stated.get("offered", True) is not True or stated.get("reason"):
        why = _mapping(stated.get("reason"), "reason")
        reason = Reason(
            _text(why.get("code"), "reason.code"),
            _text(why.get("text"), "reason.text", empty=True),
            _mapping(why.get("numbers") or {}, "reason.numbers"),
            _time(why.get("until")),
        )
    return Profile(
        slug=slug,
        display_name=_text(stated.get("display_name"), "display_name"),
        request=Request(resources, _text(stated.get("gpu_type"), "gpu_type", empty=True), stated.get("rdma") is True),
        products=tuple(_text(item, "products") for item in _list(stated.get("products") or [], "products")),
        reason=reason,
    )


def read_profiles(values: Any) -> tuple[Profile, ...]:
    """Return profiles; a slug names one. Raises PortalAwayError."""
    profiles = tuple(read_profile(value) for value in _list(values, "profiles"))
    if len({profile.slug for profile in profiles}) != len(profiles):
        raise PortalAwayError("two profiles have the same slug")
    return profiles


def read_limits(body: Any) -> tuple[Limits, Resources]:
    """Return limits and use from the answer of `GET /users/{username}/limits`. Raises PortalAwayError."""
    stated = _mapping(body, "limits")
    usage = _mapping(stated.get("usage"), "usage")
    readers = (
        ("cpu_limit_cores", "cpu_cores", parse_cpu),
        ("memory_limit_gib", "memory_gib", lambda gib: parse_memory(gib * BYTES_PER_GIB)),
        ("gpu_limit", "gpu", parse_count),
    )
    try:
        # A limit that is not stated is no limit that is none.
        limits = [None if stated[key] is None else read(_number(stated[key])) for key, _, read in readers]
        used = [read(_number(usage[key])) for _, key, read in readers]
    except (KeyError, QuantityError, OverflowError) as error:
        raise PortalAwayError(f"limits: {error}") from error
    return Limits(*limits), Resources(*used)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PortalAwayError(f"{str(value)[:40]!r} is no number")
    return value


def read_free(body: Any) -> dict[str, int]:
    """Return free GPUs by type, `any` being all, from the answer of `GET /capacity`. Raises PortalAwayError."""
    free: dict[str, int] = {}
    for item in _list(_mapping(body, "capacity").get("gpu_types"), "gpu_types"):
        kind = _text(_mapping(item, "gpu_types").get("gpu_type"), "gpu_type", empty=True)
        free[kind] = _count(item.get("free"), "free")
    free.setdefault(ANY, sum(free.values()))
    return free


class TokenFile:
    """A token in a file that changes when the token does, as a mounted Secret is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def read(self) -> str:
        """The token as it is now. Raises PortalAwayError."""
        try:
            found = self._path.stat()
            seen = found.st_ino, found.st_mtime_ns, found.st_size
            if seen != self._seen:
                self._token, self._seen = self._path.read_text(encoding="ascii").strip(), seen
        except (OSError, ValueError) as error:
            # Not the file's content, which a ValueError quotes.
            raise PortalAwayError(f"{self._path} has no token: {type(error).__name__}") from None
        if not self._token or not self._token.isprintable():
            raise PortalAwayError(f"{self._path} has no token")
        return self._token


class PortalClient:
    """A portal at `url`, for whose token `token_file` is read.

    Each question may take `timeout_seconds`. After one that was not answered none is asked for `retry_seconds`: a
    crowd that starts servers while the portal is away does not wait for it one by one.
    """

    def __init__(self, url: str, token_file: str, timeout_seconds: float = 5, retry_seconds: float = 2) -> None:
        self._url, self._token = url.rstrip("/"), TokenFile(Path(token_file))
        self._proxy = _proxy_for(url)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self.retry_seconds = retry_seconds
        self._session: aiohttp.ClientSession | None = None
        self._away_until, self._why = 0.0, ""

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def profiles(self, username: str, home_node: str = "") -> Account:
        """Limits, use, free GPUs and profiles of a user, whose home may be bound to a node."""
        sent_at = time.monotonic()
        query = f"?home_node={_quoted(home_node)}" if home_node else ""
        body = _mapping(await self._ask("GET", f"/users/{_quoted(username)}/profiles{query}"), "the answer")
        profiles = read_profiles(body.get("items"))
        return Account(sent_at, *read_limits(body.get("limits")), profiles, read_free(body.get("capacity")))

    async def limits(self, username: str) -> Account:
        """Limits and use of a user, as every portal has them."""
        sent_at = time.monotonic() - _OLDEST_LIMITS
        return Account(sent_at, *read_limits(await self._ask("GET", f"/users/{_quoted(username)}/limits")))

    async def reserve(
        self, key: str, username: str, profile: Profile, home_node: str = "", granted: bool = False
    ) -> Reservation:
        """Reserve what a profile needs; the same `key` again is the same reservation. Raises PortalRefusedError.

        One that was `granted` while the portal was away is recorded, and not judged.
        """
        asked_at = datetime.now(timezone.utc)
        wish: dict[str, Any] = {"username": username, "kind": "notebook"}
        wish.update(zip(RESOURCE_NAMES, profile.request.resources.amounts()))
        wish["gpu_type"] = profile.request.gpu_type or ANY
        if home_node:
            wish["home_node"] = home_node
        if granted:
            wish["granted"] = True
        return _reservation(await self._ask("POST", "/reservations", wish, {"Idempotency-Key": key}), asked_at)

    async def renew(self, reservation_id: str) -> Reservation:
        """Make a reservation last longer. Raises PortalRefusedError where it is over."""
        asked_at = datetime.now(timezone.utc)
        return _reservation(await self._ask("PUT", f"/reservations/{_quoted(reservation_id)}/renew"), asked_at)

    async def release(self, reservation_id: str) -> None:
        """Give a reservation back; one that is over stays so."""
        try:
            await self._ask("DELETE", f"/reservations/{_quoted(reservation_id)}")
        except PortalRefusedError as error:
            if error.status not in (404, 410):
                raise

    async def witness(self, events: list[dict[str, Any]]) -> None:
        """Tell what the hub saw; returns once the portal has it."""
        await self._ask("POST", "/witness", {"events": events})

    async def enforcement(self) -> list[dict[str, Any]]:
        """Servers that have to end: `username`, `servername`, `ends_at` (datetime), `reason`."""
        body = await self._ask("GET", "/enforcement")
        ends = []
        for item in _list(_mapping(body, "enforcement").get("items"), "enforcement"):
            entry = _mapping(item, "an entry")
            ends_at = _time(entry.get("ends_at"))
            if ends_at is None:
                raise PortalAwayError("ends_at is missing")
            ends.append(
                {
                    "username": _text(entry.get("username"), "username"),
                    "servername": _text(entry.get("servername"), "servername", empty=True),
                    "ends_at": ends_at,
                    "reason": _text(entry.get("reason"), "reason", empty=True),
                }
            )
        return ends

    async def _ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """The portal's answer. Raises PortalAwayError, or PortalRefusedError."""
        if time.monotonic() < self._away_until:
            raise PortalAwayError(self._why)
        try:
            status, answer = await self._send(method, path, body, headers or {})
            if 400 <= status < 500 and status not in _UNDECIDED:
                raise PortalRefusedError(status, answer if isinstance(answer, dict) else {})
            fine = 200 <= status < 300
            if not fine and _code(answer) != _COLLECTOR_BEHIND:
                raise PortalAwayError(f"{method} {path} was answered with {status}")
        except PortalAwayError as error:
            self._away_until, self._why = time.monotonic() + self.retry_seconds, str(error)
            raise
        if not fine:
            behind = PortalAwayError(f"{method} {path}: it decides nothing now, its collector is behind")
            known_at = _time(answer.get("known_at"))
            behind.age = (datetime.now(timezone.utc) - known_at).total_seconds() if known_at else 0
            raise behind
        return answer

    async def _send(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        if self._session is None:
            # Made here because it belongs to the running loop.
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.request(
                method,
                yarl.URL(self._url + path, encoded=True),
                json=body,
                headers={"Authorization": f"Bearer {self._token.read()}", "Accept": "application/json", **headers},
                proxy=self._proxy,
                # The token is for this portal alone.
                allow_redirects=False,
            ) as response:
                text = b""
                async for chunk in response.content.iter_chunked(2**16):
                    text += chunk
                    if len(text) > _MOST_BYTES:
                        raise PortalAwayError(f"{method} {path}: the answer does not end")
                return response.status, json.loads(text) if text else None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, RecursionError) as error:
            raise PortalAwayError(f"{method} {path}: {type(error).__name__} {error}") from error


def _proxy_for(url: str) -> str | None:
    """The site's proxy for `url`, as variables say it. aiohttp would read all of them again for each request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _code(answer: Any) -> str:
    return str(answer.get("code", ""))[:_LONGEST_TEXT] if isinstance(answer, dict) else ""


def _quoted(part: str) -> str:
    return quote(part, safe="").replace(".", "%2E") if part in (".", "..") else quote(part, safe="")


def _reservation(body: Any, asked_at: datetime) -> Reservation:
    stated = _mapping(body, "the reservation")
    identity = _text(stated.get("id"), "the reservation's id")
    if stated.get("state") == "settled":
        return Reservation(identity, math.inf, settled=True)
    expires_at = _time(stated.get("expires_at"))
    if expires_at is None:
        raise PortalAwayError("the reservation has no end")
    seconds = (expires_at - asked_at).total_seconds()
    if seconds <= 0:
        raise PortalAwayError("the reservation is over already; the portal's clock is another one")
    return Reservation(identity, seconds)
