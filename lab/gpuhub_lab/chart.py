"""Artefact `chart`: the lab's double of zero-to-jupyterhub as an archive; and what a rendered chart comes to."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

from .cache import LAB, artefact

DOUBLE = LAB / "doubles" / "jupyterhub-chart"
SOURCE = DOUBLE / "chart"
FACTS = DOUBLE / "facts.json"
# Charts refuse a Kubernetes that is too old, and helm built from its module alone believes to see a very old one.
KUBERNETES = "1.34.0"


def build() -> Path:
    """Return the folder of artefact `chart`, with one file `jupyterhub-<version>.tgz`."""
    return artefact("chart", [SOURCE, Path(__file__)], _write)


def _write(folder: Path) -> None:
    about = yaml.safe_load((SOURCE / "Chart.yaml").read_text())
    (folder / f"{about['name']}-{about['version']}.tgz").write_bytes(package(SOURCE))


def package(source: Path) -> bytes:
    """Return a chart's folder as an archive for helm; the same files give the same bytes."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            entry = tarfile.TarInfo(f"jupyterhub/{path.relative_to(source).as_posix()}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return buffer.getvalue()


def render(helm: Path, chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of a chart, as helm renders them for these values; raise CalledProcessError with its text."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.json"
        file.write_text(json.dumps(values))
        command = [helm, "template", "jupyterhub", chart, "--namespace", "jhub", "--kube-version", KUBERNETES]
        output = subprocess.run([*command, "--values", file], capture_output=True, text=True, check=True).stdout
    return [item for item in yaml.safe_load_all(output) if item]


def facts(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What is recorded of a chart's rendered objects: all of them but contents.

    Of a Secret its keys, of a ConfigMap the names of its Python files, of a checksum that it is there, and of the
    hub's configuration what it comes to (see `configuration`). Nulls and empty lists and maps count as not stated.
    """
    result = {}
    for item in objects:
        recorded = json.loads(json.dumps(item))
        kind = recorded["kind"]
        if kind == "Secret":
            recorded["data"] = sorted({**recorded.get("data", {}), **recorded.pop("stringData", {})})
        elif kind == "ConfigMap":
            recorded["data"] = sorted(name for name in recorded["data"] if name.endswith(".py"))
        elif kind == "Deployment":
            annotations = recorded["spec"]["template"]["metadata"]["annotations"]
            for name in annotations:
                if name.startswith("checksum/"):
                    annotations[name] = "(checksum)"
        result[f"{kind} {recorded['metadata']['name']}"] = _stated(recorded)
    return dict(sorted(result.items())) | {"configuration": configuration(objects)}


def _stated(value: Any) -> Any:
    if isinstance(value, dict):
        items = {key: _stated(item) for key, item in value.items()}
        return {key: item for key, item in sorted(items.items()) if item not in (None, {}, [])}
    if isinstance(value, list):
        return [_stated(item) for item in value]
    return value


# Run with the folder of the Secret and of the ConfigMap. What the hub's image has and this machine need not is
# replaced: only what the configuration does with it is of interest.
_EVALUATE = """
import json, runpy, sys, types
from pathlib import Path
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

folder = Path(sys.argv[1])
calls = {}

def module(name, **content):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)

class AsyncHTTPClient:
    configure = staticmethod(lambda name: calls.update(http_client=name))

module("tornado.httpclient", AsyncHTTPClient=AsyncHTTPClient)
module("kubernetes_asyncio", client=None)
module("jupyterhub.utils", url_path_join=None)
module("gpuhub_hub", setup=lambda c, settings: calls.update(setup=settings))

c = Config()
path = folder / "jupyterhub_config.py"
exec(compile(path.read_text(), str(path), "exec"), {"get_config": lambda: c, "__file__": str(path)})

def plain(value):
    if isinstance(value, LazyConfigValue):
        value = value.get_value([])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value

print(json.dumps({"config": plain(c), "calls": calls}), file=sys.stderr)
"""


def configuration(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the hub's configuration comes to, by traitlets section, with the values in the chart's own Secret."""
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("secret", "config"):
            (Path(folder) / kind).mkdir()
        for name, content in by_name["Secret", "hub"]["data"].items():
            (Path(folder) / "secret" / name).write_bytes(base64.b64decode(content))
        for name, content in by_name["ConfigMap", "hub"]["data"].items():
            (Path(folder) / "config" / name).write_text(content)
            if name.endswith(".py"):
                (Path(folder) / name).write_text(content.replace("/usr/local/etc/jupyterhub", folder))
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "POD_NAMESPACE": "jhub",
            "HUB_SERVICE_PORT": "8081",
            "PROXY_API_SERVICE_PORT": "8001",
        }
        run = subprocess.run(
            [sys.executable, "-c", _EVALUATE, folder], env=environment, capture_output=True, text=True, check=False
        )
    if run.returncode:
        raise RuntimeError(f"the hub's configuration cannot be evaluated:\n{run.stderr}")
    return json.loads(run.stderr.splitlines()[-1])
