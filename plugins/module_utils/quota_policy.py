"""Who may have how much: limits at a time, budgets over a time, and what it costs. Pure; the portal uses it too.

A policy is written as one tree (docs/quotas.md) and checked as a whole: all that is wrong with it is said at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from fractions import Fraction
from typing import Any, Callable, NamedTuple
from zoneinfo import ZoneInfo

from .located_tree import Path, at
from .quantities import (
    BYTES_PER_GIB,
    BYTES_PER_MIB,
    LARGEST,
    MICRO_PER_UNIT,
    MILLI_PER_CORE,
    SECONDS_PER_HOUR,
    UNLIMITED,
    WRITTEN,
    Limits,
    QuantityError,
)

# What a budget is of, and how many of the ledger's units one of the policy's is.
BUDGET_UNITS = {
    "gpu_hours": SECONDS_PER_HOUR,
    "cpu_hours": SECONDS_PER_HOUR * MILLI_PER_CORE,
    "cost": MICRO_PER_UNIT,
}
PERIODS = ("day", "week", "month")
LONGEST_WINDOW_DAYS = 3660

# No site has as much; more is a slip of the pen.
_MOST = {"cpu": 10**6 * MILLI_PER_CORE, "memory": 2**60, "gpu": 10**6}
_MOST_PRICE = 10**6 * MICRO_PER_UNIT
_LEAST_MEMORY = BYTES_PER_MIB
_EXAMPLES = {"cpu": "8 or 500m", "memory": "32Gi", "gpu": "4"}

_TOP = ("default", "groups", "users", "rates", "time_zone")
_ENTRY = (*WRITTEN, "budgets")
_RATE = ("from", "gpu", "cpu_hour", "memory_gib_hour", "currency")
_BUDGET = (*BUDGET_UNITS, "every", "within")

_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
_DAYS = re.compile(r"([1-9][0-9]{0,3})d")
_CURRENCY = re.compile(r"[A-Z]{3}")


class Fault(NamedTuple):
    """What is wrong with an entry of a policy; line 0 is not known."""

    line: int
    path: Path
    text: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{_shown(self.path)}{self.text}"


class PolicyError(ValueError):
    """A policy that cannot be used; `faults` has everything that is wrong with it, in the order of lines."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = sorted(faults, key=lambda fault: fault.line)
        super().__init__("\n".join(map(str, self.faults)))


def _shown(path: Path) -> str:
    """A path as people read it, and a blank behind it: `groups.vision.budgets[0].every `."""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in path)
    return f"{words[1:]} " if words else ""


def _printable(value: Any) -> str:
    """A value as it can be shown: hostile ones hold line ends, or are long."""
    if value is None:
        return "empty"
    shown = ascii(value)[1:-1] if isinstance(value, str) else ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:40]}..."


@dataclass(frozen=True)
class Budget:
    """How much may be used within a window.

    `amount` is in the ledger's units: `gpu_seconds`, `cpu_milli_seconds` or millionths of the currency. The window is
    either the last `days` days, or a `period` of the calendar (day, week from Monday, month) in the zone of the policy.
    """

    resource: str
    amount: int
    period: str = ""
    days: int = 0
    zone: tzinfo = timezone.utc
    currency: str = ""

    def window(self, now: datetime) -> tuple[datetime, datetime | None]:
        """Return when the window around `now` begins, and when it ends if it does; both in UTC."""
        if self.days:
            return now.astimezone(timezone.utc) - timedelta(days=self.days), None
        today = now.astimezone(self.zone).date()
        start, end = self._calendar(today)
        # Where clocks go back just after midnight a day ends twice; it is over when it ends first.
        return (start, end) if now < end else self._calendar(today + timedelta(days=1))

    def _calendar(self, today: date) -> tuple[datetime, datetime]:
        if self.period == "day":
            first, following = today, today + timedelta(days=1)
        elif self.period == "week":
            first = today - timedelta(days=today.weekday())
            following = first + timedelta(days=7)
        else:
            first = today.replace(day=1)
            following = (first + timedelta(days=31)).replace(day=1)
        return self._midnight(first), self._midnight(following)

    def _midnight(self, day: date) -> datetime:
        return datetime.combine(day, time(), self.zone).astimezone(timezone.utc)

    def state(self, used: Iterable[tuple[datetime, int]], now: datetime) -> BudgetState:
        """Return what is used of it at `now`, and when there will be some again.

        `used` is what was used in each hour, by the hour's beginning. An hour counts while any of it is within the
        window, so that the answer is never early.
        """
        start, end = self.window(now)
        hour = timedelta(hours=1)
        counted = sorted((begin, amount) for begin, amount in used if begin + hour > start and begin <= now)
        total = left = sum(amount for _begin, amount in counted)
        again = None
        if total >= self.amount > 0:
            again = end
            for begin, amount in counted if self.days else ():
                left -= amount
                if left < self.amount:
                    again = begin + hour + timedelta(days=self.days)
                    break
        return BudgetState(self, total, again.astimezone(timezone.utc) if again else None)

    @property
    def name(self) -> str:
        """What it is of and for how long, `gpu_hours a month`: once in the budgets of a user."""
        return f"{self.resource} {f'within {self.days} days' if self.days else f'a {self.period}'}"

    def __str__(self) -> str:
        unit = {"gpu_hours": "GPU hours", "cpu_hours": "core hours", "cost": self.currency}[self.resource]
        amount = decimal(Fraction(self.amount, BUDGET_UNITS[self.resource]))
        return f"{amount} {unit} {self.name.partition(' ')[2]}"


class BudgetState(NamedTuple):
    """A budget, what is used of it (in its units), and if that is all, when there is some again; None if never."""

    budget: Budget
    used: int
    again: datetime | None

    @property
    def is_used_up(self) -> bool:
        return self.used >= self.budget.amount


@dataclass(frozen=True)
class Rate:
    """What an hour costs from an instant on, in millionths of the currency."""

    valid_from: datetime
    currency: str
    gpu: Mapping[str, int]
    gpu_default: int = 0
    cpu_hour: int = 0
    memory_gib_hour: int = 0

    def gpu_hour(self, gpu_type: str) -> int:
        """The price of an hour of one GPU of a type; the default of types that are not named."""
        return self.gpu.get(gpu_type.lower(), self.gpu_default)

    def cost(
        self, gpu_type: str = "", gpu_seconds: int = 0, cpu_milli_seconds: int = 0, memory_mib_seconds: int = 0
    ) -> Fraction:
        """Return what this use costs, in millionths, exact: round sums, not parts of them (`micro`)."""
        memory = Fraction(self.memory_gib_hour * BYTES_PER_MIB * memory_mib_seconds, BYTES_PER_GIB)
        cpu = Fraction(self.cpu_hour * cpu_milli_seconds, MILLI_PER_CORE)
        return (self.gpu_hour(gpu_type) * gpu_seconds + cpu + memory) / SECONDS_PER_HOUR


def micro(cost: Fraction) -> int:
    """Return an exact cost as whole millionths; halves are rounded up."""
    return (2 * cost.numerator + cost.denominator) // (2 * cost.denominator)


def decimal(amount: Fraction) -> str:
    """An amount as people read it: at most six decimals, none that are not needed."""
    whole, millionths = divmod(micro(amount * MICRO_PER_UNIT), MICRO_PER_UNIT)
    return f"{whole}.{millionths:06d}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class _Entry:
    """What is said of a user, of each member of a group, or of everybody: limits by name, of which None is no limit."""

    limits: Mapping[str, int | None]
    budgets: tuple[Budget, ...] | None = None
    members: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Policy:
    """A policy that is valid."""

    default: _Entry
    groups: Mapping[str, _Entry]
    users: Mapping[str, _Entry]
    rates: tuple[Rate, ...]
    zone: tzinfo = timezone.utc

    @property
    def currency(self) -> str:
        """The currency of all rates; empty if there are none."""
        return self.rates[0].currency if self.rates else ""

    def groups_of(self, user: str, groups: Iterable[str] = ()) -> list[str]:
        """Return the groups of the policy that a user is in, by its list of members or because `groups` says so."""
        named = set(groups)
        return sorted(name for name, entry in self.groups.items() if name in named or user in entry.members)

    def _of_groups(self, user: str, groups: Iterable[str]) -> list[_Entry]:
        return [self.groups[name] for name in self.groups_of(user, groups)]

    def limits_for(self, user: str, groups: Iterable[str] = ()) -> Limits:
        """Return a user's limits, each found for itself.

        What is said of the user counts; else the most generous of what is said of their groups; else the default.
        """
        levels = [[self.users[user]] if user in self.users else [], self._of_groups(user, groups), [self.default]]
        found = []
        for name in WRITTEN:
            stated = next(filter(None, ([e.limits[name] for e in level if name in e.limits] for level in levels)))
            found.append(None if None in stated else max(stated))
        return Limits(*found)

    def budgets_for(self, user: str, groups: Iterable[str] = ()) -> list[Budget]:
        """Return a user's budgets, which all hold.

        Those of the user count if any are written, an empty list too; else those of their groups, of several for the
        same resource and window the most generous; else the default's.
        """
        own = self.users.get(user)
        if own is not None and own.budgets is not None:
            return sorted(own.budgets, key=_kind)
        of_groups = [entry.budgets for entry in self._of_groups(user, groups) if entry.budgets is not None]
        best: dict[tuple[str, str, int], Budget] = {}
        for budget in (budget for budgets in of_groups or [self.default.budgets or ()] for budget in budgets):
            kept = best.get(_kind(budget))
            best[_kind(budget)] = budget if kept is None or budget.amount > kept.amount else kept
        return [best[kind] for kind in sorted(best)]

    def rate_at(self, when: datetime) -> Rate | None:
        """Return the rate that is valid at an instant; None before the first."""
        return next((rate for rate in reversed(self.rates) if rate.valid_from <= when), None)


def _kind(budget: Budget) -> tuple[str, str, int]:
    return budget.resource, budget.period, budget.days


def policy(tree: Any, lines: Mapping[Path, int] | None = None) -> Policy:
    """Return the policy that a tree means.

    A tree of YAML comes with the line of each path, both as of `located_tree.read`. One without `lines` is a JSON
    document, where null is without limit. Raises PolicyError with everything that is wrong.
    """
    reader = _Reader(lines)
    result = reader.policy(tree)
    if reader.faults:
        raise PolicyError(reader.faults)
    return result


class _Reader:
    """Reads a tree and collects its faults; what is wrong is left out of the result."""

    def __init__(self, lines: Mapping[Path, int] | None) -> None:
        self._lines = lines or {}
        self._unlimited = (UNLIMITED,) if lines is not None else (UNLIMITED, None)
        self.faults: list[Fault] = []
        self._zone: tzinfo = timezone.utc
        self._currency = ""

    def _fault(self, path: Path, text: str) -> None:
        self.faults.append(Fault(at(self._lines, path), path, text))

    def _mapping(self, tree: Any, path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
        """A mapping; of `keys`, if any are given, without others."""
        if not isinstance(tree, Mapping):
            self._fault(path, f"is {_printable(tree)}; write names with values, or remove the line")
            return {}
        known = {}
        for key, value in tree.items():
            if keys and key not in keys:
                self._fault((*path, key), f"is not known{_nearest(key, keys)}; there are {', '.join(keys)}")
            else:
                known[key] = value
        return known

    def _list(self, tree: Any, path: Path) -> list[Any]:
        if not isinstance(tree, list):
            self._fault(path, f"is {_printable(tree)}; write a list, such as [a, b], or remove the line")
            return []
        return tree

    def policy(self, tree: Any) -> Policy:
        tree = {} if tree is None else tree
        top = self._mapping(tree, (), _TOP)
        if "time_zone" in top:
            self._zone = self._time_zone(top["time_zone"], ("time_zone",))
        rates = self._rates(top.get("rates", []), ("rates",))
        self._currency = rates[0].currency if rates else ""
        default = top.get("default", {})
        missing = [name for name in WRITTEN if name not in default] if isinstance(default, Mapping) else []
        if missing and isinstance(tree, Mapping):
            self._fault(("default",), f"lacks {', '.join(missing)}; write what everybody may have, or {UNLIMITED}")
        groups = {
            name: self._entry(entry, ("groups", name), (*_ENTRY, "members"))
            for name, entry in self._named(top, "groups", group_name_fault)
        }
        users = {
            name: self._entry(entry, ("users", name), _ENTRY) for name, entry in self._named(top, "users", name_fault)
        }
        return Policy(self._entry(default, ("default",), _ENTRY), groups, users, rates, self._zone)

    def _named(self, top: Mapping[str, Any], section: str, fault: Callable[[Any], str]) -> Iterable[tuple[str, Any]]:
        entries = self._mapping(top[section], (section,)) if section in top else {}
        for name in entries:
            self._name(name, (section, name), fault)
        return entries.items()

    def _name(self, name: Any, path: Path, fault: Callable[[Any], str]) -> None:
        text = fault(name)
        if text:
            self._fault(path, text)

    def _time_zone(self, value: Any, path: Path) -> tzinfo:
        if value == "UTC":
            return timezone.utc
        try:
            return ZoneInfo(value)
        except (OSError, TypeError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
            self._fault(path, f"is {_printable(value)}; write a zone's name, such as Europe/Berlin or UTC")
            return timezone.utc

    def _entry(self, tree: Any, path: Path, keys: Sequence[str]) -> _Entry:
        entry = self._mapping(tree, path, keys)
        limits = {}
        for name in WRITTEN:
            if name in entry:
                limits[name] = self._limit(name, entry[name], (*path, name))
        budgets = None
        if "budgets" in entry:
            place = (*path, "budgets")
            listed = enumerate(self._list(entry["budgets"], place))
            budgets = tuple(filter(None, (self._budget(item, (*place, number)) for number, item in listed)))
            self._twice(budgets, place)
        members = self._list(entry.get("members", []), (*path, "members"))
        for number, member in enumerate(members):
            self._name(member, (*path, "members", number), name_fault)
        return _Entry(limits, budgets, frozenset(name for name in members if isinstance(name, str)))

    def _twice(self, budgets: Sequence[Budget], path: Path) -> None:
        kinds = [_kind(budget) for budget in budgets]
        for resource, _period, _days in {kind for kind in kinds if kinds.count(kind) > 1}:
            self._fault(path, f"has {resource} twice for the same time; keep one of them")

    def _limit(self, name: str, value: Any, path: Path) -> int | None:
        if value in self._unlimited:
            return None
        try:
            amount = WRITTEN[name](value)
        except QuantityError:
            self._fault(path, f"is {_printable(value)}; write {_EXAMPLES[name]}, or {UNLIMITED}")
            return 0
        if amount > _MOST[name]:
            self._fault(path, f"is {_printable(value)}, more than there can be; write {UNLIMITED} if that is meant")
        elif name == "memory" and 0 < amount < _LEAST_MEMORY:
            self._fault(path, f"is {_printable(value)}, which is {amount} bytes; write a unit, such as 32Gi")
        return amount

    def _decimal(self, value: Any, path: Path, unit: int, what: str) -> int | None:
        """A number as a whole multiple of 1 / `unit`; None if it is none."""
        written = str(value)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not _DECIMAL.fullmatch(written):
            self._fault(path, f"is {_printable(value)}; write a number of {what}, such as 100 or 0.25")
            return None
        amount = Fraction(written) * unit
        if amount.denominator != 1:
            self._fault(path, f"is {_printable(value)}, which is counted no finer than 1/{unit}; write fewer decimals")
            return None
        return int(amount)

    def _budget(self, tree: Any, path: Path) -> Budget | None:
        entry = self._mapping(tree, path, _BUDGET)
        named = [name for name in BUDGET_UNITS if name in entry]
        if isinstance(tree, Mapping) and len(named) != 1:
            given = " and ".join(named) or "nothing"
            self._fault(path, f"counts {given}; write one of {', '.join(BUDGET_UNITS)}")
        if isinstance(tree, Mapping) and ("every" in entry) == ("within" in entry):
            self._fault(path, f"needs either every ({', '.join(PERIODS)}) or within, such as 30d")
        period, days = entry.get("every", ""), 0
        if "every" in entry and period not in PERIODS:
            self._fault((*path, "every"), f"is {_printable(period)}; write {_either(PERIODS)}")
            period = ""
        if "within" in entry:
            match = _DAYS.fullmatch(str(entry["within"]))
            days = int(match[1]) if match else 0
            if not match or days > LONGEST_WINDOW_DAYS:
                given = _printable(entry["within"])
                self._fault((*path, "within"), f"is {given}; write days, such as 30d, {LONGEST_WINDOW_DAYS}d at most")
        if "cost" in named and not self._currency:
            self._fault((*path, "cost"), "counts money, but nothing has a price; write rates as well")
        what = {"gpu_hours": "hours", "cpu_hours": "hours", "cost": "money"}
        amounts = [self._decimal(entry[name], (*path, name), BUDGET_UNITS[name], what[name]) for name in named]
        if len(amounts) != 1 or amounts[0] is None:
            return None
        if amounts[0] > LARGEST:
            given = _printable(entry[named[0]])
            self._fault((*path, named[0]), f"is {given}, more than there can be; remove the budget")
        currency = self._currency if named == ["cost"] else ""
        return Budget(named[0], amounts[0], period, days, self._zone, currency)

    def _rates(self, tree: Any, path: Path) -> tuple[Rate, ...]:
        rates: dict[datetime, Rate] = {}
        currency = ""
        for number, item in enumerate(self._list(tree, path)):
            place = (*path, number)
            rate = self._rate(item, place)
            if rate is None:
                continue
            if rate.valid_from in rates:
                self._fault((*place, "from"), "is the beginning of another rate too; keep one of them")
            if currency and rate.currency != currency:
                given = rate.currency
                self._fault((*place, "currency"), f"is {given}, and that of rates above {currency}; sums need one")
            currency = currency or rate.currency
            rates[rate.valid_from] = rate
        return tuple(rates[start] for start in sorted(rates))

    def _rate(self, tree: Any, path: Path) -> Rate | None:
        entry = self._mapping(tree, path, _RATE)
        if not isinstance(tree, Mapping):
            return None
        missing = [name for name in ("from", "currency") if name not in entry]
        if missing:
            self._fault(path, f"lacks {' and '.join(missing)}; a rate is like {{from: 2026-01-01, currency: EUR}}")
        start = self._instant(entry["from"], (*path, "from")) if "from" in entry else None
        currency = entry.get("currency", "EUR")
        if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
            self._fault((*path, "currency"), f"is {_printable(currency)}; write its three letters, such as EUR")
        gpu, gpu_default = self._gpu_prices(entry.get("gpu", "0"), (*path, "gpu"))
        cpu, memory = (self._price(entry.get(name, "0"), (*path, name)) for name in ("cpu_hour", "memory_gib_hour"))
        return Rate(start, str(currency), gpu, gpu_default, cpu, memory) if start else None

    def _price(self, value: Any, path: Path) -> int:
        price = self._decimal(value, path, MICRO_PER_UNIT, "money") or 0
        if price > _MOST_PRICE:
            self._fault(path, f"is {_printable(value)} an hour, more than there can be; is it meant for a year?")
        return price

    def _gpu_prices(self, tree: Any, path: Path) -> tuple[dict[str, int], int]:
        """Prices by type, in lower case, and that of all others. A plain number is the price of all."""
        if not isinstance(tree, Mapping):
            return {}, self._price(tree, path)
        prices: dict[str, int] = {}
        for kind, value in tree.items():
            if str(kind).lower() in prices:
                self._fault((*path, kind), "is there twice, in upper and lower case; keep one of them")
            prices[str(kind).lower()] = self._price(value, (*path, kind))
        if "default" not in prices:
            self._fault(path, "lacks default, the price of GPUs of all other types; write it, 0 if they are free")
        return prices, prices.pop("default", 0)

    def _instant(self, value: Any, path: Path) -> datetime | None:
        """A date, which begins at midnight in the policy's zone, or a date and time."""
        written = value.isoformat() if isinstance(value, date) else value
        try:
            instant = datetime.fromisoformat(re.sub(r"Z\Z", "+00:00", written))
            return (instant if instant.tzinfo else instant.replace(tzinfo=self._zone)).astimezone(timezone.utc)
        except (OverflowError, TypeError, ValueError):
            self._fault(path, f"is {_printable(value)}; write a date, such as 2026-01-01 or 2026-01-01T12:00:00Z")
            return None


def group_name_fault(name: Any) -> str:
    """Why a group cannot have a name; empty if it can."""
    if not isinstance(name, str):
        return f"is {_printable(name)}, which is no text; write the name in quotes"
    if not name or name != name.strip() or not name.isprintable() or len(name) > 255:
        return "is no name: names are printable, have no blanks at their ends and at most 255 characters"
    return ""


def name_fault(name: Any) -> str:
    """Why a user cannot have a name; empty if they can."""
    text = group_name_fault(name)
    if not text and name != name.lower():
        return f"is nobody: the hub has names in lower case; did you mean {_printable(name.lower())}?"
    return text


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _nearest(word: Any, known: Iterable[str]) -> str:
    """A hint at the word that was meant."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""
