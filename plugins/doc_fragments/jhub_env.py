"""Documentation of jhub.env, made of the table that it is read by."""

from __future__ import annotations

import yaml

from ..module_utils.jhub_env import NAMES, Name, meaning


def _note(name: str, entry: Name) -> str:
    """One line for ansible-doc."""
    return f"C({name}) - {entry.about} {meaning(name)}."


class ModuleDocFragment:
    """What each name of a jhub.env means to this collection."""

    # Annotated, because ansible-test takes what is assigned plainly for a literal text.
    DOCUMENTATION: str = yaml.safe_dump(
        {
            "options": {},
            "notes": [
                "The names of C(jhub.env), and what each becomes:",
                *(_note(name, entry) for name, entry in NAMES.items()),
            ],
        },
        allow_unicode=True,
        sort_keys=False,
        width=1000,
    )
