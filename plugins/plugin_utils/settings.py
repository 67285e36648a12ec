"""The variables of an inventory against what the collection's roles know. Runs on the control node only."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.nodes
import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.template import Templar

from ..module_utils import setting_rules

COLLECTION = Path(__file__).resolve().parents[2]

# What templates may call that is no variable.
_FUNCTIONS = {*jinja2.defaults.DEFAULT_NAMESPACE, "lookup", "query", "q", "now", "omit", "undef"}

# Ansible's, as far as it decides what a template may look like.
_SYNTAX = jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])

# Known in a play, but filled by what is found out on hosts.
_FOUND_OUT = {"ansible_facts", "ansible_local", "hostvars", "vars"}


class Known(NamedTuple):
    """What the collection knows: variables with their specification, beginnings that are its own, removed variables."""

    options: Mapping[str, Mapping[str, Any]]
    prefixes: tuple[str, ...]
    removed: Mapping[str, str]

    def ours(self, names: Iterable[str], foreign: Iterable[str]) -> list[str]:
        """Those names that belong to the collection: they begin like its variables and are not declared foreign."""
        patterns = [str(pattern) for pattern in foreign]
        return [
            name
            for name in names
            if name.startswith(self.prefixes) and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]


@cache
def known(collection: Path = COLLECTION) -> Known:
    """Read the argument specifications of all roles, and `vars/settings.yml`."""
    shared = yaml.safe_load((collection / "vars" / "settings.yml").read_text(encoding="utf-8"))
    options, prefixes = dict(shared["shared"]), ["gpuhub_", "usage_portal_"]
    for path in sorted(collection.glob("roles/*/meta/argument_specs.yml")):
        prefixes.append(f"{path.parts[-3]}_")
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            options.update(entry.get("options", {}))
    return Known(options, tuple(prefixes), shared["removed"])


def _texts(value: Any) -> Iterable[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(pair)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def waits_for(value: Any, variables: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
    """Return names that a value's templates use, directly or through other variables, and that nobody knows yet.

    Those are facts of hosts and what tasks register. A template that uses them is left alone even if it could be
    evaluated: ``default()`` would make something of it that is not what the roles will see.
    """
    names: set[str] = set()
    for text in _texts(value):
        if "{{" not in text and "{%" not in text:
            continue
        try:
            used = list(_SYNTAX.parse(text).find_all(jinja2.nodes.Name))
        except jinja2.TemplateSyntaxError:
            continue  # to evaluate it will say so, with the place
        # Names that the template itself sets are its own. jinja2.meta would know, but fails on Ansible's filters.
        names |= {node.name for node in used} - {node.name for node in used if node.ctx == "store"} - _FUNCTIONS - seen
    unknown = {name for name in names if name in _FOUND_OUT or name not in variables}
    for name in names - unknown:
        unknown |= waits_for(variables[name], variables, seen | names)
    return unknown


def wrong_type(name: str, value: Any, option: Mapping[str, Any]) -> str:
    """Why a value is not what its specification says; empty if it is.

    Stricter than Ansible's own check, which converts a copy while the roles see the value as it was written: a text
    is no list for a loop, and nothing is no number.
    """
    kind = option.get("type", "str")
    if value is None:
        return "has no value; remove the line to have the default"
    if kind == "list" and not isinstance(value, (list, tuple)):
        return f"must be a list, such as [a, b], but is {_kind(value)}{_on_command_line(value)}"
    if kind == "dict" and not isinstance(value, Mapping):
        return f"must be a mapping of names to values, but is {_kind(value)}{_on_command_line(value)}"
    if kind in _SCALARS:
        if isinstance(value, (Mapping, list, tuple)) or (kind in ("int", "float") and isinstance(value, bool)):
            return f"must be of type {kind}, but is {_kind(value)}"
        if ArgumentSpecValidator({name: {"type": kind}}).validate({name: value}).error_messages:
            return f"must be of type {kind}, but is {'something else' if option.get('no_log') else repr(value)}"
    if kind == "list" and option.get("elements") in _SCALARS:
        for item in value:
            wrong = wrong_type(name, item, {"type": option["elements"]})
            if wrong:
                return f"an element {wrong}"
    errors = ArgumentSpecValidator({name: {**option, "required": False}}).validate({name: value}).error_messages
    if errors and option.get("no_log"):
        return "is not what its specification says; its value is a secret and not shown"
    return "; ".join(error.replace(f"value of {name} must", "must") for error in errors)


_SCALARS = ("str", "path", "int", "float", "bool")


def _kind(value: Any) -> str:
    """What a value is, as administrators know it from YAML."""
    kinds = {str: "a text", bool: "true or false", int: "a number", float: "a number", Mapping: "a mapping"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "a list")


def _on_command_line(value: Any) -> str:
    """How to give structured values to `-e`, which is where texts in their place come from."""
    return """; on the command line -e takes JSON: -e '{"name": ["a"]}'""" if isinstance(value, str) else ""


class Fault(NamedTuple):
    """What is wrong with a variable, and where it was written; empty if nobody knows."""

    variable: str
    text: str
    origin: str


def _origin(*things: Any) -> str:
    """File and line of the first thing that knows its own; empty if none does.

    Ansible has no public way to ask. The answer is for messages only, so that no answer will do.
    """
    try:
        from ansible._internal._datatag._tags import Origin
    except ImportError:
        return ""
    for thing in things:
        origin = Origin.get_tag(thing)
        if origin and (origin.path or origin.description):
            place = origin.path or origin.description
            return f"{_relative(place)}:{origin.line_num}" if origin.line_num else _relative(place)
    return ""


def _relative(place: str) -> str:
    """A path as it is seen from here."""
    path = Path(place)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else place


def nearest_variable(name: str, knowledge: Known) -> str:
    """A hint at the variable that was meant. Long common beginnings make names alike that are not."""
    prefix = next((prefix for prefix in knowledge.prefixes if name.startswith(prefix)), "")
    rests = [option[len(prefix) :] for option in knowledge.options if option.startswith(prefix)]
    found = difflib.get_close_matches(name[len(prefix) :], rests, n=1, cutoff=0.65)
    found = [prefix + found[0]] if found else difflib.get_close_matches(name, knowledge.options, n=1, cutoff=0.85)
    return f"; did you mean {found[0]}?" if found else ""


@cache
def mistaken_for(name: str, collection: Path = COLLECTION) -> str:
    """The variable of the collection that another variable's name is almost equal to; empty if none is."""
    found = difflib.get_close_matches(name, known(collection).options, n=1, cutoff=0.92)
    return found[0] if found else ""


def check(variables: Mapping[str, Any], templar: Templar, knowledge: Known) -> tuple[list[Fault], list[str]]:
    """Return all faults of a host's variables, and the names of those that cannot be judged yet.

    `variables` as Ansible has them before templating, `templar` with the same.
    """
    faults, later = [], []
    foreign = templar.template(variables.get("gpuhub_foreign_variables") or [])
    keys = {str(key): key for key in variables}
    for name in sorted(knowledge.ours(keys, foreign if isinstance(foreign, list) else [])):
        value = variables[name]
        origin = _origin(value, keys[name])
        if name in knowledge.removed:
            faults.append(Fault(name, f"was removed; {knowledge.removed[name]}", origin))
        elif name not in knowledge.options:
            faults.append(Fault(name, f"no variable of this collection{nearest_variable(name, knowledge)}", origin))
        elif waits_for(value, variables):
            later.append(name)
        else:
            try:
                value = templar.template(value)
            except AnsibleError as error:
                faults.append(Fault(name, f"cannot be evaluated: {error.message}", origin))
                continue
            text = wrong_type(name, value, knowledge.options[name]) or setting_rules.fault(name, value)
            if text:
                faults.append(Fault(name, text, origin))
    return faults, later
