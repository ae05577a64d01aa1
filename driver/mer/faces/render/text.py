"""Text fit for a terminal: what would steer it is made visible, and widths are counted in its cells."""

from __future__ import annotations

import unicodedata

_STEERING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
"""Line separators, and what turns the direction of writing: with it `exe.cod` reads as `doc.exe`."""


def visible(text: str, *, lines: bool = False) -> str:
    """Return `text` with every control character written as an escape; with `lines`, newlines and tabs are kept.

    A model's output, a name in the registry and a message of somebody's program may hold an escape sequence that
    rewrites the screen, the window's title or the clipboard.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c in "\n\t") or _harmless(c) else _escape(c) for c in text)


def _harmless(character: str) -> bool:
    """Tell whether it prints as it should though Python calls it not printable: other spaces, joiners of scripts and emoji."""
    return unicodedata.category(character) in ("Zs", "Cf") and character not in _STEERING


def _escape(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def counted(count: int, noun: str) -> str:
    """Return a count of things in words: `1 model`, `2 models`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def cells(text: str) -> int:
    """Return how many cells of a terminal `text` takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` cells, with a mark where it was cut."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _cells(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return `text` filled with spaces to `width` cells, on its left if `right`."""
    fill = " " * max(0, width - cells(text))
    return fill + text if right else text + fill
