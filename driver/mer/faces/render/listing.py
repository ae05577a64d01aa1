"""Pages of records: a table or a JSON document, and on stderr how to see the next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TypeVar

from mer.core.records import Page
from mer.faces.render.console import Console
from mer.faces.render.table import Column

T = TypeVar("T")


def show_page(console: Console, page: Page[T], columns: Sequence[Column], row: Callable[[T], Sequence[str]]) -> None:
    """Write a page; `row` makes the cells of one item."""
    if console.json:
        from mer.faces.render.documents import page_document

        console.document(page_document(page))
        return
    console.table(columns, map(row, page.items))
    if page.next is not None:
        console.note(f"there are more: the same again with --after {shlex.quote(page.next)}")
    elif not page.items and console.terminal:
        console.note("nothing to show")
