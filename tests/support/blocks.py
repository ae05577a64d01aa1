"""Rows of the access log as the server joins them for a verification (mer.dal.postgres.blocks); a test holds it to that."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from typing import Any

from mer.core.records import AccessRecord
from mer.dal.postgres.blocks import MAX_BODY, TEXTS
from mer.dal.postgres.columns import EPOCH, MICROSECOND

Row = dict[str, Any]
"""A row's columns by name; `at` in microseconds from EPOCH."""


def joined(rows: Sequence[Row], *, absent: uuid.UUID, after: int = 0) -> memoryview:
    """Return the row of a COPY in which these are one block."""
    mark = absent.hex[16:]

    def texts(name: str, separator: bytes, absent: str) -> bytes:
        return separator.join(str(absent if row[name] is None else row[name]).encode() for row in rows)

    def uuids(name: str) -> bytes:
        return b"".join((absent if row[name] is None else uuid.UUID(row[name])).bytes for row in rows)

    fields = [struct.pack(">q", after), struct.pack(">q", len(rows))]
    if rows:
        bodies = [b"" if row["body"] is None else row["body"].encode() for row in rows]
        fields += [b"\n".join(body if len(body) <= MAX_BODY else b"" for body in bodies)]
        fields += [b"".join(struct.pack(">q", row["seq"]) for row in rows)]
        fields += [texts("previous", b" ", ""), texts("digest", b" ", "")]
        fields += [b"".join(struct.pack(">q", row["at"]) for row in rows if row["at"] is not None)]
        fields += [uuids("invocation"), uuids("lease"), *(texts(name, b"\n", mark) for name in TEXTS)]
    sent = [struct.pack(">i", len(field)) + field for field in fields]
    sent += [struct.pack(">i", -1)] * (9 + len(TEXTS) - len(fields))
    return memoryview(struct.pack(">h", len(sent)) + b"".join(sent))


def record(row: Row) -> AccessRecord:
    """Return a row as `scan` gives it."""
    columns = {name: row[name] for name in ("invocation", "lease", *TEXTS)}
    at = None if row["at"] is None else f"{row['at']} microseconds"
    if row["at"] is not None and abs(row["at"]) < 2**57:
        at = (EPOCH + row["at"] * MICROSECOND).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return AccessRecord(
        seq=row["seq"],
        previous=row["previous"] or "",
        digest=row["digest"] or "",
        body=row["body"] or "",
        columns={**columns, "at": at},
    )
