"""Messages with segments in shared memory: the page's example, what is refused, and that nothing of them is lost."""

from __future__ import annotations

import json
import os
import struct

import numpy
import pytest

from mer_worker.decoder import Decoder
from mer_worker.layout import open_frame
from mer_worker.memory import GRAIN, OwnFile, TheirFile
from mer_worker.outputs import Outputs
from mer_worker.shared import SHARED_FROM, Sharing, goes_shared, shares
from mer_worker.tensors import encode, values_of
from mer_worker.wire import Flag, Frame, FrameTooLarge, Kind, WireError
from tests.unit.test_wire import EXAMPLE, PAGE

SIZE = 2 << 20


@pytest.fixture
def sharing():
    """Both ends of one file: what is sent is what is received."""
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, SIZE)
    both = Sharing(TheirFile(descriptor, SIZE), OwnFile(descriptor, SIZE))
    yield both
    both.close()


def sent(sharing: Sharing, **values: object) -> Frame:
    encoded = encode(values)
    assert goes_shared(encoded)
    pieces = sharing.place(encoded).message(encoded, Kind.INFER, 5)
    (frame,) = decoded(sharing, b"".join(pieces))
    return frame


def decoded(sharing: Sharing, raw: bytes) -> list[Frame]:
    decoder = Decoder(preamble=False)
    decoder.claim = sharing.claim
    return decoder.feed(raw)


def opened(frame: Frame) -> dict[str, object]:
    layout, _, segments = open_frame(frame)
    return values_of(layout, segments, "numpy")


def test_the_example_of_the_page(sharing):
    (match,) = [match for match in EXAMPLE.finditer(PAGE.read_text()) if '"at"' in match["said"]]
    raw = bytes.fromhex("".join(line[6:53] for line in match["dump"].splitlines()))
    said = json.loads(match["said"])
    x, y = said["tensors"]
    values = {"x": numpy.ones(x["shape"], x["dtype"]), "y": numpy.frombuffer(bytes.fromhex(y["bytes"]), y["dtype"])}
    encoded = encode(values)
    placed = sharing.place(encoded)
    assert placed.starts == [x["at"], 0]
    assert b"".join(placed.message(encoded, Kind.INFER, said["request"])).hex(" ") == raw.hex(" ")
    (frame,) = decoded(sharing, raw)
    assert frame.flags == said["flags"] == Flag.SHARED
    assert all((opened_value == values[name]).all() for name, opened_value in opened(frame).items())


def test_a_frame_that_is_dropped_gives_its_segments_back(sharing):
    frame = sent(sharing, x=numpy.zeros(SHARED_FROM), y=numpy.zeros(SHARED_FROM))
    assert sharing.own.used == 16 * SHARED_FROM
    del frame
    sharing.settle()
    assert sharing.own.used == 0


def test_places_that_no_message_takes_are_free_again(sharing):
    encoded = encode({"x": numpy.zeros(SHARED_FROM)})
    placed = sharing.place(encoded)
    with pytest.raises(WireError):
        placed.message(encoded, Kind.INFER, 1, meta={"x": "y" * 20_000})
    with pytest.raises(FrameTooLarge):
        placed.message(encoded, Kind.INFER, 1, most=100)
    del placed
    assert sharing.own.used == 0


def test_what_is_encoded_is_let_go(sharing):
    """An input that is answered as it is must be free before the answer is sent."""
    frame = sent(sharing, x=numpy.zeros(SHARED_FROM))
    echoed = encode(opened(frame))
    assert sharing.place(echoed).message(echoed, Kind.RESULT, 5)
    sharing.settle()
    assert sharing.own.used == 8 * SHARED_FROM  # the answer, and no input


@pytest.mark.parametrize("kept", [False, True])
def test_an_output_made_in_place_is_sent_from_there_unless_somebody_keeps_it(sharing, kept):
    made = Outputs("numpy", sharing).empty((SHARED_FROM,), "float64")
    made[:] = 7
    held = made if kept else None
    encoded = encode({"x": made})
    del made
    lent = sharing.own.lent_at(encoded.segments[0])
    placed = sharing.place(encoded)
    assert (placed.starts[0] == lent) is not kept
    (frame,) = decoded(sharing, b"".join(placed.message(encoded, Kind.RESULT, 1)))
    if held is not None:
        held[:] = 8
    assert (opened(frame)["x"] == 7).all()
    del frame, held, encoded
    sharing.settle()
    assert sharing.own.used == 0


def table(*entries: tuple[int, int], inline: bytes = b"") -> Frame:
    body = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    body += bytes(-len(body) % 64) + inline if inline else b""
    return Frame(Kind.RESULT, Flag.SHARED, len(entries), body=body)


@pytest.mark.parametrize(
    "frame",
    [
        table((GRAIN, SIZE)),
        table((GRAIN + 64, 8)),
        table((64, 8)),
        table((GRAIN, 0)),
        table((SIZE, 8)),
        table((1 << 63, 1 << 63)),
        table((0, 8)),
        table((0, 8), inline=b"1234567"),
        table((0, 8), inline=b"123456789"),
        Frame(Kind.RESULT, Flag.SHARED, 2, body=bytes(16)),
        Frame(Kind.RESULT, Flag.SHARED, 0, body=bytes(16)),
        table(*[(GRAIN, SIZE - GRAIN)] * 600),
    ],
)
def test_a_table_that_cannot_be_is_refused(sharing, frame):
    with pytest.raises(WireError):
        sharing.claim(frame)
    sharing.settle()
    assert sharing.theirs.held == 0


def test_segments_that_disagree_with_their_descriptors_are_refused(sharing):
    frame = sent(sharing, x=numpy.zeros(SHARED_FROM))
    frame.head = frame.head.replace(b"%d" % SHARED_FROM, b"%d" % (SHARED_FROM - 1))
    with pytest.raises(WireError, match="segments of"):
        opened(frame)


def test_shared_segments_without_shared_memory_are_refused():
    frame = table((GRAIN, 8))
    frame.head = b'{"tensors":[{"name":"x","dtype":"uint8","shape":[8]}]}'
    with pytest.raises(WireError, match="which this conversation has not"):
        open_frame(frame)


@pytest.mark.parametrize(
    ("hello", "does"),
    [
        ({"capabilities": ["shared-memory"], "memory": {"layout": 1}}, True),
        ({"capabilities": ["shared-memory"], "memory": {"layout": 2}}, False),
        ({"capabilities": ["shared-memory"]}, False),
        ({"capabilities": [], "memory": {"layout": 1}}, False),
        ({"capabilities": 7, "memory": 7}, False),
    ],
)
def test_who_shares_says_so(hello, does):
    assert shares(hello) is does
