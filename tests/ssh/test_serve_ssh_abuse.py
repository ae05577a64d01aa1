"""What a guest of `mer serve-ssh` may try: lines that want more than is lent, and stdin that is no input."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import asyncssh
import pytest

from tests.support.hostile import abuses, hostile
from tests.support.lender import Answer, Lender, asked, of_process

MOST_LINES = 32
"""Of the hostile ones, through a real sshd: each is a process. All of them are in tests/unit/test_serve_ssh_grammar.py."""

THROUGH_SSHD = (
    "garbage",
    "deep",
    "pickled objects",
    "a bomb",
    "a header beyond its bytes",
    "an end that lies",
    "empty",
)

AT_ONCE = 6
"""Sessions of one connection: a stock sshd takes ten."""


@pytest.fixture(scope="module")
def lender() -> Lender:
    return of_process()


async def all_of(lender: Lender, lines: list[str], stdins: list[bytes] | None = None) -> list[Answer]:
    async with lender.connected("alice") as connection:
        limited = asyncio.Semaphore(AT_ONCE)

        async def one(line: str, stdin: bytes) -> Answer:
            async with limited:
                return await asked(connection, line, stdin, errors="surrogateescape")

        return await asyncio.gather(*map(one, lines, stdins or [b""] * len(lines)))


async def test_no_hostile_line_runs_or_changes_anything_and_each_is_on_record(lender: Lender) -> None:
    canary = lender.installed.folder / "canary"
    lines = hostile(canary, lender.installed.folder)[:MOST_LINES]
    registry = lender.installed.mer("registry", "export").stdout
    before = lender.records()
    answers = await all_of(lender, lines)
    told = dict(zip(lines, answers, strict=True))
    assert {line: answer.out for line, answer in told.items() if answer.out} == {}
    assert {line: answer.code for line, answer in told.items() if answer.code not in (2, 66, 77)} == {}
    assert not canary.exists()
    assert lender.installed.mer("registry", "export").stdout == registry
    after = lender.records()[len(before) :]
    assert {(record["kind"], record["actor"]["user"]) for record in after} == {("refused", "alice")}
    assert len(after) == len(lines)
    assert "sound" in lender.installed.mer("log", "verify").stdout


async def test_no_subsystem_no_terminal_no_forwarding_is_to_be_had(lender: Lender) -> None:
    async with lender.connected("alice") as connection:
        with pytest.raises(asyncssh.Error):
            await connection.start_sftp_client()
        with pytest.raises(asyncssh.Error):
            await connection.open_connection("127.0.0.1", lender.server.port)
        with pytest.raises(asyncssh.Error):
            await asked(connection, "ping", term_type="xterm")


async def test_the_clients_environment_sets_nothing_of_the_lent_mer(lender: Lender, tmp_path: Path) -> None:
    canary = tmp_path / "trace"
    wanted = {
        "MER_TRACE": str(canary),
        "DB_CONNECTION_URL": "mem://",
        "MER_STATE_FOLDER": str(tmp_path / "state"),
        "MER_HOME": str(tmp_path),
        "ALLOW_MODEL_SERVER_RUNTIME_CHANGES": "1",
    }
    async with lender.connected("alice") as connection:
        answer = await asked(connection, "run shout x --json", env=wanted)
    assert answer.document["recorded"] is True
    assert lender.records()[-1]["invocation"] == answer.document["invocation"]
    assert os.listdir(tmp_path) == []


async def test_no_stdin_is_taken_for_what_it_is_not(lender: Lender) -> None:
    canary = lender.installed.folder / "canary"
    stdins = {what: stdin for what, stdin in abuses(canary).items() if what in THROUGH_SSHD}
    before = len(lender.records())
    answers = await all_of(lender, ["run shout"] * len(stdins), list(stdins.values()))
    told = dict(zip(stdins, answers, strict=True))
    assert {
        what: (answer.code, answer.out) for what, answer in told.items() if (answer.code, answer.out) != (65, b"")
    } == {}
    assert {what: answer.err for what, answer in told.items() if answer.err.count("\n") > 2} == {}
    assert not canary.exists()
    after = lender.records()[before:]
    assert [record["kind"] for record in after] == ["refused"] * len(stdins)


async def test_stdin_without_an_end_is_read_to_its_bound(lender: Lender) -> None:
    async with lender.connected("alice") as connection:
        process = await connection.create_process("run shout", encoding=None)
        piece = b" " * (1 << 20)
        sent = 0
        try:
            while sent < 1 << 30 and not process.stdin.is_closing():
                process.stdin.write(piece)
                await process.stdin.drain()
                sent += len(piece)
        except (BrokenPipeError, ConnectionError):
            pass
        done = await process.wait(timeout=60)
    assert done.exit_status == 65
    assert sent < 200 << 20
    assert b"more than 67108864 bytes" in done.stderr


async def test_a_guest_who_goes_away_cancels_his_run(lender: Lender) -> None:
    async with lender.connected("alice") as connection:
        process = await connection.create_process("run shout 'sleep 50'", encoding=None)
        for _ in range(200):
            await asyncio.sleep(0.5)
            records = await asyncio.to_thread(lender.records)
            if records[-1]["kind"] == "started":
                break
        process.channel.abort()
    for _ in range(100):
        await asyncio.sleep(0.5)
        records = await asyncio.to_thread(lender.records)
        if records[-1]["kind"] != "started":
            break
    assert (records[-1]["kind"], records[-1]["outcome"]) == ("finished", "cancelled")
    await lender.left_alone()
