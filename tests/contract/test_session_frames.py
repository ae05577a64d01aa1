"""What any worker answers to the frames themselves (docs/wire.md): said bare, without the driver's session."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from mer_worker import wire
from mer_worker.layout import open_frame, read_head
from mer_worker.loading import load_frame
from mer_worker.tensors import encode, values_of
from mer_worker.wire import HEADER, MAX_LOG_FRAME_BYTES, MAX_META_BYTES, Frame, Kind
from tests.support.peers import HELLO, Peer, bare

PLAIN = encode({"x": "text"})

WEIGHTS = {
    "python": """
        def load(weights):
            return lambda inputs: {"found": [len(weights), weights["layer.19999"].data[0]]}
    """,
    "javascript": """
        let weights;
        export function load(options, given) { weights = given; }
        export const handler = () => ({ found: [Object.keys(weights).length, weights["layer.19999"].data[0]] });
    """,
}
"""Handlers that tell how many weights they were given, and what is in the last one."""


def asked(request: int, values: dict[str, Any] | None = None, **given: Any) -> bytes:
    """Return an infer frame."""
    encoded = PLAIN if values is None else encode(values)
    return b"".join(bytes(piece) for piece in encoded.message(Kind.INFER, request, **given))


def spoilt(request: int, head: dict[str, Any] | bytes, body: bytes = b"", segments: int = 0) -> bytes:
    """Return an infer frame with any head, body and number of segments."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return HEADER.pack(Kind.INFER, 0, segments, 0, request, len(text), 0, len(body)) + text + body


def descriptors(*items: Any) -> dict[str, Any]:
    return {"tensors": list(items)}


def one(**given: Any) -> dict[str, Any]:
    """Return a head with one tensor of 4 bytes, whose descriptor has these entries instead of its own."""
    return descriptors({"name": "x", "dtype": "float32", "shape": [1]} | given)


def body(*segments: bytes) -> bytes:
    raw = struct.pack(f"<{len(segments)}Q", *map(len, segments))
    for segment in segments:
        raw += bytes(-len(raw) % 64) + segment
    return raw


class TestGreeting:
    async def test_a_worker_says_hello_by_itself_with_what_it_can_do(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path, greet=False) as worker:
            assert worker.hello["protocol"] == {"min": 1, "max": 1}
            assert peer.runner in worker.hello["runners"]
            assert ("control" if peer.control else "in-band") in worker.hello["capabilities"]
            assert worker.hello["limits"] == {"head": wire.MAX_HEAD_BYTES, "body": wire.MAX_BODY_BYTES}
            assert isinstance(worker.hello["pid"], int)

    async def test_versions_without_one_in_common_are_named_and_end_it(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path, greet=False) as worker:
            worker.say(wire.PREAMBLE)
            worker.frame(Kind.HELLO, HELLO | {"protocol": {"min": 2, "max": 7}})
            error = await worker.error(0)
            assert (error["kind"], error["code"]) == ("protocol", "version")
            assert "2 to 7" in error["message"]
            assert "1 to 1" in error["message"]
            await worker.end()

    async def test_a_newer_driver_that_still_speaks_the_version_is_served(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path, greet=False) as worker:
            worker.say(wire.PREAMBLE)
            worker.frame(Kind.HELLO, HELLO | {"protocol": {"min": 1, "max": 9}, "capabilities": ["flying"], "new": {}})
            worker.frame(Kind.LOAD, peer.plan(tmp_path).fields() | {"unknown": [1]}, request=1)
            await worker.result(1)

    async def test_a_load_may_come_with_the_hello_and_cut_anywhere(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path, greet=False) as worker:
            said = wire.PREAMBLE + wire.frame(Kind.HELLO, HELLO)
            said += wire.frame(Kind.LOAD, peer.plan(tmp_path).fields(), request=1) + asked(2) + asked(3)
            for at in range(0, len(said), 37):
                worker.say(said[at : at + 37])
                await asyncio.sleep(0)
            for request in (1, 2, 3):
                await worker.result(request)

    @pytest.mark.parametrize(
        "first",
        [
            b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n" * 1500,
            wire.PREAMBLE + asked(1),
            wire.PREAMBLE + wire.frame(Kind.HELLO, {"protocol": "1"}),
            wire.PREAMBLE + HEADER.pack(Kind.HELLO, 0, 0, 0, 0, 9, 0, 0) + b"no object",
        ],
        ids=["no preamble", "no hello", "no versions", "no JSON"],
    )
    async def test_anything_else_at_first_is_a_broken_stream(self, peer: Peer, tmp_path: Path, first: bytes) -> None:
        async with bare(peer, tmp_path, greet=False) as worker:
            worker.say(first)
            error = await worker.error(0)
            assert (error["kind"], error["code"]) == ("protocol", "bad-frame")
            await worker.end()


class TestRequests:
    async def test_frames_at_once_are_answered_each(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.say(b"".join(asked(request) for request in range(2, 52)))
            for request in range(2, 52):
                layout, meta = read_head(await worker.result(request))
                assert [tuple(told)[:3] for told in layout.descriptors] == [("x", "string", ())]
                assert meta == {}

    async def test_unknown_keys_flags_and_meta_are_ignored(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            raw = bytearray(asked(2))
            raw[1] = 0b11010000
            worker.say(bytes(raw))
            await worker.result(2)
            worker.say(spoilt(3, one(colour="red") | {"new": 1, "meta": {"unknown": [1]}}, body(bytes(4)), 1))
            await worker.result(3)

    async def test_an_unknown_kind_is_an_error_and_no_end(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            kinds = (200, Kind.RESULT, *(() if "blobs" in worker.hello["capabilities"] else (Kind.HAVE,)))
            for request, kind in enumerate(kinds, start=2):
                worker.frame(kind, {"digests": []}, request=request)
                error = await worker.error(request)
                assert (error["kind"], error["code"]) == ("protocol", "unknown-kind")
            worker.say(asked(9))
            await worker.result(9)

    async def test_kinds_of_capabilities_that_it_has_not_are_unknown(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            of_capability = {"batch": Kind.BATCH, "seal": Kind.SEAL, "blobs": Kind.PUT}
            for request, (name, kind) in enumerate(of_capability.items(), start=2):
                if name not in worker.hello["capabilities"]:
                    worker.frame(kind, {}, request=request)
                    assert (await worker.error(request))["code"] == "unknown-kind"

    async def test_a_request_before_a_model_is_loaded_is_an_error(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path, load=False) as worker:
            worker.say(asked(2))
            error = await worker.error(2)
            assert (error["kind"], error["code"]) == ("protocol", "not-loaded")

    async def test_a_runner_that_it_has_not_and_a_folder_that_is_not_there_are_errors(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with bare(peer, tmp_path, load=False) as worker:
            fields = peer.plan(tmp_path).fields()
            for request, (changed, code) in enumerate(
                [({"runner": "fortran"}, "no-runner"), ({"folder": "/nonexistent"}, "no-package")], start=1
            ):
                worker.frame(Kind.LOAD, fields | changed, request=request)
                error = await worker.error(request)
                assert (error["kind"], error["code"]) == ("load", code)
            worker.frame(Kind.LOAD, fields, request=3)
            await worker.result(3)
            worker.frame(Kind.LOAD, fields, request=4)
            assert (await worker.error(4))["code"] == "already-loaded"

    async def test_a_list_of_weights_may_be_longer_than_any_head(self, peer: Peer, tmp_path: Path) -> None:
        source = WEIGHTS[peer.runner]
        (tmp_path / "tensor").write_bytes(b"\x07")
        weights = [[f"layer.{number}", "uint8", [1], str(tmp_path / "tensor")] for number in range(20_000)]
        async with bare(peer, tmp_path, load=False) as worker:
            fields = peer.plan(tmp_path, source=source).fields()
            worker.frame(Kind.LOAD, fields, request=1, body=b'{"layer.0": 1}')
            assert (await worker.error(1))["kind"] in ("protocol", "input")
            frame = load_frame(fields | {"weights": weights}, 2)
            assert len(frame) > wire.MAX_HEAD_BYTES
            worker.say(frame)
            await worker.result(2)
            worker.say(asked(3))
            layout, _, segments = open_frame(await worker.result(3))
            assert values_of(layout, segments, "buffer") == {"found": [20_000, 7]}

    async def test_the_pong_of_a_busy_worker_says_with_what_and_since_when(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.control(Kind.PING, 7)
            pong = await worker.next()
            assert isinstance(pong, Frame)
            assert (pong.kind, pong.request, pong.fields()) == (Kind.PONG, 7, {"clock": pong.fields()["clock"]})
            worker.say(asked(2, {"do": {"sleep": 30}}))
            await asyncio.sleep(0.3)
            worker.control(Kind.PING, 1 << 63)
            pong = await worker.next()
            assert isinstance(pong, Frame)
            assert (pong.kind, pong.request) == (Kind.PONG, 1 << 63)
            assert pong.fields()["busy"]["request"] == 2
            assert 100 < pong.fields()["busy"]["milliseconds"] < 20_000
            worker.control(Kind.CANCEL, 2)
            assert (await worker.error(2))["kind"] == "cancelled"

    async def test_a_cancel_before_its_request_stops_it(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.control(Kind.CANCEL, 5)
            worker.control(Kind.PING, 1)  # what was said before it was heard when it is answered
            assert isinstance(await worker.next(), Frame)
            worker.say(asked(5))
            assert (await worker.error(5))["kind"] == "cancelled"
            worker.say(asked(6))
            await worker.result(6)

    async def test_log_frames_keep_to_their_cap(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.say(asked(2, {"do": {"print": "y" * 200_000}}))
            await worker.result(2)
            assert len(worker.logs) >= 4
            assert all(len(log.body) <= MAX_LOG_FRAME_BYTES and log.request == 2 for log in worker.logs)
            assert b"".join(bytes(log.body) for log in worker.logs) == b"y" * 200_000 + b"\n"


REFUSED: dict[str, tuple[dict[str, Any] | bytes, bytes, int]] = {
    "no JSON": (b"{", b"", 0),
    "no object": (b"[]", b"", 0),
    "no UTF-8": (b'{"a":"\xff"}', b"", 0),
    "NaN": (b'{"tensors":[],"meta":{"x":NaN}}', b"", 0),
    "tensors are no list": ({"tensors": {}}, b"", 0),
    "a descriptor is no object": (descriptors(1), body(bytes(4)), 1),
    "no name": (one(name=""), body(bytes(4)), 1),
    "a name that is no text": (one(name=1), body(bytes(4)), 1),
    "a name one past its cap": (one(name="é" * 128 + "x"), body(bytes(4)), 1),
    "a name twice": (
        descriptors({"name": "x", "dtype": "bytes", "shape": []}, {"name": "x", "dtype": "bytes", "shape": []}),
        body(b"", b""),
        2,
    ),
    "an unknown dtype": (one(dtype="float31"), body(bytes(4)), 1),
    "a dtype of Object.prototype": (one(dtype="constructor"), body(bytes(4)), 1),
    "no shape": (one(shape=None), body(bytes(4)), 1),
    "a negative length": (one(shape=[-1]), body(bytes(4)), 1),
    "a length that is no integer": (one(shape=[1.5]), body(bytes(4)), 1),
    "a length of 2^63": (one(shape=[0, 1 << 63]), body(b""), 1),
    "a dimension too many": (one(shape=[1] * 33), body(bytes(4)), 1),
    "bytes with a shape": (one(dtype="bytes", shape=[4]), body(bytes(4)), 1),
    "JSON that is none": (one(dtype="json", shape=[]), body(b"{nul"), 1),
    "JSON that is NaN": (one(dtype="json", shape=[]), body(b"NaN"), 1),
    "a nested one without inner": (one(dtype="nested"), body(bytes(4)), 1),
    "nested in nested": (
        descriptors({"name": "x", "dtype": "nested", "inner": [{"dtype": "nested", "inner": []}]}),
        b"",
        0,
    ),
    "a segment too short": (one(), body(bytes(3)), 1),
    "a segment too long": (one(), body(bytes(5)), 1),
    "a segment past the body": (one(), body(bytes(4))[:-1], 1),
    "a body past its segments": (one(), body(bytes(4)) + b"\0", 1),
    "a body within its table": (one(), bytes(4), 1),
    "a table that lies": (one(), struct.pack("<Q", 1 << 63) + bytes(60), 1),
    "fewer segments than tensors": (one(), body(), 0),
    "more segments than tensors": (descriptors(), body(bytes(4)), 1),
    "strings shorter than their lengths": (one(dtype="string", shape=[2]), body(bytes(7)), 1),
    "strings past their segment": (one(dtype="string"), body(struct.pack("<I", 9) + b"short"), 1),
    "bytes behind the last string": (one(dtype="string"), body(struct.pack("<I", 1) + b"ab"), 1),
    "strings that are no UTF-8": (one(dtype="string"), body(struct.pack("<I", 1) + b"\xff"), 1),
    "too many strings": (one(dtype="string", shape=[(1 << 24) + 1]), body(b""), 1),
    "a meta that is no object": ({"tensors": [], "meta": 1}, b"", 0),
    "a meta one past its cap": ({"tensors": [], "meta": {"x": "y" * (MAX_META_BYTES - 7)}}, b"", 0),
}


class TestWhatIsRefused:
    async def test_a_request_that_is_not_as_it_must_be_is_refused_and_the_next_one_served(
        self, peer: Peer, tmp_path: Path
    ) -> None:
        async with bare(peer, tmp_path) as worker:
            for request, (name, wrong) in enumerate(REFUSED.items(), start=2):
                worker.say(spoilt(request, *wrong))
                error = await worker.error(request)
                assert (error["kind"], error["code"]) == ("input", "input-invalid"), name
            worker.say(asked(1000))
            await worker.result(1000)

    async def test_what_is_at_its_cap_is_taken(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            for request, head in enumerate(
                [
                    one(name="é" * 128),
                    one(shape=[1] * 32),
                    one() | {"meta": {"x": "y" * (MAX_META_BYTES - 8)}},
                    one() | {"filler": "z" * (wire.MAX_HEAD_BYTES - 83)},
                ],
                start=2,
            ):
                worker.say(spoilt(request, head, body(bytes(4)), 1))
                await worker.result(request)
            many = descriptors(*({"name": f"t{i}", "dtype": "uint8", "shape": [0]} for i in range(wire.MAX_SEGMENTS)))
            worker.say(spoilt(99, many, body(*[b""] * wire.MAX_SEGMENTS), wire.MAX_SEGMENTS))
            await worker.result(99)

    async def test_json_may_nest_200_deep_and_no_depth_breaks_a_worker(self, peer: Peer, tmp_path: Path) -> None:
        def nested(depth: int) -> bytes:
            return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

        async with bare(peer, tmp_path) as worker:
            worker.say(spoilt(2, nested(200)))
            await worker.result(2)
            worker.say(spoilt(3, nested(400_000)))
            answer = await worker.next()
            assert isinstance(answer, Frame)
            assert (answer.kind in (Kind.RESULT, Kind.ERROR), answer.request) == (True, 3)
            worker.say(asked(4))
            await worker.result(4)

    @pytest.mark.parametrize(
        "header",
        [
            (0, 0, 0, 0, 2, 0, 0, 0),
            (3, 0, 0, 0, 2, wire.MAX_HEAD_BYTES + 1, 0, 0),
            (3, 0, 0, 0, 2, 0, 0, wire.MAX_BODY_BYTES + 1),
            (3, 0, 0, 0, 2, 0, 0, (1 << 64) - 1),
            (3, 0, wire.MAX_SEGMENTS + 1, 0, 2, 0, 0, 0),
        ],
        ids=["kind 0", "head", "body", "largest body", "segments"],
    )
    async def test_a_length_past_its_cap_is_a_broken_stream(
        self, peer: Peer, tmp_path: Path, header: tuple[int, ...]
    ) -> None:
        async with bare(peer, tmp_path, load=False) as worker:
            worker.say(HEADER.pack(*header))
            error = await worker.error(0)
            assert (error["kind"], error["code"]) == ("protocol", "bad-frame")
            await worker.end()

    async def test_an_answer_is_no_larger_than_the_driver_takes(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path, greet=False) as worker:
            worker.say(wire.PREAMBLE)
            worker.frame(Kind.HELLO, HELLO | {"limits": {"head": 1 << 20, "body": 1000}})
            worker.frame(Kind.LOAD, peer.plan(tmp_path).fields(), request=1)
            await worker.result(1)
            worker.say(asked(2, {"do": {"large": 936}}))
            assert len((await worker.result(2)).body) == 1000
            worker.say(asked(3, {"do": {"large": 937}}))
            assert (await worker.error(3))["kind"] == "output"


class TestTheEnd:
    async def test_an_error_of_the_driver_with_request_0_ends_it(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.frame(Kind.ERROR, {"kind": "protocol", "code": "bad-frame", "message": "no"})
            await worker.end()

    async def test_a_shutdown_ends_it(self, peer: Peer, tmp_path: Path) -> None:
        async with bare(peer, tmp_path) as worker:
            worker.frame(Kind.SHUTDOWN)
            assert await worker.end() == "ended with status 0"
