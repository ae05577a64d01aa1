"""The shortest way of a small call, where it meets the general one: frames cut anywhere, several at once, cancels, limits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.core.errors import DeadlineExceeded, InputInvalid, ModelFailed, ProtocolViolation, WorkerLost
from mer.meal.host import Launch
from mer.meal.library import load_unpacked
from mer.meal.loaded import LoadedModel, WorkerModel
from mer.meal.session import Session
from mer_worker import wire
from mer_worker.templates import Outgoing
from mer_worker.tensors import Buffer, encode
from mer_worker.wire import HEADER_BYTES, Kind
from tests.support.peers import Bare, Peer, bare
from tests.support.workers import local_host, soon, until

CONTROL = Peer("control", "python", control=True)

ECHO = "def load():\n    return lambda inputs: inputs\n"


@contextlib.asynccontextmanager
async def model(folder: Path, source: str = ECHO, **given: Any) -> AsyncIterator[WorkerModel]:
    package = folder / "package"
    package.mkdir()
    (package / "handler.py").write_text(textwrap.dedent(source))
    loaded: LoadedModel
    async with await load_unpacked(package, entry="handler:load", host=local_host(folder), **given) as loaded:
        assert isinstance(loaded, WorkerModel)
        yield loaded


def numbers(count: int, first: int = 0) -> Buffer:
    return Buffer(bytes((first + i) % 256 for i in range(count)), "uint8", (count,))


class TestTheDriver:
    async def test_what_it_gives_is_the_callers_own_and_no_other_calls(self, tmp_path):
        async with model(tmp_path, arrays="buffer") as m:
            got = [(await m.infer({"x": numbers(100, i)}))["x"] for i in range(4)]
            for one in got:
                one.data[0] = 255
            assert [bytes(one.data) for one in got] == [b"\xff" + bytes(numbers(100, i).data)[1:] for i in range(4)]

    async def test_arrays_of_every_stride_and_byte_order_come_back_as_they_are(self, tmp_path):
        async with model(tmp_path) as m:
            whole = np.arange(48, dtype="float32").reshape(6, 8)
            for value in (whole, whole.T, whole[::2], whole[:, ::-1], np.asfortranarray(whole), whole.astype(">f4")):
                for _ in range(3):
                    found = (await m.infer({"x": value}))["x"]
                    assert np.array_equal(found, value)
                    assert found.flags.writeable

    async def test_texts_come_back_as_they_are(self, tmp_path):
        async with model(tmp_path) as m:
            for texts in (["a", "b"], ["", "é"], ["x" * 9000, "y" * 9000], ["\0", "\U0001f600"]):
                for _ in range(3):
                    assert (await m.infer({"t": texts}))["t"] == texts
            with pytest.raises(InputInvalid, match="Unicode"):
                await m.infer({"t": ["a", "\ud800"]})
            assert await m.infer({"t": [1, 2]}) == {"t": [1, 2]}

    async def test_more_layouts_than_there_are_numbers(self, tmp_path):
        async with model(tmp_path, arrays="buffer") as m:
            for length in [*range(1, 300), *range(250, 310), 1, 2, 1, 2]:
                assert (await m.infer({"x": numbers(length)}))["x"] == numbers(length)

    async def test_calls_at_once_each_get_their_own(self, tmp_path):
        async with model(tmp_path, arrays="buffer") as m:
            for _ in range(3):
                answers = await asyncio.gather(*(m.infer({"x": numbers(50, i)}) for i in range(100)))
                assert [answer["x"] for answer in answers] == [numbers(50, i) for i in range(100)]

    async def test_a_full_pipe_is_waited_for(self, tmp_path):
        async with model(tmp_path, arrays="buffer") as m:
            await m.infer({"x": numbers(16000)})
            answers = await asyncio.gather(*(m.infer({"x": numbers(16000, i)}) for i in range(150)))
            assert [answer["x"] for answer in answers] == [numbers(16000, i) for i in range(150)]

    async def test_a_cancelled_call_is_stopped_and_the_next_ones_are_answered(self, tmp_path):
        source = """
            import time
            def load():
                def handle(inputs):
                    time.sleep(bytes(inputs["x"].data)[0])
                    return inputs
                return handle
        """
        async with model(tmp_path, source, arrays="buffer") as m:
            await m.infer({"x": numbers(4)})
            await m.infer({"x": numbers(4)})
            for _ in range(3):
                slow = asyncio.create_task(m.infer({"x": numbers(4, 60)}))
                await asyncio.sleep(0.05)
                slow.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await slow
                assert (await m.infer({"x": numbers(4)}))["x"] == numbers(4)
            pid = m.session.hello["pid"]
            with pytest.raises(DeadlineExceeded):
                await m.infer({"x": numbers(4, 60)}, timeout=0.2)
            assert (await m.infer({"x": numbers(4)}, timeout=20))["x"] == numbers(4)
            assert m.session.hello["pid"] == pid

    async def test_calls_that_wait_fail_when_the_worker_dies_and_the_next_one_starts_another(self, tmp_path):
        source = """
            import os
            def load():
                return lambda inputs: os._exit(7) if inputs["x"].data[0] else inputs
        """
        async with model(tmp_path, source, arrays="buffer") as m:
            await m.infer({"x": numbers(4)})
            answers = await asyncio.gather(*(m.infer({"x": numbers(4, i)}) for i in (0, 1, 0)), return_exceptions=True)
            assert isinstance(answers[0], dict)
            assert [type(answer) for answer in answers[1:]] == [WorkerLost, WorkerLost]
            assert (await m.infer({"x": numbers(4)}))["x"] == numbers(4)

    async def test_prints_and_tracebacks_are_those_of_their_request(self, tmp_path):
        source = """
            def load():
                def handle(inputs):
                    first = inputs["x"].data[0]
                    print("no end of line", first, end="")
                    if first == 3:
                        raise ValueError("three")
                    return inputs
                return handle
        """
        async with model(tmp_path, source, arrays="buffer") as m:
            await m.infer({"x": numbers(4)})
            for first in (1, 2, 3):
                printed: list[bytes] = []

                def listen(_stream, _level, text, printed=printed):
                    printed.append(text)

                call = m.infer({"x": numbers(4, first)}, on_log=listen)
                if first < 3:
                    await call
                else:
                    with pytest.raises(ModelFailed, match="three") as caught:
                        await call
                    assert "In the worker" in caught.value.__notes__[0]
                await until(lambda printed=printed: bool(printed))
                assert b"".join(printed) == b"no end of line %d" % first

    async def test_the_worker_keeps_neither_inputs_nor_outputs(self, tmp_path):
        source = """
            import time, weakref
            import numpy
            alive = []
            def load():
                def handle(inputs):
                    if inputs["x"].size == 1:
                        time.sleep(0.05)
                        return {"alive": sum(one() is not None for one in alive)}
                    y = numpy.zeros(1 << 20 if inputs["x"][0] else 4)
                    alive.extend((weakref.ref(inputs["x"]), weakref.ref(y)))
                    return {"y": y}
                return handle
        """
        async with model(tmp_path, source) as m:
            for first in (0, 0, 0, 1, 1, 1):
                await m.infer({"x": np.full(4, first)})
                assert await m.infer({"x": np.zeros(1)}) == {"alive": 0}


@contextlib.asynccontextmanager
async def scripted(folder: Path, answer: str) -> AsyncIterator[Session]:
    """Give a session with a program that answers by frames of its own making."""
    source = f"""
        import os, struct, sys, time
        from mer_worker.templates import Incoming
        from mer_worker.decoder import Decoder
        from mer_worker.wire import *
        def send(*pieces):
            for piece in pieces:
                while piece:
                    piece = piece[os.write(1, piece):]
        send(PREAMBLE, frame(Kind.HELLO, {{"protocol": {{"min": 1, "max": 1}}, "capabilities": ["templates"]}}))
        HEAD = b'{{"tensors":[{{"name":"y","dtype":"uint8","shape":[3]}}]}}'
        def result(request, template=1, head=b"", first=0):
            body = struct.pack("<Q56x", 3) + bytes([first, 1, 2])
            return pack(Kind.RESULT, head, request=request, segments=1, template=template, body_bytes=len(body)) + body
        decoder = Decoder(templates=Incoming(Kind.INFER, "buffer", writable=False))
        asked = []
        while count := os.readv(0, [decoder.buffer()]):
            for got in decoder.received(count):
                if got.kind == Kind.INFER:
                    asked.append(got.request)
                    {answer}
    """
    host = local_host(folder)
    launch = await host.prepare()
    code = str(Path(wire.__file__).parent.parent)
    stream = await host.open(
        Launch(
            argv=(sys.executable, "-I", "-c", f"import sys; sys.path.append({code!r})\n" + textwrap.dedent(source)),
            environment=launch.environment,
            directory=launch.directory,
            marker=launch.marker,
        )
    )
    session = await Session.start(stream, arrays="buffer")
    try:
        yield session
    finally:
        await session.close(grace=0.2)


async def ask(session: Session, first: int = 0) -> dict[str, Any]:
    """Ask by the shortest way where there is one, else by the general one."""
    call = session.shortcut.send({"x": numbers(5, first)})
    if call is None:
        return await session.infer_values({"x": numbers(5, first)}, deadline=soon(20))
    async with asyncio.timeout(20):
        answer = await call.future
    return answer[2] if type(answer) is tuple else session.reply(session.result(answer, call)).outputs


NAMED = "send(result(got.request, 1, HEAD if len(asked) == 1 else b'', len(asked) % 256))"


class TestAnswers:
    async def test_cut_at_each_byte(self, tmp_path):
        answer = """
                    raw = result(got.request, 1, HEAD if len(asked) == 1 else b'', len(asked) % 256)
                    at = len(asked) % len(raw)
                    send(raw[:at]); time.sleep(0.001); send(raw[at:])
        """.strip()
        async with scripted(tmp_path, answer) as session:
            for count in range(1, HEADER_BYTES + 64 + 10):
                assert (await ask(session))["y"] == Buffer(bytes([count % 256, 1, 2]), "uint8", (3,))

    async def test_in_one_piece_with_others(self, tmp_path):
        answer = """
                    if len(asked) in (1, 5, 9):
                        send(b"".join(result(one, 1, HEAD if one == asked[0] else b"", one) for one in asked[-4:]))
        """.strip()
        async with scripted(tmp_path, answer) as session:
            for calls in (1, 4, 4):
                answers = await asyncio.gather(*(ask(session) for _ in range(calls)))
                assert all(bytes(one["y"].data)[1:] == b"\1\2" for one in answers)

    @pytest.mark.parametrize(
        "answer",
        [
            "send(result(got.request, 9))",
            "send(result(got.request, 1, HEAD) if len(asked) == 1 else result(got.request, 2))",
            "send(result(got.request, 257, HEAD))",
            "send(result(got.request, 1, HEAD) if len(asked) == 1 else result(got.request)[:-1] + b'!!')",
        ],
        ids=["never given", "another one", "past the last", "longer than its table"],
    )
    async def test_of_a_head_that_was_not_given_or_a_body_that_is_not_its_own_end_the_worker(self, tmp_path, answer):
        async with scripted(tmp_path, answer) as session:
            with contextlib.suppress(ProtocolViolation):
                for _ in range(4):
                    await ask(session)
            await until(lambda: isinstance(session.lost, ProtocolViolation))

    async def test_to_nobody_go_nowhere(self, tmp_path):
        answer = "send(result(999, 1, HEAD) + result(got.request, 1, b'', 7)); send(result(998)); time.sleep(0.01)"
        async with scripted(tmp_path, answer) as session:
            for _ in range(4):
                assert bytes((await ask(session))["y"].data) == b"\7\1\2"


def request(outgoing: Outgoing, number: int, value: Any) -> bytes:
    encoded = encode({"x": value})
    made = b"".join(encoded.message(Kind.INFER, number, templates=outgoing))
    outgoing.learn({"x": value}, encoded.layout)
    return made


class TestTheWorker:
    async def test_requests_cut_at_each_byte(self, tmp_path):
        async with bare(CONTROL, tmp_path, source=ECHO) as worker:
            outgoing = Outgoing(Kind.INFER)
            value = Buffer(b"abc", "uint8", (3,))
            worker.say(request(outgoing, 2, value))
            await self._echoed(worker, 2, b"abc")
            size = len(request(outgoing, 3, value))
            for number in range(3, 3 + size):
                raw = request(outgoing, number, value)
                worker.say(raw[: number - 2])
                await asyncio.sleep(0.001)
                if number - 2 < size:
                    worker.say(raw[number - 2 :])
                await self._echoed(worker, number, b"abc")

    async def test_requests_in_one_piece_and_one_that_is_larger_than_a_read(self, tmp_path):
        async with bare(CONTROL, tmp_path, source=ECHO) as worker:
            outgoing = Outgoing(Kind.INFER)
            small, large = Buffer(b"abc", "uint8", (3,)), Buffer(bytes(range(256)) * 1000, "uint8", (256000,))
            for number in range(2, 40, 4):
                pieces = [request(outgoing, number + i, value) for i, value in enumerate((small, large, small, small))]
                worker.say(b"".join(pieces))
                for i, value in enumerate((small, large, small, small)):
                    await self._echoed(worker, number + i, bytes(value.data))

    async def test_a_cancel_that_comes_before_its_request_is_kept_for_it(self, tmp_path):
        async with bare(CONTROL, tmp_path, source=ECHO) as worker:
            outgoing = Outgoing(Kind.INFER)
            value = Buffer(b"abc", "uint8", (3,))
            for number in (2, 3):
                worker.say(request(outgoing, number, value))
                await self._echoed(worker, number, b"abc")
            worker.control(Kind.CANCEL, 4)
            worker.control(Kind.PING, 77)
            pong = await worker.next()
            assert getattr(pong, "kind", None) == Kind.PONG
            worker.say(request(outgoing, 4, value))
            assert (await worker.error(4))["kind"] == "cancelled"
            worker.say(request(outgoing, 5, value))
            await self._echoed(worker, 5, b"abc")

    async def _echoed(self, worker: Bare, number: int, data: bytes) -> None:
        assert bytes((await worker.result(number)).body)[64:] == data


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


async def test_thousands_of_calls_leave_nothing_behind(tmp_path):
    async with model(tmp_path, arrays="buffer") as m:
        pid = m.session.hello["pid"]

        async def calls(count: int) -> tuple[int, int]:
            for i in range(count):
                await m.infer({"x": numbers(64, i)}, timeout=60 if i % 2 else None)
            gc.collect()
            return resident(os.getpid()), resident(pid)

        before = await calls(2000)
        after = await calls(6000)
        pages = (1 << 20) // os.sysconf("SC_PAGE_SIZE")
        assert after[0] - before[0] < pages
        assert after[1] - before[1] < pages
        assert m.session.busy == 0
