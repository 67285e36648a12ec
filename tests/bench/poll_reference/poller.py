"""python -m poll_reference.poller API_URL DATABASE_URL: a poll every 30 seconds."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from kubernetes import client
from kubernetes.utils.quantity import parse_quantity
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from poll_reference.models import PodSession

SECONDS = 30
_GPU = "nvidia.com/gpu"


class Poller:
    """Brings the sessions up to date with the pods that there are."""

    def __init__(self, api_url: str, engine: Engine) -> None:
        configuration = client.Configuration()
        configuration.host = api_url
        self._core = client.CoreV1Api(client.ApiClient(configuration))
        self._engine = engine
        self._types: dict[str, str] = {}

    def poll(self, now: datetime) -> None:
        """Note pods that are new, and the end of those that are gone or have finished."""
        pods = self._core.list_pod_for_all_namespaces(resource_version="0").items
        with Session(self._engine) as session:
            there = set()
            for pod in pods:
                if not pod.spec.node_name:
                    continue
                known = session.scalar(select(PodSession).where(PodSession.pod_uid == pod.metadata.uid))
                if known is None:
                    known = self._new(pod)
                    session.add(known)
                known.last_seen_at = now
                if pod.status.phase in ("Succeeded", "Failed"):
                    known.ended_at = known.ended_at or _finished_at(pod) or now
                there.add(pod.metadata.uid)
            for known in session.scalars(select(PodSession).where(PodSession.ended_at.is_(None))):
                if known.pod_uid not in there:
                    known.ended_at = now
            session.commit()

    def _new(self, pod: client.V1Pod) -> PodSession:
        annotations = pod.metadata.annotations or {}
        requests: dict[str, float] = {}
        for container in pod.spec.containers:
            resources = container.resources
            for name, value in {**(resources.limits or {}), **(resources.requests or {})}.items():
                requests[name] = requests.get(name, 0) + float(parse_quantity(value))
        return PodSession(
            pod_uid=pod.metadata.uid,
            namespace=pod.metadata.namespace,
            pod=pod.metadata.name,
            username=annotations.get("hub.jupyter.org/username") or annotations.get("gpuhub.io/username", ""),
            node=pod.spec.node_name,
            gpu_type=self._gpu_type(pod.spec.node_name),
            gpu=int(requests.get(_GPU, 0)),
            cpu_cores=requests.get("cpu", 0),
            memory_bytes=int(requests.get("memory", 0)),
            started_at=pod.status.start_time or pod.metadata.creation_timestamp,
        )

    def _gpu_type(self, node: str) -> str:
        if node not in self._types:
            nodes = self._core.list_node(resource_version="0").items
            self._types = {one.metadata.name: one.metadata.labels.get("nvidia.com/gpu.product", "") for one in nodes}
        return self._types.get(node, "")


def _finished_at(pod: client.V1Pod) -> datetime | None:
    ended = [status.state.terminated for status in pod.status.container_statuses or ()]
    return max((state.finished_at for state in ended if state), default=None)


def main(api_url: str, database_url: str) -> None:
    """Poll for ever."""
    poller = Poller(api_url, create_engine(database_url, pool_size=1))
    due = time.monotonic()
    while True:
        poller.poll(datetime.now(UTC))
        due += SECONDS
        time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main(*sys.argv[1:])
