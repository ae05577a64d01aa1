"""Marks for a terminal that shows colours (ECMA-48, SGR)."""

from __future__ import annotations


class Style:
    """Marks for a terminal that shows colours."""

    BOLD = "1"
    DIM = "2"
    RED = "31"
    GREEN = "32"
    YELLOW = "33"
    CYAN = "36"
