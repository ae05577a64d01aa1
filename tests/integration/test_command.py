"""Programs that speak the line-token protocol, in their variants and with their faults."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mer.core.errors import DeadlineExceeded, InputInvalid, MerError, ModelFailed, PackageInvalid, WorkerLost
from mer.core.specs import Command, TensorSpec, Tokens, VersionSpec
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.starting import start_once
from mer_worker.tensors import encode
from tests.support.workers import alive, local_host, soon, until

BEGIN = """
    import os, sys, time
    def say(*lines):
        for line in lines:
            print(line, flush=True)
    def requests():
        text = None
        for line in sys.stdin:
            line = line.rstrip("\\n")
            if line == "@!#EXIT#!@":
                return
            if line == "@!#START#!@":
                text = []
            elif line == "@!#STOP#!@":
                yield "\\n".join(text)
            else:
                text.append(line)
    def reply(text):
        say("@!#START#!@", text, "@!#STOP#!@")
"""

ECHO = """
    say("@!#READY#!@")
    for text in requests():
        reply(text)
"""


@contextlib.asynccontextmanager
async def program(
    folder: Path, source: str, *, load_seconds: float = 20.0, on_log=None, **given
) -> AsyncIterator[Session]:
    model = folder / "package"
    model.mkdir(exist_ok=True)
    (model / "program.py").write_text(textwrap.dedent(BEGIN) + textwrap.dedent(source))
    given = {"argv": (sys.executable, "program.py"), **given}
    outputs = given.pop("outputs", ())
    spec = VersionSpec(runner="command", command=Command(**given), outputs=outputs)
    plan = WorkerPlan(key="program", spec=spec, package=None, model_folder=model)
    session = await start_once(local_host(folder), plan, deadline=soon(load_seconds), on_log=on_log)
    try:
        yield session
    finally:
        await session.close()


async def ask(session: Session, text: object, **given) -> object:
    (answer,) = (await session.infer(encode({"text": text}), **given)).outputs.values()
    return answer


@pytest.mark.parametrize("text", ["hello", "", "two\nlines", "äöü \N{SNOWMAN}", "x" * 300_000, "a\n" * 50_000])
async def test_text_of_any_lines_goes_and_comes(tmp_path, text):
    async with program(tmp_path, ECHO) as session:
        assert await ask(session, text) == text


async def test_a_bare_line_is_a_reply_too(tmp_path):
    source = 'say("loading", "@!#READY#!@")\nfor text in requests():\n    say(text.upper())'
    async with program(tmp_path, textwrap.indent(source, "    ")) as session:
        assert await ask(session, "a") == "A"
        assert await ask(session, "b") == "B"


async def test_the_output_has_the_name_that_the_version_gives_it(tmp_path):
    outputs = (TensorSpec(name="reply", dtype="string", shape=()),)
    async with program(tmp_path, ECHO, outputs=outputs) as session:
        assert (await session.infer(encode({"text": "x"}))).outputs == {"reply": "x"}


async def test_tokens_are_the_versions_own(tmp_path):
    tokens = Tokens(ready="R", start="S", stop="P", exit="E")
    source = """
        say("R")
        for line in sys.stdin:
            if line == "P\\n":
                say("S", "done", "P")
    """
    async with program(tmp_path, source, tokens=tokens) as session:
        assert await ask(session, "@!#START#!@") == "done"
        with pytest.raises(InputInvalid, match="token 'P'"):
            await ask(session, "a\nP\nb")


@pytest.mark.parametrize("token", ["@!#START#!@", "@!#STOP#!@", "@!#EXIT#!@", "@!#READY#!@"])
@pytest.mark.parametrize("text", ["{}", "a\n{}", "a\r\n{}\r\nb", "a\r{}"])
async def test_an_input_line_that_is_a_token_is_refused_and_the_next_is_served(tmp_path, token, text):
    async with program(tmp_path, ECHO) as session:
        with pytest.raises(InputInvalid, match="token"):
            await ask(session, text.format(token))
        assert await ask(session, "next") == "next"


@pytest.mark.parametrize("inputs", [{}, {"a": "x", "b": "y"}, {"a": 1}, {"a": ["x", "y"]}, {"a": b"x"}])
async def test_an_input_that_is_no_one_text_is_refused(tmp_path, inputs):
    async with program(tmp_path, ECHO) as session:
        with pytest.raises(InputInvalid, match=r"one text|takes a text"):
            await session.infer(encode(inputs))
        assert await ask(session, "next") == "next"


@pytest.mark.parametrize(
    ("source", "given", "error", "message"),
    [
        ("sys.exit(3)", {}, WorkerLost, "ended with status 3"),
        ("os.kill(os.getpid(), 9)", {}, WorkerLost, "signal 9"),
        ("sys.exit('no such weights')", {}, WorkerLost, "(?s)status 1.*no such weights"),
        ("", {"argv": ("/no/such/program",)}, PackageInvalid, "cannot be started"),
        ("", {"directory": "absent"}, PackageInvalid, "no folder"),
        ("time.sleep(60)", {"load_seconds": 1.0}, DeadlineExceeded, "deadline"),
    ],
)
async def test_one_that_does_not_get_ready_says_why(tmp_path, source, given, error, message):
    with pytest.raises(error, match=message):
        async with program(tmp_path, "    " + source, **given):
            pass
    assert not list((tmp_path / "scratch").iterdir())


async def test_one_that_ends_in_the_middle_of_a_request_is_lost(tmp_path):
    source = """
        say("@!#READY#!@")
        for text in requests():
            sys.exit(4)
    """
    async with program(tmp_path, source) as session:
        with pytest.raises(WorkerLost, match="ended with status 4"):
            await ask(session, "x")
        await until(lambda: session.lost is not None)


async def test_a_deadline_ends_program_and_worker_since_its_place_is_lost(tmp_path):
    source = """
        open("pid", "w").write(str(os.getpid()))
        say("@!#READY#!@")
        for text in requests():
            time.sleep(600)
    """
    async with program(tmp_path, source) as session:
        with pytest.raises(DeadlineExceeded):
            await ask(session, "x", deadline=soon(0.2))
        await until(lambda: session.lost is not None)
        pid = int((tmp_path / "package" / "pid").read_text())
        await until(lambda: not alive(pid))


async def test_its_standard_error_is_log(tmp_path):
    source = """
        say("@!#READY#!@")
        for text in requests():
            print("careful", file=sys.stderr, flush=True)
            reply(text)
    """
    got: list[bytes] = []
    async with program(tmp_path, source, on_log=lambda _s, _l, text: got.append(text)) as session:
        await ask(session, "x")
        await until(lambda: b"careful\n" in b"".join(got))


async def test_exit_ends_it_by_itself(tmp_path):
    source = ECHO + '    open("ended", "w").close()\n'
    async with program(tmp_path, source) as session:
        await ask(session, "x")
    assert (tmp_path / "package" / "ended").exists()


@pytest.mark.parametrize("pause", [0, 0.05])
async def test_what_it_prints_after_a_reply_is_log_and_no_answer_to_the_next_request(tmp_path, pause):
    source = f"""
        say("@!#READY#!@")
        for text in requests():
            sys.stdout.write(text.upper() + "\\n")
            if {pause}:
                sys.stdout.flush()
                time.sleep({pause})
            say("by the way")
    """
    log: list[bytes] = []
    async with program(tmp_path, source) as session:
        assert await ask(session, "a") == "A"
        await asyncio.sleep(4 * pause)
        assert await ask(session, "b", on_log=lambda _s, _l, text: log.append(text)) == "B"
    assert b"".join(log) == b"by the way\n"


async def test_one_that_prints_without_end_instead_of_reading_is_bounded(tmp_path):
    source = """
        say("@!#READY#!@")
        while True:
            os.write(1, b"x" * 65535 + b"\\n")
    """
    async with program(tmp_path, source) as session:
        with pytest.raises(ModelFailed, match="67108864 bytes"):
            await ask(session, "x" * 1_000_000, deadline=soon(10))


async def test_a_reply_without_end_is_bounded(tmp_path):
    source = """
        say("@!#READY#!@")
        for text in requests():
            say("@!#START#!@")
            while True:
                sys.stdout.write("x" * 65535 + "\\n")
    """
    async with program(tmp_path, source) as session:
        with pytest.raises((ModelFailed, WorkerLost)) as caught:
            async with asyncio.timeout(20):
                await ask(session, "x")
        assert isinstance(caught.value, MerError)
        assert "67108864 bytes" in caught.value.message
