"""Reading a document of tables with every fault collected: whoever mends a file wants them all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mer.core.toml import INT64

MOST_FAULTS = 20
"""Faults told of one document: a file of another format must not fill the terminal."""


class Table:
    """One table of a document, which knows its place in it and where faults are noted."""

    def __init__(self, values: Mapping[str, Any], *, place: str = "", faults: list[str]) -> None:
        self.values = values
        self.place = place
        self.faults = faults

    def at(self, key: str) -> str:
        """Return the place of `key` as people write it: `runner.opts`."""
        return f"{self.place}.{key}" if self.place else key

    def fault(self, key: str, why: str) -> None:
        """Note what is wrong with `key`."""
        self.faults.append(f"{self.at(key)} {why}")

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
        return Table(value, place=self.at(key), faults=self.faults)

    def tables(self, key: str) -> Iterator[Table]:
        """Give each table of the array under `key`; none where there is no such array."""
        for index, item in enumerate(self._typed(key, list, "array of tables") or []):
            if isinstance(item, dict):
                yield Table(item, place=f"{self.at(key)}[{index}]", faults=self.faults)
            else:
                self.fault(f"{key}[{index}]", "is no table")

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
