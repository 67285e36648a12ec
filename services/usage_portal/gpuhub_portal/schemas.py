"""Bodies and parameters of the API, each field defined once. What they allow is what the OpenAPI says."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from fastapi import Header, Path, Query
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from .problems import ProblemError
from .scopes import Scope

# Printable, because PostgreSQL keeps no NUL and people read these; the hub's own names are narrower.
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
_DAY = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = _DAY + r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])$"
_HOUR = _DAY + r"T([01][0-9]|2[0-3]):00:00(Z|[+-](0[0-9]|1[0-3]):00)$"
# Memory up to the largest integer that every JSON parser keeps: 8 PiB.
_LARGEST_CPU, _LARGEST_MEMORY, _LARGEST_GPU = 10**9, 2**53 - 1, 10**6


def _time_type(pattern: str, example: str) -> Any:
    """A time of this century by RFC 3339; pydantic alone would take numbers and dates as well."""
    compiled = re.compile(pattern)

    def check(value: Any) -> Any:
        if isinstance(value, datetime) or (isinstance(value, str) and compiled.search(value)):
            return value
        raise ValueError(f"write it like {example}")

    schema = {"type": "string", "format": "date-time", "pattern": pattern, "examples": [example]}
    return Annotated[datetime, BeforeValidator(check), WithJsonSchema(schema)]


def _whole(value: Any) -> Any:
    """An integer as JSON means it: 2 and 2.0, and neither true nor "2"."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("write a whole number")
    return value


Time = _time_type(_TIME, "2026-01-31T12:00:00Z")
Hour = _time_type(_HOUR, "2026-01-31T12:00:00Z")


def _count(most: int, description: str | None = None) -> Any:
    # The bounds stand first: behind a validator they would hold and not be in the OpenAPI.
    return Annotated[int, Field(ge=0, le=most, description=description), BeforeValidator(_whole)]


Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=_PRINTABLE)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
Kind = Literal["notebook", "job", "other"]
CpuMilli = _count(_LARGEST_CPU, "Thousandths of a core")
MemoryBytes = _count(_LARGEST_MEMORY, "Bytes")
Gpus = _count(_LARGEST_GPU, "Devices")

Username = Annotated[Name, Path(description="As JupyterHub knows the user; of one it does not know, the default")]
IdempotencyKey = Annotated[
    Key, Header(alias="Idempotency-Key", description="The same key and body again have no further effect")
]
OptionalIdempotencyKey = Annotated[
    Key | None, Header(alias="Idempotency-Key", description="Sent again, nothing is made twice")
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Most items of an answer")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the answer before")]
UsernameFilter = Annotated[Name | None, Query()]


class Document(BaseModel):
    """What clients send: nothing but the fields that there are."""

    model_config = ConfigDict(extra="forbid")


ItemT = TypeVar("ItemT")


class Page(BaseModel, Generic[ItemT]):
    """A part of a list."""

    items: list[ItemT]
    next_cursor: str | None = Field(description="Asks for the items behind these; null at the end")


def cursor_of(*parts: Any) -> str:
    """Where a page ended, for clients to send back as it is."""
    text = json.dumps([part.isoformat() if isinstance(part, datetime) else str(part) for part in parts])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *kinds: Any) -> Any:
    """What `cursor_of` was given, or None; raises ProblemError 404 for what it did not make."""
    if cursor is None:
        return None
    try:
        parts = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        if not isinstance(parts, list) or not all(isinstance(part, str) and "\0" not in part for part in parts):
            raise ValueError
        found = tuple(kind(part) for kind, part in zip(kinds, parts, strict=True))
        "".join(parts).encode()
    except (ValueError, binascii.Error, RecursionError):
        raise ProblemError(404, "cursor", "This cursor is none of this list; begin without one.") from None
    return found


def instant(text: str) -> datetime:
    """A time of a cursor."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None or not 1970 < when.year < 9999:
        raise ValueError
    return when.astimezone(UTC)


def page(rows: Any, limit: int, key: Any, shown: Any = dict) -> dict[str, Any]:
    """A page of at most `limit` of the rows, of which one more has been read."""
    kept = rows[:limit]
    return {
        "items": [shown(row) for row in kept],
        "next_cursor": cursor_of(*key(kept[-1])) if len(rows) > limit else None,
    }


# --- limits, profiles, capacity ---


class UsageNow(BaseModel):
    """What somebody has now: held by pods, or reserved for what is about to start."""

    cpu_cores: float = Field(ge=0)
    memory_gib: float = Field(ge=0)
    gpu: int = Field(ge=0)


class UserLimits(BaseModel):
    """Limits at a time, null without limit, and what is used of them."""

    cpu_limit_cores: float | None
    memory_limit_gib: float | None
    gpu_limit: int | None
    usage: UsageNow


class GpuCount(BaseModel):
    """GPUs of a type: all, held by pods, granted to what is about to start, and free now."""

    gpu_type: str
    total: int
    held: int
    reserved: int
    free: int


class NodeCapacity(BaseModel):
    """What a node has, and what is free on it now; nothing while it is cordoned or not ready."""

    node: str
    gpu_type: str = Field(description="Empty where it has no GPUs")
    product: str = Field(description="Of its GPUs, as the node's label names it")
    state: Literal["ready", "cordoned", "not ready"]
    total: int = Field(description="GPUs")
    unhealthy: int = Field(description="GPUs that no pod can be given")
    held: int = Field(description="GPUs that pods hold")
    free: int = Field(description="GPUs")
    cpu_milli: int
    free_cpu_milli: int
    memory_bytes: int
    free_memory_bytes: int


class Capacity(BaseModel):
    """What there is, and what is free."""

    gpu_types: list[GpuCount] = Field(description="By type; the last one, `any`, is all of them")
    nodes: list[NodeCapacity]


class BudgetState(BaseModel):
    """A budget and what is used of it, in GPU seconds, core milli-seconds or millionths of the currency."""

    resource: Literal["gpu_hours", "cpu_hours", "cost"]
    window: str = Field(description="day, week, month, or the last days, as 30d")
    amount: int
    used: int
    again: Time | None = Field(description="When something is left again, if it is used up; null if never")


class Reason(BaseModel):
    """Why a size cannot be started now."""

    code: Literal["over_limit", "budget_used", "too_large", "none_free"]
    text: str
    numbers: dict[str, dict[str, int | None]] = Field(description="By resource, in the units of reservations")
    until: Time | None = Field(description="When a budget has something again; null if nobody knows")


class Profile(BaseModel):
    """A size of notebooks."""

    slug: str
    display_name: str
    cpu_milli: int
    memory_bytes: int
    gpu: int
    gpu_type: str
    rdma: bool
    products: list[str]
    offered: bool
    default: bool
    reason: Reason | None
    free_gpu: int | None
    largest_free_gpu: int | None


class Profiles(BaseModel):
    """Sizes, those that cannot be started now with the reason, and what they rest on."""

    items: list[Profile]
    limits: UserLimits = Field(description="As GET /users/{username}/limits")
    capacity: Capacity = Field(description="As GET /capacity")


class Budgets(BaseModel):
    """A user's budgets."""

    items: list[BudgetState]


# --- sessions ---


class Requests(Document):
    """What a session asked for."""

    cpu_milli: CpuMilli = 0
    memory_bytes: MemoryBytes = 0
    gpu: Gpus = 0


class SessionStart(Document):
    """A session of a producer outside the cluster."""

    username: Name
    kind: Kind = "other"
    name: Annotated[str, StringConstraints(max_length=253, pattern=_PRINTABLE.replace("+$", "*$"))] = ""
    started_at: Time | None = Field(default=None, description="Now if it is missing; never in the future")
    requests: Requests = Requests()


class SessionEnd(Document):
    """When a session ended."""

    ended_at: Time | None = Field(default=None, description="Now if it is missing; never before the start")


class Session(BaseModel):
    """A session with what its pods held so far."""

    id: str
    username: str
    kind: str
    name: str
    source: Literal["pod", "external"]
    state: Literal["running", "ended"]
    started_at: Time
    ended_at: Time | None
    requests: dict[str, Any]
    nodes: list[str]
    gpu_types: list[str]
    gpu_hours: float
    cpu_hours: float
    memory_gib_hours: float
    cost: str | None = Field(description="By the rates that held at the time; null without rates")
    inferred: bool = Field(description="The end of a pod was not seen, but inferred")


_Text = Annotated[str, StringConstraints(max_length=300, pattern=_PRINTABLE.replace("+$", "*$"))]


class WitnessedPod(BaseModel):
    """What a spawner knows of a pod; what is not named here is not kept."""

    namespace: _Text = ""
    pod: _Text = ""
    kind: Kind | None = None
    username: _Text = ""
    servername: _Text = ""
    reservation: _Text = ""
    node: _Text = ""
    cpu_milli: CpuMilli = 0
    memory_bytes: MemoryBytes = 0
    gpu: Gpus = 0
    exact: bool = Field(
        default=True, strict=True, description="False: `at` is when it was found out, and not when it was"
    )


class WitnessEvent(Document):
    """What a spawner saw itself, so that nothing is lost when the watch was away."""

    event_id: Key
    kind: Literal["start", "stop"]
    pod_uid: Key
    at: Time
    pod: WitnessedPod = WitnessedPod()


class Witness(Document):
    """An outbox, or a part of one."""

    events: Annotated[list[WitnessEvent], Field(min_length=1, max_length=1000)]


class WitnessKept(BaseModel):
    """How many events were new, and how many known."""

    new: int
    known: int


# --- reservations ---


class ReservationRequest(Document):
    """What is about to start, on one node."""

    username: Name
    kind: Kind = "notebook"
    cpu_milli: CpuMilli = 0
    memory_bytes: MemoryBytes = 0
    gpu: Gpus = 0
    gpu_type: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=_PRINTABLE)] = Field(
        default="any", description="A type of GET /capacity, or any"
    )
    home_node: Name | None = Field(
        default=None, description="The only node it may run on, where homes are bound to one"
    )
    granted: bool = Field(
        default=False,
        strict=True,
        description="The sender has granted it already, while the portal was away: it is recorded and not judged",
    )


class ReservationState(StrEnum):
    """What became of a reservation."""

    ACTIVE = "active"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Reservation(BaseModel):
    """A grant. It counts as use until it is settled by its pod, released or expired."""

    id: UUID
    username: str
    kind: str
    cpu_milli: int
    memory_bytes: int
    gpu: int
    gpu_type: str | None = Field(description="As asked for; null without GPUs")
    home_node: str | None
    state: ReservationState
    created_at: Time
    expires_at: Time


# --- enforcement ---


class NotebookEnd(BaseModel):
    """A notebook that has to end."""

    model_config = ConfigDict(from_attributes=True)

    username: str
    servername: str = Field(description="Empty for the server without a name")
    ends_at: Time
    reason: str


class Enforcement(BaseModel):
    """Notebooks that have to end, soonest first."""

    items: list[NotebookEnd]


class ExtensionRequest(Document):
    """Until when notebooks may run on, and why."""

    until: Time
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=_PRINTABLE)]


class Extension(BaseModel):
    """Until when a user's running notebooks do not end with their budgets."""

    username: str
    until: Time
    reason: str
    created_at: Time
    created_by: str


# --- policy ---

Unlimited = Literal["unlimited"]
CpuLimit = (
    Unlimited | _count(10**6) | Annotated[str, StringConstraints(pattern=r"^([0-9]{1,6}(\.[0-9]{1,3})?|[0-9]{1,9}m)$")]
)
MemoryLimit = Unlimited | _count(0) | Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,4}(Mi|Gi|Ti|M|G|T)$")]
GpuLimit = Unlimited | _count(10**6)
Hours = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,2})?$")] | _count(10**9 - 1)
Money = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,5}(\.[0-9]{1,6})?$")]


class Budget(Document):
    """How much may be used in a period of the calendar (`every`), or in the last days (`within`)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "allOf": [
                {"oneOf": [{"required": [name]} for name in ("gpu_hours", "cpu_hours", "cost")]},
                {"oneOf": [{"required": [name]} for name in ("every", "within")]},
            ]
        },
    )

    gpu_hours: Hours = Field(default="")
    cpu_hours: Hours = Field(default="")
    cost: Hours = Field(default="")
    every: Literal["day", "week", "month"] = Field(default="day")
    within: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,2}d$")] = Field(default="", examples=["30d"])

    @model_validator(mode="after")
    def _one_of_each(self) -> Budget:
        if len(self.model_fields_set & {"gpu_hours", "cpu_hours", "cost"}) != 1:
            raise ValueError("write one of gpu_hours, cpu_hours, cost")
        if len(self.model_fields_set & {"every", "within"}) != 1:
            raise ValueError("write either every or within")
        return self


class LimitsDocument(Document):
    """Limits of a user, of each member of a group, or of everybody; what is missing is said elsewhere."""

    cpu: CpuLimit = Field(default="unlimited", description="Cores")
    memory: MemoryLimit = Field(default="unlimited")
    gpu: GpuLimit = Field(default="unlimited")
    budgets: Annotated[list[Budget], Field(max_length=20)] = []


class DefaultDocument(LimitsDocument):
    """Limits of everybody of whom nothing else is said."""

    cpu: CpuLimit
    memory: MemoryLimit
    gpu: GpuLimit


class GroupDocument(LimitsDocument):
    """Limits of each member of a group."""

    members: Annotated[list[Name], Field(max_length=10_000)] = []


class PolicyFrame(BaseModel):
    """What all of the policy stands on."""

    time_zone: str = Field(description="Where days, weeks and months of budgets begin")


class NamedEntry(BaseModel):
    """An entry of the policy and whose it is."""

    name: str
    entry: dict[str, Any]


def without_defaults(document: BaseModel) -> dict[str, Any]:
    """Only what was sent: what a subject does not say is found elsewhere."""
    return document.model_dump(mode="json", exclude_unset=True)


class Rate(Document):
    """What an hour costs from an instant on. Prices are decimal texts, so that none becomes a binary fraction."""

    model_config = ConfigDict(extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    valid_from: Hour = Field(alias="from", description="A whole hour: use is added up by hours")
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
    gpu: Annotated[
        dict[Annotated[str, StringConstraints(pattern=_PRINTABLE.replace("+$", "{1,100}$"))], Money],
        Field(
            max_length=100,
            description="Price of a GPU hour by type, and `default` of all other types",
            json_schema_extra={"additionalProperties": False, "required": ["default"]},
        ),
    ] = {"default": "0"}
    cpu_hour: Money = "0"
    memory_gib_hour: Money = "0"


class Rates(Document):
    """Rates, oldest first."""

    rates: Annotated[list[Rate], Field(max_length=1000)]


class AuditEntry(BaseModel):
    """A change: who, what, before, after."""

    id: int
    at: Time
    actor: str
    action: str
    subject: str
    before: Any
    after: Any


# --- usage ---


class UsageRow(BaseModel):
    """What was used in a period by one user, group, type or kind."""

    begin: Time = Field(serialization_alias="from", description="When the period begins")
    key: str = Field(description="The user, group, GPU type or kind; empty where there is none")
    gpu_hours: float
    cpu_hours: float
    memory_gib_hours: float
    sessions: int = Field(description="Sessions that began in the period")
    cost: str | None = Field(description="Decimal; null where nothing had a price")


class Usage(BaseModel):
    """Sums of whole hours."""

    by: str
    begin: Time = Field(serialization_alias="from")
    end: Time = Field(serialization_alias="to")
    step: str | None
    currency: str | None
    items: list[UsageRow]
    next_cursor: str | None


# --- tokens ---


class TokenRequest(Document):
    """A token to be made."""

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=20)]
    expires_at: Time | None = Field(default=None, description="Null: never")


class TokenRotation(Document):
    """How long the old token works beside its successor."""

    overlap_seconds: _count(30 * 86400) = 3600


class Token(BaseModel):
    """What is known about a token; its text is not kept."""

    id: UUID
    name: str
    scopes: list[str]
    created_at: Time
    created_by: str
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None


class NewToken(Token):
    """A token with its text, which is shown this once."""

    token: str


class Me(BaseModel):
    """Who asks."""

    name: str
    username: str | None
    admin: bool
    scopes: list[str]


def hours(seconds: Any, per: int = 1) -> float:
    """Seconds times an amount as hours, to six decimals."""
    return float(round(Decimal(seconds) / Decimal(3600 * per), 6))


def money(micro: Any) -> str | None:
    """Micro-units, maybe with a fraction, as a decimal text; halves are rounded up."""
    if micro is None:
        return None
    whole = int((Decimal(micro) + Decimal("0.5")).to_integral_value("ROUND_FLOOR"))
    units, part = divmod(whole, 10**6)
    return f"{units}.{part:06d}"
