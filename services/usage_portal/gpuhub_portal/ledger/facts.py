"""What is known about a pod. Pure.

`merge` is commutative, associative and idempotent: facts may come twice, late and in any order, from watch, list or
witness, and the result is the same. `hold` says what follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

OBSERVED, WITNESS, INFERRED = "observed", "witness", "inferred"


@dataclass(frozen=True, slots=True)
class Pod:
    """Facts about one pod. Times in seconds; None and "" stand for what is not known.

    scheduled_at    it got its node, and with it its devices
    started_at      first container
    finished_at     last container of a pod that will start none any more
    refused         why its kubelet did not let it in
    gone_after/by   it was still there / no longer; both the same where its removal was seen as it happened
    witness_*       the same as told by somebody who is not the API server; `witness_gone_by` by one who found out later
    """

    pod_uid: str
    namespace: str = ""
    pod: str = ""
    username: str = ""
    group_name: str = ""
    kind: str = ""
    servername: str = ""
    session_id: str = ""
    reservation: str = ""
    refused: str = ""
    node: str = ""
    gpu_type: str = ""
    gpu: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    created_at: int | None = None
    scheduled_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    gone_after: int | None = None
    gone_by: int | None = None
    witness_start: int | None = None
    witness_stop: int | None = None
    witness_gone_by: int | None = None
    last_seen_at: int | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """An interval in which a pod holds its devices; `until` is None while it does."""

    since: int
    until: int | None = None
    source: str | None = None
    earliest: int | None = None
    latest: int | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """A node was lost: alive at `after`, given up at `at`."""

    after: int
    at: int


FIELDS = tuple(field.name for field in fields(Pod))
_EARLIEST = frozenset({"created_at", "scheduled_at", "started_at", "witness_start", "witness_gone_by"})
_GONE = frozenset({"gone_after", "gone_by"})
_MERGED = tuple(name for name in FIELDS[1:] if name not in _GONE)


def merge(one: Pod, other: Pod) -> Pod:
    """All that two sets of facts about the same pod say.

    Beginnings: the earliest. Ends, amounts and names: the largest, so that what is known wins over what is not. Of
    removals the one that was noticed first, with its own lower bound.
    """
    values = {}
    for name in _MERGED:
        a, b = getattr(one, name), getattr(other, name)
        if a == b or b is None:
            values[name] = a
        elif a is None:
            values[name] = b
        else:
            values[name] = min(a, b) if name in _EARLIEST else max(a, b)
    gone = [(pod.gone_by, -pod.gone_after) for pod in (one, other) if pod.gone_by is not None]
    if gone:
        by, after = min(gone)
        values.update(gone_by=by, gone_after=-after)
    return Pod(pod_uid=one.pod_uid, **values)


def hold(pod: Pod, loss: Loss | None = None) -> Hold | None:
    """The interval in which a pod held its devices, None if it is not known that it ever did.

    One that its kubelet has refused before anything of it ran has held nothing: its interval is empty.

    `loss` is what `capacity.loss_at(steps, pod.gone_by)` finds. The rules, the first that applies (docs/data-model.md):

    1. Containers have finished for good: then it ended. Observed.
    2. It went away while its node was lost: it ended with its node, bounded by the node's last sign of life.
    3. Its removal was seen: then it ended. Observed.
    4. It was gone after a gap, and a witness saw it end within the gap: then it ended. Witness.
    5. It was gone after a gap: it ended when it was last known to be there, bounded by the gap. Inferred: time that
       nobody has seen it hold anything is not its.

    A witness who found out later only makes the latest bound of an inferred end earlier.
    """
    since = pod.scheduled_at
    if since is None:
        # Only a witness knows of it. A start without a node or an end may be of a pod that never got its devices.
        begin, stop, by = pod.witness_start, pod.witness_stop, pod.witness_gone_by
        if not pod.node or begin is None:
            return None
        if stop is not None:
            return Hold(begin, max(begin, stop), WITNESS, max(begin, stop), max(begin, stop))
        return None if by is None else Hold(begin, begin, INFERRED, begin, max(begin, by))
    if pod.refused and pod.started_at is None:
        return Hold(since, since, OBSERVED, since, since)
    after, by = pod.gone_after, pod.gone_by
    latest = by
    if by is not None and pod.witness_gone_by is not None and after <= pod.witness_gone_by:
        latest = min(by, pod.witness_gone_by)
    if pod.finished_at is not None:
        end = (pod.finished_at, OBSERVED, pod.finished_at, pod.finished_at)
    elif by is None:
        return Hold(since)
    elif loss is not None:
        end = (min(after, loss.at), INFERRED, min(after, loss.after), latest)
    elif after == by:
        end = (by, OBSERVED, by, by)
    elif pod.witness_stop is not None and after <= pod.witness_stop <= by:
        end = (pod.witness_stop, WITNESS, pod.witness_stop, pod.witness_stop)
    else:
        end = (after, INFERRED, after, latest)
    until, source, earliest, latest = end
    # Clocks differ: an interval never ends before it begins.
    return Hold(since, max(since, until), source, max(since, earliest), max(since, latest))
