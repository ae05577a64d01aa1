"""Progress of what a command waits for: shown where somebody looks, and once it takes long."""

from __future__ import annotations

import asyncio

import pytest

from mer.core.progress import CURRENT, WAITS, report, waits
from mer.faces.render import progress
from mer.faces.render.console import Console
from mer.faces.render.progress import Waiting
from tests.support.typing_in import Stream
from tests.support.workers import until

MIB = 1 << 20


class Shown:
    """A terminal, a clock that the test moves, and what shows progress there."""

    def __init__(self, *, terminal: bool = True) -> None:
        self.error = Stream(terminal=terminal)
        self.console = Console(stdout=Stream(), stderr=self.error, environ={"COLUMNS": "100"})
        self.now = 100.0
        self.show = Waiting(self.console, monotonic=lambda: self.now)

    def after(self, seconds: float, what: str, done: int, total: int) -> str:
        """Report so many seconds later, and return what was drawn for it."""
        self.now += seconds
        before = self.error.text
        self.show(what, done, total)
        return self.error.text.removeprefix(before)


def test_what_takes_long_is_drawn_with_how_far_it_is():
    shown = Shown()
    assert shown.after(0, "pushing", 0, 256 * MIB) == ""
    assert shown.after(0.9, "pushing", 64 * MIB, 256 * MIB) == ""
    assert "25 % pushing 64/256 MiB" in shown.after(0.2, "pushing", 64 * MIB, 256 * MIB)
    assert shown.after(0.01, "pushing", 65 * MIB, 256 * MIB) == ""  # nobody reads so fast
    assert "50 % pushing 128/256 MiB" in shown.after(0.2, "pushing", 128 * MIB, 256 * MIB)


def test_the_line_goes_when_it_is_over():
    shown = Shown()
    shown.after(0, "pushing", 0, MIB)
    shown.after(2, "pushing", 1, MIB)
    assert shown.after(0, "pushing", 0, 0) == "\r\x1b[K"
    assert shown.after(0, "pushing", 0, 0) == ""


def test_what_was_over_soon_is_never_drawn():
    shown = Shown()
    assert shown.after(0, "pushing", 0, MIB) + shown.after(0.5, "pushing", 0, 0) == ""


def test_the_end_of_one_leaves_the_line_of_another():
    shown = Shown()
    shown.after(0, "one", 0, MIB)
    shown.after(0, "other", 0, MIB)
    assert "other" in shown.after(2, "other", 1, MIB)
    assert shown.after(0, "one", 0, 0) == ""


async def test_a_server_that_is_waited_for_long_is_named_with_the_step(monkeypatch):
    monkeypatch.setattr(progress, "WAIT_SECONDS", 0.05)
    shown = Shown()
    shown.show.waits("gpu1", "connect")
    shown.show.waits("gpu1", "host key")
    assert shown.error.text == ""
    await until(lambda: bool(shown.error.text))
    assert shown.error.text == "\rwaiting for gpu1: host key\x1b[K"
    shown.now += 1
    shown.show.waits("gpu1", "authenticate")
    assert shown.error.text.endswith("\rwaiting for gpu1: authenticate\x1b[K")
    shown.show.waits("gpu1", "")
    assert shown.error.text.endswith("authenticate\x1b[K\r\x1b[K")


async def test_a_server_that_answers_soon_is_not_named_nor_one_that_nobody_waits_for_any_more(monkeypatch):
    monkeypatch.setattr(progress, "WAIT_SECONDS", 0.05)
    shown = Shown()
    shown.show.waits("gpu1", "connect")
    shown.show.waits("gpu1", "")
    with shown.show:
        shown.show.waits("gpu2", "connect")
    shown.show.waits("gpu2", "worker")
    await asyncio.sleep(0.15)
    assert shown.error.text == ""


def test_whatever_else_is_written_takes_the_line_away_first():
    shown = Shown()
    shown.after(0, "pushing", 0, MIB)
    shown.after(2, "pushing", 1, MIB)
    shown.console.model_log()("stdout", "info", b"loading\n")
    assert shown.error.text.endswith("\x1b[K\r\x1b[Kloading\n")
    before = shown.error.text
    shown.show("pushing", 0, 0)
    assert shown.error.text == before


def test_steps_within_a_step_end_in_it():
    seen: list[tuple[str, str]] = []
    token = WAITS.set(lambda server, step: seen.append((server, step)))
    try:
        with waits("gpu1", "worker"), waits("gpu1", "resolve") as told:
            told("connect")
    finally:
        WAITS.reset(token)
    assert [step for _, step in seen] == ["worker", "resolve", "connect", "worker", ""]


@pytest.mark.parametrize("json", [False, True])
def test_into_a_pipe_or_beside_json_nothing_is_drawn(json):
    shown = Shown(terminal=json)
    shown.console.json = json
    assert shown.after(0, "pushing", 0, MIB) + shown.after(5, "pushing", 1, MIB) == ""


def test_a_report_that_nobody_looks_at_goes_nowhere():
    token = CURRENT.set(None)
    try:
        report("pushing", 1, 2)
    finally:
        CURRENT.reset(token)
