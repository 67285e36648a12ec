"""The form that a server is started with: sizes, what is free, and why a size cannot be had. Works without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

from gpuhub_core.gpu_products import ANY
from gpuhub_core.quantities import RESOURCE_NAMES, format_cores, format_gib
from jinja2 import Environment, Template

from .quota import NotGrantedError, View
from .reasons import display, explain, moment
from .texts import say

# Beside this module; a file of a zip archive, which Jinja's own loaders do not read.
_PAGE = "spawn-form.html"


@lru_cache
def _template() -> Template:
    text = resources.files(__package__).joinpath(_PAGE).read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)


def render(view: View, language: str) -> str:
    """Return the form as HTML; nothing of what the portal said is markup in it."""
    first = next((profile.slug for profile in view.profiles if profile.reason is None), None)
    return _template().render(
        language=language,
        notices=list(_notices(view, language)),
        legend=say(language, "legend"),
        sizes=[
            {
                "slug": profile.slug,
                "display": display(profile, language),
                "offered": profile.reason is None,
                "checked": profile.slug == first,
                "state": say(language, "available")
                if profile.reason is None
                else say(language, "refused", reason=explain(profile.reason, language)),
            }
            for profile in view.profiles
        ],
    )


def render_refusal(error: NotGrantedError, language: str) -> str:
    """Return what stands in the form's place where nothing can be chosen."""
    return _template().render(language=language, notices=[refusal(error, language)], legend="", sizes=[])


def refusal(error: NotGrantedError, language: str) -> str:
    """Return the sentences that a refused start is answered with."""
    text = explain(error.reason, language)
    if error.profile is not None:
        text = say(language, "size", display=display(error.profile, language), reason=text)
    if error.account is not None:
        text = say(language, "away_refused", reason=text, time=moment(error.account.at))
    return text


def _notices(view: View, language: str) -> Iterator[str]:
    if view.away:
        yield say(language, "as_of", time=moment(view.account.at))
    account = view.account
    for name, used, most in zip(RESOURCE_NAMES, account.usage.amounts(), account.limits.amounts()):
        if most is not None:
            show = {"cpu_milli": format_cores, "memory_bytes": format_gib}.get(name, int)
            yield say(language, f"use_{name}", used=show(used), limit=show(most))
    if account.free is not None:
        free = [
            say(language, "free_item", count=count, gpu_type=gpu_type or say(language, "gpu"))
            for gpu_type, count in sorted(account.free.items())
            if count and gpu_type != ANY
        ]
        yield say(language, "free", free=", ".join(free) or say(language, "free_none"))
    if not view.profiles:
        yield say(language, "reason_no_sizes")
