#!/usr/bin/python
"""Secrets that are generated once and kept on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: generated_secrets
short_description: Generate secrets once and keep them on the host
description:
  - Every secret is a file of its own, readable by its owner alone, in one folder of that kind.
  - A secret that exists is never changed. To rotate one, remove its file.
  - The result holds the secrets; give the task C(no_log) for that reason.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes
options:
  path:
    description: Folder of the secrets.
    type: path
    required: true
  secrets:
    description: For each secret, by its name, what it is made of.
    type: dict
    required: true
  stand_in:
    description: In check mode, answer this for a secret that does not exist yet.
    type: str
    default: would-be-generated
"""

EXAMPLES = r"""
- name: Secrets of JupyterHub exist
  gpuhub.platform.generated_secrets:
    path: /var/lib/gpuhub/secrets
    secrets:
      jupyterhub-cookie-secret: {format: hex, bytes: 32}
      jupyterhub-admin-password: {format: password, length: 20}
  no_log: true # the result holds the secrets
  register: secrets
"""

RETURN = r"""
values:
  description: The secrets by name.
  type: dict
  returned: always
generated:
  description: Names of the secrets that did not exist.
  type: list
  elements: str
  returned: always
"""

import secrets as random_source
import string
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.atomic_file import write_text

# Nothing that people mistake for something else: no I, l, 1, O, 0.
ALPHABET = "".join(sorted(set(string.ascii_letters + string.digits) - set("Il1O0")))


def generate(recipe: dict[str, Any]) -> str:
    """Return a new secret: O(secrets.format=hex) of `bytes` random bytes, or `password` of `length` characters."""
    if recipe.get("format", "hex") == "hex":
        return random_source.token_hex(int(recipe.get("bytes", 32)))
    if recipe["format"] == "password":
        return "".join(random_source.choice(ALPHABET) for _position in range(int(recipe.get("length", 20))))
    raise ValueError(f"format '{recipe['format']}' is neither 'hex' nor 'password'")


def main() -> None:
    """Read what exists, generate the rest, repair modes."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "secrets": {"type": "dict", "required": True, "no_log": False},
            "stand_in": {"type": "str", "default": "would-be-generated"},
        },
        supports_check_mode=True,
    )
    folder, check = Path(module.params["path"]), module.check_mode
    values, generated, tightened = {}, [], []
    for place, mode in [(folder, 0o700), *((folder / name, 0o600) for name in module.params["secrets"])]:
        if place.exists() and place.stat().st_mode & 0o777 != mode:
            tightened.append(str(place))
            if not check:
                place.chmod(mode)
    for name, recipe in module.params["secrets"].items():
        if "/" in name or name.startswith("."):
            module.fail_json(msg=f"'{name}' is no name for a secret: it becomes a file name in {folder}")
        path = folder / name
        if path.is_file():
            values[name] = path.read_text(encoding="utf-8").strip()
            continue
        generated.append(name)
        try:
            values[name] = module.params["stand_in"] if check else generate(recipe or {})
        except (KeyError, ValueError) as error:
            module.fail_json(msg=f"secret '{name}': {error}")
        if not check:
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            write_text(path, values[name], 0o600)
    module.exit_json(
        changed=bool(generated or tightened),
        values=values,
        generated=generated,
        diff={
            "before": "",
            "after": "".join(f"generated {name}\n" for name in generated)
            + "".join(f"mode of {place} made private\n" for place in tightened),
        },
    )


if __name__ == "__main__":
    main()
