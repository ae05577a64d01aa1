"""The records that the registry keeps: frozen, keyword-only, the same for every store.

Times are aware datetimes in UTC with microseconds. Identifiers are UUIDv7 text, made by the driver.
"""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Any, Generic, NewType, TypeVar

import msgspec

from mer.core.errors import UsageError
from mer.core.specs import VersionSpec

ServerId = NewType("ServerId", str)
ModelId = NewType("ModelId", str)
WeightsId = NewType("WeightsId", str)
InvocationId = NewType("InvocationId", str)
LeaseId = NewType("LeaseId", str)
Digest = NewType("Digest", str)
"""sha256, lower-case hex."""

LOCAL = "local"
"""The server that is always there: this machine."""


class ServerKind(StrEnum):
    """How a server is reached."""

    LOCAL = "local"
    SSH = "ssh"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A place that runs workers."""

    id: ServerId
    name: str
    kind: ServerKind
    description: str = ""
    labels: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    """By kind, validated before they get here; JSON."""
    created_at: dt.datetime
    retired_at: dt.datetime | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A name under which versions are registered."""

    id: ModelId
    name: str
    description: str = ""
    labels: dict[str, str] = {}
    created_at: dt.datetime
    retired_at: dt.datetime | None = None


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a model: package, weights, specs, options, limits."""

    model: ModelId
    number: int
    spec: VersionSpec
    package: Digest | None = None
    """The package's id; None only for a `command` that the host already has."""
    weights: Digest | None = None
    """The id of a weights version's list of tensors."""
    created_at: dt.datetime


class Retirement(msgspec.Struct, frozen=True, kw_only=True):
    """That a version is no longer to be run. It stands apart, since a version itself never changes."""

    model: ModelId
    number: int
    at: dt.datetime


class AliasMove(msgspec.Struct, frozen=True, kw_only=True):
    """One step in an alias's history; the newest one is what the alias means."""

    model: ModelId
    alias: str
    move: int
    """1, 2, 3 … for each alias."""
    version: int | None
    """None: from then on the alias means nothing."""
    at: dt.datetime
    actor: str


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """A name under which versions of weights are registered."""

    id: WeightsId
    name: str
    description: str = ""
    labels: dict[str, str] = {}
    created_at: dt.datetime
    retired_at: dt.datetime | None = None


class WeightsVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable list of named tensors."""

    weights: WeightsId
    number: int
    digest: Digest
    tensors: int
    size: int
    """Bytes of all tensors."""
    created_at: dt.datetime


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """That a model runs on a server."""

    model: ModelId
    server: ServerId
    version: int | None = None
    """Pinned; None follows the reference."""
    device: str | None = None
    path: str | None = None
    created_at: dt.datetime


class RecordKind(StrEnum):
    """What a record in the access log tells."""

    STARTED = "started"
    FINISHED = "finished"
    REFUSED = "refused"
    LATE = "late"
    CHANGE = "change"


class Outcome(StrEnum):
    """How an invocation ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    REFUSED = "refused"


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # of text and numbers: it can be in no cycle
    """A record of the access log as a store holds it: the body is the exact text that was hashed."""

    seq: int
    previous: Digest
    digest: Digest
    body: str
    columns: dict[str, str | int | None]
    """Derived from the body (core.chain.COLUMNS)."""


class AccessFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records of the log; everything given must hold."""

    kind: RecordKind | None = None
    model: str | None = None
    server: str | None = None
    actor: str | None = None
    outcome: Outcome | None = None
    invocation: InvocationId | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    """Exclusive."""

    def __post_init__(self) -> None:
        """Refuse a time without a zone: one database would take it for UTC, another could not compare it."""
        for name, at in (("since", self.since), ("until", self.until)):
            if at is not None and at.tzinfo is None:
                raise UsageError(f"{name} is {at.isoformat()}, which has no zone")


class OpenInvocation(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation that started and has not finished."""

    invocation: InvocationId
    lease: LeaseId
    started_seq: int
    model: str
    server: str


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A living driver's claim on its invocations: which process on which machine."""

    id: LeaseId
    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    process_started: str
    """As the system counts it (clock ticks since boot on Linux): tells a reused pid from the process that was meant."""
    actor: str
    acquired_at: dt.datetime
    last_seen: dt.datetime
    """By the database's clock where it has one, so that two drivers' clocks need not agree."""


T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some records in order, and from where to go on."""

    items: tuple[T, ...]
    next: str | None = None
    """The key to give as `after` for the next page; None on the last."""


PAGE = 50
"""Records a page where the caller does not say."""

MAX_PAGE = 1000
"""No caller gets more at once: a page is held in memory whole."""
