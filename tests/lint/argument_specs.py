#!/usr/bin/env python3
"""Every default of a role has an entry in its argument specification with the same value, and the other way round.

A default of another type than text that is an expression is described there in words.
Variables `gpuhub_*`, which no role owns, are in vars/settings.yml.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

# A default that is an expression is no value of these types: the documentation tools refuse it as one.
CONVERTED = {"bool", "dict", "float", "int"}

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = REPOSITORY / "roles"


def options(role: Path) -> dict[str, dict]:
    """All options of a role's entry points by name."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    return {name: option for entry in specs.values() for name, option in entry.get("options", {}).items()}


def differences(role: Path) -> list[str]:
    """What the two files of a role disagree on."""
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text()) or {}
    specified = options(role)
    found = [f"{name}: in defaults/main.yml, not in meta/argument_specs.yml" for name in defaults.keys() - specified]
    for name, option in specified.items():
        if not option.get("description"):
            found.append(f"{name}: no description")
        if option.get("required"):
            if name in defaults:
                found.append(f"{name}: required, but defaults/main.yml has a value")
        elif name not in defaults:
            found.append(f"{name}: in meta/argument_specs.yml, neither required nor in defaults/main.yml")
        elif {option.get("type"), option.get("elements")} & CONVERTED and "{{" in str(defaults[name]):
            if "default" in option:
                found.append(f"{name}: the default is an expression; say in the description what it comes to instead")
        elif option.get("default") != defaults[name]:
            found.append(f"{name}: {defaults[name]!r} in defaults, {option.get('default')!r} in the specification")
        if not name.startswith(f"{role.name}_"):
            found.append(f"{name}: does not begin with the role's name")
    return sorted(f"{role.name}: {line}" for line in found)


def unspecified() -> list[str]:
    """Shared variables that a role or playbook uses and vars/settings.yml does not have."""
    specified = yaml.safe_load((REPOSITORY / "vars" / "settings.yml").read_text())["shared"]
    patterns = ("roles/**/*.yml", "roles/**/*.j2", "playbooks/*.yml")
    files = [path for pattern in patterns for path in REPOSITORY.glob(pattern)]
    used = {(name, path) for path in files for name in re.findall(r"(?<![\w.])gpuhub_\w+", path.read_text())}
    return sorted(
        f"{name}: in {path.relative_to(REPOSITORY)}, not in vars/settings.yml"
        for name, path in used
        if name not in specified
    )


def main() -> int:
    """Print all differences; 1 if there are any."""
    roles = sorted(path for path in ROLES.iterdir() if path.is_dir())
    found = [line for role in roles for line in differences(role)] + unspecified()
    for line in found:
        print(line)
    print(f"{len(roles)} roles: {len(found)} differences between defaults and argument specifications")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
