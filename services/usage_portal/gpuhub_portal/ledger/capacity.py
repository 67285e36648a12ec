"""What is known about a node's devices over time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gpuhub_portal.ledger.facts import Loss

JOINED, READY, NOT_READY, DEVICES, REMOVED = "joined", "ready", "not_ready", "devices", "removed"
_LOST = frozenset({NOT_READY, REMOVED})


@dataclass(frozen=True, slots=True)
class Step:
    """From `since` on a node offers `gpu` devices.

    `earliest` and `latest` bound the change where it was not seen as it happened. Of a node that was lost, `earliest`
    is its last sign of life. `version` orders steps of one node in the same second.
    """

    node_uid: str
    since: int
    earliest: int
    latest: int
    node: str
    gpu_type: str
    gpu: int
    reason: str
    version: int
    until: int | None = None


def merge(steps: Iterable[Step]) -> list[Step]:
    """The steps of one node object in order, each until the next; of those in one second, the last that was written."""
    latest: dict[int, Step] = {}
    for step in steps:
        step = replace(step, until=None)
        other = latest.get(step.since)
        if other is None or _order(step) > _order(other):
            latest[step.since] = step
    ordered = [latest[since] for since in sorted(latest)]
    following = [step.since for step in ordered[1:]] + [None]
    return [replace(step, until=until) for step, until in zip(ordered, following)]


def _order(step: Step) -> tuple:
    return step.version, step.reason, step.gpu, step.gpu_type, step.earliest, step.latest


def loss_at(steps: Iterable[Step], at: int) -> Loss | None:
    """How a node of these steps (of any of its incarnations) was lost if it was lost at a time."""
    current = [step for step in steps if step.since <= at and (step.until is None or at < step.until)]
    last = max(current, key=lambda step: (step.since, step.version), default=None)
    if last is None or last.reason not in _LOST:
        return None
    # A node that is removed while it is not ready was lost before.
    before = max(
        (step for step in steps if step.node_uid == last.node_uid and step.until == last.since),
        key=lambda step: step.version,
        default=None,
    )
    if last.reason == REMOVED and before is not None and before.reason == NOT_READY:
        last = before
    return Loss(last.earliest, last.since)
