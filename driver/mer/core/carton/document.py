"""Reading a document of tables with every fault collected: whoever mends a file wants them all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mer.core.toml import INT64

MOST_FAULTS = 20
"""Faults told of one document: a file of another format must not fill the terminal."""


class Fault(NamedTuple):
    """What is wrong with one value."""

    path: tuple[str | int, ...]
    """Keys and indexes from the root of the document."""
    why: str

    def __str__(self) -> str:
        """Return both as people write them: `runner.opts is no table`."""
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return f"{place.removeprefix('.')} {self.why}".lstrip()


class Table:
    """One table of a document, which knows its place in it and where faults are noted."""

    def __init__(self, values: Mapping[str, Any], *, path: tuple[str | int, ...] = (), faults: list[Fault]) -> None:
        self.values = values
        self.path = path
        self.faults = faults

    def fault(self, key: str, why: str, *, index: int | None = None) -> None:
        """Note what is wrong with `key`, or with the item of its array at `index`."""
        self.faults.append(Fault((*self.path, key, *(() if index is None else (index,))), why))

    def text(self, key: str) -> str | None:
        """Return a string; None where there is none, or where it is a fault."""
        value: str | None = self._typed(key, str, "string")
        return value

    def needed_text(self, key: str) -> str:
        """Return a string that must be there and not empty."""
        value = self.text(key)
        if not value and (key not in self.values or value == ""):
            self.fault(key, "is missing" if key not in self.values else "is empty")
        return value or ""

    def needed_integer(self, key: str) -> int:
        """Return an integer of 0 or more that must be there."""
        value = self._typed(key, int, "integer")
        if key not in self.values:
            self.fault(key, "is missing")
        elif value is not None and (value < 0 or value not in INT64):
            self.fault(key, f"is {value}: an integer from 0 to 2**63 - 1 is meant")
        return value or 0

    def integer(self, key: str) -> int | None:
        """Return an integer; None where there is none, or where it is a fault."""
        value: int | None = self._typed(key, int, "integer")
        return value

    def number(self, key: str) -> float | None:
        """Return an integer or a float as a float; None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        # an integer beyond 64 bits may be too large for a float
        if isinstance(value, bool) or not (isinstance(value, float) or (isinstance(value, int) and value in INT64)):
            self.fault(key, "is no number")
            return None
        return float(value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of strings; empty where there is none."""
        value = self._typed(key, list, "array of strings") or []
        if any(not isinstance(item, str) for item in value):
            self.fault(key, "is no array of strings")
            return ()
        return tuple(value)

    def table(self, key: str) -> Table:
        """Return the table under `key`; an empty one where there is none."""
        value = self._typed(key, dict, "table") or {}
        return Table(value, path=(*self.path, key), faults=self.faults)

    def tables(self, key: str) -> Iterator[Table]:
        """Give each table of the array under `key`; none where there is no such array."""
        for index, item in enumerate(self._typed(key, list, "array of tables") or []):
            if isinstance(item, dict):
                yield Table(item, path=(*self.path, key, index), faults=self.faults)
            else:
                self.fault(key, "is no table", index=index)

    def only(self, keys: Iterable[str]) -> None:
        """Note every key that is none of `keys`."""
        known = tuple(keys)
        for key in self.values:
            if key not in known:
                self.fault(key, f"is not known: {', '.join(known)} are")

    def _typed(self, key: str, kind: type, what: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fault(key, f"is no {what}")
            return None
        return value
