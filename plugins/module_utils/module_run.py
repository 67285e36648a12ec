"""What modules do around their work: what it raises becomes a failure in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class _Module(Protocol):
    """An AnsibleModule; it is not imported, so that this file is as free of Ansible as its neighbours."""

    def exit_json(self, **values: Any) -> None: ...

    def fail_json(self, msg: str) -> None: ...


def run(module: _Module, work: Callable[[Any], dict[str, Any]], *errors: type[Exception]) -> None:
    """End `module` with the result of ``work(module)``, or with the message of one of `errors` or of an OSError."""
    try:
        result = work(module)
    except errors as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}" if error.filename else str(error))
    else:
        module.exit_json(**result)
