"""Tables: cut to the width of a terminal, whole and one line a row in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from mer.faces.render.style import Style
from mer.faces.render.text import cells, cut, padded, visible

NARROWEST_COLUMN = 8
"""Cells to which a column is cut: with less than that and a mark it says nothing any more."""

GAP = 2
"""Cells between two columns."""

NOTHING = "-"
"""An empty cell in a pipe: without it, whoever splits a line at its spaces would count columns wrong."""


class Column(NamedTuple):
    """One column: its title, and whether it holds numbers."""

    title: str
    right: bool = False
    whole: bool = False
    """Never cut: a name or a number that somebody will type again."""
    spare: bool = False
    """Left out of a terminal that is too narrow for all columns."""


class Surface(Protocol):
    """What a table is drawn on: a console, as far as a table sees it."""

    @property
    def terminal(self) -> bool:
        """Whether it is read by a person."""

    @property
    def width(self) -> int:
        """Cells of a line."""

    def styled(self, text: str, style: str) -> str:
        """Return `text` as it should be shown."""


def rendered(surface: Surface, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return the table's text, every cell made visible. Without rows it is empty: a script that counts lines counts right.

    On a terminal that is too narrow even for what is never cut, every row is a block of lines.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    if not shown:
        return ""
    if not surface.terminal:
        titles = [column.title.upper().replace(" ", "_") for column in columns]
        lines = [titles, *([cell or NOTHING for cell in row] for row in shown)]
        return _aligned(columns, lines, _widths(lines))
    return _drawn(surface, columns, shown)


def _drawn(surface: Surface, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    kept = list(range(len(columns)))
    while True:
        chosen = [columns[index] for index in kept]
        lines = [[column.title for column in chosen], *([row[index] for index in kept] for row in rows)]
        widths = _fitted(chosen, _widths(lines), surface.width)
        if widths is not None:
            head = _aligned(chosen, lines[:1], widths).rstrip("\n")
            return f"{surface.styled(head, Style.BOLD)}\n{_aligned(chosen, lines[1:], widths)}"
        spare = [index for index in kept if columns[index].spare]
        if not spare:
            return "\n".join(_block(surface, columns, row) for row in rows)
        kept.remove(spare[-1])


def _block(surface: Surface, columns: Sequence[Column], row: Sequence[str]) -> str:
    return details(surface, {column.title: cell or None for column, cell in zip(columns, row, strict=True)})


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cells, column)) for column in zip(*lines, strict=True)]


def _fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int] | None:
    """Return widths that fit into `room`, taking from the widest column that may be cut; None where none do."""
    # a description may have a hundred thousand characters: what is beyond a line is not taken away cell by cell
    fitted = [width if column.whole else min(width, room) for column, width in zip(columns, widths, strict=True)]
    excess = sum(fitted) + GAP * (len(fitted) - 1) - room
    while excess > 0:
        cuttable = [
            index for index, column in enumerate(columns) if not column.whole and fitted[index] > NARROWEST_COLUMN
        ]
        if not cuttable:
            return None
        fitted[max(cuttable, key=lambda index: fitted[index])] -= 1
        excess -= 1
    return fitted


def _aligned(columns: Sequence[Column], lines: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    text = ""
    for line in lines:
        parts = (
            padded(cut(cell, width), width, right=column.right)
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        text += (" " * GAP).join(parts).rstrip() + "\n"
    return text


def details(surface: Surface, fields: Mapping[str, str | None]) -> str:
    """Return a line a field, `name  value`, without those that are None; on a terminal a value may have several lines."""
    known = {name: visible(value, lines=surface.terminal) for name, value in fields.items() if value is not None}
    width = max((cells(name) for name in known), default=0)
    text = ""
    for name, value in known.items():
        value = value.replace("\n", "\n" + " " * (width + 2))
        text += f"{surface.styled(padded(name, width), Style.DIM)}  {value}".rstrip() + "\n"
    return text
