"""Pictures of numbers: a grey picture in half blocks, probabilities as bars."""

from __future__ import annotations

from typing import Any

from mer.faces.render.console import Console
from mer.faces.render.style import Style

SMALLEST = 4
"""Rows or columns: below that it is a table of numbers, and reads better as one."""

LARGEST = 128
"""Rows or columns of a picture that is drawn."""

DOUBLED = 16
"""Rows up to which a picture is drawn twice as large: eight rows would be four lines high."""

MOST_BARS = 32

DARKEST, GREYS = 232, 24
"""The grey ramp among a terminal's 256 colours."""


def picture(console: Console, array: Any) -> str | None:
    """Return a two-dimensional array of numbers as a picture, the lowest dark, two rows a line; None where it is none."""
    shape = array.shape
    while len(shape) > 2 and shape[0] == 1:
        array, shape = array[0], shape[1:]
    if len(shape) != 2 or array.dtype.kind not in "buif":
        return None
    rows, columns = shape
    if not (SMALLEST <= rows <= LARGEST and SMALLEST <= columns <= min(LARGEST, console.width)):
        return None
    values = [[float(value) for value in row] for row in array.tolist()]
    known = [value for row in values for value in row if value == value and abs(value) != float("inf")]
    if not known or min(known) == max(known):
        return None
    low, span = min(known), max(known) - min(known)
    grey = [[min(1.0, max(0.0, (value - low) / span)) if value == value else 0.0 for value in row] for row in values]
    if rows <= DOUBLED and 2 * columns <= console.width:
        grey = [[value for value in row for _ in range(2)] for row in grey for _ in range(2)]
    elif rows % 2:
        grey.append([0.0] * columns)
    pairs = zip(grey[::2], grey[1::2], strict=True)
    draw = _in_grey if console.color else _in_two
    return "".join(draw(upper, lower) + "\n" for upper, lower in pairs)


def _in_grey(upper: list[float], lower: list[float]) -> str:
    shades = (
        (DARKEST + round(a * (GREYS - 1)), DARKEST + round(b * (GREYS - 1))) for a, b in zip(upper, lower, strict=True)
    )
    return "".join(f"\x1b[38;5;{top};48;5;{bottom}m▀" for top, bottom in shades) + "\x1b[0m"


def _in_two(upper: list[float], lower: list[float]) -> str:
    blocks = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    return "".join(blocks[a >= 0.5, b >= 0.5] for a, b in zip(upper, lower, strict=True)).rstrip()


def bars(console: Console, array: Any) -> str | None:
    """Return probabilities (numbers from 0 to 1 that sum to 1) as a bar each, the highest marked; None where they are none."""
    if array.ndim != 1 or array.dtype.kind != "f" or not 2 <= array.size <= MOST_BARS:
        return None
    values = [float(value) for value in array.tolist()]
    if any(not 0 <= value <= 1 for value in values) or abs(sum(values) - 1) > 1e-3:
        return None
    room = max(1, min(40, console.width - 16))
    digits = len(str(len(values) - 1))
    lines = []
    for index, value in enumerate(values):
        line = f"{index:>{digits}} {value:6.1%} {_bar(value * room) if console.pictures else '#' * round(value * room)}"
        highest = value == max(values)
        lines.append(console.styled(line.rstrip(), Style.BOLD) if highest else line.rstrip())
    return "".join(f"  {line}\n" for line in lines)


def _bar(length: float) -> str:
    eighths = round(length * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
