"""Why pods do not get ready, for error messages: their state, warnings, logs; bounded, and without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import kube_client as kube
from . import kube_rollout as rollout
from .redaction import redact, secret_texts

LOG_LINES = 8


def explain_pods(
    cluster: kube.Cluster, namespace: str, pods: list[dict[str, Any]], events: Iterable[dict[str, Any]]
) -> list[str]:
    """Return lines on those of `pods` (of one namespace) that are not ready, and the last warnings of `events`.

    The values of the namespace's Secrets are hidden, as is what looks like one.
    """
    lines: list[str] = []
    known: set[str] = set()
    events = list(events)
    try:
        known = secret_texts(cluster.list("v1", "Secret", namespace=namespace))
        lines += rollout.pod_problems(pods, events)
        lines += rollout.last_events(events)
        for log in rollout.logs_to_read(pods):
            lines += rollout.log_lines(log, _read(cluster, log), LOG_LINES)
    except Exception as error:
        lines.append(f"no details: {kube.explain(error)}")
    return redact("\n".join(lines), known).splitlines()


def _read(cluster: kube.Cluster, log: rollout.Log) -> str:
    try:
        return cluster.log(log.namespace, log.pod, log.container, log.previous, LOG_LINES)
    except Exception as error:
        return kube.explain(error)
