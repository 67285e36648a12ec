#!/usr/bin/python
"""A certificate and its key can serve a name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_check
short_description: Check that a certificate and its key can serve a name
description:
  - Fails where a browser or the server itself would - files that cannot be read or parsed, a key that is encrypted or
    belongs to another certificate, a certificate that has expired, is not valid yet, is for other names or for
    another purpose.
  - Runs where the files are, on the control node or on a host. Needs nothing but Python; does not show the key.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  certificate:
    description: File with the server's certificate, and after it those of the authorities between it and the root.
    type: path
    required: true
  key:
    description: File with its private key.
    type: path
    required: true
  server_names:
    description: Names or addresses that people use.
    type: list
    elements: str
    required: true
  warn_days:
    description: Days before its end from which on the certificate is worth a warning.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: The certificate can be used
  delegate_to: localhost
  gpuhub.platform.certificate_check:
    certificate: certificates/hub.crt
    key: certificates/hub.key
    server_names: [hub.example.com]
"""

RETURN = r"""
names:
  description: Names and addresses in the certificate.
  type: list
  elements: str
  returned: always
not_after:
  description: When it ends, in seconds since the epoch.
  type: float
  returned: always
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import tls_files


def main() -> None:
    """Examine, then say what was found."""
    module = AnsibleModule(
        argument_spec={
            "certificate": {"type": "path", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},  # a path
            "server_names": {"type": "list", "elements": "str", "required": True},
            "warn_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    certificate, key = Path(module.params["certificate"]), Path(module.params["key"])
    try:
        found = tls_files.examine(certificate, key, module.params["server_names"])
    except tls_files.TlsFilesError as error:
        module.fail_json(msg=str(error))
    days = (found.not_after - time.time()) / 86400
    if days < module.params["warn_days"]:
        module.warn(f"{certificate} expires in {int(days)} days, at {tls_files.date(found.not_after)}; renew it")
    module.exit_json(changed=False, names=found.names, not_after=found.not_after)


if __name__ == "__main__":
    main()
