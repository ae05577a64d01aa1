"""Blocks of records: what a verification reads of the access log, and the quick look that it takes at them.

A log has millions of records, and nearly all of them hold. A row and a record of each would take longer to make than to
hash; so the server joins the columns of some records, each in one field, and what the bodies say is joined in the same way
and compared with it (columns.py). A block in which anything differs, or is unusual, is in doubt: its records are read one
by one then, for core.chain.Verifier to look at closely.
"""

from __future__ import annotations

import struct
import sys
import uuid
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from mer.core.chain import HASHED, Head, Known, Part, decode
from mer.dal.postgres.columns import Seconds, same_texts, same_times, same_uuids

BLOCK = 128
"""Places of a block: half a millisecond's work, after which others get their turn. More are no faster, and hold more."""

MAX_BODY = 2**15
"""Bytes of a body that stands in a block, which bounds it: those of a run have some hundreds. Others come one by one."""

TEXTS = ("kind", "actor", "model", "version", "server", "outcome", "action")
"""The columns that are joined as text, in their order."""

_PREVIOUS, _BODY, _SEQ = HASHED.split(b"%b")

_BEGUN = sha256(_PREVIOUS)
"""To copy it is faster than to begin anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A row of what `Blocks.query` asks for: the records behind a place, as many as are there."""

    after: int
    records: int
    bodies: bytes
    seqs: bytes
    previous: bytes
    digests: bytes
    at: bytes
    invocations: bytes
    leases: bytes
    texts: Sequence[bytes]

    @classmethod
    def of(cls, row: memoryview) -> Block:
        """Take a row apart. Raises: ValueError (it is not laid out as COPY's rows are)."""
        after, records, bodies, seqs, previous, digests, at, invocations, leases, *texts = _fields(row)
        return cls(
            after=int.from_bytes(after, "big", signed=True),
            records=int.from_bytes(records, "big"),
            bodies=bodies,
            seqs=seqs,
            previous=previous,
            digests=digests,
            at=at,
            invocations=invocations,
            leases=leases,
            texts=texts,
        )


class Blocks:
    """Asks for the blocks of one verification, and verifies them.

    `absent` stands for NULL, where nothing that is there may be taken for it. It has to be a new one each time: what nobody
    could know when a record was written stands in none.
    """

    def __init__(self, *, chain: str, absent: uuid.UUID) -> None:
        self._chain = {chain}
        self._absent_uuid = str(absent)
        self._absent = absent.hex[16:]  # shorter, since nearly every row has some; no part of it tells the time
        self._seconds = Seconds()

    def query(self, *, after: int, until: int) -> str:
        """Return the binary COPY of the records behind `after` up to `until`, which is far from what a bigint can hold.

        The types are named, so that a table whose columns were altered is read as what it should be. NULL is no value of an
        aggregate, which would put the next one in its place: so every column says what stands for it.
        """
        texts = ", ".join(f"string_agg(coalesce({name}::text, '{self._absent}'), E'\\n')" for name in TEXTS)
        # with LIMIT a server expects few records, and does not compile the statement for many; one more than there are
        # places, so that a second record at one shows
        return (  # numbers, and what was made here: nothing of anybody's is in it
            "COPY (SELECT start::bigint, block.*"  # noqa: S608
            f" FROM generate_series({after}::bigint, {until - 1}::bigint, {BLOCK}) AS start, LATERAL (SELECT count(*)::bigint,"
            f" string_agg(CASE WHEN octet_length(body::text) <= {MAX_BODY} THEN body::text ELSE '' END, E'\\n'),"
            " string_agg(int8send(seq::bigint), ''),"
            " string_agg(coalesce(previous::text, ''), ' '), string_agg(coalesce(digest::text, ''), ' '),"
            " string_agg(timestamptz_send(at::timestamptz), ''),"
            f" string_agg(uuid_send(coalesce(invocation::uuid, '{self._absent_uuid}')), ''),"
            f" string_agg(uuid_send(coalesce(lease::uuid, '{self._absent_uuid}')), ''), {texts}"
            f" FROM (SELECT * FROM mer.access WHERE seq > start AND seq <= least(start + {BLOCK}, {until})"
            f" ORDER BY seq LIMIT {BLOCK + 1}) AS record) AS block) TO STDOUT (FORMAT binary)"
        )

    def verified(self, block: Block, after: Head) -> Part | None:
        """Return what a block proves where `after` stands before its records; None where it is in doubt."""
        number = block.records
        if not number:
            return Part(after=after, head=after, records=0, faults=(), passed=False)
        bodies = block.bodies.split(b"\n")
        if len(bodies) != number or block.seqs != _seqs(after.seq, number):
            return None
        digests = _digests(bodies, after)
        last = digests.pop()
        if (
            block.digests[-64:] != last
            or block.previous.count(b" ") != number - 1  # the digest before them may be anything
            or block.previous != b" ".join([after.digest.encode(), *digests])
            or block.digests != b" ".join([*digests, last])
        ):
            return None
        try:
            if not self._same(block, [decode(body) for body in bodies]):
                return None
        except (ValueError, TypeError, RecursionError, struct.error):
            return None  # a body or a column of an unusual form is no fault yet
        head = Head(seq=after.seq + number, digest=last.decode())
        return Part(after=after, head=head, records=number, faults=(), passed=False)

    def _same(self, block: Block, bodies: Sequence[Known]) -> bool:
        """Tell whether the columns are what the bodies say, and these are of the chain."""
        absent, versions = self._absent, [body.version for body in bodies]
        texts: tuple[Sequence[str | None], ...] = (
            [body.kind for body in bodies],
            [body.actor.user if body.actor else None for body in bodies],
            [body.model for body in bodies],
            [None if version is None else str(version) for version in versions],
            [body.server for body in bodies],
            [body.outcome for body in bodies],
            [body.action for body in bodies],
        )
        return (
            {body.chain for body in bodies} == self._chain
            and same_times(block.at, [body.at for body in bodies], self._seconds)
            and same_uuids(block.invocations, [body.invocation for body in bodies], absent=self._absent_uuid)
            and same_uuids(block.leases, [body.lease for body in bodies], absent=self._absent_uuid)
            and all(
                same_texts(column, values, absent=absent) for column, values in zip(block.texts, texts, strict=True)
            )
        )


def _seqs(after: int, number: int) -> bytes:
    """Return the places behind `after` as a block has them."""
    places = array("q", range(after + 1, after + number + 1))
    if sys.byteorder == "little":
        places.byteswap()
    return places.tobytes()


def _digests(bodies: Sequence[bytes], after: Head) -> list[bytes]:
    """Return the digests that records with these bodies have behind that one."""
    begun, seq, last = _BEGUN.copy, after.seq, after.digest.encode()
    digests: list[bytes] = []
    for body in bodies:
        seq += 1
        hashing = begun()
        update = hashing.update  # in three steps, since to put a long body together with the rest takes longer
        update(last + _BODY)
        update(body)
        update(_SEQ % seq)
        last = hashing.hexdigest().encode()
        digests.append(last)
    return digests


def _fields(row: memoryview) -> list[bytes]:
    """Return the fields of a row; what is NULL is empty. Raises: ValueError (there are more, fewer or cut ones)."""
    fields: list[bytes] = []
    at, end = 2, len(row)
    while at < end:
        length = max(0, int.from_bytes(row[at : at + 4], "big", signed=True))
        at += 4 + length
        fields.append(bytes(row[at - length : at]))
    if at != end or len(fields) != 9 + len(TEXTS):
        raise ValueError("a row is not laid out as COPY's rows are")
    return fields
