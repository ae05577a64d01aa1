"""Records and bodies for tests, with everything that a test does not care about filled in."""

from __future__ import annotations

import datetime as dt
from typing import Any

from mer.core.canonical import canonical
from mer.core.identifiers import uuid7
from mer.core.records import (
    AliasMove,
    Digest,
    InvocationId,
    Lease,
    LeaseId,
    Model,
    ModelId,
    Placement,
    Retirement,
    Server,
    ServerId,
    ServerKind,
    Version,
    Weights,
    WeightsId,
    WeightsVersion,
)
from mer.core.specs import TensorSpec, VersionSpec

NOON = dt.datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    """Return a time that many seconds after NOON."""
    return NOON + dt.timedelta(seconds=seconds)


def server(name: str = "gpu", **fields: Any) -> Server:
    return Server(**{"id": ServerId(uuid7()), "name": name, "kind": ServerKind.SSH, "created_at": NOON, **fields})


def model(name: str = "digits", **fields: Any) -> Model:
    return Model(**{"id": ModelId(uuid7()), "name": name, "created_at": NOON, **fields})


def weights(name: str = "digits", **fields: Any) -> Weights:
    return Weights(**{"id": WeightsId(uuid7()), "name": name, "created_at": NOON, **fields})


def version(of: Model, number: int = 1, **fields: Any) -> Version:
    spec = VersionSpec(runner="python", inputs=(TensorSpec(name="image", dtype="float32", shape=("n", 8, 8)),))
    filled = {"model": of.id, "number": number, "spec": spec, "package": Digest("ab" * 32), "created_at": NOON}
    return Version(**{**filled, **fields})


def weights_version(of: Weights, number: int = 1, **fields: Any) -> WeightsVersion:
    filled = {"weights": of.id, "number": number, "digest": Digest("cd" * 32), "tensors": 2, "size": 2**40}
    return WeightsVersion(**{**filled, "created_at": NOON, **fields})


def move(of: Model, alias: str = "prod", number: int = 1, version: int | None = 1, **fields: Any) -> AliasMove:
    filled = {"model": of.id, "alias": alias, "move": number, "version": version, "at": NOON, "actor": "ada"}
    return AliasMove(**{**filled, **fields})


def retirement(of: Model, number: int = 1, **fields: Any) -> Retirement:
    return Retirement(**{"model": of.id, "number": number, "at": NOON, **fields})


def placement(of: Model, on: Server, **fields: Any) -> Placement:
    return Placement(**{"model": of.id, "server": on.id, "created_at": NOON, **fields})


def lease(**fields: Any) -> Lease:
    filled = {"id": LeaseId(uuid7()), "host": "here", "boot_id": "b" * 36, "pid_namespace": "4026531836", "pid": 4711}
    times = {"process_started": "123456", "actor": "ada", "acquired_at": NOON, "last_seen": NOON}
    return Lease(**{**filled, **times, **fields})


def invocation() -> InvocationId:
    return InvocationId(uuid7())


def body(chain: str, kind: str, **fields: Any) -> str:
    """Return a canonical body with a time, an actor and a chain."""
    given = {"chain": chain, "kind": kind, "at": "2026-11-21T12:00:00.123456Z", "actor": {"user": "ada", "uid": 1000}}
    return canonical({**given, **fields})


def started(chain: str, of: InvocationId, *, lease: LeaseId, **fields: Any) -> str:
    known = {"model": "digits", "version": 1, "server": "local", **fields}
    return body(chain, "started", invocation=of, lease=lease, **known)


def finished(chain: str, of: InvocationId, *, lease: LeaseId, **fields: Any) -> str:
    known = {"model": "digits", "version": 1, "server": "local", "outcome": "succeeded", **fields}
    return body(chain, "finished", invocation=of, lease=lease, **known)


def refused(chain: str, of: InvocationId, **fields: Any) -> str:
    return body(chain, "refused", invocation=of, outcome="refused", **fields)


def change(chain: str, action: str = "model.register", **fields: Any) -> str:
    return body(chain, "change", action=action, **fields)
