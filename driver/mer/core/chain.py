"""The access log's chain: each record's digest covers its body, its place and the digest before it.

Normative text and test vectors: docs/access-log.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from mer.core.errors import UsageError

GENESIS = "0" * 64
"""The digest "before" record 1."""


HASHED = b'{"previous":"%b","record":%b,"seq":%d}'
"""What a record's digest is the sha256 of: canonical JSON itself, its keys being in order."""


def digest(previous: str, body: str, seq: int) -> str:
    """Return the record's digest, lower-case hex: the sha256 of HASHED."""
    return hashlib.sha256(HASHED % (previous.encode(), body.encode(), seq)).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The last record of a chain; seq 0 with the genesis digest is an empty one."""

    seq: int
    digest: str
    other: bool = field(default=False, compare=False)
    """No part of the place, but told of what was appended: another body of its invocation and kind stood here before."""


EMPTY = Head(seq=0, digest=GENESIS)

MAX_SHOWN = 60
"""Characters of what a record says that a fault repeats: a chain's UUID fits, a forged one of a megabyte is cut."""


class Link(Protocol):
    """What a store or an exported file holds of one record (core.records.AccessRecord is one)."""

    @property
    def seq(self) -> int:
        """Its place: 1, 2, 3 …"""

    @property
    def previous(self) -> str:
        """The digest of the record before it."""

    @property
    def digest(self) -> str:
        """Its own."""

    @property
    def body(self) -> str:
        """The exact text that was hashed."""

    @property
    def columns(self) -> Mapping[str, str | int | None]:
        """What was derived from the body; empty in a file, which has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that does not hold, and at which record."""

    seq: int
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A head to keep elsewhere: with it, a tail that was cut or rewritten later shows."""

    chain: str
    seq: int
    digest: str

    _FORM = re.compile(
        r"mer-checkpoint:1:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(0|[1-9][0-9]{0,15}):([0-9a-f]{64})"
    )

    def __str__(self) -> str:
        return f"mer-checkpoint:1:{self.chain}:{self.seq}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read what `mer log checkpoint` printed.

        Raises:
            UsageError: the text is no checkpoint.
        """
        found = cls._FORM.fullmatch(text.strip())
        if not found:
            raise UsageError(f"{text.strip()[:80]!r} is no checkpoint: one begins with mer-checkpoint:1:")
        return cls(chain=found[1], seq=int(found[2]), digest=found[3])


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one verifier found in a part of the log, for another one that stands before it."""

    after: Head
    head: Head
    records: int
    faults: tuple[Fault, ...]
    passed: bool
    """Whether the checkpoint's record is in it."""


class Verifier:
    """Follow a chain record by record and collect what does not hold.

    After a fault it goes on from the record as stored, so that one edited record is named once, not every one after it.
    One that verifies only a `part` says nothing of what stands before it: whoever takes the part over has said that.
    """

    def __init__(
        self,
        *,
        chain: str,
        after: Head = EMPTY,
        checkpoint: Checkpoint | None = None,
        most_faults: int = 100,
        part: bool = False,
    ) -> None:
        self._seq, self._digest = after.seq, after.digest
        self.records = 0
        self.faults: list[Fault] = []
        self._after = after
        self.chain = chain
        self._checkpoint = checkpoint
        self._most_faults = most_faults  # a wholly rewritten log must not fill the memory with its faults
        self._passed = False
        if not part:
            if checkpoint and checkpoint.chain != chain:
                self._fault(0, f"this is chain {chain}, the checkpoint is of chain {checkpoint.chain}")
            self._pass(after)

    @property
    def head(self) -> Head:
        """The last record that was looked at."""
        return Head(seq=self._seq, digest=self._digest)

    def feed(self, links: Iterable[Link]) -> None:
        """Check the next records, in order of seq."""
        told = self._checkpoint.seq if self._checkpoint else None
        for link in links:
            # nearly every record holds, and a log has millions: only what does not is looked at closely, to be named
            if link.seq != told and self._holds(link):
                self.records += 1
                self._seq, self._digest = link.seq, link.digest
            else:
                self._check(link)

    def finish(self) -> list[Fault]:
        """Check what shows only at the end, and return every fault."""
        if self._checkpoint and self._checkpoint.seq > self._seq:
            self._fault(
                self._checkpoint.seq,
                f"the checkpoint names record {self._checkpoint.seq}, the log ends at {self._seq}: its tail was cut",
            )
        elif self._checkpoint and not self._passed:
            self._fault(
                self._checkpoint.seq,
                f"the checkpoint names record {self._checkpoint.seq}, which is not among these: nothing ties them to it",
            )
        return self.faults

    def part(self) -> Part:
        """Return what was found so far, for the verifier of what stands before."""
        return Part(
            after=self._after,
            head=self.head,
            records=self.records,
            faults=tuple(self.faults),
            passed=self._passed,
        )

    def meets(self, until: int) -> bool:
        """Tell whether the checkpoint's record is among the next ones up to that place: it has to be fed."""
        return self._checkpoint is not None and self._seq < self._checkpoint.seq <= until

    def take_over(self, part: Part) -> bool:
        """Go on behind a part that another has verified; False, and nothing done, where it does not begin at this head."""
        if part.after != self.head:
            return False
        self.records += part.records
        self._seq, self._digest = part.head.seq, part.head.digest
        self._passed = self._passed or part.passed
        self.faults.extend(part.faults[: self._most_faults - len(self.faults)])
        return True

    def _pass(self, head: Head) -> None:
        if self._checkpoint and head.seq == self._checkpoint.seq:
            self._passed = True
            if head.digest != self._checkpoint.digest:
                self._fault(head.seq, "is not the record of the checkpoint: the log was rewritten")

    def _holds(self, link: Link) -> bool:
        """Tell whether `_check` would find no fault, at a fifth of its cost; False may also mean that it is not known."""
        seq, previous, columns = link.seq, link.previous, link.columns
        if seq != self._seq + 1 or previous != self._digest or digest(previous, link.body, seq) != link.digest:
            return False
        try:
            body = decode(link.body)
        except (ValueError, RecursionError):
            return False  # a column of an unusual type is no fault yet
        if body.chain != self.chain:
            return False
        return not columns or columns == {
            "kind": body.kind,
            "at": body.at,
            "invocation": body.invocation,
            "lease": body.lease,
            "actor": body.actor and body.actor.user,
            "model": body.model,
            "version": body.version,
            "server": body.server,
            "outcome": body.outcome,
            "action": body.action,
        }

    def _check(self, link: Link) -> None:
        self.records += 1
        expected = self._seq + 1
        if link.seq != expected:
            if link.seq > expected:
                gone = f"record {expected}" if link.seq == expected + 1 else f"records {expected} to {link.seq - 1}"
                self._fault(expected, f"{gone} missing")
            else:
                self._fault(link.seq, "stands out of order")
        elif link.previous != self._digest:
            self._fault(link.seq, "does not follow from the record before it: one was changed, inserted or swapped")
        if digest(link.previous, link.body, link.seq) != link.digest:
            self._fault(link.seq, "its body does not have its digest: it was changed")
        self._compare(link)
        self._seq, self._digest = link.seq, link.digest
        self._pass(self.head)

    def _compare(self, link: Link) -> None:
        try:
            body = json.loads(link.body)
        except (ValueError, RecursionError):
            self._fault(link.seq, "its body is no JSON")
            return
        if not isinstance(body, dict):
            self._fault(link.seq, "its body is no JSON object")
            return
        if body.get("chain") != self.chain:
            self._fault(link.seq, f"belongs to chain {str(body.get('chain'))[:MAX_SHOWN]}, not to {self.chain}")
        wrong = [name for name, value in derived(body).items() if name in link.columns and link.columns[name] != value]
        if wrong:
            self._fault(link.seq, f"its columns differ from its body: {', '.join(wrong)}")

    def _fault(self, seq: int, what: str) -> None:
        if len(self.faults) < self._most_faults:
            self.faults.append(Fault(seq=seq, what=what))


class User(msgspec.Struct, gc=False):
    """What a verifier looks at in a body's actor."""

    user: str | None = None


class Known(msgspec.Struct, gc=False):
    """What a verifier looks at in a body, with the types that nearly all have; others are read by `json` and `derived`.

    In the order of a canonical body: the decoder looks for the next key where it found the last one.
    """

    action: str | None = None
    actor: User | None = None
    at: str | None = None
    chain: str | None = None
    invocation: str | None = None
    kind: str | None = None
    lease: str | None = None
    model: str | None = None
    outcome: str | None = None
    server: str | None = None
    version: int | None = None


decode = msgspec.json.Decoder(Known).decode
"""Reads a body as Known. Raises: msgspec.DecodeError (a ValueError), RecursionError."""

COLUMNS = ("kind", "at", "invocation", "lease", "actor", "model", "version", "server", "outcome", "action")
"""The columns that stores derive from a body, so that the log can be queried without parsing every body."""


def derived(body: Mapping[str, object]) -> dict[str, str | int | None]:
    """Return the columns that a store must hold for this body.

    Every one stands at the top of the body under its own name, except `actor`, which is the user of the body's actor.
    A value of another type than text or integer counts as absent.
    """
    actor = body.get("actor")
    flat = {**body, "actor": actor.get("user") if isinstance(actor, Mapping) else None}
    return {name: value if isinstance(value := flat.get(name), str | int) else None for name in COLUMNS}
