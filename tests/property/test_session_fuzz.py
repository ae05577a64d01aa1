"""Both ends of a session against conversations that were spoilt: an error or an answer, no hang, no crash, no memory.

tests/strength/fuzz_wire.py does the same for what reads frames, led by coverage.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mer_worker
from mer.core.errors import MerError
from mer.meal.host import Launch
from mer.meal.session import Session
from mer_worker import wire
from mer_worker.decoder import Decoder
from mer_worker.tensors import Buffer, encode
from mer_worker.wire import Kind, WireError, frame
from tests.support.workers import ECHO, handler_folder, local_host, soon

MOST_KILOBYTES = 400_000
"""What an end may ever have in memory, some 60 MB of it Python and numpy: a claimed body of 1 GiB is no gigabyte here."""

HELLO = {"protocol": {"min": 1, "max": 1}, "limits": {"head": wire.MAX_HEAD_BYTES, "body": wire.MAX_BODY_BYTES}}
VALUES = {
    "x": Buffer(bytes(range(64)), "uint8", (8, 8)),
    "s": ["a", "ö"],
    "j": {"k": 1},
    "n": [Buffer(b"ab", "int8", (2,))],
}


def message(kind: int, request: int) -> bytes:
    return b"".join(bytes(piece) for piece in encode(VALUES).message(kind, request))


WORKER_SAYS = (
    wire.PREAMBLE
    + frame(
        Kind.HELLO,
        HELLO | {"capabilities": ["in-band", "templates", "stream", "seal"], "pid": 1, "runners": ["python"]},
    ),
    frame(Kind.LOG, {"stream": "stdout"}, request=1, body=b"loading\n") + frame(Kind.RESULT, {}, request=1, number=17),
    frame(Kind.PONG, {"busy": {"request": 2, "milliseconds": 1}}, request=1)
    + frame(Kind.LOG, {"stream": "log", "level": "info"}, request=2, body=b"running\n")
    + message(Kind.RESULT, 2),
)
"""What answers a hello, a load and an infer."""

ANSWERS = """
import os, select, sys
for name in sys.argv[2:]:
    if select.select([0], [], [], float(sys.argv[1]))[0]:
        os.read(0, 65536)
    with open(name, "rb") as file:
        os.write(1, file.read())
"""
"""A program that says what is in the files, each when something was said to it, or after a while; then it ends."""


def driver_says(folder: Path) -> bytes:
    options = {"entrypoint_package": "handler", "entrypoint_fn": "load"}
    load = {"runner": "python", "folder": str(folder), "options": options, "arrays": "buffer"}
    return (
        wire.PREAMBLE
        + frame(Kind.HELLO, HELLO | {"capabilities": ["control", "templates", "stream", "seal"]})
        + frame(Kind.LOAD, load, request=1)
        + message(Kind.INFER, 2)
        + frame(Kind.CREDIT, {"bytes": 1 << 20}, request=2, number=9)
        + message(Kind.SEAL, 3)
        + frame(Kind.RELEASE, {"handle": "sealed-1"}, request=4)
        + frame(Kind.PING, request=1)
        + frame(Kind.CANCEL, request=9)
        + message(Kind.INFER, 5)
    )


@st.composite
def spoils(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """Draw what is done to a conversation, and where: as parts of its length."""
    kinds = st.sampled_from(["flip", "cut", "double", "insert", "end", "lie"])
    return draw(st.lists(st.tuples(kinds, st.floats(0, 1), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4))


def spoilt(raw: bytes, how: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, noise in how:
        at = int(where * len(raw))
        match kind:
            case "flip":
                raw = raw[:at] + bytes(a ^ b for a, b in zip(raw[at:], noise, strict=False)) + raw[at + len(noise) :]
            case "cut":
                raw = raw[:at] + raw[at + 5 * len(noise) :]
            case "double":
                raw = raw[:at] + raw[at : at + 9 * len(noise)] + raw[at:]
            case "insert":
                raw = raw[:at] + noise + raw[at:]
            case "end":
                raw = raw[:at]
            case "lie":  # a number that is too large, where there may be one
                raw = raw[:at] + b"\xff" * (len(noise) % 8) + raw[at + len(noise) % 8 :]
    return raw


def asked(folder: Path, said: tuple[bytes, ...], *, patience: float = 0.05) -> dict[str, Any]:
    """Return what a driver gets from a worker that says this. Raises: MerError."""
    files = [folder / f"said-{number}" for number in range(len(said))]
    for file, text in zip(files, said, strict=True):
        file.write_bytes(text)

    async def converse() -> dict[str, Any]:
        host = local_host(folder)
        made = await host.prepare()
        argv = (sys.executable, "-I", "-S", "-c", ANSWERS, str(patience), *map(str, files))
        launch = Launch(argv=argv, environment={}, directory=made.directory, marker=made.marker, control=False)
        session = await Session.start(await host.open(launch), arrays="buffer", seconds=20)
        try:
            await session.load({"runner": "python"}, deadline=soon(20))
            return (await session.infer(encode(VALUES), deadline=soon(20))).outputs
        finally:
            await session.close(grace=0.5)

    async def bounded() -> dict[str, Any]:
        async with asyncio.timeout(15):  # it ends soon by itself: nothing has to wait for a deadline
            return await converse()

    return asyncio.run(bounded())


def test_a_worker_that_says_it_as_it_should_be_is_understood(tmp_path: Path) -> None:
    assert asked(tmp_path, WORKER_SAYS, patience=10) == VALUES


def peak(*, anew: bool = False) -> int:
    """Return the most that this process has had in memory, in kB; `anew`: from now on, whatever other tests have taken."""
    if anew:
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1])  # type: ignore[index]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(WORKER_SAYS) - 1), how=spoils())
def test_a_driver_survives_whatever_a_worker_says(
    tmp_path: Path, which: int, how: list[tuple[str, float, bytes]]
) -> None:
    said = list(WORKER_SAYS)
    said[which] = spoilt(said[which], how)
    before = peak(anew=True)
    try:
        asked(tmp_path, tuple(said))
    except MerError:
        pass
    assert peak() - before < MOST_KILOBYTES


START = "import sys;sys.path.insert(0,sys.argv.pop(1));from mer_worker.__main__ import main;main()"
CODE = str(Path(mer_worker.__file__).parent.parent)


def converse(raw: bytes) -> tuple[bytes, bytes, int, int]:
    """Return what a worker says to these bytes and the end of its input, its log, its status and its peak in kilobytes."""
    argv = [sys.executable, "-I", "-S", "-c", START, CODE]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    late = threading.Timer(30, process.kill)
    late.start()
    try:
        output, log = process.stdout, process.stderr
        assert process.stdin is not None
        assert output is not None
        assert log is not None
        try:
            process.stdin.write(raw)
            process.stdin.close()
        except BrokenPipeError:
            pass
        answer, told = output.read(), log.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
        output.close()
        log.close()
        assert late.is_alive(), "it hung"
        return answer, told, os.waitstatus_to_exitcode(status), used.ru_maxrss
    finally:
        late.cancel()


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return driver_says(handler_folder(tmp_path_factory.mktemp("fuzz") / "model", ECHO))


def frames(raw: bytes) -> list[int]:
    """Return the kinds of frames, of which the last may be cut; whatever else is no worker's."""
    decoder, kinds = Decoder(), []
    try:
        while raw:
            room = decoder.buffer()
            count = min(len(room), len(raw))
            room[:count] = raw[:count]
            kinds += [received.kind for received in decoder.received(count)]
            raw = raw[count:]
    except WireError as error:
        raise AssertionError(f"a worker said what is no frame: {error}") from error
    return kinds


def test_the_conversation_itself_is_answered(conversation: bytes) -> None:
    kinds = frames(converse(conversation)[0])
    assert kinds[0] == Kind.HELLO


@settings(max_examples=60, deadline=None)
@given(how=spoils())
def test_a_worker_survives_whatever_a_driver_says(conversation: bytes, how: list[tuple[str, float, bytes]]) -> None:
    answer, told, status, kilobytes = converse(spoilt(conversation, how))
    assert status in (0, 1, -9)  # the last: its whole process group, since its driver is gone
    assert frames(answer)[:1] in ([Kind.HELLO], [])
    assert b"mer_worker" not in told, told.decode()
    # a forked process begins with its parent's peak, which says nothing of its own
    assert kilobytes < MOST_KILOBYTES or kilobytes <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
