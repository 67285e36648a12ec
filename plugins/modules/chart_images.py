#!/usr/bin/python
"""Images that a chart will run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: chart_images
short_description: Images that a chart will run
description:
  - Renders a chart with C(helm template), which needs no cluster and no network, and returns the images of all Pods in
    it, those of init containers and those that JupyterHub's chart hides in its Secret included.
version_added: 0.1.0
author: The gpuhub.platform authors (@gpuhub)
extends_documentation_fragment:
  - gpuhub.platform.attributes.read_only
options:
  chart:
    description: The chart's archive or folder.
    type: path
    required: true
  helm:
    description: The helm program. A file that may not be executed is copied to a temporary folder first.
    type: path
    required: true
  values:
    description: Values to render with.
    type: dict
    default: {}
  release:
    description: Name of the release.
    type: str
    default: release
  namespace:
    description: Namespace of the release.
    type: str
    default: default
  kube_version:
    description: Version of Kubernetes that the chart shall believe to see, such as V(1.34). By default helm's own.
    type: str
  extra:
    description: Images to add to those found, such as those that a controller of the chart starts.
    type: list
    elements: str
    default: []
requirements:
  - PyYAML
"""

EXAMPLES = r"""
- name: Images of JupyterHub
  gpuhub.platform.chart_images:
    chart: files/offline-images/charts/jupyterhub-4.4.0.tgz
    helm: files/offline-images/bin/helm-linux-amd64
    values: "{{ jupyterhub_values }}"
  delegate_to: localhost
  register: jupyterhub_images
"""

RETURN = r"""
images:
  description: Full references, sorted, each once.
  type: list
  elements: str
  returned: always
  sample: [quay.io/jupyterhub/k8s-hub:4.4.0]
"""

import json
import os
import shutil
import tempfile
import traceback
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils.chart import ChartError, images
from ..module_utils.image_reference import ImageReferenceError, normalise

try:
    import yaml

    YAML_ERROR = None
except ImportError:
    YAML_ERROR = traceback.format_exc()


def render(module: AnsibleModule, folder: Path) -> str:
    """What ``helm template`` prints; everything that helm writes goes below `folder`."""
    params = module.params
    helm = Path(params["helm"])
    for name, path in (("helm", helm), ("chart", Path(params["chart"]))):
        if not path.exists():
            module.fail_json(msg=f"{name}: {path} is not there")
    if not os.access(helm, os.X_OK):
        # A bundle that came on a stick has lost its permissions.
        helm = Path(shutil.copy(helm, folder / "helm"))
        helm.chmod(0o700)
    values = folder / "values.json"
    values.write_text(json.dumps(params["values"]), encoding="utf-8")
    values.chmod(0o600)
    command = [str(helm), "template", params["release"], params["chart"], "--namespace", params["namespace"]]
    command += ["--values", str(values), "--skip-tests"]
    if params["kube_version"]:
        command += ["--kube-version", params["kube_version"]]
    environment = {
        name: str(folder / name.lower()) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    }
    code, out, err = module.run_command(command, environ_update={**environment, "KUBECONFIG": os.devnull})
    if code:
        module.fail_json(
            msg=f"{params['chart']}: helm cannot render it with these values: {err.strip() or out.strip()}"
        )
    return out


def main() -> None:
    """Render and search."""
    module = AnsibleModule(
        argument_spec={
            "chart": {"type": "path", "required": True},
            "helm": {"type": "path", "required": True},
            "values": {"type": "dict", "default": {}},
            "release": {"type": "str", "default": "release"},
            "namespace": {"type": "str", "default": "default"},
            "kube_version": {"type": "str"},
            "extra": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if YAML_ERROR:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=YAML_ERROR)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as folder:
        rendered = render(module, Path(folder))
    try:
        found = images(yaml.load_all(rendered, Loader=loader), lambda text: yaml.load(text, Loader=loader))
        extra = [normalise(text) for text in module.params["extra"]]
    except (ChartError, ImageReferenceError, yaml.YAMLError) as error:
        module.fail_json(msg=f"{module.params['chart']}: {error}")
    module.exit_json(changed=False, images=sorted({*found, *extra}))


if __name__ == "__main__":
    main()
