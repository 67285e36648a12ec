#!/usr/bin/python
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settings
short_description: Reads and checks the settings of an inventory before any host is connected to
description:
  - Checks every variable of the play's hosts that begin like a role of this collection or with C(gpuhub_). Unknown
    names, wrong types and values that cannot be right are listed all at once, with hosts, files and lines.
  - Reads the file that the variable C(gpuhub_env_file) names, a C(jhub.env) of an installation by shell script, and
    sets the variables that it means on each host. Nothing in it is executed. What inventory or command line say wins.
  - Runs on the control node alone. It looks at variables as inventory, host and group files and the command line set
    them, not at those of plays and tasks.
  - Values that depend on facts or on what tasks register are left for the roles to check.
  - It is the first task of every playbook of this collection, by C(playbooks/settings.yml).
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.jhub_env
attributes:
  check_mode:
    description: Changes nothing on a host, so that it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing on a host, so that there is no difference to show.
    support: N/A
  idempotent:
    description: >-
      Sets variables of this run, which Ansible calls a change as it does for M(ansible.builtin.add_host); use
      C(changed_when).
    support: full
options: {}
"""

EXAMPLES = r"""
- name: Check the settings before anything else
  hosts: head:workers
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Settings are known and can be right
      gpuhub.platform.settings:
      changed_when: false

# The same in one line, at the top of a playbook
- name: Check settings
  ansible.builtin.import_playbook: gpuhub.platform.settings

# ansible-playbook -i my_inventory gpuhub.platform.site \
#   -e gpuhub_env_file=jhub.env -e '{"gpuhub_env_ignore": ["ENABLE_IB", "USE_GPU_OPERATOR"]}'
"""

RETURN = r"""
file:
  description: The C(jhub.env) that was read.
  type: str
  returned: always, empty without C(gpuhub_env_file)
variables:
  description: Variables that were set on this host.
  type: dict
  returned: always
  sample: {jupyterhub_pvc_size: 128Gi}
overridden:
  description: >-
    Variables that inventory or command line set already, so that the file's name was not used.
  type: dict
  returned: always
  sample: {jupyterhub_admin_users: ADMIN_USERS_CSV}
without_effect:
  description: Names of the file that mean nothing, with the reason.
  type: list
  elements: str
  returned: always
  sample: ["GITHUB_CLIENT_ID, GITHUB_CLIENT_SECRET (AUTH_MODE is native)"]
unchecked:
  description: Variables that cannot be judged before hosts are connected to.
  type: list
  elements: str
  returned: on the first host
"""
