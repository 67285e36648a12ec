"""The chart double, held to what is recorded of the official chart; and an official archive, where one is named.

`python tests/lab/test_chart_double.py ARCHIVE` records an official archive anew.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(REPOSITORY / "lab"))

from gpuhub_lab import chart, kube

EXAMPLE = json.loads((REPOSITORY / "tests/unit/plugins/module_utils/jupyterhub_settings.json").read_text())
OFFICIAL = os.environ.get("GPUHUB_Z2JH_CHART")
# Settings that bring other keys than the example does.
VARIANTS = {
    "example": {},
    "no shared storage": {"shared_storage_path": ""},
    "authorities of the site": {"ca_checksum": "e" * 64},
    "proxies of the site": {
        "proxy": {
            "variables": ["HTTP_PROXY", "HTTPS_PROXY"],
            "no_proxy": "localhost,10.1.0.0/16",
            "endpoints": [{"host": "10.0.0.9", "port": 3128}, {"host": "proxy.example.com", "port": 8080}],
            "cluster_networks": ["10.1.0.0/16", "10.152.183.0/24"],
        }
    },
    "no limits": {"cpu_limit": "", "cpu_guarantee": "", "memory_limit": "", "memory_guarantee": ""},
    "one node, image by digest": {"user_node_selector": {}, "singleuser_image": "example.com/a@sha256:" + "a" * 64},
}


def values(**changes):
    from ansible_collections.gpuhub.platform.plugins.module_utils import jupyterhub_values

    secrets = {**EXAMPLE["secrets"], "proxy_checksum": "f" * 64}
    return jupyterhub_values.build({**EXAMPLE["settings"], **changes}, secrets)


@pytest.fixture(scope="module")
def helm() -> Path:
    return kube.build() / "helm"


@pytest.fixture(scope="module")
def double() -> Path:
    (archive,) = chart.build().glob("*.tgz")
    return archive


def every_key(tree, path=()):
    """Paths to all maps of the values whose keys the chart fixes."""
    free = ("nodeSelector", "annotations", "extraEnv", "extraConfig", "services", "loadRoles", "custom", "config")
    yield path
    for key, item in tree.items():
        if isinstance(item, dict) and key not in free:
            yield from every_key(item, (*path, key))


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


@pytest.mark.parametrize("archive", ["double", *([OFFICIAL] if OFFICIAL else [])])
def test_facts_of_the_official_render(helm, double, archive):
    path = double if archive == "double" else Path(archive)
    assert chart.facts(chart.render(helm, path, values())) == json.loads(chart.FACTS.read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_role_s_values_are_accepted(helm, double, variant):
    rendered = chart.facts(chart.render(helm, double, values(**VARIANTS[variant])))
    if OFFICIAL:
        assert rendered == chart.facts(chart.render(helm, Path(OFFICIAL), values(**VARIANTS[variant])))


def test_every_other_key_is_refused(helm, double):
    """One unknown key in each map, all at once: helm names every one of them."""
    wrong = copy.deepcopy(values())
    paths = list(every_key(values()))
    for path in paths:
        at(wrong, path)["planted"] = True
    with pytest.raises(subprocess.CalledProcessError) as error:
        chart.render(helm, double, wrong)
    assert error.value.stderr.count("planted") == len(paths), error.value.stderr


def test_no_key_is_optional_that_the_role_always_writes(helm, double):
    for path in every_key(values()):
        wrong = copy.deepcopy(values())
        if path:
            at(wrong, path[:-1]).pop(path[-1])
            with pytest.raises(subprocess.CalledProcessError):
                chart.render(helm, double, wrong)


def test_the_archive_depends_on_its_files_only(tmp_path):
    copied = tmp_path / "chart"
    for path in chart.SOURCE.rglob("*"):
        if path.is_file():
            target = copied / path.relative_to(chart.SOURCE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            os.utime(target, (0, 1_000_000_000))
    assert chart.package(copied) == chart.package(chart.SOURCE)


def test_extra_config_comes_last_and_in_order(helm, double):
    changed = values()
    changed["hub"]["config"]["JupyterHub"]["admin_access"] = False
    changed["hub"]["extraConfig"] = {
        "b": "c.JupyterHub.order = c.JupyterHub.order + ['b']",
        "a": "c.JupyterHub.order = ['a', c.JupyterHub.admin_access]",
    }
    result = chart.configuration(chart.render(helm, double, changed))
    assert result["config"]["JupyterHub"]["order"] == ["a", False, "b"]


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY / "collections"))
    recorded = chart.facts(chart.render(kube.build() / "helm", Path(sys.argv[1]), values()))
    chart.FACTS.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
