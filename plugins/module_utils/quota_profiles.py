"""The sizes of notebooks that a user may start now, and why not the others. Pure; the hub and the portal use it too.

One rule decides (`refusal`), whoever asks: the form, the start, a reservation. docs/quotas.md says it for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from .gpu_products import ANY, GPU_RESOURCE, UNKNOWN, GpuProductError, affinity, gpu_type, products_of
from .pod_requests import NodeAccount, account
from .quantities import (
    BYTES_PER_GIB,
    BYTES_PER_MIB,
    MILLI_PER_CORE,
    RESOURCE_NAMES,
    UNLIMITED,
    Limits,
    QuantityError,
    Resources,
    format_cores,
    format_gib,
    parse_count,
    parse_cpu,
    parse_limits,
    parse_memory,
    parse_resources,
)
from .quota_policy import BudgetState

OVER_LIMIT = "over_limit"
BUDGET_USED = "budget_used"
TOO_LARGE = "too_large"
NONE_FREE = "none_free"

# A notebook with less does not start; nothing at all would mean "without limit" to KubeSpawner.
_LEAST = Resources(cpu_milli=100, memory_bytes=128 * BYTES_PER_MIB)

_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_RESOURCE = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


# A list in a profile replaces the chart's own, which lets notebooks on nodes that are kept for them.
_CHART_TOLERATIONS = tuple(
    {"key": key, "operator": "Equal", "value": "user", "effect": "NoSchedule"}
    for key in ("hub.jupyter.org/dedicated", "hub.jupyter.org_dedicated")
)


class ProfilesError(ValueError):
    """Settings that no profiles can be made of, or of which none can be started; the text says what to do."""


@dataclass(frozen=True)
class Settings:
    """What sizes there are.

    `sizes` numbers of GPUs; `cpu_sizes` those without; `cpu_per_gpu` (thousandths of a core) and `memory_per_gpu`
    (bytes) the most that comes with one GPU, None for no other bound than the node's share; `node_share_percent` how
    much of a node's cores and memory its GPUs share, the rest is for what runs on each node; `products` of GPUs where
    no nodes are given; `rdma_resource` empty if no sizes with RDMA are asked for. `tolerations` are those of pods with
    GPUs, `cpu_tolerations` of all others.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8)
    cpu_sizes: tuple[Resources, ...] = (Resources(2 * MILLI_PER_CORE, 8 * BYTES_PER_GIB),)
    cpu_per_gpu: int | None = 8 * MILLI_PER_CORE
    memory_per_gpu: int | None = 64 * BYTES_PER_GIB
    node_share_percent: int = 90
    products: tuple[str, ...] = ()
    gpu_resource: str = GPU_RESOURCE
    rdma_resource: str = ""
    cpu_tolerations: tuple[Mapping[str, Any], ...] = _CHART_TOLERATIONS

    @property
    def tolerations(self) -> tuple[Mapping[str, Any], ...]:
        """Of pods with GPUs, whose nodes repel all others where the site has them tainted."""
        return (*self.cpu_tolerations, {"key": self.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})


@dataclass(frozen=True)
class Request:
    """What somebody asks for. `gpu_type` is empty without GPUs, else a type, a product, or `any`."""

    resources: Resources
    gpu_type: str = ""
    rdma: bool = False


@dataclass(frozen=True)
class Situation:
    """What a request is judged by.

    `limits`, `used` (by pods) and `reserved` (granted, no pod yet) of the user, `budgets` with what is used of each.
    `nodes` of the cluster, None where nobody knows them; `pending` what has been granted to anybody and is not in the
    pods of `nodes`. `home_node` is the node that the user's home is bound to, empty if it is on shared storage.
    """

    limits: Limits = field(default_factory=Limits)
    used: Resources = field(default_factory=Resources)
    reserved: Resources = field(default_factory=Resources)
    budgets: tuple[BudgetState, ...] = ()
    nodes: tuple[NodeAccount, ...] | None = None
    pending: tuple[Request, ...] = ()
    home_node: str = ""


@dataclass(frozen=True)
class Reason:
    """Why a request is refused.

    `code` is one of `over_limit`, `budget_used`, `too_large`, `none_free`; `text_en` says it with what to do;
    `until` (UTC) is when a budget has something again, None if nobody knows; `numbers` by resource (`gpu`) or budget
    (`gpu_hours a month`), in the units of the platform, as JSON can have them.
    """

    code: str
    text_en: str
    numbers: Mapping[str, Mapping[str, int | None]]
    until: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON; the time in ISO 8601."""
        until = self.until.strftime("%Y-%m-%dT%H:%M:%SZ") if self.until else None
        return {"code": self.code, "text": self.text_en, "numbers": self.numbers, "until": until}


@dataclass(frozen=True)
class Profile:
    """A size, offered unless there is a reason. `products` are those that it may run on, none for any."""

    slug: str
    display_name: str
    request: Request
    products: tuple[str, ...] = ()
    reason: Reason | None = None
    free_gpu: int | None = None
    largest_free_gpu: int | None = None
    default: bool = False

    @property
    def offered(self) -> bool:
        """Whether it can be started now."""
        return self.reason is None

    def as_dict(self) -> dict[str, Any]:
        """As JSON, in the units of the platform."""
        return {
            "slug": self.slug,
            "display_name": self.display_name,
            **dict(zip(RESOURCE_NAMES, self.request.resources.amounts())),
            "gpu_type": self.request.gpu_type,
            "rdma": self.request.rdma,
            "products": list(self.products),
            "offered": self.offered,
            "default": self.default,
            "reason": self.reason.as_dict() if self.reason else None,
            "free_gpu": self.free_gpu,
            "largest_free_gpu": self.largest_free_gpu,
        }

    def spawner_profile(self, settings: Settings) -> dict[str, Any]:
        """Return the entry of KubeSpawner's `profile_list`.

        Every field that another profile sets is set here too: what a profile leaves out would be the last one's. A
        resource that it has none of is None, by which KubeSpawner takes it out of the pod. With 0 in the pod kubelet
        would look for devices, and after a boot, until their plugin has come, refuse the pod for having none.
        """
        amounts = self.request.resources
        extra = {settings.gpu_resource: str(amounts.gpu) if amounts.gpu else None}
        capabilities: list[str] = []
        if settings.rdma_resource:
            extra[settings.rdma_resource] = "1" if self.request.rdma else None
            capabilities = ["IPC_LOCK"] if self.request.rdma else []
        return {
            "slug": self.slug,
            "display_name": self.display_name,
            "default": self.default,
            "kubespawner_override": {
                "cpu_guarantee": format_cores(amounts.cpu_milli),
                "cpu_limit": format_cores(amounts.cpu_milli),
                "mem_guarantee": amounts.memory_bytes,
                "mem_limit": amounts.memory_bytes,
                "extra_resource_guarantees": extra,
                "extra_resource_limits": dict(extra),
                "node_affinity_required": affinity(self.products) if amounts.gpu else [],
                "tolerations": [*(settings.tolerations if amounts.gpu else settings.cpu_tolerations)],
                **(
                    {"container_security_context": {"capabilities": {"add": capabilities}}}
                    if settings.rdma_resource
                    else {}
                ),
            },
        }


def settings(written: Mapping[str, Any]) -> Settings:
    """Return settings as people write them; docs/quotas.md has their names. Raises ProfilesError with all faults."""
    readers = {
        "sizes": _sizes,
        "cpu_sizes": _cpu_sizes,
        "cpu_per_gpu": lambda value: None if value == UNLIMITED else _positive(parse_cpu(value)),
        "memory_per_gpu": lambda value: None if value == UNLIMITED else _positive(parse_memory(value)),
        "node_share_percent": _percent,
        "products": _products,
        "gpu_resource": _resource,
        "rdma_resource": lambda value: _resource(value) if value else "",
        "cpu_tolerations": _tolerations,
    }
    found, faults = {}, []
    for name, value in written.items():
        if name not in readers:
            faults.append(f"{name} is no setting of profiles; there are {', '.join(readers)}")
            continue
        try:
            found[name] = readers[name](value)
        except (QuantityError, ProfilesError) as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ProfilesError("; ".join(faults))
    return Settings(**found)


def _positive(amount: int) -> int:
    if amount < 1:
        raise ProfilesError("is 0; write an amount above it, or leave the setting out")
    return amount


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise ProfilesError("is no list; write numbers of GPUs, such as [1, 2, 4, 8]")
    return tuple(sorted({_positive(parse_count(item)) for item in value}))


def _cpu_sizes(value: Any) -> tuple[Resources, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, Mapping) and set(item) == {"cpu", "memory"} for item in value
    ):
        raise ProfilesError("is no list of sizes; write them like [{cpu: 2, memory: 8Gi}]")
    found = {Resources(_positive(parse_cpu(item["cpu"])), _positive(parse_memory(item["memory"]))) for item in value}
    return tuple(sorted(found, key=Resources.amounts))


def _percent(value: Any) -> int:
    percent = parse_count(value)
    if not 1 <= percent <= 100:
        raise ProfilesError(f"is {percent}; write a number from 1 to 100")
    return percent


def _products(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, str) and _LABEL_VALUE.fullmatch(item) for item in value
    ):
        raise ProfilesError("is no list of products; write the nodes' label, such as [NVIDIA-A100-SXM4-80GB]")
    return tuple(sorted(set(value)))


def _resource(value: Any) -> str:
    if not isinstance(value, str) or not _RESOURCE.fullmatch(value):
        raise ProfilesError(f"{value!a} is no resource of a node; write it like nvidia.com/gpu")
    return value


def _tolerations(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise ProfilesError("is no list of tolerations; write them as in a pod, [{key: team, operator: Exists}]")
    return tuple(value)


# ---- what is free


def take_from_freest(levels: Sequence[int], amount: int) -> list[int]:
    """Return the levels after `amount` was taken, each unit from the highest of them at that moment.

    No way to take as much leaves a smaller largest level. A level that is higher before is not lower afterwards, and
    neither is any other.
    """
    rest = max(sum(levels) - amount, 0)
    height, left = max(levels, default=0), rest
    for position, level in enumerate(sorted(levels)):
        height, over = divmod(left, len(levels) - position)
        if level > height:
            break
        left -= level
        height, over = level, 0
    else:
        return list(levels)
    result = [min(level, height) for level in levels]
    for position in reversed(range(len(levels))):
        if over and levels[position] > height:
            result[position] += 1
            over -= 1
    return result


class _Room:
    """What the nodes that a request could be on have free when what is pending has come to be on the freest of them.

    For GPUs that is the worst case: no more of them is promised than there are, wherever pods come to be. Cores, memory
    and GPUs are each taken for themselves, so that for all together it is an estimate.
    """

    def __init__(self, nodes: Sequence[NodeAccount], pending: Mapping[tuple[str, ...], Sequence[Request]], rdma: str):
        self._now = {node.name: node.free for node in nodes}
        self._rdma = {node.name: node.extra.get(rdma, 0) for node in nodes}
        self._wants_rdma = bool(rdma)
        # Those that have less choice come first.
        self._pending = sorted(pending.items(), key=lambda item: (len(item[0]), item[0]))
        after, rdma_after = dict(self._now), dict(self._rdma)
        for names, requests in self._pending:
            taken = Resources()
            for request in requests:
                taken += request.resources
            levels = zip(*(after[name].amounts() for name in names))
            left = [take_from_freest(level, amount) for level, amount in zip(levels, taken.amounts())]
            after.update((name, Resources(*amounts)) for name, amounts in zip(names, zip(*left)))
            count = sum(request.rdma for request in requests)
            rdma_after.update(zip(names, take_from_freest([rdma_after[name] for name in names], count)))
        self.after = [Resources() if rdma and not rdma_after[name] else amounts for name, amounts in after.items()]

    def fits(self, resources: Resources) -> bool:
        """Whether a node has room beside what is pending, or more nodes have room than pods are about to come."""
        if any(resources.fits_in(amounts) for amounts in self.after):
            return True
        untouched = {
            name
            for name, amounts in self._now.items()
            if resources.fits_in(amounts) and (self._rdma[name] or not self._wants_rdma)
        }
        for names, requests in self._pending:
            untouched -= set([name for name in names if name in untouched][: len(requests)])
        return bool(untouched)

    def free_gpus(self) -> tuple[int, int]:
        """How many GPUs are free, and how many of them on one node."""
        counts = {amounts.gpu for amounts in (*self.after, *self._now.values())}
        largest = next((count for count in sorted(counts, reverse=True) if self.fits(Resources(gpu=count))), 0)
        return sum(amounts.gpu for amounts in self.after), largest


class _Capacity:
    """The nodes, and what of them is free for whom."""

    def __init__(self, situation: Situation, config: Settings) -> None:
        self._config = config
        self._home = situation.home_node
        self._pending = situation.pending
        self._nodes = situation.nodes or ()
        self._kinds: dict[str, list[NodeAccount]] = {}
        self._rooms: dict[tuple[str, bool], _Room] = {}

    def _of(self, kind: str) -> list[NodeAccount]:
        """The nodes that a pod with GPUs of this type may be on."""
        if kind not in self._kinds:
            self._kinds[kind] = self._find(kind)
        return self._kinds[kind]

    def _find(self, kind: str) -> list[NodeAccount]:
        tolerations = self._config.tolerations if kind else self._config.cpu_tolerations
        nodes = [node for node in self._nodes if node.admits(tolerations)]
        if not kind:
            return nodes
        nodes = [node for node in nodes if node.gpu_type and node.capacity.gpu]
        if kind == ANY:
            return nodes
        try:
            products = products_of(kind, (node.product for node in nodes if node.product))
        except GpuProductError:
            return []
        return [node for node in nodes if node.product in products]

    def candidates(self, kind: str, rdma: bool) -> list[NodeAccount]:
        """The nodes that a pod could ever be on; where the user's home is bound to one, that one."""
        return [
            node
            for node in self._of(kind)
            if (not self._home or node.name == self._home) and (not rdma or self._config.rdma_resource in node.extra)
        ]

    def room(self, request: Request) -> _Room:
        """What is free for requests of this kind."""
        key = request.gpu_type, request.rdma
        if key not in self._rooms:
            nodes = self.candidates(*key)
            names = {node.name for node in nodes}
            pending: dict[tuple[str, ...], list[Request]] = {}
            for other in self._pending:
                # Where it fits on an empty node: that does not change with what is free.
                places = [node for node in self._of(other.gpu_type) if other.resources.fits_in(full(node))]
                places = tuple(sorted(node.name for node in places if node.name in names))
                if places:
                    pending.setdefault(places, []).append(other)
            self._rooms[key] = _Room(nodes, pending, self._config.rdma_resource if request.rdma else "")
        return self._rooms[key]


def full(node: NodeAccount) -> Resources:
    """What a node would have if nobody used it and all its GPUs were healthy."""
    return replace(node.allocatable, gpu=node.capacity.gpu)


# ---- the rule


def refusal(request: Request, situation: Situation, config: Settings) -> Reason | None:
    """Return why a request cannot be granted now; None if it can.

    What will not change by waiting comes first: more than any node has, more than the limit, then a budget that is
    used up, then what others have at the moment.
    """
    capacity = _Capacity(situation, config) if situation.nodes is not None else None
    return _refusal(request, situation, capacity)


def _refusal(request: Request, situation: Situation, capacity: _Capacity | None) -> Reason | None:
    return (
        (_too_large(request, situation, capacity) if capacity else None)
        or _over_limit(request, situation)
        or _budget_used(request, situation)
        or (_none_free(request, situation, capacity) if capacity else None)
    )


def _over_limit(request: Request, situation: Situation) -> Reason | None:
    limits, needed = situation.limits, request.resources
    over = needed.above(limits.minus(situation.used, situation.reserved))
    if not over:
        return None
    numbers = {
        name: {
            "needed": getattr(needed, name),
            "limit": getattr(limits, name),
            "used": getattr(situation.used, name),
            "reserved": getattr(situation.reserved, name),
        }
        for name in over
    }
    # What waiting cannot change is said alone.
    beyond = [name for name, number in numbers.items() if number["needed"] > number["limit"]]
    parts = []
    for name in reversed(beyond or over):
        parts.append(
            f"{_amount(name, numbers[name]['needed'])} needed, your limit is {_amount(name, numbers[name]['limit'])}"
        )
        for what in ("used", "reserved") if not beyond else ():
            held = numbers[name][what]
            parts[-1] += f", {_amount(name, held)} {what}" if held else ""
    cure = "ask an administrator for more" if beyond else "stop a server or job of yours"
    text = f"Over your limit: {'; '.join(parts)}. Choose a smaller size, or {cure}."
    return Reason(OVER_LIMIT, text, numbers)


def _budget_used(request: Request, situation: Situation) -> Reason | None:
    used_up = [
        state
        for state in situation.budgets
        if state.is_used_up and (request.resources.gpu or state.budget.resource != "gpu_hours")
    ]
    if not used_up:
        return None
    numbers = {state.budget.name: {"amount": state.budget.amount, "used": state.used} for state in used_up}
    named = " and ".join(str(state.budget) for state in used_up)
    until = None if any(state.again is None for state in used_up) else max(state.again for state in used_up)
    again = f"there is some again at {_time(until)}" if until else "it has no end"
    of_gpus = all(state.budget.resource == "gpu_hours" for state in used_up)
    without = " A size without GPUs can be started." if of_gpus else ""
    text = f"Your budget of {named} is used up; {again}.{without} An administrator can extend it."
    return Reason(BUDGET_USED, text, numbers, until)


def _too_large(request: Request, situation: Situation, capacity: _Capacity) -> Reason | None:
    nodes = [full(node) for node in capacity.candidates(request.gpu_type, request.rdma)]
    if any(request.resources.fits_in(node) for node in nodes):
        return None
    numbers = _most(request, nodes, "largest")
    compared = _compared(numbers, "largest", request)
    # Who asks for nothing, of a node that is not there.
    compared = compared or "there is no such node"
    text = f"Needs more than {_where(request, situation)} has: {compared}. Choose a smaller size."
    return Reason(TOO_LARGE, text, numbers)


def _none_free(request: Request, situation: Situation, capacity: _Capacity) -> Reason | None:
    room = capacity.room(request)
    if room.fits(request.resources):
        return None
    numbers = _most(request, room.after, "largest_free")
    if request.resources.gpu:
        free, largest = room.free_gpus()
        if largest >= request.resources.gpu:
            largest = max(amounts.gpu for amounts in room.after)
        numbers["gpu"] = {"needed": request.resources.gpu, "largest_free": largest, "free": free}
    compared = _compared(numbers, "largest_free", request)
    where = _where(request, situation)
    text = f"Not free now on {where}: {compared}. Choose a smaller size or another type, or try again later."
    return Reason(NONE_FREE, text, numbers)


def _most(request: Request, rooms: Sequence[Resources], key: str) -> dict[str, dict[str, int | None]]:
    """What is needed and the most that one node has, of the resources that are short.

    Where each is to be had on some node but all on none, of the node that has the GPUs and the most of the others.
    """
    best = Resources()
    for room in rooms:
        best = best.largest(room)
    if request.resources.fits_in(best):
        best = max((room for room in rooms if room.gpu >= request.resources.gpu), key=Resources.amounts, default=best)
    return {
        name: {"needed": getattr(request.resources, name), key: getattr(best, name)}
        for name in request.resources.above(best)
    }


def _compared(numbers: Mapping[str, Mapping[str, int | None]], key: str, request: Request) -> str:
    """What is short, in words. Too few GPUs are said alone: with fewer of them less of all else is needed."""
    short = [name for name, number in numbers.items() if number["needed"] > number[key]]
    parts = []
    for name in ["gpu"] if "gpu" in short else short:
        number, kind = numbers[name], _kind_words(request)
        beside = " beside the GPUs" if name != "gpu" and request.resources.gpu else ""
        parts.append(
            f"{_amount(name, number['needed'], kind)} needed{beside}, the most is {_amount(name, number[key], kind)}"
        )
        if number.get("free"):
            parts[-1] += f", {number['free']} in all"
    return "; ".join(parts)


def _where(request: Request, situation: Situation) -> str:
    node = f"{situation.home_node} (where your home is)" if situation.home_node else "any one node"
    return f"{node} with RDMA" if request.rdma else node


def _kind_words(request: Request) -> str:
    return "" if request.gpu_type in ("", ANY) else f"{request.gpu_type} "


def _amount(name: str, amount: int | None, kind: str = "") -> str:
    """An amount as people read it: `4 A100 GPUs`, `1 core`, `16 GiB`."""
    if name == "gpu":
        return f"{amount} {kind}{'GPU' if amount == 1 else 'GPUs'}"
    if name == "memory_bytes":
        return f"{format_gib(amount or 0)} GiB"
    cores = format_cores(amount or 0)
    return f"{cores} {'core' if cores == 1 else 'cores'}"


def _time(when: datetime) -> str:
    return when.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


# ---- sizes


def profiles(situation: Situation, config: Settings) -> list[Profile]:
    """Return every size, offered or with the reason why not.

    The order is always the same: sizes without GPUs, those of any GPU, then type by type, small ones first. The first
    that is offered is the default. A profile that is offered never has more than limit minus use minus reservations.
    """
    capacity = _Capacity(situation, config) if situation.nodes is not None else None
    found = [
        Profile(_cpu_slug(amounts), display_name(Request(amounts)), Request(amounts)) for amounts in config.cpu_sizes
    ]
    types = _types(situation, config)
    for kind in [ANY, *types] if types or _has_unknown(situation) or capacity is None else []:
        products = tuple(types.get(kind, ()))
        for count in config.sizes:
            for rdma in (False, True):
                if rdma and not _has_rdma(kind, config, capacity):
                    continue
                request = Request(_gpu_size(count, kind, rdma, situation, config, capacity), kind, rdma)
                free, largest = capacity.room(request).free_gpus() if capacity else (None, None)
                found.append(
                    Profile(
                        slug=f"gpu-{_slug(kind)}-{count}{'-rdma' if rdma else ''}",
                        display_name=display_name(request),
                        request=request,
                        products=products,
                        free_gpu=free,
                        largest_free_gpu=largest,
                    )
                )
    return _with_default([replace(profile, reason=_refusal(profile.request, situation, capacity)) for profile in found])


def standing(found: Iterable[Profile]) -> list[Profile]:
    """Return the same sizes, those that are only not free at the moment offered too: for who cannot ask again."""
    result = [
        replace(profile, reason=None) if profile.reason and profile.reason.code == NONE_FREE else profile
        for profile in found
    ]
    return _with_default(result)


def _with_default(found: Sequence[Profile]) -> list[Profile]:
    default = next((number for number, profile in enumerate(found) if profile.offered), None)
    return [replace(profile, default=number == default) for number, profile in enumerate(found)]


def profile_list(found: Iterable[Profile], config: Settings) -> list[dict[str, Any]]:
    """Return KubeSpawner's `profile_list` of the profiles that are offered.

    Raises ProfilesError if none is: with an empty list KubeSpawner would start a server without any of our limits.
    """
    found = list(found)
    offered = [profile.spawner_profile(config) for profile in found if profile.offered]
    if not offered:
        reasons = list(dict.fromkeys(profile.reason.text_en for profile in found if profile.reason))
        raise ProfilesError(f"no size can be started. {' '.join(reasons) or 'Set sizes or cpu_sizes.'}")
    return offered


def _types(situation: Situation, config: Settings) -> dict[str, list[str]]:
    """The types of GPUs that there are, by name, with their products."""
    products = (
        config.products
        if situation.nodes is None
        else [node.product for node in situation.nodes if node.product and node.capacity.gpu]
    )
    found: dict[str, set[str]] = {}
    for product in products:
        found.setdefault(gpu_type(product), set()).add(product)
    return {kind: sorted(found[kind]) for kind in sorted(found)}


def _has_unknown(situation: Situation) -> bool:
    return any(node.gpu_type == UNKNOWN and node.capacity.gpu for node in situation.nodes or ())


def _has_rdma(kind: str, config: Settings, capacity: _Capacity | None) -> bool:
    """Whether sizes with RDMA are asked for and there can be any."""
    return bool(config.rdma_resource) and (capacity is None or bool(capacity.candidates(kind, rdma=True)))


def _gpu_size(
    count: int, kind: str, rdma: bool, situation: Situation, config: Settings, capacity: _Capacity | None
) -> Resources:
    """What comes with a number of GPUs: the least of the share of a node, the maxima, and the user's own share.

    A node's share is that of the nodes that have so many GPUs, the smallest if they differ, whether or not they are
    free or ready now, so that a size does not change from one hour to the next. The user's share is their limit of
    cores and memory for each GPU that they may have: all of them can be used at once.
    """
    nodes = capacity.candidates(kind, rdma) if capacity else []
    holding = [node for node in nodes if node.capacity.gpu >= count] or nodes
    largest, own = max(config.sizes), situation.limits.gpu
    own = largest if own is None else max(min(own, largest), 1)
    amounts = []
    for name, whole, part, bound in (
        ("cpu_milli", MILLI_PER_CORE, MILLI_PER_CORE // 10, config.cpu_per_gpu),
        ("memory_bytes", BYTES_PER_GIB, BYTES_PER_GIB // 16, config.memory_per_gpu),
    ):
        shares = []
        for node in holding:
            shared = getattr(node.allocatable, name) * config.node_share_percent // 100
            shares.append(_coarse(shared * count // node.capacity.gpu, whole, part))
        if bound is not None:
            shares.append(bound * count)
        elif capacity is None:
            raise ProfilesError(f"cpu_per_gpu and memory_per_gpu cannot be {UNLIMITED} where no nodes are known")
        limit = getattr(situation.limits, name)
        if limit is not None:
            # Not rounded: with more of a limit a size must never become more than what is left of it.
            shares.append(limit * min(count, own) // own)
        amounts.append(min(shares, default=0))
    return Resources(*amounts, count).largest(_LEAST)


def _coarse(amount: int, whole: int, part: int) -> int:
    """An amount rounded down to whole cores or GiB, below one to parts of one."""
    grain = whole if amount >= whole else part
    return amount // grain * grain


def _slug(kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def _cpu_slug(amounts: Resources) -> str:
    return f"cpu-{_slug(str(format_cores(amounts.cpu_milli)))}-{_slug(str(format_gib(amounts.memory_bytes)))}"


def display_name(request: Request) -> str:
    """Return what a size is called, in English."""
    amounts = request.resources
    kind = "any type" if request.gpu_type == ANY else request.gpu_type
    what = f"{_amount('gpu', amounts.gpu)} ({kind})" if amounts.gpu else "CPU only"
    parts = [what, _amount("cpu_milli", amounts.cpu_milli), _amount("memory_bytes", amounts.memory_bytes)]
    return ", ".join([*parts, "RDMA"] if request.rdma else parts)


def compute(
    written_settings: Mapping[str, Any],
    limits: Limits | Mapping[str, Any] | None = None,
    used: Mapping[str, Any] | None = None,
    reserved: Mapping[str, Any] | None = None,
    nodes: Iterable[Mapping[str, Any]] | None = None,
    pods: Iterable[Mapping[str, Any]] = (),
    node_selector: Mapping[str, str] | None = None,
    home_node: str = "",
) -> tuple[list[Profile], Settings]:
    """Return profiles and settings of what people and Kubernetes write: amounts as texts, nodes and pods as objects.

    Without nodes nobody knows what is free, and profiles are the same at all times. Raises ProfilesError and
    QuantityError.
    """
    config = settings(written_settings)
    accounts = None
    if nodes is not None:
        extra = [config.rdma_resource] if config.rdma_resource else []
        accounts = tuple(account(nodes, pods, node_selector, config.gpu_resource, extra))
    situation = Situation(
        limits=limits if isinstance(limits, Limits) else parse_limits(limits or {}),
        used=parse_resources(used or {}),
        reserved=parse_resources(reserved or {}),
        nodes=accounts,
        home_node=home_node,
    )
    return profiles(situation, config), config
