"""Runs a module of the collection as Ansible would, but in this process: a hundred new ones take minutes."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from typing import Any
from unittest.mock import patch

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args


def run(module: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Result of a module; "failed" is in it if it failed. An exception that the module lets through is the test's."""
    settings = {"_ansible_check_mode": check, "_ansible_diff": True, **arguments}
    main = importlib.import_module(f"ansible_collections.gpuhub.platform.plugins.modules.{module}").main
    output, warnings = io.StringIO(), []
    # Paths become texts, as on their way through Ansible.
    values = json.loads(json.dumps(settings, default=str))
    with (
        patch_module_args(values),
        # In a process that has Ansible's display a warning goes there instead of into the result.
        patch.object(AnsibleModule, "warn", lambda _module, warning, *_: warnings.append(warning)),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main()
    result = json.loads(output.getvalue())
    return {**result, "warnings": warnings} if warnings else result
