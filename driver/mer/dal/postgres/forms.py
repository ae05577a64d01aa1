"""Forms of bodies: most bodies of a log are the same text but for a time, identifiers, digests and timings.

To read a body as JSON takes as long as to hash it. So one of a form is read, and the others are compared with it as bytes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable

import msgspec

from mer.core.canonical import Json, NotCanonical, canonical

MAX_BODY = 4096
"""Bytes of a body that a form is made of: those of a small model have some hundreds, and what is kept is bounded."""

MAX_TIMINGS = 200
"""Bytes of the timings: four numbers and their names have half as many."""

PLAIN = b"0123456789abcdef-"
"""What UUIDs and digests are written with. None of it ends a JSON string, or begins an escape in one."""

SECOND, MICROS, INVOCATION, LEASE, DIGEST, TIMINGS = HOLES = "\ue000\ue001\ue002\ue003\ue004\ue005"
"""What stands for each in a form's text: private characters, and a body that has one of them gives no form."""

WIDTHS = {SECOND: 20, MICROS: 6, INVOCATION: 36, LEASE: 36, DIGEST: 64}
"""Bytes of what is in the place of each; timings may have any number."""

_DIGEST = re.compile("[0-9a-f]{64}")

Values = tuple[bytes, bytes, bytes, bytes]
"""The second of a body's time with the point after it, the rest of it up to its Z, its invocation and its lease.

The time is whatever stands there: only if it is written as bodies write one is the text a body at all.
"""


Cut = Callable[[bytes], tuple[bytes, ...]]
"""Gives the pieces of a text: a constant one, a hole, a constant one …"""


class _Anything(msgspec.Struct, gc=False):
    """A JSON object, of which nobody wants to know more."""


_read_object = msgspec.json.Decoder(_Anything).decode


class Form:
    """What is the same in some bodies, and where they differ.

    A form's text is the canonical one of a body with holes in it, so whatever plain characters fill these, and whatever
    object the timings are, it is the same body but for the values at the holes. A text that differs anywhere else, in a
    key that stands there twice or in an escape, is not of the form.
    """

    def __init__(self, parts: list[str]) -> None:
        self._constants = tuple(part.encode() for part in parts[::2])
        self._holes = "".join(parts[1::2])  # in the order of a canonical body's keys: the time first, the timings last
        self._timed = self._holes.endswith(TIMINGS)
        self._size = sum(map(len, self._constants)) + sum(WIDTHS.get(hole, 0) for hole in self._holes)
        self._cuts: dict[int, Cut] = {}
        self.values: Callable[[bytes], Values | None] = self._reader()
        """Returns what a body has in its holes; None where it is not of this form."""

    @classmethod
    def of(cls, text: bytes) -> Form | None:
        """Return the form of a body; None where it is not canonical, has no invocation or lease, or is an unusual one."""
        try:
            shown = text.decode()
            body = json.loads(shown)
            if len(text) > MAX_BODY or any(hole in shown for hole in HOLES) or canonical(body) != shown:
                return None
            form = canonical(_with_holes(body)).replace(f'"{TIMINGS}"', TIMINGS)
        except (ValueError, TypeError, KeyError, RecursionError, NotCanonical):
            return None
        found = cls(re.split(f"([{HOLES}])", form))
        return found if found.values(text) else None

    def _reader(self) -> Callable[[bytes], Values | None]:
        cuts, add_cut, constants, timed = self._cuts, self._add_cut, self._constants, self._timed
        invocation, lease = self._holes.index(INVOCATION), self._holes.index(LEASE)
        plain = slice(2, -1 if timed else None)

        def values(text: bytes) -> Values | None:  # no method: every row is read here, and what it knows is at hand
            cut = cuts.get(len(text)) or add_cut(len(text))
            if cut is None:
                return None
            pieces = cut(text)
            if pieces[::2] != constants:
                return None
            holes = pieces[1::2]
            if b"".join(holes[plain]).translate(None, PLAIN):
                return None
            if timed:
                if not holes[-1].isascii():  # of a text that nobody asked for msgspec does not ask whether it is UTF-8
                    return None
                try:
                    _read_object(holes[-1])
                except (msgspec.DecodeError, RecursionError):
                    return None
            return holes[0], holes[1], holes[invocation], holes[lease]

        return values

    def _add_cut(self, size: int) -> Cut | None:
        """Return what cuts a text of that size at the holes; None where no body of this form is of that size."""
        timings = size - self._size
        if not (0 < timings <= MAX_TIMINGS if self._timed else timings == 0):
            return None
        widths = [WIDTHS.get(hole, timings) for hole in self._holes]
        pieces = [f"{len(self._constants[0])}s"]
        for width, constant in zip(widths, self._constants[1:], strict=True):
            pieces.append(f"{width}s{len(constant)}s")
        cut = struct.Struct("".join(pieces)).unpack
        self._cuts[size] = cut
        return cut


def _with_holes(body: dict[str, Json]) -> dict[str, Json]:
    """Return a body with holes for its values. Raises: ValueError, TypeError, KeyError (it has not all of them)."""
    for name, width in (("at", 27), ("invocation", 36), ("lease", 36)):
        value = body[name]
        if not isinstance(value, str) or len(value) != width:
            raise ValueError(f"{name} is written in an unusual way")
    sides: dict[str, Json] = {name: _without_digests(body[name]) for name in ("inputs", "outputs") if name in body}
    timings: dict[str, Json] = {"timings": TIMINGS} if "timings" in body else {}
    return {**body, **sides, **timings, "at": f"{SECOND}{MICROS}Z", "invocation": INVOCATION, "lease": LEASE}


def _without_digests(tensors: Json) -> Json:
    if not isinstance(tensors, list):
        return tensors
    return [
        {**tensor, "sha256": DIGEST}
        if isinstance(tensor, dict) and _DIGEST.fullmatch(str(tensor.get("sha256")))
        else tensor
        for tensor in tensors
    ]
