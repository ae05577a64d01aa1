"""The codec against docs/wire.md: its examples in both directions, and every cap at the cap and one past it."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from mer_worker import wire
from mer_worker.decoder import Decoder
from mer_worker.dtypes import NESTED
from mer_worker.layout import Descriptor, Layout, layout_of, place, read_head, segments_of, table, with_meta
from mer_worker.tensors import encode
from mer_worker.wire import HEADER, Frame, FrameTooLarge, Kind, Limits, VersionMismatch, WireError

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
EXAMPLE = re.compile(r"^### (?P<title>.+)\n\n```json\n(?P<said>.+)\n```\n\n```hex\n(?P<dump>(?:.+\n)+)```", re.M)


def examples() -> list[Any]:
    found = []
    for match in EXAMPLE.finditer(PAGE.read_text()):
        if '"at"' in match["said"]:  # in shared memory: test_shared_messages
            continue
        raw = bytes.fromhex("".join(line[6:53] for line in match["dump"].splitlines()))
        found.append(pytest.param(json.loads(match["said"]), raw, id=match["title"]))
    return found


def descriptors(said: list[dict[str, Any]]) -> tuple[tuple[Descriptor, ...], list[bytes]]:
    described, segments = [], []
    for one in said:
        inner = tuple(Descriptor("", part["dtype"], tuple(part["shape"])) for part in one.get("inner", ()))
        shape = (len(inner),) if one["dtype"] == NESTED else tuple(one["shape"])
        described.append(Descriptor(one["name"], one["dtype"], shape, inner))
        segments += [bytes.fromhex(part["bytes"]) for part in one.get("inner", (one,))]
    return tuple(described), segments


def received(raw: bytes, decoder: Decoder | None = None, *, step: int = 1 << 20) -> list[Frame]:
    """Feed bytes in pieces of at most `step`."""
    decoder = decoder or Decoder(preamble=False)
    frames: list[Frame] = []
    while raw:
        room = decoder.buffer()
        count = min(len(room), len(raw), step)
        room[:count] = raw[:count]
        raw = raw[count:]
        frames += decoder.received(count)
    return frames


def header(kind: int = Kind.PING, *, segments: int = 0, head: int = 0, body: int = 0) -> bytes:
    return HEADER.pack(kind, 0, segments, 0, 1, head, 0, body)


def test_the_page_has_examples():
    assert len(examples()) >= 10


@pytest.mark.parametrize(("said", "raw"), examples())
def test_an_example_of_the_page_is_encoded_to_its_bytes(said, raw):
    number, request, flags = said.get("number", 0), said.get("request", 0), said.get("flags", 0)
    kind = getattr(Kind, said["kind"].upper())
    if "tensors" in said:
        described, segments = descriptors(said["tensors"])
        sizes = [len(segment) for segment in segments]
        offsets, total = place(sizes)
        body = bytearray(total)
        body[: len(table(sizes)[:total])] = table(sizes)[:total]
        for offset, segment in zip(offsets, segments, strict=True):
            body[offset : offset + len(segment)] = segment
        head = layout_of(described).head
        made = (
            wire.pack(kind, head, request=request, flags=flags, number=number, segments=len(segments), body_bytes=total)
            + body
        )
    else:
        head, content = said.get("head"), bytes.fromhex(said.get("body", ""))
        text = wire.dump(head) if head else b""
        made = wire.pack(kind, text, request=request, flags=flags, number=number, body_bytes=len(content)) + content
    assert made.hex(" ") == raw[8 if said.get("preamble") else 0 :].hex(" ")
    assert not said.get("preamble") or raw.startswith(wire.PREAMBLE)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize(("said", "raw"), examples())
def test_an_example_of_the_page_is_decoded_to_what_it_says(said, raw, step):
    (frame,) = received(raw, Decoder(preamble=bool(said.get("preamble"))), step=step)
    assert wire.KIND_NAMES[frame.kind] == said["kind"]
    assert (frame.request, frame.number) == (said.get("request", 0), said.get("number", 0))
    assert frame.flags == said.get("flags", 0)
    if "tensors" in said:
        layout, meta = read_head(frame)
        assert meta == {}
        assert (layout.descriptors, [bytes(s) for s in segments_of(layout, frame)]) == descriptors(said["tensors"])
    else:
        assert frame.fields() == said.get("head", {})
        assert bytes(frame.body).hex() == said.get("body", "")


def test_every_kind_of_the_page_has_its_number_here():
    rows = dict(re.findall(r"^\| (\d+) \| ([a-z]+) \|", PAGE.read_text(), re.M))
    assert {int(number): name for number, name in rows.items()} == wire.KIND_NAMES


def test_a_body_begins_at_a_multiple_of_64_in_memory():
    from array import array

    from mer_worker.bodies import aligned

    for size in (1, 64, 100_000, 1 << 20):
        view = aligned(size)
        assert len(view) == size
        held = view.obj
        if isinstance(held, array):
            begins = memoryview(held)
            address = held.buffer_info()[0] + begins.nbytes - (size + wire.ALIGNMENT - 1) if size else 0
            view[0] = 7
            at = bytes(begins).index(7)
            assert (address + at) % wire.ALIGNMENT == 0


class TestCaps:
    def test_a_head_at_the_cap_is_taken(self):
        text = b'{"a":"' + b"x" * (wire.MAX_HEAD_BYTES - 8) + b'"}'
        (frame,) = received(header(head=len(text)) + text)
        assert len(frame.head) == wire.MAX_HEAD_BYTES

    def test_a_head_past_the_cap_is_refused_before_it_comes(self):
        with pytest.raises(FrameTooLarge, match="head"):
            received(header(head=wire.MAX_HEAD_BYTES + 1))

    def test_a_head_past_the_receivers_own_cap_is_refused_even_if_all_of_it_came(self):
        assert received(header(head=2) + b"{}", Decoder(Limits(head=2), preamble=False))
        with pytest.raises(FrameTooLarge, match="head of 3"):
            received(header(head=3) + b"{ }", Decoder(Limits(head=2), preamble=False))

    def test_a_head_past_the_cap_is_not_sent(self):
        assert wire.pack(Kind.LOAD, b"x" * wire.MAX_HEAD_BYTES)
        with pytest.raises(FrameTooLarge, match="head"):
            wire.pack(Kind.LOAD, b"x" * (wire.MAX_HEAD_BYTES + 1))
        many = encode({f"{'n' * 245}{number:04}": 1 for number in range(wire.MAX_SEGMENTS)})
        with pytest.raises(FrameTooLarge, match="head"):
            many.message(Kind.INFER, 1)

    def test_a_body_at_the_cap_is_taken(self):
        (frame,) = received(header(body=1000) + bytes(1000), Decoder(Limits(body=1000), preamble=False))
        assert len(frame.body) == 1000

    def test_a_body_past_the_cap_is_refused_before_it_comes(self):
        with pytest.raises(FrameTooLarge, match="body"):
            received(header(body=1001), Decoder(Limits(body=1000), preamble=False))
        with pytest.raises(FrameTooLarge, match="body"):
            received(header(body=wire.MAX_BODY_BYTES + 1))

    def test_segments_at_the_cap_are_taken_and_one_more_is_refused(self):
        assert len(received(header(segments=wire.MAX_SEGMENTS))) == 1
        with pytest.raises(FrameTooLarge, match="segments"):
            received(header(segments=wire.MAX_SEGMENTS + 1))

    def test_noise_at_the_cap_is_log_and_one_byte_more_is_refused(self):
        decoder = Decoder()
        frames = received(b"n" * wire.MAX_NOISE_BYTES + wire.PREAMBLE + header(), decoder)
        assert len(frames) == 1
        assert decoder.noise() == b"n" * wire.MAX_NOISE_BYTES
        with pytest.raises(WireError, match="no preamble"):
            received(b"n" * (wire.MAX_NOISE_BYTES + 1) + wire.PREAMBLE + header(), Decoder())

    def test_a_name_at_the_cap_is_taken_and_one_byte_more_is_refused(self):
        assert self._read([{"name": "n" * wire.MAX_NAME_BYTES, "dtype": "int8", "shape": []}])
        with pytest.raises(WireError, match="name of 257"):
            self._read([{"name": "n" * (wire.MAX_NAME_BYTES + 1), "dtype": "int8", "shape": []}])

    def test_a_rank_at_the_cap_is_taken_and_one_more_is_refused(self):
        assert self._read([{"name": "n", "dtype": "int8", "shape": [1] * wire.MAX_RANK}])
        with pytest.raises(WireError, match="shape"):
            self._read([{"name": "n", "dtype": "int8", "shape": [1] * (wire.MAX_RANK + 1)}])

    def test_a_meta_at_the_cap_is_taken_and_one_byte_more_is_refused(self):
        layout = layout_of(())
        for extra, fits in ((0, True), (1, False)):
            meta = {"a": "x" * (wire.MAX_META_BYTES - 8 + extra)}
            head = wire.dump({"tensors": [], "meta": meta})
            if fits:
                assert with_meta(layout, meta) == head
                assert read_head(Frame(Kind.INFER, head=head))[1] == meta
            else:
                with pytest.raises(WireError, match="meta"):
                    with_meta(layout, meta)
                with pytest.raises(WireError, match="meta"):
                    read_head(Frame(Kind.INFER, head=head))

    def test_inner_tensors_count_as_segments(self):
        inner = tuple(Descriptor("", "int8", ()) for _ in range(wire.MAX_SEGMENTS))
        assert len(Layout([Descriptor("n", NESTED, (len(inner),), inner)]).leaves) == wire.MAX_SEGMENTS
        with pytest.raises(WireError, match="4097 tensors"):
            Layout([Descriptor("n", NESTED, (len(inner),), inner), Descriptor("m", "int8", ())])

    @staticmethod
    def _read(tensors: list[dict[str, Any]]) -> Layout:
        return read_head(Frame(Kind.INFER, head=wire.dump({"tensors": tensors})))[0]


@pytest.mark.parametrize(
    "head",
    [
        b"[]",
        b"nonsense",
        b"\xff",
        b'{"tensors":{}}',
        b'{"tensors":[1]}',
        b'{"tensors":[{"name":"","dtype":"int8","shape":[]}]}',
        b'{"tensors":[{"name":"x","dtype":"int7","shape":[]}]}',
        b'{"tensors":[{"name":"x","dtype":"int8"}]}',
        b'{"tensors":[{"name":"x","dtype":"int8","shape":[-1]}]}',
        b'{"tensors":[{"name":"x","dtype":"int8","shape":[1.0]}]}',
        b'{"tensors":[{"name":"x","dtype":"int8","shape":[true]}]}',
        b'{"tensors":[{"name":"x","dtype":"int8","shape":[9223372036854775808]}]}',
        b'{"tensors":[{"name":"x","dtype":"int8","shape":[]},{"name":"x","dtype":"int8","shape":[]}]}',
        b'{"tensors":[{"name":"x","dtype":"bytes","shape":[2]}]}',
        b'{"tensors":[{"name":"x","dtype":"nested","inner":[{"dtype":"nested","inner":[]}]}]}',
        b'{"tensors":[{"name":"x","dtype":"int64","shape":[9223372036854775807,9223372036854775807]}]}',
        b'{"tensors":[{"name":"\\ud800","dtype":"int8","shape":[]}]}',
        b'{"meta":[]}',
        b'{"x":NaN}',
        b'{"x":[-Infinity]}',
        '{"x":1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"x":1}',
        b"[" * 100_000,
    ],
)
def test_a_head_that_is_wrong_is_refused(head):
    with pytest.raises(WireError):
        read_head(Frame(Kind.INFER, head=head))


@pytest.mark.parametrize(
    ("sizes", "body_bytes", "segments"),
    [((4,), 68, 2), ((5,), 69, 1), ((4,), 67, 1), ((4,), 69, 1), ((4,), 4, 1), ((2**64 - 1,), 68, 1)],
)
def test_a_body_that_disagrees_with_its_head_is_refused(sizes, body_bytes, segments):
    layout = Layout([Descriptor("x", "float32", (1,))])
    body = (struct.pack(f"<{len(sizes)}Q", *sizes) + bytes(200))[:body_bytes]
    with pytest.raises(WireError):
        segments_of(layout, Frame(Kind.INFER, segments=segments, body=body))


class TestVersions:
    @pytest.mark.parametrize("spoken", [{"min": 1, "max": 1}, {"min": 0, "max": 1}, {"min": 1, "max": 9}])
    def test_ranges_that_meet_agree(self, spoken):
        assert wire.agree({"protocol": spoken}) == 1

    @pytest.mark.parametrize("spoken", [{"min": 2, "max": 3}, {"min": 0, "max": 0}])
    def test_ranges_that_do_not_meet_are_named(self, spoken):
        with pytest.raises(VersionMismatch, match=f"{spoken['min']} to {spoken['max']}, this one 1 to 1"):
            wire.agree({"protocol": spoken})

    @pytest.mark.parametrize("hello", [{}, {"protocol": 1}, {"protocol": {"min": "1", "max": 2}}])
    def test_a_hello_that_does_not_say_is_no_hello(self, hello):
        with pytest.raises(WireError):
            wire.agree(hello)


def test_a_frame_of_kind_zero_is_no_frame():
    with pytest.raises(WireError, match="kind 0"):
        received(bytes(32))


def test_not_a_number_has_no_form():
    with pytest.raises(WireError):
        wire.dump({"a": float("nan")})
