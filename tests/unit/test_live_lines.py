"""Lines that are drawn anew: one a name, within the width, none where nobody looks."""

from __future__ import annotations

import asyncio

import pytest

from mer.faces.render import live
from mer.faces.render.console import Console
from mer.faces.render.live import MOST_LINES, LiveLines
from tests.support.typing_in import Stream
from tests.support.workers import until


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.0)


def console(*, terminal: bool = True) -> tuple[Console, Stream]:
    error = Stream(terminal=terminal)
    return Console(stdout=Stream(terminal=terminal), stderr=error, environ={"COLUMNS": "40"}), error


def test_each_name_keeps_its_line_and_the_picture_is_taken_away():
    drawn, error = console()
    with LiveLines(drawn) as lines:
        lines("gpu1", "resolve ok")
        lines("gpu2", "x" * 100)
        lines("gpu1", "connect ok")
    pictures = error.text.split("\x1b[J")
    assert "\rgpu1  resolve ok\x1b[K\n" in pictures[0]
    assert pictures[1].startswith("\x1b[1A")
    assert pictures[2].startswith("\x1b[2A\rgpu1  connect ok\x1b[K\n")
    assert pictures[3] == "\x1b[2A"
    assert max(len(line) for line in pictures[2].replace("\x1b[K", "").replace("\x1b[2A", "").split("\n")) <= 40


async def test_what_is_said_right_after_a_picture_is_drawn_too(monkeypatch):
    monkeypatch.setattr(live, "PAUSE_SECONDS", 0.05)
    drawn, error = console()
    with LiveLines(drawn) as lines:
        lines("gpu1", "connect …")
        lines("gpu1", "host key …")
        await until(lambda: "host key" in error.text)
        lines("gpu1", "authenticate …")
    await asyncio.sleep(0.1)
    assert "authenticate" not in error.text  # the picture was taken away before that


async def test_no_picture_is_drawn_over_a_question():
    drawn, error = console()
    with LiveLines(drawn) as lines:
        with drawn.asking():
            lines("gpu1", "authenticate …")
        assert error.text == ""
        lines("gpu1", "worker …")
        assert "worker" in error.text


def test_a_picture_is_never_higher_than_a_terminal():
    drawn, error = console()
    with LiveLines(drawn) as lines:
        for number in range(MOST_LINES + 5):
            lines(f"gpu{number}", "ok")
    assert f"\x1b[{MOST_LINES}A" in error.text
    assert f"\x1b[{MOST_LINES + 1}A" not in error.text


def test_nothing_is_drawn_into_a_pipe():
    drawn, error = console(terminal=False)
    with LiveLines(drawn) as lines:
        lines("gpu1", "ok")
    assert error.text == ""


def test_names_cannot_steer_the_terminal():
    drawn, error = console()
    with LiveLines(drawn) as lines:
        lines("gpu1", "\x1b]0;owned\x07")
    assert "\x1b]0" not in error.text
