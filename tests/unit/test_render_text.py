"""Text on a terminal: nothing steers it, and widths are counted in its cells."""

import pytest

from mer.faces.render.text import cells, cut, padded, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb", "a\\rb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x7f\x00", "\\x7f\\x00"),
        ("txt.\u202eexe", "txt.\\u202eexe"),
        ("one\u2028two", "one\\u2028two"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\U000e0001"),
        ("Zürich 模型 🙂", "Zürich 模型 🙂"),
        ("no\u00a0break", "no\u00a0break"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_what_would_steer_a_terminal_is_made_visible(text, shown):
    assert visible(text) == shown


def test_lines_are_kept_where_lines_are_meant():
    assert visible("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("模型", 4), ("e\u0301", 1), ("👩\u200d🔬", 4), ("", 0)])
def test_width_is_counted_in_cells(text, width):
    assert cells(text) == width


@pytest.mark.parametrize(
    ("text", "width", "kept"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("模型模型", 5, "模型…"),
        ("模型模型", 4, "模…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_text_is_cut_to_its_cells_with_a_mark(text, width, kept):
    assert cut(text, width) == kept
    assert cells(kept) <= width


def test_text_is_filled_up_to_its_cells():
    assert padded("模", 4) == "模  "
    assert padded("7", 3, right=True) == "  7"
