"""Lookup of the collection's catalogue of versions."""

from __future__ import annotations

DOCUMENTATION = r"""
name: catalogue
author: The gpuhub.platform authors (@gpuhub)
version_added: 0.1.0
short_description: A component's version or images from the collection's catalogue
description:
  - Reads C(vars/catalogue.yml) of the collection, which names every component of the platform once.
options:
  _terms:
    description: Keys with dots between them, such as V(calico.images).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the images of Calico
  ansible.builtin.debug:
    msg: "{{ lookup('gpuhub.platform.catalogue', 'calico.images') }}"
"""

RETURN = r"""
_list:
  description: The value of each key.
  type: list
  elements: raw
"""

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

CATALOGUE = Path(__file__).resolve().parents[2] / "vars" / "catalogue.yml"


@cache
def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def find(catalogue: dict[str, Any], key: str) -> Any:
    """The value of a dotted key. Raises AnsibleLookupError that says which keys there are."""
    value: Any = catalogue
    parts = key.split(".")
    for position, part in enumerate(parts):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(sorted(value)) if isinstance(value, dict) else "no further keys"
            place = ".".join(parts[:position]) or "the catalogue"
            raise AnsibleLookupError(f"vars/catalogue.yml has no {key!r}: {place} has {there}")
        value = value[part]
    return value


class LookupModule(LookupBase):
    """The lookup plugin."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """The value of each term."""
        self.set_options(var_options=variables, direct=kwargs)
        catalogue = _load(CATALOGUE)
        return [find(catalogue, term) for term in terms]
