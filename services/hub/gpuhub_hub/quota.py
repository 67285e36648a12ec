"""Who may start what now: the hub's side of the reservation ledger.

A start is granted in two steps. First the hub judges by what the portal said about the user and by its own grants that
this answer does not know yet; nothing is awaited between the judgement and the note of the grant, which in the hub's
one thread is a lock. Then the portal, if it keeps reservations, decides for the whole cluster.

Each grant is judged with every grant before it, so that those together never exceed what was known, whichever of them
the portal has heard of: it may be away (then the last answer counts while it is younger than a setting, and the grants
are handed in when it is back), or know limits and use only, and use with a delay. An answer that was on its way while a
grant was recorded may have it or not; who would be refused by counting it twice is judged again by a newer answer.

A reservation is kept until the portal says that it is settled, also while the server runs: its pod may not be seen yet.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Protocol

from gpuhub_core import quota_profiles
from gpuhub_core.gpu_products import ANY
from gpuhub_core.pod_requests import pod_requests
from gpuhub_core.quantities import Limits, QuantityError, Resources, parse_count
from gpuhub_core.quota_profiles import Profile, Reason, Request, Situation

from .portal_client import Account, PortalAwayError, PortalClient, PortalRefusedError, Reservation

RESERVATION_LABEL = "gpuhub.io/reservation"
GPU_TYPE_ANNOTATION = "gpuhub.io/gpu-type"
_USER_ANNOTATION = "hub.jupyter.org/username"
_ENDED = ("Succeeded", "Failed")
# How often a refusal that may come of counting a grant twice is looked at; others may go on being granted meanwhile.
_LOOKS = 5

log = logging.getLogger("jupyterhub.gpuhub")


class NotGrantedError(Exception):
    """A start is refused: the `reason`, of which `profile` (None: of none), and by which `account` if by an old one."""

    def __init__(self, reason: Reason, profile: Profile | None = None, account: Account | None = None) -> None:
        super().__init__(reason.code)
        self.reason, self.profile, self.account = reason, profile, account


@dataclass(frozen=True)
class Settings:
    """How old knowledge may be, in seconds."""

    # A start right after its form asks the portal once, not twice.
    reuse: float = 5
    # The portal is away: the last answer counts for so long.
    last_known: float = 900
    # From when a server runs until the portal's use has it, where no reservation tells.
    lag: float = 10


@dataclass(eq=False)
class Grant:
    """What a start may have. `key` is the same for every attempt to reserve it."""

    username: str
    servername: str
    profile: Profile
    # The node that the user's home is bound to, if it is.
    home_node: str = ""
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    reservation: str = ""
    # By the hub's clock (time.monotonic()), as all times here.
    renew_at: float = 0
    expires_at: float = 0
    # Answers asked for after this count it as use; None: none does yet.
    known_at: float | None = None
    # Answers that came after this may count it.
    perhaps_known_at: float = math.inf
    asked: bool = False
    # Set when the portal has answered; None while it is not asked.
    asking: asyncio.Event | None = None
    # The portal has seen its pod.
    settled: bool = False
    # The portal does not want to know of it.
    refused: bool = False
    running: bool = False
    adopted: bool = False

    def is_known_to(self, answer: Account) -> bool:
        """Whether an answer counts it as use: by its reservation, later by its pod."""
        if self.known_at is None or self.known_at >= answer.sent_at:
            return False
        return self.settled or self.refused or not self.reservation or answer.received_at < self.expires_at

    def is_perhaps_known_to(self, answer: Account) -> bool:
        """Whether an answer may count it or not, which a newer one makes certain."""
        if self.perhaps_known_at >= answer.received_at:
            return False
        return bool(self.asking) or (self.known_at is not None and answer.sent_at <= self.known_at <= time.monotonic())

    @property
    def label(self) -> str:
        """What the pod is labelled with: the reservation, or the key under which it will be handed in."""
        return self.reservation or self.key


@dataclass(frozen=True)
class View:
    """What a user is shown: each profile, with the reason if it cannot be started now."""

    profiles: tuple[Profile, ...]
    account: Account
    away: bool = False


class Source(Protocol):
    """Where limits, use and profiles come from."""

    async def account(self, username: str, home_node: str) -> Account:
        """Raises PortalAwayError, PortalRefusedError."""

    def overrides(self, profile: Profile, sizes: quota_profiles.Settings) -> Mapping[str, Any]:
        """The settings of KubeSpawner that make a server have this size."""


class StaticSource:
    """Entries of KubeSpawner's `profile_list`, for everybody, without limits. Raises ValueError."""

    def __init__(self, entries: Iterable[Mapping[str, Any]], gpu_resource: str) -> None:
        self._entries = {entry["slug"]: entry for entry in map(_checked_entry, entries)}
        self._profiles = tuple(_of_entry(entry, gpu_resource) for entry in self._entries.values())
        if not self._profiles:
            raise ValueError("there is no profile; without one servers would start with no size at all")

    async def account(self, username: str, home_node: str) -> Account:
        """The same for everybody."""
        return Account(time.monotonic(), Limits(), Resources(), self._profiles)

    def overrides(self, profile: Profile, sizes: quota_profiles.Settings) -> Mapping[str, Any]:
        """As the installation states them."""
        return self._entries[profile.slug]["kubespawner_override"]


def _checked_entry(entry: Any) -> Mapping[str, Any]:
    needed = (("slug", str), ("display_name", str), ("kubespawner_override", dict))
    if not isinstance(entry, dict) or not all(entry.get(key) and isinstance(entry[key], kind) for key, kind in needed):
        raise ValueError(f"{str(entry)[:80]!r} is no profile with slug, display_name and kubespawner_override")
    return entry


def _of_entry(entry: Mapping[str, Any], gpu_resource: str) -> Profile:
    extra = entry["kubespawner_override"].get("extra_resource_limits") or {}
    gpu = parse_count(extra.get(gpu_resource) or 0)
    return Profile(entry["slug"], entry["display_name"], Request(Resources(gpu=gpu), ANY if gpu else ""))


def _computed(profile: Profile, sizes: quota_profiles.Settings) -> Mapping[str, Any]:
    return profile.spawner_profile(sizes)["kubespawner_override"]


class LimitsSource:
    """A portal that has only the documented endpoints: its limits and use, and sizes by the installation's settings."""

    def __init__(self, client: PortalClient, sizes: quota_profiles.Settings) -> None:
        self._client, self._sizes = client, sizes

    async def account(self, username: str, home_node: str) -> Account:
        """One request; what is free on which node such a portal does not tell."""
        account = await self._client.limits(username)
        situation = Situation(account.limits, account.usage)
        return replace(account, profiles=tuple(quota_profiles.profiles(situation, self._sizes)))

    overrides = staticmethod(_computed)


class PortalSource:
    """The platform's own portal."""

    def __init__(self, client: PortalClient) -> None:
        self._client = client

    async def account(self, username: str, home_node: str) -> Account:
        """One request."""
        return await self._client.profiles(username, home_node)

    overrides = staticmethod(_computed)


class Quota:
    """Grants starts. `reservations` is the portal that keeps them, if one does."""

    def __init__(
        self,
        source: Source,
        settings: Settings,
        sizes: quota_profiles.Settings,
        reservations: PortalClient | None = None,
    ) -> None:
        self._source, self._settings, self._sizes, self._portal = source, settings, sizes, reservations
        self._accounts: dict[str, Account] = {}
        # When the use of a user has changed; answers from before are not used again.
        self._changed: dict[str, float] = {}
        # The latest answer that tells what is free.
        self._free: Account | None = None
        # In the order in which they were judged.
        self._grants: dict[str, Grant] = {}
        self._releases: dict[str, Grant] = {}
        self._work = asyncio.Event()

    async def view(self, username: str, home_node: str = "") -> View:
        """What a user may start now. Raises NotGrantedError where nothing is known."""
        return await self._judge(username, home_node, lambda account: account.profiles)

    async def check(self, username: str, slug: Any, home_node: str = "") -> str:
        """Return the slug of the size that would be granted now; nothing is reserved. Raises NotGrantedError."""
        return _first_offered(await self._judge(username, home_node, partial(_candidates, slug=slug))).slug

    async def admit(self, username: str, servername: str, slug: Any, home_node: str = "") -> Grant:
        """Grant a start; `slug` None is the first size that can be had. Raises NotGrantedError."""
        view = await self._judge(username, home_node, partial(_candidates, slug=slug))
        grant = Grant(username, servername, _first_offered(view), home_node)
        self._grants[grant.key] = grant
        if self._portal and not view.away:
            try:
                await self._reserve(grant)
            except PortalRefusedError as error:
                self._forget(grant)
                reason = Reason(error.code, error.detail, error.numbers, error.until)
                raise NotGrantedError(reason, grant.profile) from error
            except PortalAwayError as error:
                if error.age > self._settings.last_known:
                    self._forget(grant)
                    raise NotGrantedError(Reason("away", "", {})) from error
                # Whether it has heard the question or not: what it said before still counts, and the key is the same.
                log.warning("The portal is away; %s is granted by what it said last: %s", grant.key, error)
            except BaseException:
                self.ended(grant)
                raise
        self._work.set()
        return grant

    def overrides(self, grant: Grant) -> Mapping[str, Any]:
        """The settings of KubeSpawner that give a server what was granted."""
        return self._source.overrides(grant.profile, self._sizes)

    def started(self, grant: Grant) -> None:
        """Note that a server runs: its pod settles the reservation, or is in the portal's use after a while."""
        grant.running = True
        if grant.known_at is None and (grant.refused or grant.adopted or not self._portal):
            grant.known_at = time.monotonic() + self._settings.lag

    def ended(self, grant: Grant) -> None:
        """Note that a server, or its start, has ended; again is the same."""
        if self._grants.get(grant.key) is grant:
            self._forget(grant)
            if self._portal and grant.asked and not grant.running:
                self._releases[grant.key] = grant
                self._work.set()

    def adopt(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Count pods that an earlier hub has started, or that could not be deleted; `pods` are all of the hub's."""
        labels = {grant.label for grant in self._grants.values()} | {grant.key for grant in self._grants.values()}
        there = set()
        for pod in pods:
            metadata, status = pod["metadata"], pod.get("status") or {}
            if status.get("phase") in _ENDED:
                continue
            label = (metadata.get("labels") or {}).get(RESERVATION_LABEL) or metadata["uid"]
            there.add(label)
            grant = self._grants.get(label)
            if label not in labels:
                grant = self._grants[label] = _of_pod(label, pod)
                if self._portal:
                    grant.known_at, grant.perhaps_known_at = time.monotonic(), 0
            if grant and grant.adopted and not grant.running and status.get("phase") == "Running":
                self.started(grant)
        for grant in [grant for grant in self._grants.values() if grant.adopted and grant.key not in there]:
            self._forget(grant)

    async def keep(self) -> None:
        """Renew, hand in and give back reservations, for as long as the hub runs."""
        while self._portal:
            # Before the work: what comes while it is done is looked at again.
            self._work.clear()
            pause: float | None = None
            try:
                pause = await self._keep_once()
            except PortalAwayError as error:
                log.warning("Reservations wait for the portal: %s", error)
                pause = self._portal.retry_seconds
            try:
                await asyncio.wait_for(self._work.wait(), pause)
            except asyncio.TimeoutError:
                continue

    async def _keep_once(self) -> float | None:
        """Do what is due; return in how many seconds something is due again, or None. Raises PortalAwayError."""
        away: PortalAwayError | None = None
        now = time.monotonic()
        for work, grant in [
            *((self._give_back, grant) for grant in self._releases.values()),
            *((self._renew, grant) for grant in self._kept() if grant.renew_at <= now),
        ]:
            try:
                await work(grant)
            except PortalAwayError as error:
                # It may renew although it decides nothing; one that is away altogether is not waited for again.
                away = error
        if away:
            raise away
        times = [grant.renew_at for grant in self._kept()]
        return max(min(times) - time.monotonic(), 0.05) if times else None

    def _kept(self) -> list[Grant]:
        """Grants that the portal has to be told of, or asked about, at some time."""
        return [
            grant
            for grant in self._grants.values()
            if not (grant.settled or grant.refused or grant.adopted or grant.asking)
        ]

    async def _renew(self, grant: Grant) -> None:
        """Hand a grant in, or renew its reservation, if that is due."""
        asked_at = time.monotonic()
        if asked_at < grant.renew_at or self._grants.get(grant.key) is not grant:
            return
        try:
            if grant.reservation:
                self._holds(grant, await self._portal.renew(grant.reservation), asked_at)
            else:
                # Granted by what was known last: it is to be recorded, and not judged again.
                await self._reserve(grant, granted=True)
                log.info("Reservation %s of '%s' was handed in", grant.key, grant.username)
        except PortalRefusedError as error:
            if error.state == "settled":
                self._settle(grant)
            elif error.state == "expired":
                # It could not be renewed in time. It is handed in anew, and counts on top until then.
                pause = 0 if grant.reservation else self._settings.lag
                grant.reservation, grant.known_at, grant.renew_at = "", None, asked_at + pause
            else:
                # The server stays: it was granted. It counts on top until it runs, and is in the portal's use then.
                log.warning("The portal does not keep reservation %s of '%s': %s", grant.key, grant.username, error)
                grant.refused, grant.known_at = True, None
                if grant.running:
                    self.started(grant)
        if self._grants.get(grant.key) is not grant and not grant.running:
            # It ended in the meantime, perhaps before its reservation was known.
            self._releases[grant.key] = grant

    async def _reserve(self, grant: Grant, granted: bool = False) -> None:
        asked_at = time.monotonic()
        grant.asked, grant.perhaps_known_at = True, min(grant.perhaps_known_at, asked_at)
        answered = grant.asking = asyncio.Event()
        try:
            reservation = await self._portal.reserve(grant.key, grant.username, grant.profile, grant.home_node, granted)
        finally:
            grant.asking = None
            answered.set()
        grant.reservation, grant.known_at = reservation.id, time.monotonic()
        self._holds(grant, reservation, asked_at)

    def _holds(self, grant: Grant, reservation: Reservation, asked_at: float) -> None:
        if reservation.settled:
            self._settle(grant)
            return
        grant.expires_at = asked_at + reservation.seconds
        grant.renew_at = asked_at + reservation.seconds / 3

    @staticmethod
    def _settle(grant: Grant) -> None:
        now = time.monotonic()
        if now >= grant.expires_at:
            # Answers before this may have had neither the reservation nor the pod.
            grant.known_at = now
        grant.settled = True

    async def _give_back(self, grant: Grant) -> None:
        try:
            if not grant.reservation:
                # Asked for and never answered: the same key finds out what became of it.
                await self._reserve(grant)
            await self._portal.release(grant.reservation)
        except PortalRefusedError as error:
            log.info("Reservation %s was over already: %s", grant.key, error)
        self._releases.pop(grant.key, None)
        self._note_change(grant.username)

    async def _account(self, username: str, home_node: str) -> tuple[Account, bool]:
        """What is known about a user, and whether that is the last answer of a portal that is away."""
        known, now = self._accounts.get(username), time.monotonic()
        if known and now - known.sent_at <= self._settings.reuse and known.sent_at > self._changed.get(username, 0):
            return known, False
        try:
            account = await self._source.account(username, home_node)
        except PortalRefusedError as error:
            raise NotGrantedError(Reason("unknown_user", "", {})) from error
        except PortalAwayError as error:
            known = self._accounts.get(username)
            if known is None or time.monotonic() - known.sent_at > self._settings.last_known:
                log.warning("'%s' can start nothing: %s", username, error)
                raise NotGrantedError(Reason("away", "", {})) from error
            return known, True
        known = self._accounts.get(username)
        if known is None or account.sent_at > known.sent_at:
            self._accounts[username] = known = account
        if account.free is not None and (self._free is None or account.sent_at > self._free.sent_at):
            self._free = account
        return known, False

    async def _judge(self, username: str, home_node: str, candidates: Callable[[Account], Iterable[Profile]]) -> View:
        """Which of the candidates can be granted. Nothing is awaited after that was judged."""
        for look in range(_LOOKS):
            account, away = await self._account(username, home_node)
            told = tuple(candidates(account))
            judged = tuple(self._judged(account, profile, username) for profile in told)
            view = View(judged, account, away)
            refused_by_grants = any(mine.reason and not theirs.reason for mine, theirs in zip(judged, told))
            uncertain = self._perhaps_known(account, username) if refused_by_grants and not away else []
            if not uncertain or look == _LOOKS - 1:
                break
            for grant in uncertain:
                if grant.asking:
                    await grant.asking.wait()
            self._note_change(username)
        return view

    def _judged(self, account: Account, profile: Profile, username: str) -> Profile:
        """A profile with the reason why it cannot be granted, if there is one."""
        if profile.reason:
            return profile
        mine = [grant for grant in self._unknown_to(account) if grant.username == username]
        reserved = sum((grant.profile.request.resources for grant in mine), Resources())
        situation = Situation(account.limits, account.usage, reserved)
        reason = quota_profiles.refusal(profile.request, situation, self._sizes) or self._none_free(profile.request)
        return replace(profile, reason=reason)

    def _none_free(self, request: Request) -> Reason | None:
        """Why too few GPUs are free; those that went to nobody knows which type are of every type."""
        wanted = request.resources.gpu
        if self._free is None or not wanted:
            return None
        free = self._free.free
        unknown = [grant.profile.request for grant in self._unknown_to(self._free)]
        left = free[ANY] - sum(other.resources.gpu for other in unknown)
        if request.gpu_type not in ("", ANY):
            same = [other for other in unknown if other.gpu_type in ("", ANY, request.gpu_type)]
            left = min(left, free.get(request.gpu_type, 0) - sum(other.resources.gpu for other in same))
        if wanted <= left:
            return None
        text = (
            f"Not free now: {wanted} GPUs needed, {max(left, 0)} are free. "
            "Choose a smaller size or another type, or try again later."
        )
        numbers = {"gpu": {"needed": wanted, "free": max(left, 0)}}
        return Reason(quota_profiles.NONE_FREE, text, numbers)

    def _unknown_to(self, answer: Account) -> list[Grant]:
        """Grants that an answer does not count."""
        return [grant for grant in self._grants.values() if not grant.is_known_to(answer)]

    def _perhaps_known(self, account: Account, username: str) -> list[Grant]:
        """Grants that count beside what an answer says, of which it may have some itself."""
        mine = [grant for grant in self._unknown_to(account) if grant.username == username]
        uncertain = [grant for grant in mine if grant.is_perhaps_known_to(account)]
        if self._free:
            uncertain += [grant for grant in self._unknown_to(self._free) if grant.is_perhaps_known_to(self._free)]
        return uncertain

    def _forget(self, grant: Grant) -> None:
        self._grants.pop(grant.key, None)
        self._note_change(grant.username)

    def _note_change(self, username: str) -> None:
        self._changed[username] = time.monotonic()


def _candidates(account: Account, slug: Any) -> Iterable[Profile]:
    """The profiles that a request means. Raises NotGrantedError."""
    known = {profile.slug: profile for profile in account.profiles}
    names = {"slugs": ", ".join(known)}
    if not known:
        raise NotGrantedError(Reason("no_sizes", "", {}))
    if slug is not None and not isinstance(slug, str):
        raise NotGrantedError(Reason("no_size_named", "", names))
    if slug and slug not in known:
        raise NotGrantedError(Reason("no_such_size", "", {"slug": slug[:100], **names}))
    return [known[slug]] if slug else known.values()


def _first_offered(view: View) -> Profile:
    """Raises NotGrantedError."""
    for profile in view.profiles:
        if profile.reason is None:
            return profile
    first = view.profiles[0]
    raise NotGrantedError(first.reason, first, view.account if view.away else None)


def _of_pod(label: str, pod: Mapping[str, Any]) -> Grant:
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    try:
        resources = pod_requests(pod)
    except QuantityError as error:
        log.error("Pod %s does not count: %s", metadata["name"], error)
        resources = Resources()
    profile = Profile(label, "", Request(resources, annotations.get(GPU_TYPE_ANNOTATION) or ""))
    username = annotations.get(_USER_ANNOTATION, "")
    return Grant(username, annotations.get("hub.jupyter.org/servername", ""), profile, key=label, adopted=True)
