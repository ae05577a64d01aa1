"""Peers that do not keep to docs/wire.md, on either side: a clear error, bounded memory, and no hang."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mer.core.errors import InputInvalid, MerError, ProtocolMismatch, ProtocolViolation, WorkerLost
from mer.meal.calls import LogCallback
from mer.meal.host import Launch
from mer.meal.session import Session
from mer.meal.stream import Stream
from mer_worker import wire
from mer_worker.decoder import Decoder
from mer_worker.tensors import encode
from mer_worker.wire import Frame, Kind
from tests.support.workers import local_host, soon

BEGIN = """
    import os, sys, time
    from mer_worker import wire
    from mer_worker.decoder import Decoder
    from mer_worker.wire import *
    def send(*pieces):
        for piece in pieces:
            while piece:
                piece = piece[os.write(1, piece):]
    HELLO = {"protocol": {"min": 1, "max": 1}, "capabilities": []}
    def hello(**given):
        send(PREAMBLE, frame(Kind.HELLO, {**HELLO, **given}))
    decoder = Decoder()
    def received():
        while count := os.readv(0, [decoder.buffer()]):
            yield from decoder.received(count)
    def stay():
        while os.read(0, 65536): pass
"""


async def talk(folder: Path, source: str, *, seconds: float = 10.0, on_log: LogCallback | None = None) -> MerError:
    """Start a program as a worker, load and infer, and return the error that this gives."""
    host = local_host(folder)
    launch = await host.prepare()
    code = str(Path(wire.__file__).parent.parent)
    program = f"import sys; sys.path.append({code!r})\n" + textwrap.dedent(BEGIN) + textwrap.dedent(source)
    stream = await host.open(
        Launch(
            argv=(sys.executable, "-I", "-c", program),
            environment=launch.environment,
            directory=launch.directory,
            marker=launch.marker,
        )
    )
    with pytest.raises(MerError) as caught:
        await converse(stream, seconds, on_log)
    return caught.value


async def converse(stream: Stream, seconds: float, on_log: LogCallback | None) -> None:
    session = await Session.start(stream, seconds=seconds, on_log=on_log)
    try:
        await session.load({"runner": "python"}, deadline=soon(60))
        await session.infer(encode({"x": "1"}))
    finally:
        await session.close(grace=0.2)


DEFINES = """
    def answer(got):
        {}
"""

ANSWERS = """
    hello()
    for got in received():
        if got.kind == Kind.LOAD:
            send(frame(Kind.RESULT, {}, request=got.request))
        if got.kind == Kind.INFER:
            answer(got)
"""


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("send(b'hello, I am no worker\\n' * 10000); stay()", ProtocolViolation, "no preamble"),
        ("pass", WorkerLost, "ended with status 0"),
        ("sys.exit('no such library')", WorkerLost, "(?s)status 1.*no such library"),
        ("send(PREAMBLE, os.urandom(100000)); stay()", ProtocolViolation, "protocol"),
        ("send(PREAMBLE, HEADER.pack(2, 0, 0, 0, 0, 1 << 31, 0, 0)); stay()", ProtocolViolation, "head of 2147483648"),
        ("hello(protocol={'min': 2, 'max': 7}, python='9.9'); stay()", ProtocolMismatch, "2 to 7, this one 1 to 1.*9.9"),
        ("hello(protocol=None); stay()", ProtocolViolation, "versions"),
        ("send(PREAMBLE, frame(Kind.ERROR, {'code': 'version', 'message': 'no'})); stay()", ProtocolMismatch, "no"),
        ("hello(); send(frame(Kind.LOAD, {}, request=1)); stay()", ProtocolViolation, "kind 2"),
        ("hello(); send(frame(99, {}, request=1)); stay()", ProtocolViolation, "kind 99"),
        ("send(PREAMBLE, frame(Kind.RESULT, {}, request=1)); stay()", ProtocolViolation, "kind 7"),
        ("hello(); send(frame(Kind.HELLO, HELLO)); stay()", ProtocolViolation, "kind 1,"),
        ("hello(); send(HEADER.pack(7, 0, 0, 0, 1, 0, 0, 1 << 40)); stay()", ProtocolViolation, "body of 1099511627776"),
        ("hello(); send(pack(Kind.LOG, b'{}', body_bytes=70000), bytes(70000)); stay()", ProtocolViolation, "log frame"),
        ("hello(); os.close(1); stay()", WorkerLost, "SIGKILL"),
        ("hello(); os.close(0); time.sleep(60)", WorkerLost, "SIGKILL"),
        ("hello(); time.sleep(1); os.close(0); time.sleep(60)", WorkerLost, "SIGKILL"),  # all is written by then
        ("hello(); os.kill(os.getpid(), 15)", WorkerLost, "SIGTERM"),
        ("print('Welcome to gpu1'); sys.stdout.flush(); hello(); sys.exit(3)", WorkerLost, "(?s)status 3.*Welcome"),
    ],
)  # fmt: skip
async def test_a_worker_that_breaks_the_protocol_gets_its_error(tmp_path, source, error, message):
    began = time.monotonic()
    caught = await talk(tmp_path, source)
    assert isinstance(caught, error), repr(caught)
    assert re.search(message, caught.message), caught.message
    assert time.monotonic() - began < 12


@pytest.mark.parametrize(
    "answer",
    [
        "send(frame(Kind.RESULT, {'tensors': 1}, request=got.request))",
        "send(pack(Kind.RESULT, b'no json', request=got.request))",
        "send(frame(Kind.RESULT, {'tensors': [{'name': 'y', 'dtype': 'float32', 'shape': [4]}]}, request=got.request))",
        "send(pack(7, dump({'tensors': [{'name': 'y', 'dtype': 'int8', 'shape': [1]}]}), request=2, segments=1))",
        "send(pack(Kind.ERROR, b'no json', request=got.request))",
        "send(frame(Kind.ERROR, {'kind': 'news', 'code': 'x', 'message': 'y'}, request=got.request))",
    ],
)
async def test_an_answer_that_is_none_is_a_violation(tmp_path, answer):
    caught = await talk(tmp_path, DEFINES.format(answer) + ANSWERS)
    assert isinstance(caught, ProtocolViolation)


async def test_a_worker_of_another_version_is_told_why_the_driver_closes(tmp_path):
    told = tmp_path / "told"
    source = f"""
        hello(protocol={{"min": 2, "max": 7}})
        for got in received():
            if got.kind == Kind.ERROR:
                open({str(told)!r}, "wb").write(got.head)
    """
    assert isinstance(await talk(tmp_path, source), ProtocolMismatch)
    fields = wire.parse_object(told.read_bytes())
    assert (fields["kind"], fields["code"]) == ("protocol", "version")
    assert "2 to 7, this one 1 to 1" in fields["message"]


async def test_a_worker_is_sent_no_body_beyond_its_own_limit(tmp_path):
    limited = ANSWERS.replace("hello()", "hello(limits={'head': 1 << 20, 'body': 64})")
    caught = await talk(tmp_path, DEFINES.format("pass") + limited)
    assert isinstance(caught, InputInvalid)
    assert "69 bytes of tensors: the other side takes 64" in caught.message


async def test_an_error_that_is_no_unicode_text_can_be_printed_all_the_same(tmp_path):
    answer = """send(pack(Kind.ERROR, b'{"kind":"model","message":"a\\\\ud800"}', request=got.request))"""
    caught = await talk(tmp_path, DEFINES.format(answer) + ANSWERS)
    assert caught.message == "a?"


async def test_an_answer_to_nobody_is_ignored(tmp_path):
    answer = "send(frame(Kind.RESULT, {}, request=77), frame(Kind.ERROR, {'kind':'model','message':'m'}, request=got.request))"
    caught = await talk(tmp_path, DEFINES.format(answer) + ANSWERS)
    assert caught.message == "m"


async def test_a_greeting_that_comes_in_one_piece_with_the_hello_is_log_too(tmp_path):
    greeting = "send(b'Welcome to gpu1\\n' + PREAMBLE + frame(Kind.HELLO, HELLO)); sys.exit(3)"
    caught = await talk(tmp_path, greeting)
    assert re.search("(?s)status 3.*Welcome", caught.message), caught.message


async def test_a_listener_that_raises_costs_no_call_its_answer(tmp_path):
    def broken(stream: str, level: str, text: bytes) -> None:
        raise BrokenPipeError("nobody reads")

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    fields = "{'kind': 'model', 'message': 'm'}"
    answer = f"send(frame(Kind.LOG, {{}}, body=b'l') + frame(Kind.ERROR, {fields}, request=got.request))"
    async with asyncio.timeout(10):
        caught = await talk(tmp_path, DEFINES.format(answer) + ANSWERS, on_log=broken)
    assert caught.message == "m"
    assert isinstance(told[0]["exception"], BrokenPipeError)


async def test_a_worker_that_says_nothing_is_given_up(tmp_path):
    caught = await talk(tmp_path, "stay()", seconds=0.5)
    assert isinstance(caught, WorkerLost)
    assert "said nothing for 0.5 s" in caught.message


# --- the worker, with a driver that does not keep to it


def worker(*arguments: str, **given: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mer_worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **given,  # type: ignore[call-overload]
    )


def answers(raw: bytes) -> list[Frame]:
    decoder = Decoder()
    frames = []
    while raw:
        room = decoder.buffer()
        count = min(len(room), len(raw))
        room[:count] = raw[:count]
        frames += decoder.received(count)
        raw = raw[count:]
    return frames


HELLO = wire.PREAMBLE + wire.frame(Kind.HELLO, {"protocol": {"min": 1, "max": 1}})


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n" * 5000, "bad-frame"),
        (wire.PREAMBLE + b"\xff" * 64, "bad-frame"),
        (wire.PREAMBLE + wire.frame(Kind.HELLO, {"protocol": {"min": 5, "max": 6}}), "version"),
        (wire.PREAMBLE + wire.frame(Kind.LOAD, {}, request=1), "bad-frame"),
        (HELLO + wire.HEADER.pack(3, 0, 0, 0, 1, 0, 0, 1 << 62), "bad-frame"),
        (HELLO + wire.frame(Kind.INFER, {}, request=1), "not-loaded"),
        (HELLO + wire.frame(Kind.PUT, {}, request=1), "unknown-kind"),
        (HELLO + wire.frame(200, {}, request=1), "unknown-kind"),
        (HELLO + wire.frame(Kind.LOAD, {"runner": "cobol"}, request=1), "no-runner"),
        (HELLO + wire.frame(Kind.LOAD, {"runner": "python"}, request=1), "bad-load"),
        (HELLO + wire.pack(Kind.LOAD, b"[]", request=1), "bad-load"),
        (HELLO + wire.frame(Kind.LOAD, {"runner": "command", "command": {"argv": []}}, request=1), "bad-load"),
        (HELLO + wire.frame(Kind.LOAD, {"runner": ["python"]}, request=1), "no-runner"),
    ],
)
def test_a_driver_that_breaks_the_protocol_is_told_and_the_worker_ends(sent, code):
    process = worker()
    # in-band, the end of the input ends a worker at once: what it had to say must be out first
    process.stdin.write(sent)
    process.stdin.flush()
    decoder, frames = Decoder(), []
    while not any(frame.kind == Kind.ERROR for frame in frames):
        part = process.stdout.read1(65536)
        assert part, process.stderr.read()
        room = decoder.buffer()
        room[: len(part)] = part
        frames += decoder.received(len(part))
    assert frames[0].kind == Kind.HELLO
    assert frames[-1].fields()["code"] == code
    process.communicate(timeout=10)


def test_a_worker_whose_driver_gives_up_ends():
    process = worker()
    process.stdin.write(HELLO + wire.frame(Kind.ERROR, {"kind": "protocol", "code": "version", "message": "no"}))
    process.stdin.flush()
    assert process.wait(timeout=5) == 0
    process.communicate()


def test_a_driver_is_sent_no_body_beyond_its_own_limit(tmp_path):
    (tmp_path / "large.py").write_text("def load():\n    return lambda inputs: {'y': 'y' * 100}\n")
    options = {"entrypoint_package": "large", "entrypoint_fn": "load"}
    hello = {"protocol": {"min": 1, "max": 1}, "limits": {"head": 1 << 20, "body": 100}}
    load = {"runner": "python", "folder": str(tmp_path), "options": options, "arrays": "buffer"}
    process = worker()
    process.stdin.write(wire.PREAMBLE + wire.frame(Kind.HELLO, hello) + wire.frame(Kind.LOAD, load, request=1))
    process.stdin.write(wire.frame(Kind.INFER, {"tensors": []}, request=2))
    process.stdin.flush()
    got = b""
    while b"kind" not in got and b"yyy" not in got:
        got += process.stdout.read1(65536)
    process.communicate(timeout=10)
    fields = answers(got)[-1].fields()
    assert (fields["kind"], fields["code"]) == ("output", "output-invalid")
    assert "the other side takes 100" in fields["message"]


def test_in_band_a_ping_is_answered_and_a_request_cancelled_while_the_model_computes(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ndef load():\n    return lambda inputs: time.sleep(60)\n")
    options = {"entrypoint_package": "slow", "entrypoint_fn": "load"}
    process = worker()
    load = {"runner": "python", "folder": str(tmp_path), "options": options, "arrays": "buffer"}
    total, pieces = encode({}).body()
    infer = wire.pack(Kind.INFER, encode({}).layout.head, request=2, body_bytes=total) + b"".join(pieces)
    process.stdin.write(HELLO + wire.frame(Kind.LOAD, load, request=1) + infer)
    process.stdin.flush()
    time.sleep(0.5)
    process.stdin.write(wire.frame(Kind.PING, request=9) + wire.frame(Kind.CANCEL, request=2))
    process.stdin.flush()
    time.sleep(0.5)
    output, _ = process.communicate(timeout=10)
    kinds = {frame.kind: frame for frame in answers(output)}
    assert "in-band" in kinds[Kind.HELLO].fields()["capabilities"]
    assert kinds[Kind.PONG].fields()["busy"]["request"] == 2
    assert kinds[Kind.ERROR].fields()["kind"] == "cancelled"


def test_in_band_a_fork_that_comes_out_of_the_handler_exits(tmp_path):
    source = """
        import os
        children = []
        def load():
            def handle(inputs):
                if children:
                    return {"status": os.waitpid(children[0], 0)[1]}
                children.append(os.fork())
                return {}
            return handle
    """
    (tmp_path / "forking.py").write_text(textwrap.dedent(source))
    options = {"entrypoint_package": "forking", "entrypoint_fn": "load"}
    load = {"runner": "python", "folder": str(tmp_path), "options": options, "arrays": "buffer"}
    process = worker()
    process.stdin.write(HELLO + wire.frame(Kind.LOAD, load, request=1))
    for request in (2, 3):
        process.stdin.write(wire.frame(Kind.INFER, {"tensors": []}, request=request))
    process.stdin.flush()
    got = b""
    while b"status" not in got:
        got += process.stdout.read1(65536)
    process.communicate(timeout=10)
    last = answers(got)[-1]
    assert (last.request, bytes(last.body)[64:]) == (3, b"0")


@pytest.mark.parametrize("how", ["sleep", "loop"])
def test_in_band_a_worker_whose_driver_is_gone_ends_while_the_model_computes(tmp_path, how):
    body = "time.sleep(60)" if how == "sleep" else "[None for _ in iter(int, 1)]"
    (tmp_path / "slow.py").write_text(f"import time\ndef load():\n    {body}\n")
    load = {
        "runner": "python",
        "folder": str(tmp_path),
        "options": {"entrypoint_package": "slow", "entrypoint_fn": "load"},
    }
    process = worker()
    process.stdin.write(HELLO + wire.frame(Kind.LOAD, {**load, "arrays": "buffer"}, request=1))
    process.stdin.flush()
    time.sleep(0.5)
    assert process.poll() is None
    process.communicate(timeout=5)
    assert process.returncode != 0


DRIVER = """
import asyncio, os, sys
from pathlib import Path
from tests.support.workers import session_with
from mer_worker.tensors import encode

SOURCE = '''
import os, subprocess, time
def load():
    def handle(inputs):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(inputs["path"], "w") as file:
            file.write(f"{os.getpid()} {child.pid}\\\\n")
        HOW
    return handle
'''

async def main():
    async with session_with(Path(sys.argv[1]), SOURCE.replace("HOW", sys.argv[2])) as session:
        await session.infer(encode({"path": sys.argv[1] + "/pids"}))

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["time.sleep(600)", "while True: pass"])
async def test_a_driver_that_is_killed_leaves_no_worker_and_nothing_that_it_forked(tmp_path, how):
    from tests.support.workers import alive, until

    root = Path(__file__).parents[2]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), how], cwd=root, start_new_session=True)  # noqa: ASYNC220
    path = tmp_path / "pids"
    await until(lambda: path.exists() and path.read_text().endswith("\n"), seconds=30)
    pids = [int(pid) for pid in path.read_text().split()]
    assert all(map(alive, pids))
    driver.kill()
    driver.wait()
    await until(lambda: not any(map(alive, pids)))
    await until(lambda: not list((tmp_path / "scratch").iterdir()))


async def test_folders_of_another_machines_or_containers_workers_are_left_alone(tmp_path):
    host = local_host(tmp_path)
    launch = await host.prepare()
    kernel = launch.directory.name.partition("-")[0]
    elsewhere = tmp_path / "scratch" / f"{'0' * len(kernel)}-{2**22 - 1}-12345-{'a' * 32}"
    elsewhere.mkdir()
    ancient = elsewhere.with_name(elsewhere.name[:-1] + "b")
    ancient.mkdir()
    os.utime(ancient, (time.time() - 31 * 86400,) * 2)
    other = local_host(tmp_path)
    second = await other.prepare()
    assert sorted((tmp_path / "scratch").iterdir()) == sorted([elsewhere, launch.directory, second.directory])
    for one in (launch, second):
        await host.kill(one)


async def test_folders_of_workers_whose_driver_was_killed_with_them_are_removed(tmp_path):
    first = await local_host(tmp_path).prepare()
    kernel = first.directory.name.partition("-")[0]
    stale = first.directory.rename(tmp_path / "scratch" / f"{kernel}-{2**22 - 1}-12345-{'a' * 32}")
    assert stale.is_dir()
    host = local_host(tmp_path)
    foreign = tmp_path / "scratch" / "foreign"
    foreign.mkdir()
    launch = await host.prepare()
    assert sorted((tmp_path / "scratch").iterdir()) == sorted([foreign, launch.directory])
    await host.kill(launch)
    await asyncio.sleep(0)
