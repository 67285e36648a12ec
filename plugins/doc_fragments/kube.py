"""Documentation that the cluster modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of every module that talks to the API server."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description: Kubeconfig on the host that the module runs on.
    type: path
    default: /var/snap/microk8s/current/credentials/client.config
requirements:
  - kubernetes >= 35.0.0 (Python)
  - PyYAML (Python)
"""
