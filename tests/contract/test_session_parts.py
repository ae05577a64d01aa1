"""What any worker with the capabilities `templates`, `stream` and `seal` does with their frames (docs/wire.md, 4.1, 4.2, 6)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import HandleUnknown
from mer.meal.loaded import WorkerModel
from mer.meal.starting import start
from mer_worker.layout import open_frame
from mer_worker.tensors import Buffer, encode, values_of
from mer_worker.wire import HEADER, Flag, Frame, Kind, dump, frame, pack
from tests.support.peers import Bare, Peer, bare

HUGE = 1 << 40


def infer(request: int, do: dict[str, Any] | None = None, *, flags: int = 0, kind: int = Kind.INFER) -> bytes:
    """Return an infer frame, or a seal, with flags."""
    values = {"x": "text"} if do is None else {"do": Buffer(dump(do), "json", ())}
    raw = bytearray(b"".join(bytes(piece) for piece in encode(values).message(kind, request)))
    raw[1] |= flags
    return bytes(raw)


def credit(request: int, parts: int, size: int = HUGE) -> bytes:
    return frame(Kind.CREDIT, {"bytes": size}, request=request, number=parts)


def part(request: int, values: dict[str, Any], *, more: bool) -> bytes:
    """Return a part of a request's inputs."""
    raw = bytearray(b"".join(bytes(piece) for piece in encode(values).message(Kind.PART, request)))
    raw[1] |= Flag.MORE * more
    return bytes(raw)


def end(request: int) -> bytes:
    return frame(Kind.PART, {"tensors": []}, request=request)


def values(received: Frame) -> dict[str, Any]:
    layout, _, segments = open_frame(received)
    return values_of(layout, segments, "buffer")


async def granted(worker: Bare, request: int) -> tuple[int, int]:
    """Return the credit that comes next, of parts and of bytes."""
    found = await worker.next()
    assert isinstance(found, Frame)
    assert (found.kind, found.request) == (Kind.CREDIT, request), found
    return found.number, found.fields().get("bytes", 0)


class TestTemplates:
    async def test_a_head_is_remembered_replaced_and_named(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("templates")
            heads: dict[int, bytes] = {}
            for request, (template, count, told) in enumerate(
                [
                    (1, 1, True),
                    (1, 1, False),
                    (256, 2, True),
                    (1, 1, False),
                    (1, 3, True),
                    (1, 3, False),
                    (256, 2, False),
                ],
                start=2,
            ):
                encoded = encode({f"t{i}": Buffer(bytes([i] * 4), "int32", ()) for i in range(count)})
                total, pieces = encoded.body()
                head = heads[template] = encoded.layout.head if told else heads[template]
                worker.say(
                    pack(
                        Kind.INFER,
                        head if told else b"",
                        request=request,
                        segments=count,
                        template=template,
                        body_bytes=total,
                    ),
                    *(bytes(piece) for piece in pieces),
                )
                assert list(values(Frame(0, 0, count, head=head, body=(await worker.result(request)).body))) == [
                    f"t{i}" for i in range(count)
                ]

    @pytest.mark.parametrize(("template", "head"), [(7, b""), (257, b'{"tensors":[]}')])
    async def test_one_never_given_or_past_the_cap_is_a_broken_stream(
        self, peer: Peer, tmp_path: Path, template: int, head: bytes
    ) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("templates")
            worker.say(HEADER.pack(Kind.INFER, 0, 0, template, 2, len(head), 0, 0) + head)
            assert (await worker.error(0))["code"] == "bad-frame"
            await worker.end()


class TestAnswersInParts:
    async def test_parts_come_in_order_up_to_the_credit_of_parts(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"parts": 5}, flags=Flag.STREAM))
            await worker.silent()
            worker.say(credit(2, 2))
            assert [values(await worker.part(2))["number"] for _ in range(2)] == [0, 1]
            await worker.silent()
            worker.say(credit(2, 10))
            assert [values(await worker.part(2))["number"] for _ in range(3)] == [2, 3, 4]
            assert values(await worker.result(2)) == {}

    async def test_a_part_larger_than_the_bytes_left_is_sent_and_made_good(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"parts": 2, "size": 1000}, flags=Flag.STREAM) + credit(2, 10, 1))
            size = len((await worker.part(2)).body)
            worker.say(credit(2, 0, size - 1))  # not good yet: nothing is left
            await worker.silent()
            worker.say(credit(2, 0, 1))
            await worker.part(2)
            worker.say(credit(2, 0, size))
            await worker.result(2)

    async def test_a_result_may_be_the_last_part_and_a_plain_answer_is_just_that(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"parts": 1, "last": "of all"}, flags=Flag.STREAM) + credit(2, 9))
            await worker.part(2)
            assert values(await worker.result(2)) == {"last": "of all"}
            worker.say(infer(3, flags=Flag.STREAM))
            assert values(await worker.result(3)) == {"x": "text"}
            worker.say(credit(3, 5))  # comes too late, and is nothing
            worker.say(infer(4))
            await worker.result(4)

    async def test_parts_that_nobody_asked_for_are_an_error(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"parts": 2}))
            error = await worker.error(2)
            assert (error["kind"], error["code"]) == ("input", "answers-in-parts")

    async def test_an_error_after_parts_is_the_requests(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"parts": 2, "failing": "halfway"}, flags=Flag.STREAM) + credit(2, 9))
            await worker.part(2)
            await worker.part(2)
            error = await worker.error(2)
            assert (error["kind"], "halfway" in error["message"]) == ("model", True)

    @pytest.mark.parametrize("given", [0, 3])
    async def test_a_stream_that_waits_for_credit_is_cancelled(self, peer: Peer, tmp_path: Path, given: int) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"parts": 1000}, flags=Flag.STREAM) + credit(2, given))
            for _ in range(given):
                await worker.part(2)
            await worker.silent(seconds=0.1)
            worker.control(Kind.CANCEL, 2)
            assert (await worker.error(2))["kind"] == "cancelled"
            worker.say(infer(3))
            await worker.result(3)


class TestInputsInParts:
    async def test_parts_are_taken_as_the_handler_asks_for_them(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"inputs": True}, flags=Flag.MORE))
            parts, size = await granted(worker, 2)
            assert parts >= 2
            assert size >= 1000
            worker.say(part(2, {"x": b"abc"}, more=True) + part(2, {"x": b""}, more=True) + end(2))
            assert values(await self._result(worker, 2)) == {"sizes": [3, 0]}
            worker.say(infer(3, {"inputs": True}, flags=Flag.MORE) + end(3))
            assert values(await self._result(worker, 3)) == {"sizes": []}

    async def test_the_last_part_may_have_tensors(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"inputs": True}, flags=Flag.MORE))
            await granted(worker, 2)
            worker.say(part(2, {"x": b"ab"}, more=False))
            assert values(await self._result(worker, 2)) == {"sizes": [2]}

    async def test_both_ways_at_once(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"double": True}, flags=Flag.MORE | Flag.STREAM) + credit(2, 1000))
            left, _ = await granted(worker, 2)
            for number in range(300):
                while not left:
                    left, _ = await granted(worker, 2)
                left -= 1
                worker.say(part(2, {"x": bytes([number % 250])}, more=True))
                found = await worker.next()
                while isinstance(found, Frame) and found.kind == Kind.CREDIT:
                    left += found.number
                    found = await worker.next()
                assert isinstance(found, Frame)
                assert values(found) == {"x": bytes([number % 250] * 2)}
            worker.say(end(2))
            await self._result(worker, 2)

    async def test_parts_for_a_handler_that_does_not_look_are_ignored(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {}, flags=Flag.MORE))
            await worker.result(2)
            worker.say(part(2, {"x": b"late"}, more=True) + end(2) + infer(3))
            await worker.result(3)

    async def test_a_part_that_is_none_is_an_error_of_the_input(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            worker.say(infer(2, {"inputs": True}, flags=Flag.MORE))
            await granted(worker, 2)
            worker.say(pack(Kind.PART, b'{"tensors":[{"name":"x"}]}', request=2, flags=Flag.MORE) + end(2))
            while isinstance(found := await worker.next(), Frame) and found.kind == Kind.CREDIT:
                pass
            assert isinstance(found, Frame), found
            fields = found.fields()
            assert (found.kind, fields["kind"], fields["code"]) == (Kind.ERROR, "input", "input-invalid")
            worker.say(infer(3))
            await worker.result(3)

    async def test_a_part_without_credit_is_a_broken_stream(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("stream")
            # one part of the answer and no more: the handler stops asking, and what goes on coming is too much
            worker.say(infer(2, {"double": True}, flags=Flag.MORE | Flag.STREAM) + credit(2, 1))
            parts, _ = await granted(worker, 2)
            worker.say(b"".join(part(2, {"x": b"x"}, more=True) for _ in range(parts * 40)))
            while isinstance(found := await worker.next(), Frame) and found.kind in (Kind.CREDIT, Kind.PART):
                pass
            assert isinstance(found, Frame), found
            assert (found.kind, found.request, found.fields()["code"]) == (Kind.ERROR, 0, "bad-frame")

    @staticmethod
    async def _result(worker: Bare, request: int) -> Frame:
        """Return the result; credit that comes before it is not needed any more."""
        while isinstance(found := await worker.next(), Frame) and found.kind == Kind.CREDIT:
            pass
        assert isinstance(found, Frame), found
        assert (found.kind, found.request) == (Kind.RESULT, request), found
        return found


class TestSeals:
    async def test_sealed_inputs_are_run_by_handle_once(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("seal")
            worker.say(infer(2, kind=Kind.SEAL) + infer(3, kind=Kind.SEAL))
            one, two = [(await worker.result(request)).fields()["handle"] for request in (2, 3)]
            assert one != two
            assert len(one.encode()) <= 64
            for request, handle in ((4, two), (5, one)):
                self._run(worker, request, handle)
                assert values(await worker.result(request)) == {"x": "text"}
            self._run(worker, 6, one)
            error = await worker.error(6)
            assert (error["kind"], error["code"]) == ("input", "no-handle")

    async def test_a_handle_is_released_once(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("seal")
            worker.say(infer(2, kind=Kind.SEAL))
            handle = (await worker.result(2)).fields()["handle"]
            worker.frame(Kind.RELEASE, {"handle": handle}, request=3)
            await worker.result(3)
            for request, wrong in enumerate((handle, "never", "", None, 1, "__proto__"), start=4):
                worker.frame(Kind.RELEASE, {"handle": wrong}, request=request)
                assert (await worker.error(request))["kind"] == "input"
            self._run(worker, 20, handle)
            assert (await worker.error(20))["code"] == "no-handle"

    async def test_a_handle_is_used_up_by_a_run_that_is_cancelled_before_it_begins(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("seal")
            worker.say(infer(2, kind=Kind.SEAL))
            handle = (await worker.result(2)).fields()["handle"]
            worker.say(infer(3, {"sleep": 0.5}))
            self._run(worker, 4, handle)
            worker.control(Kind.CANCEL, 4)
            await worker.result(3)
            assert (await worker.error(4))["kind"] == "cancelled"
            self._run(worker, 5, handle)
            assert (await worker.error(5))["code"] == "no-handle"

    async def test_a_sealed_input_may_be_answered_in_parts(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("seal")
            worker.can("stream")
            worker.say(infer(2, {"parts": 2}, kind=Kind.SEAL))
            handle = (await worker.result(2)).fields()["handle"]
            self._run(worker, 3, handle, flags=Flag.STREAM)
            worker.say(credit(3, 9))
            assert [values(await worker.part(3))["number"] for _ in range(2)] == [0, 1]
            await worker.result(3)

    async def test_more_than_a_worker_keeps_is_refused_and_what_it_has_stays(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.can("seal")
            handles = []
            for request in range(2, 2000):
                worker.say(infer(request, kind=Kind.SEAL))
                answer = await worker.next()
                assert isinstance(answer, Frame)
                if answer.kind == Kind.ERROR:
                    assert (answer.fields()["kind"], answer.fields()["code"]) == ("busy", "too-much-sealed")
                    break
                handles.append(answer.fields()["handle"])
            self._run(worker, 3000, handles[0])
            await worker.result(3000)

    @staticmethod
    def _run(worker: Bare, request: int, handle: str, *, flags: int = 0) -> None:
        worker.say(pack(Kind.INFER, dump({"handle": handle}), request=request, flags=Flag.HANDLE | flags))


class TestTheLibrary:
    """The same by what a program calls: the driver's own end against every worker."""

    async def test_answers_and_inputs_in_parts_with_a_slow_reader(self, peer: Peer, tmp_path: Path) -> None:
        async with loaded(peer, tmp_path) as model:
            got = []
            do = Buffer(dump({"parts": 600, "size": 10}), "json", ())
            async for one in model.stream({"do": do}):
                got.append(one["number"])
                if len(got) % 200 == 0:
                    await asyncio.sleep(0.05)
            assert got == list(range(600))
            parts = [{"x": bytes([number % 256])} for number in range(300)]
            double = {"do": Buffer(b'{"double":true}', "json", ())}
            doubled = [one["x"] async for one in model.stream(double, parts=parts)]
            assert doubled == [bytes([number % 256] * 2) for number in range(300)]

    async def test_who_stops_reading_cancels_and_the_worker_goes_on(self, peer: Peer, tmp_path: Path) -> None:
        async with loaded(peer, tmp_path) as model:
            stream = model.stream({"do": Buffer(dump({"parts": 100_000}), "json", ())})
            assert (await anext(stream))["number"] == 0
            await stream.aclose()
            assert await model.infer({"x": "again"}) == {"x": "again"}
            assert model.session.lost is None

    async def test_sealed_inputs_run_by_handle_and_are_released(self, peer: Peer, tmp_path: Path) -> None:
        async with loaded(peer, tmp_path) as model:
            one, two = await model.seal({"x": "one"}), await model.seal({"x": "two"})
            assert await model.infer(two) == {"x": "two"}
            await model.release(one)
            with pytest.raises(HandleUnknown):
                await model.infer(one)


@contextlib.asynccontextmanager
async def loaded(peer: Peer, folder: Path) -> AsyncIterator[WorkerModel]:
    """Give the handler of all workers, as `load_unpacked` would."""
    host, plan = peer.host(folder), peer.plan(folder)
    model = WorkerModel(host, plan, await start(host, plan, arrays="buffer"), None)
    async with model:
        yield model
