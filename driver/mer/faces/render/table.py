"""Tables: drawn by rich on a terminal, aligned columns and one line a row in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mer.faces.render.text import cells, padded, visible

if TYPE_CHECKING:
    from mer.faces.render.console import Console

NARROWEST_COLUMN = 4
"""Cells: a column of three and a mark says nothing any more."""


class Column(NamedTuple):
    """One column: its title, and whether it holds numbers."""

    title: str
    right: bool = False
    whole: bool = False
    """Never cut: a name or a number that somebody will type again."""


def rendered(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return the table's text, every cell made visible. Without rows it is empty: a script that counts lines counts right."""
    shown = [[visible(cell) for cell in row] for row in rows]
    if not shown:
        return ""
    if console.terminal:
        return _drawn(console, columns, shown)
    widths = [max(cells(row[index]) for row in shown) for index in range(len(columns))]
    titles = [column.title.upper().replace(" ", "_") for column in columns]
    widths = [max(width, len(title)) for width, title in zip(widths, titles, strict=True)]
    lines = ("  ".join(map(_padded, columns, row, widths)).rstrip() for row in [titles, *shown])
    return "\n".join(lines) + "\n"


def _padded(column: Column, cell: str, width: int) -> str:
    return padded(cell, width, right=column.right)


def _drawn(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    import io

    from rich.console import Console as Rich
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="fold" if column.whole else "ellipsis",
            min_width=None if column.whole else NARROWEST_COLUMN,
        )
    for row in rows:
        table.add_row(*map(Text, row))  # Text: rich would read [brackets] in somebody's words as its markup
    out = io.StringIO()
    rich = Rich(
        file=out,
        width=console.width,
        force_terminal=console.color,
        no_color=not console.color,
        color_system="standard" if console.color else None,
        emoji=False,
        markup=False,
        highlight=False,
        legacy_windows=False,
    )
    rich.print(table)
    return out.getvalue()


def details(console: Console, fields: Mapping[str, str | None]) -> str:
    """Return a line a field, `name  value`, without those that are None; on a terminal a value may have several lines."""
    known = {name: visible(value, lines=console.terminal) for name, value in fields.items() if value is not None}
    width = max((cells(name) for name in known), default=0)
    text = ""
    for name, value in known.items():
        value = value.replace("\n", "\n" + " " * (width + 2))
        text += f"{console.styled(padded(name, width), '2')}  {value}".rstrip() + "\n"
    return text
