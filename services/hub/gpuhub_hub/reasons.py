"""Reasons and sizes in words: English as the core has them, other languages made of the numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from fractions import Fraction
from typing import Any

from gpuhub_core import quota_profiles
from gpuhub_core.gpu_products import ANY
from gpuhub_core.quantities import format_cores, format_gib
from gpuhub_core.quota_policy import BUDGET_UNITS, decimal
from gpuhub_core.quota_profiles import Profile, Reason

from .texts import ENGLISH, TEXTS, say

_Numbers = Mapping[str, Mapping[str, Any]]


def explain(reason: Reason, language: str) -> str:
    """Return a reason in words: of the table where it has the code, else those that came with it."""
    # Numbers that do not fit the code are a portal's fault; what it says itself is as good then.
    with suppress(KeyError, IndexError, ValueError, AttributeError, TypeError, OverflowError):
        if language != ENGLISH and reason.code in _COMPOSED and reason.numbers:
            return _COMPOSED[reason.code](reason, language)
        key = f"reason_{reason.code}"
        if key in TEXTS[ENGLISH]:
            return say(language, key, **reason.numbers)
    return reason.text_en or say(language, "no_reason")


def display(profile: Profile, language: str) -> str:
    """Return what a size is called; a name that the installation gave it stays as it is."""
    request = profile.request
    if language == ENGLISH or profile.display_name != quota_profiles.display_name(request):
        return profile.display_name
    amounts = {
        name: _amount(key, getattr(request.resources, key), language)
        for name, key in (("cpu", "cpu_milli"), ("memory", "memory_bytes"), ("gpu", "gpu"))
    }
    gpu_type = say(language, "display_any") if request.gpu_type == ANY else request.gpu_type
    name = say(language, "display_gpu" if request.resources.gpu else "display_cpu", gpu_type=gpu_type, **amounts)
    return say(language, "display_rdma", display=name) if request.rdma else name


def moment(when: datetime) -> str:
    """Return a time as people read it."""
    return f"{when:%Y-%m-%d %H:%M} {when:%Z}".strip()


def _amount(name: str, amount: int, language: str) -> str:
    show: Callable[[int], Any] = {"cpu_milli": format_cores, "memory_bytes": format_gib}.get(name, int)
    return say(language, f"amount_{name}", amount=show(amount))


def _parts(numbers: _Numbers, key: str, language: str, more: tuple[tuple[str, str], ...] = ()) -> str:
    """Each resource with its amounts, GPUs first; `more` are texts for amounts that are said unless they are 0."""
    if not numbers:
        raise ValueError
    parts = []
    for name, number in reversed(numbers.items()):
        amounts = {what: _amount(name, amount, language) for what, amount in number.items()}
        said = [say(language, key, **amounts)]
        said += [say(language, text, **amounts) for what, text in more if number.get(what)]
        parts.append(say(language, "beside").join(said))
    return say(language, "and").join(parts)


def _over_limit(reason: Reason, language: str) -> str:
    beyond = {name: number for name, number in reason.numbers.items() if number["needed"] > number["limit"]}
    if beyond:
        return say(language, "reason_over_limit_beyond", parts=_parts(beyond, "part_over_limit", language))
    held = (("used", "part_used"), ("reserved", "part_reserved"))
    return say(language, "reason_over_limit", parts=_parts(reason.numbers, "part_over_limit", language, held))


def _budget_used(reason: Reason, language: str) -> str:
    budgets, resources = [], set()
    for name, number in reason.numbers.items():
        # As quota_policy.Budget.name has it: "gpu_hours a month", "cost within 30 days".
        resource, how, window, *_ = name.split(" ")
        resources.add(resource)
        budgets.append(
            say(
                language,
                "part_budget",
                window=say(language, "window_days" if how == "within" else f"window_{window}", days=window),
                amount=decimal(Fraction(number["amount"], BUDGET_UNITS[resource])),
                unit=say(language, f"unit_{resource}"),
            )
        )
    again = say(language, "again_at", until=moment(reason.until)) if reason.until else say(language, "again_never")
    text = say(language, "reason_budget_used", parts=say(language, "and").join(budgets), again=again)
    return text + say(language, "without_gpus") if resources == {"gpu_hours"} else text


def _short(numbers: _Numbers, key: str) -> _Numbers:
    """What is short; too few GPUs are said alone, as in English."""
    short = {name: number for name, number in numbers.items() if number["needed"] > number[key]}
    return {"gpu": short["gpu"]} if "gpu" in short else short


def _too_large(reason: Reason, language: str) -> str:
    short = _short(reason.numbers, "largest")
    return say(language, "reason_too_large", parts=_parts(short, "part_too_large", language))


def _none_free(reason: Reason, language: str) -> str:
    # The hub's own judgement knows of no nodes.
    known = all("largest_free" in number for number in reason.numbers.values())
    if known:
        short, key = _short(reason.numbers, "largest_free"), "part_none_free"
        parts = _parts(short, key, language, (("free", "part_free"),))
    else:
        parts = _parts(_short(reason.numbers, "free"), "part_only_free", language)
    return say(language, "reason_none_free", parts=parts)


_COMPOSED: Mapping[str, Callable[[Reason, str], str]] = {
    quota_profiles.OVER_LIMIT: _over_limit,
    quota_profiles.BUDGET_USED: _budget_used,
    quota_profiles.TOO_LARGE: _too_large,
    quota_profiles.NONE_FREE: _none_free,
}
