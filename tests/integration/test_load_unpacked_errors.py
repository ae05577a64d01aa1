"""Errors of a handler that is tried without a database: whole, as its author would see them."""

import traceback
from pathlib import Path

import pytest

import mer
from mer.core.errors import ModelFailed, UsageError
from tests.support.running import folder_with

RAISES = """
    def load():
        def handle(inputs):
            raise KeyError("no such luck")
        return handle
"""


@pytest.mark.parametrize("in_process", [False, True])
async def test_an_uncaught_error_shows_the_handlers_own_lines_once(tmp_path: Path, in_process: bool) -> None:
    folder = folder_with(tmp_path / "model", RAISES)
    async with await mer.load_unpacked(folder, entry="handler:load", in_process=in_process) as model:
        with pytest.raises(ModelFailed) as caught:
            await model.infer({})
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count('raise KeyError("no such luck")') == 1


PRINTS = """
    import logging, sys
    print("at import")
    def load():
        def handle(inputs):
            print("häl", end="")
            sys.stdout.flush()
            print("lo\\nagain")
            logging.getLogger("own").warning("careful")
            return {}
        return handle
"""


async def test_prints_that_nobody_listens_to_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_with(tmp_path / "model", PRINTS)
    with caplog.at_level("INFO", logger="mer.model"):
        async with await mer.load_unpacked(folder, entry="handler:load") as model:
            await model.infer({})
            heard: list[bytes] = []
            await model.infer({}, on_log=lambda _stream, _level, text: heard.append(text))
    logged = [(record.levelname, record.message) for record in caplog.records if record.name == "mer.model"]
    assert [line for line in logged if line[0] == "INFO"] == [
        ("INFO", text) for text in ("at import", "hällo", "again")
    ]
    assert any(level == "WARNING" and "careful" in text for level, text in logged)
    assert "again" in b"".join(heard).decode()


async def test_a_timeout_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", RAISES)
    async with await mer.load_unpacked(folder, entry="handler:load") as model:
        with pytest.raises(UsageError):
            await model.infer({}, timeout=float("nan"))
