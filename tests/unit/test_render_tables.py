"""Tables: whole and splittable in a pipe, within the width on a terminal, and never a wrong number."""

import pytest

from mer.faces.render.console import Console
from mer.faces.render.table import Column, details
from mer.faces.render.text import cells
from tests.support.typing_in import Stream

COLUMNS = (
    Column("seq", right=True, whole=True),
    Column("name", whole=True),
    Column("description"),
    Column("last seen"),
)
ROWS = [("10", "digits", "reads digits\nin two lines", ""), ("9", "chat", "d" * 90, "2026-11-21")]


def table(width, *, terminal, rows=ROWS, **environ):
    out = Stream(terminal=terminal)
    Console(stdout=out, stderr=Stream(), environ={"COLUMNS": str(width), "NO_COLOR": "1", **environ}).table(
        COLUMNS, rows
    )
    return out.text


def test_a_pipe_gets_one_line_a_row_and_as_many_words_as_columns():
    lines = table(40, terminal=False, rows=[("10", "digits", "", ""), ("9", "chat", "x", "y")]).splitlines()
    assert [line.split() for line in lines] == [
        ["SEQ", "NAME", "DESCRIPTION", "LAST_SEEN"],
        ["10", "digits", "-", "-"],
        ["9", "chat", "x", "y"],
    ]


def test_a_pipe_gets_everything_whole():
    assert "d" * 90 in table(40, terminal=False)


def test_a_table_without_rows_is_nothing_at_all():
    assert table(80, terminal=False, rows=[]) == table(80, terminal=True, rows=[]) == ""


@pytest.mark.parametrize("width", [80, 60, 40])
def test_a_terminal_gets_lines_that_fit(width):
    lines = table(width, terminal=True).splitlines()
    assert max(map(cells, lines)) <= width
    assert len(lines) == 3


@pytest.mark.parametrize("width", [80, 60, 40, 20])
def test_what_is_typed_again_is_never_cut(width):
    text = table(width, terminal=True)
    for word in ("10", "digits", "chat"):
        assert word in text.split()


def test_a_terminal_too_narrow_for_the_columns_gets_a_block_a_row():
    text = table(20, terminal=True)
    assert text.startswith("seq          10\nname         digits\n")


def test_a_spare_column_is_left_out_before_the_columns_give_way_to_blocks():
    columns = (Column("seq", whole=True), Column("digest", spare=True))
    out = Stream(terminal=True)
    console = Console(stdout=out, stderr=Stream(), environ={"COLUMNS": "20", "NO_COLOR": "1"})
    console.table(columns, [("1234567890123456", "0" * 64)])
    assert out.text == "seq\n1234567890123456\n"


def test_wide_characters_keep_the_columns_straight():
    text = table(80, terminal=True, rows=[("1", "模型", "a", "b"), ("2", "digits", "a", "b")])
    assert [line.index(" a ") + line.count("模") + line.count("型") for line in text.splitlines()[1:]] == [12, 12]


def test_a_cell_cannot_steer_the_terminal():
    assert "\x1b" not in table(80, terminal=True, rows=[("1", "\x1b[31mred", "\x07", "")])


def test_a_cell_cannot_make_a_second_row():
    assert len(table(200, terminal=False).splitlines()) == 3


def test_colours_are_for_terminals_that_want_them():
    out = Stream(terminal=True)
    Console(stdout=out, stderr=Stream(), environ={"COLUMNS": "80"}).table(COLUMNS, ROWS)
    assert out.text.startswith("\x1b[1m")
    assert "\x1b" not in table(80, terminal=True)
    assert "\x1b" not in table(80, terminal=True, NO_COLOR="", TERM="dumb")


def test_details_leave_out_what_is_not_known_and_indent_what_has_lines():
    console = Console(stdout=Stream(terminal=True), stderr=Stream(), environ={"NO_COLOR": "1"})
    assert details(console, {"name": "x", "labels": None, "text": "a\nb"}) == "name  x\ntext  a\n      b\n"
