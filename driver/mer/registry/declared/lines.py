"""On which line each key of a TOML text stands: tomllib does not tell, and a fault without its line is hard to mend.

This is no second parser. tomllib has read the text before, so it is valid TOML, and here it is only walked over: headers,
keys and brackets are followed, values are stepped over. A property test holds the keys found to those that tomllib finds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root to a value, as in `("models", "digits", "versions", 0, "package")`."""

MAX_DEPTH = 64
"""Of values within values: each is a call deeper here, and no registry file needs ten."""

_KEY = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+')
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
_PLAIN = re.compile(r"[^,\]}#\r\n]+")


class TooDeep(Exception):
    """Values stand within values more often than MAX_DEPTH times; `line` is where."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}: values stand too deep within each other")
        self.line = line


class Lines:
    """The line of each key, table and item of an array."""

    def __init__(self, found: Mapping[Path, int]) -> None:
        self.found = found

    def of(self, path: Path) -> int:
        """Return the line of `path`; for what is missing, that of the table in which it is missed."""
        while path and path not in self.found:
            path = path[:-1]
        return self.found.get(path, 1)


def find_lines(text: str) -> Lines:
    """Return where each key of `text` stands, which tomllib has read without a fault.

    Raises:
        TooDeep
    """
    scanner = _Scanner(text)
    scanner.document()
    return Lines(scanner.found)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, int] = {}
        self._counted = 0
        self._line = 1
        self._rows: dict[Path, int] = {}
        """How many tables each array of tables has so far."""

    def document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table, 0)

    def _header(self) -> Path:
        rows = self.text.startswith("[[", self.at)
        line = self._line_here()
        self.at += 2 if rows else 1
        *above, last = self._keys()
        self._skip(_SPACE)
        self.at += 2 if rows else 1
        place: Path = ()
        for key in above:
            place = self._newest((*place, key), line)
        place = (*place, last)
        if not rows:
            self._note(place, line)
            return place
        self._note(place, line)
        index = self._rows[place] = self._rows.get(place, -1) + 1
        self._note((*place, index), line)
        return (*place, index)

    def _newest(self, place: Path, line: int) -> Path:
        """Return `place`, or where it is an array of tables, its last one: that is what a header below it means."""
        self._note(place, line)
        return (*place, self._rows[place]) if place in self._rows else place

    def _pair(self, table: Path, depth: int) -> None:
        line = self._line_here()
        place = table
        for key in self._keys():
            place = (*place, key)
            self._note(place, line)
        self._skip(_SPACE)
        self.at += 1  # =
        self._skip(_SPACE)
        self._value(place, depth)

    def _value(self, place: Path, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise TooDeep(self._line_here())
        match self.text[self.at]:
            case "[":
                self._array(place, depth)
            case "{":
                self._inline(place, depth)
            case '"' | "'":
                self._skip(_STRING)
            case _:
                self._skip(_PLAIN)

    def _array(self, place: Path, depth: int) -> None:
        self.at += 1
        index = 0
        while self.text[self._skip(_BLANK)] != "]":
            if (
                self.text[self.at] in "[{"
            ):  # no fault is told of a plain item, and a million of them would fill the memory
                self._note((*place, index), self._line_here())
            self._value((*place, index), depth + 1)
            if self.text[self._skip(_BLANK)] == ",":
                self.at += 1
            index += 1
        self.at += 1

    def _inline(self, place: Path, depth: int) -> None:
        self.at += 1
        while self.text[self._skip(_BLANK)] != "}":
            self._pair(place, depth + 1)
            if self.text[self._skip(_BLANK)] == ",":
                self.at += 1
        self.at += 1

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            start = self.at
            keys.append(_key(self.text[start : self._skip(_KEY)]))
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _note(self, place: Path, line: int) -> None:
        self.found.setdefault(place, line)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        assert found, "tomllib has read this text"
        self.at = found.end()
        return self.at

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line


def _key(text: str) -> str:
    if text[0] not in "\"'":
        return text
    [key] = tomllib.loads(f"{text} = 0")
    return key
