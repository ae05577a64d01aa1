"""The parts of the REPL: lines of a script, the history, the names behind the prompt, Ctrl-C."""

import asyncio
import os
import signal

import pytest

from mer.core.errors import DatabaseUnreachable, UsageError
from mer.faces.repl import history, lines, loop, names
from mer.faces.repl.history import PrivateHistory
from mer.faces.repl.lines import read_lines
from mer.faces.repl.loop import commands, split
from mer.faces.repl.names import NameCache
from mer.faces.repl.signals import Interrupts
from tests.support.running import running


async def lines_of(descriptor):
    return [line async for line in read_lines(descriptor)]


@pytest.mark.parametrize("content", [b"", b"one", b"one\n", b"one\r\ntwo\n\nthree", "Grüße\n".encode() * 20_000])
async def test_lines_come_from_files_and_pipes_alike(tmp_path, content):
    (tmp_path / "script").write_bytes(content)
    expected = content.decode().replace("\r\n", "\n").split("\n")
    expected = expected[:-1] if expected[-1] == "" else expected
    with (tmp_path / "script").open("rb") as file:
        assert await lines_of(file.fileno()) == expected
    reader, writer = os.pipe()
    writing = asyncio.create_task(asyncio.to_thread(_write, writer, content))
    assert await lines_of(reader) == expected
    await writing
    os.close(reader)


def _write(descriptor, content):
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


@pytest.mark.parametrize(("length", "refused"), [(32, False), (33, True)])
async def test_a_line_is_read_up_to_its_bound(tmp_path, monkeypatch, length, refused):
    monkeypatch.setattr(lines, "MAX_LINE", 32)
    (tmp_path / "script").write_bytes(b"x" * length + b"\n")
    with (tmp_path / "script").open("rb") as file:
        if refused:
            with pytest.raises(UsageError):
                await lines_of(file.fileno())
        else:
            assert await lines_of(file.fileno()) == ["x" * 32]


async def test_the_loop_goes_on_while_no_line_comes():
    reader, writer = os.pipe()
    waiting = asyncio.create_task(lines_of(reader))
    await asyncio.wait_for(asyncio.sleep(0.01), timeout=1)
    assert not waiting.done()
    os.write(writer, b"at last\n")
    os.close(writer)
    assert await asyncio.wait_for(waiting, timeout=5) == ["at last"]
    os.close(reader)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run x 'a b'", ["run", "x", "a b"]),
        ("mer run x", ["run", "x"]),
        ("run x # why", ["run", "x"]),
        ("# why", []),
        ("", []),
        (r"run x a\ b", ["run", "x", "a b"]),
        ("run '#1'", ["run", "#1"]),
    ],
)
def test_a_line_is_split_as_a_shell_would(line, words):
    assert split(line) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("version", ["version"]),
        ("version\nmodel list", ["version", "model list"]),
        ("run x \\\n  hello", ["run x   hello"]),
        ("run x a\\\\\nversion", ["run x a\\\\", "version"]),
        ("run x '{\n}'\nversion", ["run x '{\n}'", "version"]),
        ("run x don't\nversion", ["run x don't", "version"]),
        ("# don't\nversion", ["# don't", "version"]),
        ("version\n", ["version", ""]),
    ],
)
def test_a_paste_is_the_commands_that_a_shell_would_see(text, found):
    assert list(commands(text)) == found


def test_an_open_quote_does_not_make_a_long_paste_slow(monkeypatch):
    monkeypatch.setattr(loop, "MOST_JOINED", 3)
    lines = ["run x '"] * 2 + ["version"] * 3 + ["'"]
    assert list(commands("\n".join(lines))) == ["run x '\nrun x '", *lines[2:]]


def test_the_history_keeps_the_newest_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MOST_LINES", 2)
    kept = PrivateHistory(tmp_path / "history")
    for line in ("one\ntwo", "", " secret", "three"):
        kept.store_string(line)
    assert list(PrivateHistory(tmp_path / "history").load_history_strings()) == ["three", ""]
    assert (tmp_path / "history").read_text() == "\nthree\n"


def test_a_history_that_cannot_be_kept_is_no_error(tmp_path):
    kept = PrivateHistory(tmp_path / "none" / "history")
    kept.store_string("one")
    assert list(kept.load_history_strings()) == []


def test_a_history_that_others_could_read_is_closed_to_them(tmp_path):
    (tmp_path / "history").touch(mode=0o644)
    PrivateHistory(tmp_path / "history").store_string("one")
    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o600


async def test_names_are_looked_up_at_the_start_and_after_a_change(tmp_path):
    async with running(tmp_path) as mer, NameCache(mer).kept_fresh() as cache:
        assert cache.names.servers == ("local",)
        assert cache.models_told() == "0 models"
        before = cache.names
        await mer.servers.register(mer.actor, "far", parameters={"address": "far.example"})
        assert cache.names is before
        cache.outdated()
        async with asyncio.timeout(5):
            while cache.names is before:  # noqa: ASYNC110 - the cache tells nobody when it looked
                await asyncio.sleep(0.01)
        assert cache.names.servers == ("far", "local")
        assert before.servers == ("local",)


async def test_names_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "MOST_NAMES", 3)
    async with running(tmp_path) as mer:
        for number in range(4):
            await mer.servers.register(mer.actor, f"far-{number}", parameters={"address": "far.example"})
        async with NameCache(mer).kept_fresh() as cache:
            assert cache.names.servers == ("far-0", "far-1", "far-2")


async def test_a_database_that_went_away_leaves_the_names_as_they_were(tmp_path):
    class Gone:
        async def list(self, **_given):
            raise DatabaseUnreachable

    async with running(tmp_path) as mer, NameCache(mer).kept_fresh() as cache:
        before = cache.names
        mer.models = Gone()
        cache.outdated()
        await asyncio.sleep(0.05)
        assert cache.names is before


async def test_ctrl_c_cancels_what_runs_and_nothing_else():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.01)

        async def interrupted():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

        assert await interrupts.run(interrupted()) is True
        assert await interrupts.run(asyncio.sleep(0)) is False


async def test_a_repl_that_is_cancelled_itself_cancels_what_runs():
    ended = asyncio.Event()

    async def running_command():
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def loop():
        with Interrupts() as interrupts:
            await interrupts.run(running_command())

    task = asyncio.create_task(loop())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
