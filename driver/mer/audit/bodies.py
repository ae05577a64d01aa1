"""The bodies of access records, field by field (docs/access-log.md is normative).

Pure: facts in, a canonical document out. Whatever comes from outside (a message, a reference as it was typed) is cleaned
and bounded here, so that no record can be refused by a database or fill it.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping, Sequence

import msgspec

from mer.core.actor import Actor
from mer.core.canonical import Json, canonical, clean_text
from mer.core.errors import MerError
from mer.core.records import Digest, InvocationId, LeaseId, Outcome, RecordKind

FORMAT = 1
"""Of the bodies. A record may gain fields without a new number: verifiers look only at those they know."""

MAX_REFERENCE = 300
"""Characters of a reference as it was typed: a name, a colon and a version fit several times."""

MAX_MESSAGE = 2000
"""Characters of an error's message: it explains, the model's own log holds the rest."""

MAX_FAILED_ATTEMPTS = 16
"""Described one by one: their number is told whatever it is. A model is rarely placed on more servers."""

MAX_ATTEMPT_MESSAGE = 200
"""Characters of what each of them failed by."""

MAX_MODEL_LOG = 4000
"""Characters of the end of what a model printed: the last lines before a failure, not a log server."""

MAX_TENSORS = 256
"""Inputs or outputs described one by one; beyond it a record would outgrow a page, and their number is told instead."""


def timestamp(at: dt.datetime) -> str:
    """Return `at` as records write it: UTC, always six digits of microseconds, `Z`."""
    return at.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class TensorDigest(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output as a record describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    sha256: Digest | None
    parts: int | None = None
    """In how many parts it came; None where it came at once. Dtype and shape are then the first one's."""

    def body(self) -> dict[str, Json]:
        """Return it as it stands in a record."""
        known: dict[str, Json] = {"sha256": self.sha256} if self.sha256 else {}
        if self.parts is not None:
            known["parts"] = self.parts
        name = clean_text(self.name, limit=MAX_REFERENCE)
        return {"name": name, "dtype": self.dtype, "shape": list(self.shape), "bytes": self.bytes, **known}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What an invocation was about, as far as it was resolved."""

    reference: str
    model: str | None = None
    version: int | None = None
    package: Digest | None = None
    weights: Digest | None = None
    server: str | None = None
    address: str | None = None
    host_key: str | None = None

    def body(self) -> dict[str, Json]:
        """Return the fields that are known."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        fields["reference"] = clean_text(self.reference, limit=MAX_REFERENCE)
        return {name: value for name, value in fields.items() if value is not None}


class FailedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A server that was to run an invocation, and did not: another attempt followed."""

    server: str
    code: str
    """The error's, for machines."""
    message: str

    @classmethod
    def by(cls, server: str, error: MerError) -> FailedAttempt:
        """Tell of an error there."""
        return cls(server=server, code=error.code, message=error.message)

    def body(self) -> dict[str, Json]:
        """Return it as it stands in a record."""
        return {
            "server": self.server,
            "code": self.code,
            "message": clean_text(self.message, limit=MAX_ATTEMPT_MESSAGE),
        }


class Timings(msgspec.Struct, kw_only=True):
    """How long each step of an invocation took, microseconds."""

    queue_us: int = 0
    start_us: int = 0
    transfer_us: int = 0
    run_us: int = 0

    def body(self) -> dict[str, Json]:
        """Return them as they stand in a record."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class ModelLog(msgspec.Struct, frozen=True, kw_only=True):
    """What the model printed, as a record keeps it."""

    bytes: int
    """All of it."""
    text: str
    """Its end."""

    def body(self) -> dict[str, Json]:
        """Return it as it stands in a record."""
        return {"bytes": self.bytes, "text": clean_text(self.text, limit=MAX_MODEL_LOG)}


def reason(error: BaseException) -> dict[str, Json]:
    """Return what a record says of an error: its code, for machines, and its message."""
    code = error.code if isinstance(error, MerError) else type(error).__name__
    return {"code": code, "message": clean_text(str(error), limit=MAX_MESSAGE)}


class Bodies:
    """Makes the bodies of one driver's records: the chain they belong to, and the lease under which it lives."""

    def __init__(self, *, chain: str) -> None:
        self.chain = chain

    def started(
        self, *, at: dt.datetime, actor: Actor, lease: LeaseId, invocation: InvocationId, subject: Subject
    ) -> str:
        """An invocation's first record, durable before the model sees its input."""
        facts = {"invocation": invocation, "lease": lease, **subject.body()}
        return self._body(RecordKind.STARTED, at, actor, facts)

    def refused(
        self, *, at: dt.datetime, actor: Actor, invocation: InvocationId, subject: Subject, error: MerError
    ) -> str:
        """The only record of an invocation that was refused before it started."""
        facts = {"invocation": invocation, "outcome": Outcome.REFUSED.value, "reason": reason(error), **subject.body()}
        return self._body(RecordKind.REFUSED, at, actor, facts)

    def finished(
        self,
        *,
        at: dt.datetime,
        actor: Actor,
        lease: LeaseId,
        invocation: InvocationId,
        subject: Subject,
        outcome: Outcome,
        error: BaseException | None = None,
        attempts: int = 1,
        failed_attempts: Sequence[FailedAttempt] = (),
        timings: Timings | None = None,
        inputs: Sequence[TensorDigest] = (),
        outputs: Sequence[TensorDigest] = (),
        parts: int | None = None,
        log: ModelLog | None = None,
        late: bool = False,
    ) -> str:
        """How an invocation ended; `late` when it had been recorded as lost meanwhile. `parts` of a streamed answer."""
        facts: dict[str, Json] = {
            "invocation": invocation,
            "lease": lease,
            "outcome": outcome.value,
            "attempts": attempts,
            **subject.body(),
            **_tensors("inputs", inputs),
            **_tensors("outputs", outputs),
        }
        if error is not None:
            facts["reason"] = reason(error)
        if failed_attempts:
            facts["failed_attempts"] = [attempt.body() for attempt in failed_attempts[:MAX_FAILED_ATTEMPTS]]
        if timings is not None:
            facts["timings"] = timings.body()
        if parts is not None:
            facts["parts"] = parts
        if log is not None:
            facts["log"] = log.body()
        return self._body(RecordKind.LATE if late else RecordKind.FINISHED, at, actor, facts)

    def changed(self, *, at: dt.datetime, actor: Actor, action: str, detail: Mapping[str, Json]) -> str:
        """A change to the registry; `detail` names what was changed and to what."""
        return self._body(RecordKind.CHANGE, at, actor, {"action": action, **detail})

    def change_refused(self, *, at: dt.datetime, actor: Actor, action: str, error: MerError) -> str:
        """A change that was asked for and not allowed."""
        facts: dict[str, Json] = {"action": action, "outcome": Outcome.REFUSED.value, "reason": reason(error)}
        return self._body(RecordKind.REFUSED, at, actor, facts)

    def _body(self, kind: RecordKind, at: dt.datetime, actor: Actor, facts: Mapping[str, Json]) -> str:
        return canonical(
            {
                **facts,
                "format": FORMAT,
                "chain": self.chain,
                "kind": kind.value,
                "at": timestamp(at),
                "actor": _actor(actor),
            }
        )


@functools.lru_cache(maxsize=64)
def _actor(actor: Actor) -> dict[str, Json]:
    """Return what stands in a record of who asked: a driver has few of them, and each asks many times."""
    return {name: clean_text(v, limit=200) if isinstance(v, str) else v for name, v in actor.body().items()}


def _tensors(side: str, tensors: Sequence[TensorDigest]) -> dict[str, Json]:
    if len(tensors) > MAX_TENSORS:
        return {f"{side}_count": len(tensors)}
    return {side: [tensor.body() for tensor in tensors]} if tensors else {}
