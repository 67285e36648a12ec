"""What the benchmarks of the usage portal share: its code, databases, a cluster at work, measured processes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import service_imports  # noqa: F401
from ansible_collections.gpuhub.platform.plugins.module_utils import core_archive
from gpuhub_portal import database
from kubernetes_asyncio.client import ApiClient
from kubespawner.objects import make_pod
from poll_reference.models import Base
from portals import REPOSITORY, SERVICE, Postgres
from simulator.api_server import ApiServer
from simulator.world import Node, Pod, text
from sqlalchemy import create_engine, make_url

# The packages of the portal for children, as its image has them.
_FOLDER = tempfile.TemporaryDirectory(prefix="gpuhub-bench-")
_ARCHIVE = Path(_FOLDER.name, core_archive.FILE_NAME)
_ARCHIVE.write_bytes(core_archive.pack(core_archive.members(REPOSITORY)))
PYTHON_PATH = os.pathsep.join([str(SERVICE), str(_ARCHIVE), str(REPOSITORY / "tests/bench"), str(REPOSITORY / "tests")])

OURS, THEIRS = "ours", "theirs"
PATIENCE = 120
# As kubelet and the API server do it by default.
HEARTBEAT_SECONDS = 300
BOOKMARK_SECONDS = 60


class Databases(Postgres):
    """A PostgreSQL that keeps what it has committed, with a database for each side."""

    # What people have is slower to commit than what tests use.
    settings = Postgres.settings | {"fsync": "on", "full_page_writes": "on", "autovacuum": "on"}

    def __enter__(self) -> Databases:
        super().__enter__()
        database.migrate(make_url(self.sqlalchemy_url(self.create(OURS))))
        engine = create_engine(self.sqlalchemy_url(self.create(THEIRS)))
        Base.metadata.create_all(engine)
        engine.dispose()
        return self

    def sqlalchemy_url(self, name: str) -> str:
        """The address with its driver."""
        return self.url(name).replace("postgresql://", "postgresql+psycopg://", 1)

    def backends(self, name: str) -> list[int]:
        """Processes that serve a database now."""
        with self.connect() as connection:
            rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", [name])
            return [row[0] for row in rows]


def cpu_seconds(process: int) -> float:
    """CPU time of a process that runs, all of its threads together, to the nanosecond."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def child(*arguments: str, **environment: str) -> Iterator[subprocess.Popen]:
    """A Python process with the portal's code, until the end of the block."""
    variables = {**os.environ, "PYTHONPATH": PYTHON_PATH, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    process = subprocess.Popen([sys.executable, *arguments], env=variables)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def api_servers(count: int) -> AsyncIterator[list[ApiServer]]:
    """API servers, which are rid of their connections in the end."""
    servers = [ApiServer() for _ in range(count)]
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(server) for server in servers]
    while any(server._connections for server in servers):
        await asyncio.sleep(0)


@contextmanager
def collector(server: ApiServer, databases: Databases) -> Iterator[subprocess.Popen]:
    """The collector as it is deployed, but for TLS and a token towards the API server."""
    with child(
        str(REPOSITORY / "tests/bench/run_collector.py"),
        server.url,
        USAGE_PORTAL_DATABASE_URL=databases.url(OURS),
        USAGE_PORTAL_NAMESPACE="usage-portal",
    ) as process:
        yield process


@contextmanager
def poller(server: ApiServer, databases: Databases) -> Iterator[subprocess.Popen]:
    """The reference."""
    with child("-m", "poll_reference.poller", server.url, databases.sqlalchemy_url(THEIRS)) as process:
        yield process


async def until(connection: psycopg.Connection, query: str, expected: object) -> None:
    """Wait until a query has an answer."""
    deadline = time.monotonic() + PATIENCE
    while (answer := connection.execute(query).fetchone()[0]) != expected:
        if time.monotonic() > deadline:
            raise SystemExit(f"{query}: {answer}, not {expected}")
        await asyncio.sleep(0.1)


# --- objects as large as those of a cluster ---


def _fields(value: Any) -> dict:
    """What `metadata.managedFields` says of a value: the names of all its fields once more."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields(each) for key, each in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() & {"name", "type"}:
        key = "name" if "name" in value[0] else "type"
        return {f"k:{json.dumps({key: each.get(key)})}": {".": {}, **_fields(each)} for each in value}
    return {}


def _managed(obj: dict, **parts: str) -> dict:
    """Add managedFields: which manager has set which part of the object."""
    obj["metadata"]["managedFields"] = [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "time": obj["metadata"]["creationTimestamp"],
            "fieldsType": "FieldsV1",
            "fieldsV1": _fields({part: obj[part]}),
        }
        for part, manager in parts.items()
    ]
    return obj


def _notebook() -> dict:
    """What KubeSpawner makes of the platform's settings."""
    variables = (
        *("API_TOKEN", "API_URL", "HOST", "BASE_URL", "CLIENT_ID", "COOKIE_HOST_PREFIX_ENABLED", "OAUTH_SCOPES"),
        *("OAUTH_ACCESS_SCOPES", "OAUTH_CALLBACK_URL", "OAUTH_CLIENT_ALLOWED_SCOPES", "SERVER_NAME", "SERVICE_PREFIX"),
        *("SERVICE_URL", "USER", "ACTIVITY_URL", "DEBUG", "PUBLIC_URL", "PUBLIC_HUB_URL", "SINGLEUSER_APP"),
    )
    volumes = ("home", "shared-storage", "shared-examples", "dshm")
    pod = make_pod(
        name="notebook",
        cmd=["/usr/local/bin/start-notebook", "jupyterhub-singleuser", "--ip=0.0.0.0"],
        port=8888,
        image="registry.internal:5000/docker.io/myorg/pytorch-jhub@sha256:" + 64 * "0",
        env={f"JUPYTERHUB_{name}": f"http://hub.jhub.svc.cluster.local:8081/{name.lower()}" for name in variables},
        volumes=[{"name": name, "persistentVolumeClaim": {"claimName": f"claim-{name}"}} for name in volumes],
        volume_mounts=[{"name": name, "mountPath": f"/home/jovyan/{name}"} for name in volumes],
        labels={"component": "singleuser-server", "app": "jupyterhub", "heritage": "jupyterhub"},
        cpu_limit=8,
        mem_limit=64 * 2**30,
        uid=1000,
        fs_gid=100,
        tolerations=[
            {"key": key, "operator": "Exists", "effect": "NoSchedule"}
            for key in ("hub.jupyter.org/dedicated", "nvidia.com/gpu", "node.kubernetes.io/not-ready")
        ],
        node_affinity_required=[
            {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A100"]}]}
        ],
    )
    return ApiClient.sanitize_for_serialization(ApiClient.__new__(ApiClient), pod)


_NOTEBOOK = _notebook()
_IMAGE = _NOTEBOOK["spec"]["containers"][0]["image"]


def pod_object(pod: Pod) -> dict:
    """The simulator's pod, in the size of one of KubeSpawner's that Calico gave an address."""
    obj = pod.obj()
    container = {**_NOTEBOOK["spec"]["containers"][0], "resources": obj["spec"]["containers"][0]["resources"]}
    obj["spec"] = {**_NOTEBOOK["spec"], "nodeName": pod.node, "containers": [container]}
    metadata, status = obj["metadata"], obj["status"]
    if pod.kind == "notebook":
        metadata["labels"] |= _NOTEBOOK["metadata"]["labels"]
    metadata["annotations"] |= {f"cni.projectcalico.org/{key}": "10.1.2.3/32" for key in ("podIP", "podIPs")}
    if pod.node:
        more = ("Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers")
        since = text(pod.scheduled_at)
        status["conditions"] += [{"type": kind, "status": "True", "lastTransitionTime": since} for kind in more]
        status |= {"hostIP": "10.0.0.1", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}], "qosClass": "Guaranteed"}
        status["startTime"] = since
    for container in status.get("containerStatuses", ()):
        container |= {"image": _IMAGE, "imageID": _IMAGE, "containerID": "containerd://" + 64 * "0"}
        container |= {"ready": True, "started": True, "restartCount": 0}
    return _managed(obj, spec="OpenAPI-Generator", status="kubelet")


def node_object(node: Node) -> dict:
    """The simulator's node, in the size of one with GPU Operator and 25 images."""
    obj = node.obj()
    features = ("cpu-cpuid", "cpu-security", "kernel-config", "kernel-version", "pci-10de", "pci-15b3", "system-os")
    obj["metadata"]["labels"] |= {
        f"feature.node.kubernetes.io/{feature}.{index}": "true" for feature in features for index in range(12)
    }
    gpu = ("count", "memory", "family", "machine", "replicas", "compute.major", "compute.minor", "mode", "sharing")
    obj["metadata"]["labels"] |= {f"nvidia.com/gpu.{label}": "81920" for label in gpu}
    obj["metadata"]["annotations"] = {"nfd.node.kubernetes.io/feature-labels": ",".join(obj["metadata"]["labels"])}
    status = obj["status"]
    status["conditions"] += [
        {
            "type": kind,
            "status": "False",
            "reason": f"KubeletHasSufficient{kind}",
            "message": "kubelet has sufficient resources available",
            "lastHeartbeatTime": text(node.heartbeat),
            "lastTransitionTime": text(node.ready_since),
        }
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
    ]
    status["images"] = [
        {"names": [f"{_IMAGE[:-2]}{index:02}", f"docker.io/myorg/image-{index}:24.10"], "sizeBytes": 10**9}
        for index in range(25)
    ]
    return _managed(obj, metadata="nfd-master", status="kubelet")


# --- a cluster at work ---


class Load:
    """500 notebooks on 64 nodes of 8 GPUs, told to some API servers alike, and what happens there as time goes by.

    Nodes report every five minutes. Notebooks last `life` seconds on average; one that ends is followed by another, at
    random or, so that few minutes have what minutes have on average, `evenly`. `scheduled` and `finished` are called
    with a pod's UID as the servers are told.
    """

    NODES, PODS = 64, 500

    def __init__(self, *servers: ApiServer, life: float = 4 * 3600, evenly: bool = False) -> None:
        self._servers, self._life, self._evenly = servers, life, evenly
        self._chance = random.Random(5)
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._running: list[Pod] = []
        self.scheduled: Callable[[str], None] = lambda uid: None
        self.finished: Callable[[str], None] = lambda uid: None

    def fill(self) -> None:
        """The cluster as it is in the beginning."""
        now = int(time.time())
        self._nodes = [
            Node(f"node-uid-{index}", f"node-{index}", "A100", 8, 8, True, now - 3600, now - 300)
            for index in range(self.NODES)
        ]
        for node in self._nodes:
            self._put("nodes", node_object(node))
        for _ in range(self.PODS):
            pod = self._new(now - 600)
            pod.started_at, pod.phase = now - 590, "Running"
            self._running.append(pod)
            self._put("pods", pod_object(pod))

    def _put(self, resource: str, obj: dict) -> None:
        for server in self._servers:
            server.put(resource, obj)

    def _new(self, at: int) -> Pod:
        index = next(self._order)
        user = f"user-{index % 200}"
        pod = Pod(f"pod-uid-{index}", f"jupyter-{user}--{index}", "notebook", user, "", 1, 8000, 65536, created_at=at)
        pod.node, pod.scheduled_at = self._nodes[index % self.NODES].name, at
        return pod

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self._now + delay, next(self._order), action))

    async def live(self, seconds: float) -> None:
        """Let time pass."""
        self._now = time.monotonic()
        end = self._now + seconds
        for index, node in enumerate(self._nodes):
            self._at(HEARTBEAT_SECONDS * index / self.NODES, lambda node=node: self._beat(node))
        self._at(BOOKMARK_SECONDS / 2, self._bookmark)
        self._at(self._pause() / 2, self._replace)
        while self._agenda[0][0] < end:
            self._now, _, action = heapq.heappop(self._agenda)
            await asyncio.sleep(max(0, self._now - time.monotonic()))
            action()
        self._agenda.clear()
        await asyncio.sleep(max(0, end - time.monotonic()))

    def _beat(self, node: Node) -> None:
        node.heartbeat = int(time.time())
        self._put("nodes", node_object(node))
        self._at(HEARTBEAT_SECONDS, lambda: self._beat(node))

    def _bookmark(self) -> None:
        for server in self._servers:
            server.bookmark()
        self._at(BOOKMARK_SECONDS, self._bookmark)

    def _replace(self) -> None:
        """One ends and one begins, each in the steps that scheduler, CNI and kubelet tell."""
        old = self._running.pop(self._chance.randrange(len(self._running)))
        new = self._new(int(time.time()))
        new.node = ""
        node = self._nodes[self._chance.randrange(self.NODES)].name

        def delete() -> None:
            old.deleted_at = int(time.time())
            self._put("pods", pod_object(old))

        def finish() -> None:
            old.finished_at, old.phase = int(time.time()), "Succeeded"
            self.finished(old.uid)
            self._put("pods", pod_object(old))

        def gone() -> None:
            for server in self._servers:
                server.delete("pods", old.uid)

        def create() -> None:
            self._put("pods", pod_object(new))

        def schedule() -> None:
            new.node, new.scheduled_at = node, int(time.time())
            self.scheduled(new.uid)
            self._put("pods", pod_object(new))

        def again() -> None:
            self._put("pods", pod_object(new))

        def start() -> None:
            new.started_at, new.phase = int(time.time()), "Running"
            self._running.append(new)
            self._put("pods", pod_object(new))

        steps = ((0, delete), (1.5, finish), (1.6, gone), (2, create), (2.01, schedule))
        for delay, step in (*steps, (2.1, again), (2.6, again), (4, start)):
            self._at(delay, step)
        self._at(self._pause(), self._replace)

    def _pause(self) -> float:
        """Seconds until the next notebook ends."""
        average = self._life / self.PODS
        return average if self._evenly else self._chance.expovariate(1 / average)
