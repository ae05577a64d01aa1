"""Tables: cut to the width of a terminal, whole and one line a row in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mer.faces.render.text import cells, cut, padded, visible

if TYPE_CHECKING:
    from mer.faces.render.console import Console

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


def rendered(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return the table's text, every cell made visible. Without rows it is empty: a script that counts lines counts right.

    On a terminal that is too narrow even for what is never cut, every row is a block of lines.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    if not shown:
        return ""
    if not console.terminal:
        titles = [column.title.upper().replace(" ", "_") for column in columns]
        lines = [titles, *([cell or NOTHING for cell in row] for row in shown)]
        return _aligned(columns, lines, _widths(lines))
    titles = [column.title for column in columns]
    widths = _fitted(columns, _widths([titles, *shown]), console.width)
    if widths is None and (spare := [index for index, column in enumerate(columns) if column.spare]):
        kept = [index for index in range(len(columns)) if index != spare[-1]]
        return rendered(console, [columns[index] for index in kept], [[row[index] for index in kept] for row in rows])
    if widths is None:
        blocks = (details(console, dict(zip(titles, map(_or_none, row), strict=True))) for row in shown)
        return "\n".join(blocks)
    head = _aligned(columns, [titles], widths).rstrip("\n")
    return f"{console.styled(head, '1')}\n{_aligned(columns, shown, widths)}"


def _or_none(cell: str) -> str | None:
    return cell or None


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cells, column)) for column in zip(*lines, strict=True)]


def _fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int] | None:
    """Return widths that fit into `room`, taking from the widest column that may be cut; None where none do."""
    fitted = list(widths)
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


def details(console: Console, fields: Mapping[str, str | None]) -> str:
    """Return a line a field, `name  value`, without those that are None; on a terminal a value may have several lines."""
    known = {name: visible(value, lines=console.terminal) for name, value in fields.items() if value is not None}
    width = max((cells(name) for name in known), default=0)
    text = ""
    for name, value in known.items():
        value = value.replace("\n", "\n" + " " * (width + 2))
        text += f"{console.styled(padded(name, width), '2')}  {value}".rstrip() + "\n"
    return text
