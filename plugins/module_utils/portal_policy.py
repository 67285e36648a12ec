"""A policy against the one that a usage portal has: what differs, and what cannot be had. Pure.

Both are written in one form (`Documents`), in which two that mean the same are equal. It is that of the portal's API:

| key | value |
|---|---|
| `default`, and by name below `groups` and `users` | `cpu`, `memory`, `gpu`, `budgets`; of groups also `members` |
| by beginning (`2026-01-01T00:00:00Z`) below `rates` | `from`, `currency`, `gpu`, `cpu_hour`, `memory_gib_hour` |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from fractions import Fraction
from typing import Any, NamedTuple

from .located_tree import Path
from .quantities import MICRO_PER_UNIT, MILLI_PER_CORE, UNLIMITED
from .quota_policy import BUDGET_UNITS, Budget, Fault, Policy, PolicyError, Rate, decimal, policy

Documents = dict[str, Any]

# The largest first, so that amounts are short.
_MEMORY_UNITS = {"Ti": 2**40, "T": 10**12, "Gi": 2**30, "G": 10**9, "Mi": 2**20, "M": 10**6}
# What the API takes, where a policy may say more.
_MOST_MEMORY = 99_999
_MOST_HOURS = 10**9
_MOST_DAYS = 999
_MOST_PRICE = 100_000 * MICRO_PER_UNIT
_LONGEST_NAME = 253
_MOST_BUDGETS = 20
_MOST_MEMBERS = 10_000


class PortalPolicyError(Exception):
    """The portal's own policy cannot be understood."""


class Change(NamedTuple):
    """One request to the portal.

    `path` is the entry of the policy that it is about, `resource` the path below `/policy`. Without a document the
    entry is removed.
    """

    path: Path
    resource: tuple[str, ...]
    document: Any

    @property
    def method(self) -> str:
        """The verb of HTTP."""
        return "DELETE" if self.document is None else "PUT"

    def __str__(self) -> str:
        return f"{'remove' if self.document is None else 'set'} {'/'.join(self.resource)}"


@dataclass(frozen=True)
class Plan:
    """What the portal has, what it will have, the requests in between, and the entries that nobody named and stay."""

    before: Documents
    after: Documents
    changes: list[Change]
    kept: list[str]


def _fault(path: Path, text: str) -> Fault:
    """What is wrong with an entry; its line is for those to add who know the file."""
    return Fault(0, path, text)


class _Writer:
    """Writes a policy as documents and collects what the portal does not take."""

    def __init__(self, places: Mapping[datetime, int]) -> None:
        self._places = places
        self.faults: list[Fault] = []

    def _fault(self, path: Path, text: str) -> None:
        self.faults.append(_fault(path, text))

    def documents(self, rules: Policy) -> Documents:
        return {
            "default": self._entry(rules.default, ("default",)),
            "groups": {
                name: {**self._entry(entry, ("groups", name)), "members": self._members(entry.members, name)}
                for name, entry in sorted(rules.groups.items())
            },
            "users": {name: self._entry(entry, ("users", name)) for name, entry in sorted(rules.users.items())},
            "rates": {written(rate.valid_from): self._rate(rate) for rate in rules.rates},
        }

    def _entry(self, entry: Any, path: Path) -> dict[str, Any]:
        name = str(path[-1])
        if len(name) > _LONGEST_NAME or "/" in name or name in (".", ".."):
            self._fault(path, f"is no name for the portal: at most {_LONGEST_NAME} characters, and no /")
        write = {"cpu": self._cpu, "memory": self._memory, "gpu": self._gpu}
        document = {
            limit: UNLIMITED if amount is None else write[limit](amount, (*path, limit))
            for limit, amount in entry.limits.items()
        }
        if entry.budgets is not None:
            document["budgets"] = self._budgets(entry.budgets, (*path, "budgets"))
        return document

    def _cpu(self, milli: int, _path: Path) -> int | str:
        cores, rest = divmod(milli, MILLI_PER_CORE)
        return f"{milli}m" if rest else cores

    def _gpu(self, devices: int, _path: Path) -> int:
        return devices

    def _memory(self, amount: int, path: Path) -> int | str:
        for unit, size in _MEMORY_UNITS.items():
            if amount and amount % size == 0 and amount // size <= _MOST_MEMORY:
                return f"{amount // size}{unit}"
        if amount:
            self._fault(path, f"is {amount} bytes; the portal keeps whole Mi, Gi or Ti with at most five digits")
        return 0

    def _members(self, members: Iterable[str], group: str) -> list[str]:
        names = sorted(members)
        for name in names:
            if len(name) > _LONGEST_NAME:
                self._fault(("groups", group, "members"), f"has a name of more than {_LONGEST_NAME} characters")
        if len(names) > _MOST_MEMBERS:
            self._fault(("groups", group, "members"), f"are {len(names)}; the portal takes {_MOST_MEMBERS} of a group")
        return names

    def _budgets(self, budgets: tuple[Budget, ...], path: Path) -> list[dict[str, Any]]:
        if len(budgets) > _MOST_BUDGETS:
            self._fault(path, f"are {len(budgets)}; the portal takes {_MOST_BUDGETS}")
        found = [self._budget(budget, (*path, number)) for number, budget in enumerate(budgets)]
        return sorted(found, key=lambda document: sorted(map(str, document.items())))

    def _budget(self, budget: Budget, path: Path) -> dict[str, Any]:
        amount = Fraction(budget.amount, BUDGET_UNITS[budget.resource])
        if (amount * 100).denominator != 1 or amount >= _MOST_HOURS:
            self._fault((*path, budget.resource), "has more digits than the portal keeps: nine, and two decimals")
        if budget.days > _MOST_DAYS:
            self._fault((*path, "within"), f"is {budget.days}d; the portal takes {_MOST_DAYS}d at most")
        number = int(amount) if amount.denominator == 1 else decimal(amount)
        window = {"within": f"{budget.days}d"} if budget.days else {"every": budget.period}
        return {budget.resource: number, **window}

    def _rate(self, rate: Rate) -> dict[str, Any]:
        path = ("rates", self._places.get(rate.valid_from, 0))
        start = written(rate.valid_from)
        if rate.valid_from.strftime("%M%S%f").strip("0") or not 2000 <= rate.valid_from.year < 2100:
            self._fault(
                (*path, "from"), f"is {start}; prices begin with a whole hour of UTC, from 2000 to 2099, in the portal"
            )
        prices = [rate.gpu_default, rate.cpu_hour, rate.memory_gib_hour, *rate.gpu.values()]
        if max(prices) >= _MOST_PRICE:
            self._fault(path, "has a price of 100000 or more, which the portal does not take")
        gpu, cpu, memory = ({**rate.gpu, "default": rate.gpu_default}, rate.cpu_hour, rate.memory_gib_hour)
        return {
            "from": start,
            "currency": rate.currency,
            "gpu": {kind: _money(price) for kind, price in sorted(gpu.items())},
            "cpu_hour": _money(cpu),
            "memory_gib_hour": _money(memory),
        }


def _money(micro: int) -> str:
    return decimal(Fraction(micro, MICRO_PER_UNIT))


def written(instant: datetime) -> str:
    """An instant as the API writes it."""
    return instant.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _places(tree: Mapping[str, Any]) -> dict[datetime, int]:
    """Which of a tree's rates begins when; the tree is valid."""
    context = {name: tree[name] for name in ("time_zone", "default") if name in tree}
    rates = tree.get("rates", [])
    return {policy({**context, "rates": [rate]}).rates[0].valid_from: number for number, rate in enumerate(rates)}


def plan(wanted: Mapping[str, Any], there: Mapping[str, Any], now: datetime, purge: bool = False) -> Plan:
    """Return how a portal comes to have a policy.

    `wanted` is the tree of a policy (docs/quotas.md); `there` is the portal's, as one with the same keys, of which all
    are present; `now` is the portal's time. An entry is replaced as a whole. Entries that are not in `wanted` stay, or
    with `purge` are removed; rates whose time has come always stay. Without a time zone in `wanted` that of the portal
    counts.

    Raises PolicyError with everything that is wrong with `wanted` or does not fit what the portal has and keeps, and
    PortalPolicyError.
    """
    wanted = {"time_zone": there["time_zone"], **wanted}
    rules = policy(wanted)
    try:
        before = _Writer({}).documents(policy(there))
    except PolicyError as error:
        raise PortalPolicyError(f"what the portal has is no policy that this release knows: {error}") from error
    places = _places(wanted)
    writer = _Writer(places)
    sent = writer.documents(rules)
    faults = writer.faults
    if wanted["time_zone"] != there["time_zone"]:
        faults.append(
            _fault(
                ("time_zone",),
                f"is {wanted['time_zone']}, and that of the portal {there['time_zone']}, where days and months of "
                "budgets begin; write the same, or remove the line",
            )
        )
    gone = _superfluous(sent, before, now) if purge else {section: [] for section in ("users", "groups", "rates")}
    faults += _rate_faults(sent["rates"], before["rates"], gone["rates"], places, now)
    after = {
        "default": sent["default"],
        **{
            section: {
                name: document
                for name, document in sorted({**before[section], **sent[section]}.items())
                if name not in gone[section]
            }
            for section in ("groups", "users", "rates")
        },
    }
    if faults:
        raise PolicyError(faults)
    kept = [
        f"{section}/{name}"
        for section in ("groups", "users", "rates")
        for name in after[section]
        if name not in sent[section]
    ]
    return Plan(before, after, _changes(before, after, sent, gone), kept)


def _superfluous(sent: Documents, before: Documents, now: datetime) -> dict[str, list[str]]:
    """What the portal has, nobody named, and can be removed."""
    gone = {section: [name for name in before[section] if name not in sent[section]] for section in ("users", "groups")}
    gone["rates"] = [start for start in before["rates"] if start not in sent["rates"] and _instant(start) > now]
    return gone


def _rate_faults(
    sent: Mapping[str, Any],
    before: Mapping[str, Any],
    gone: Iterable[str],
    places: Mapping[datetime, int],
    now: datetime,
) -> list[Fault]:
    """What is wrong with rates because of those that the portal has."""
    faults = []
    stay = {start: rate for start, rate in before.items() if start not in gone and start not in sent}
    currency = next((rate["currency"] for rate in stay.values()), None)
    for start, rate in sent.items():
        path = ("rates", places[_instant(start)])
        # Only the first rates of all may begin in the past, when nothing had a price.
        if before and before.get(start) != rate and _instant(start) <= now:
            has = "another price" if start in before else "no rate that begins then"
            faults.append(
                _fault(
                    (*path, "from"),
                    f"is {start}, which is past, and the portal has {has}; what was used has its price already: begin "
                    "in the future, and leave rates of the past as the portal has them",
                )
            )
        if currency not in (None, rate["currency"]):
            faults.append(
                _fault(
                    (*path, "currency"),
                    f"is {rate['currency']}, and that of rates that the portal keeps {currency}; sums need one",
                )
            )
    return faults


def _changes(before: Documents, after: Documents, sent: Documents, gone: Mapping[str, list[str]]) -> list[Change]:
    """The requests, in an order in which the portal's policy is valid after each.

    Budgets of cost need a rate, and all rates have one currency. So rates come first and are withdrawn last, but those
    of another currency before.
    """
    new = [rate for start, rate in sent["rates"].items() if before["rates"].get(start) != rate]
    foreign = [s for s in gone["rates"] if new and before["rates"][s]["currency"] != new[0]["currency"]]
    changes = [Change(("rates",), ("rates", start), None) for start in foreign]
    if new:
        changes.append(Change(("rates",), ("rates",), {"rates": new}))
    if before["default"] != after["default"]:
        changes.append(Change(("default",), ("default",), after["default"]))
    for section in ("groups", "users"):
        for name, document in sent[section].items():
            if before[section].get(name) != document:
                changes.append(Change((section, name), (section, name), document))
    for section in ("users", "groups"):
        changes += [Change((section, name), (section, name), None) for name in gone[section]]
    return changes + [Change(("rates",), ("rates", s), None) for s in gone["rates"] if s not in foreign]
