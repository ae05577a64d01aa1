"""What a model prints, logs and warns of: live, tied to its invocation, and at its end in the record."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mer.api import Mer
from mer.core.errors import ModelFailed
from tests.support.running import register, running

TALKS = """
    import logging, subprocess, sys, warnings

    def load():
        print("loading")
        def handle(inputs):
            print("printed")
            print("complained", file=sys.stderr)
            logging.getLogger("model").error("logged")
            warnings.warn("warned", stacklevel=1)
            subprocess.run(["echo", "by a child"], check=True)
            if "fail" in inputs:
                try:
                    {}["cause"]
                except KeyError as error:
                    raise ValueError("no\\nsuch luck") from error
            return {"ok": True}
        return handle
"""


class Log(list[tuple[str, str, bytes]]):
    """Collects what is told live."""

    def __call__(self, stream: str, level: str, text: bytes) -> None:
        self.append((stream, level, text))

    def text(self, stream: str) -> str:
        return b"".join(text for name, _, text in self if name == stream).decode()


async def finished(m: Mer) -> dict[str, Any]:
    """Return the body of the newest finish."""
    page = await m.log.list(limit=1)
    body: dict[str, Any] = json.loads(page.items[0].body)
    assert body["kind"] == "finished"
    return body


async def test_everything_that_a_model_says_is_told_live_and_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, TALKS)
        log = Log()
        await m.run("model", on_log=log)
        await asyncio.sleep(0.1)
        assert log.text("stdout") == "loading\nprinted\n"
        assert "complained\n" in log.text("stderr")
        assert "UserWarning: warned" in log.text("stderr")
        assert "by a child\n" in log.text("stderr")
        assert [(level, text) for stream, level, text in log if stream == "log"] == [("error", b"model: logged\n")]
        body = await finished(m)
        assert "printed\n" in body["log"]["text"]
        assert "warned" in body["log"]["text"]
        assert body["log"]["bytes"] >= len(body["log"]["text"].encode())
        await m.run("model", on_log=None)
        again = await finished(m)
        assert "printed\n" in again["log"]["text"]
        assert "loading" not in again["log"]["text"]


async def test_a_failure_has_its_whole_traceback_and_what_was_printed_before(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, TALKS)
        with pytest.raises(ModelFailed) as caught:
            await m.run("model", {"fail": 1})
        traceback = caught.value.traceback or ""
        assert traceback.startswith("Traceback (most recent call last):\n")
        assert "KeyError: 'cause'" in traceback
        assert "The above exception was the direct cause" in traceback
        assert traceback.endswith("ValueError: no\nsuch luck\n")
        body = await finished(m)
        assert body["outcome"] == "failed"
        assert "complained\n" in body["log"]["text"]


async def test_the_log_stays_out_of_the_record_where_it_is_not_wanted(tmp_path: Path) -> None:
    async with running(tmp_path, record_model_log=False) as m:
        await register(m, tmp_path, TALKS)
        log = Log()
        await m.run("model", on_log=log)
        assert "printed\n" in log.text("stdout")
        assert "log" not in await finished(m)


async def test_a_model_that_says_nothing_adds_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, "def load():\n    return lambda inputs: {}\n")
        await m.run("model")
        assert "log" not in await finished(m)
