"""The shortest way of a message says and reads the very bytes of the general one, or leaves it to that."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mer_worker import wire
from mer_worker.decoder import Decoder
from mer_worker.dtypes import NUMERIC
from mer_worker.layout import open_frame
from mer_worker.templates import MOST_SHORT, MOST_TEMPLATE_HEAD, MOST_TEMPLATES, Incoming, Outgoing
from mer_worker.tensors import Buffer, encode, values_of
from mer_worker.wire import Kind, WireError

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
names = st.text(min_size=1, max_size=8).filter(lambda name: name.isprintable())
buffers = st.tuples(st.sampled_from(sorted(NUMERIC)), shapes, st.binary(min_size=1, max_size=4)).map(
    lambda given: Buffer((given[2] * 2000)[: NUMERIC[given[0]] * int(np.prod(given[1], dtype=int))], given[0], given[1])
)
arrays = st.tuples(st.sampled_from(["float32", "int8", "uint16", ">f8", "complex64", "bool"]), shapes).map(
    lambda given: np.arange(int(np.prod(given[1], dtype=int))).astype(given[0]).reshape(given[1])
)
strided = arrays.map(lambda array: array[..., ::2].T if array.ndim else array)
texts = st.lists(st.text(max_size=6), max_size=6)
values = st.one_of(buffers, arrays, strided, texts, st.text(max_size=5), st.binary(max_size=5), st.integers(0, 9))


def general(outgoing: Outgoing, request: int, number: int, given: dict[str, Any]) -> bytes:
    """Return a frame by the general way, and have a form for the next one."""
    encoded = encode(given)
    made = b"".join(encoded.message(Kind.INFER, request, number=number, templates=outgoing))
    outgoing.learn(given, encoded.layout)
    return made


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bytes(b"".join(map(bytes, encode(one).segments))) == b"".join(map(bytes, encode(other).segments)) and (
        encode(one).descriptors == encode(other).descriptors
    )


@given(name=names, value=values, request=st.integers(1, 1 << 40), number=st.integers(0, (1 << 32) - 1))
def test_a_frame_of_a_form_is_the_frame_of_the_general_way(name, value, request, number):
    outgoing = Outgoing(Kind.INFER)
    assert outgoing.frame(request, number, {name: value}) is None  # its head was not named yet
    general(outgoing, request, number, {name: value})
    short = outgoing.frame(request, number, {name: value})
    assert short is None or short == general(outgoing, request, number, {name: value})


@given(name=names, value=values, arrays=st.sampled_from(["buffer", "numpy"]), writable=st.booleans())
def test_what_a_form_opens_is_what_the_general_way_opens(name, value, arrays, writable):
    outgoing, incoming = Outgoing(Kind.INFER), Incoming(Kind.INFER, arrays, writable=writable)
    decoder = Decoder(preamble=False, templates=incoming)
    decoder.feed(general(outgoing, 1, 0, {name: value}))
    raw = general(outgoing, 2, 7, {name: value})
    found = incoming.opened(raw)
    (received,) = decoder.feed(raw)
    layout, _, segments = open_frame(received)
    if found is not None:
        request, number, opened, known = found
        assert (request, number, known.descriptors) == (2, 7, layout.descriptors)
        assert same(opened, values_of(layout, segments, arrays))
    if found is not None and isinstance(value, np.ndarray) and arrays == "numpy":
        assert opened[name].flags.writeable == writable
        assert opened[name].flags.aligned


@given(value=st.one_of(buffers, arrays, texts), at=st.integers(0), to=st.integers(0, 255))
def test_a_byte_that_is_wrong_is_never_taken_for_right(value, at, to):
    outgoing, incoming = Outgoing(Kind.INFER), Incoming(Kind.INFER, "buffer", writable=False)
    decoder = Decoder(preamble=False, templates=incoming)
    decoder.feed(general(outgoing, 1, 0, {"x": value}))
    raw = bytearray(general(outgoing, 2, 7, {"x": value}))
    raw[at % len(raw)] = to
    found = incoming.opened(bytes(raw))
    if found is not None:
        (received,) = decoder.feed(raw)
        layout, _, segments = open_frame(received)
        assert (received.request, received.number) == found[:2]
        assert same(found[2], values_of(layout, segments, "buffer"))


@given(value=st.one_of(buffers, arrays, texts), cut=st.integers(0), more=st.binary(min_size=1, max_size=3))
def test_a_frame_that_is_not_whole_or_not_alone_is_left_to_the_general_way(value, cut, more):
    outgoing, incoming = Outgoing(Kind.INFER), Incoming(Kind.INFER, "buffer", writable=False)
    Decoder(preamble=False, templates=incoming).feed(general(outgoing, 1, 0, {"x": value}))
    raw = general(outgoing, 2, 7, {"x": value})
    assert incoming.opened(raw[: cut % len(raw)]) is None
    assert incoming.opened(raw + more) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 2 * MOST_TEMPLATES + 20), max_size=40), st.integers(0, 1 << 32))
def test_both_ends_agree_on_every_head_however_many_there_are_and_wherever_the_stream_is_cut(lengths, seed):
    outgoing, incoming = Outgoing(Kind.INFER), Incoming(Kind.INFER, "buffer", writable=False)
    decoder = Decoder(preamble=False, templates=incoming)
    lengths = [*range(1, 200), *lengths, *range(150, 420), *lengths]  # more than there are numbers
    stream, random = bytearray(), Random(seed)
    for request, length in enumerate(lengths, start=1):
        given = {"x": Buffer(bytes(length), "uint8", (length,))}
        stream += outgoing.frame(request, 0, given) or general(outgoing, request, 0, given)
    received = []
    while stream:
        count = random.choice((1, 7, 90, 5000, 70000))
        received += decoder.feed(bytes(stream[:count]))
        del stream[:count]
    assert [open_frame(frame)[0].descriptors[0].shape[0] for frame in received] == lengths


def test_a_number_that_was_never_given_or_cannot_be_is_a_broken_stream():
    decoder = Decoder(preamble=False, templates=Incoming(Kind.INFER, "buffer", writable=False))
    with pytest.raises(WireError, match="never given"):
        decoder.feed(wire.pack(Kind.INFER, request=1, template=3))
    for number, head in ((MOST_TEMPLATES + 1, b"{}"), (1, b"{" + b" " * MOST_TEMPLATE_HEAD + b"}")):
        decoder = Decoder(preamble=False, templates=Incoming(Kind.INFER, "buffer", writable=False))
        with pytest.raises(WireError, match="template"):
            decoder.feed(wire.pack(Kind.INFER, head, request=1, template=number))


def test_a_head_at_the_cap_has_a_number_and_one_past_it_none():
    outgoing = Outgoing(Kind.INFER)
    for over in (0, 1):
        one = Buffer(b"x", "int8", (1,))
        given = {f"{i:03}": one for i in range(92)}
        rest = MOST_TEMPLATE_HEAD + over - len(encode(given | {"n": one}).layout.head)
        given["n" * (1 + rest)] = one
        layout = encode(given).layout
        assert len(layout.head) == MOST_TEMPLATE_HEAD + over
        assert outgoing.named(layout) == ((1, layout.head) if not over else (0, layout.head))


def test_a_body_at_the_bound_of_short_ones_has_a_form_and_one_past_it_none():
    for size, short in ((MOST_SHORT - 64, True), (MOST_SHORT - 63, False)):
        outgoing = Outgoing(Kind.INFER)
        given = {"x": Buffer(bytes(size), "uint8", (size,))}
        general(outgoing, 1, 0, given)
        assert (outgoing.frame(2, 0, given) is not None) is short


def test_what_the_other_side_takes_bounds_a_form_too():
    outgoing = Outgoing(Kind.INFER, 100)
    given = {"x": Buffer(bytes(37), "uint8", (37,))}
    encoded = encode(given)
    outgoing.named(encoded.layout)
    outgoing.learn(given, encoded.layout)
    assert outgoing.frame(1, 0, given) is None
    assert outgoing.frame(1, 0, {"t": ["x" * 40]}) is None


class Odd:
    """A caller's value that only looks like one."""

    dtype, shape, data = "uint8", (4,), b"1234"


@pytest.mark.parametrize(
    "value",
    [
        Odd(),
        Buffer(b"12345", "uint8", (4,)),
        Buffer(memoryview(b"1234567")[::2], "uint8", (4,)),
        np.ma.masked_array([1, 2, 3, 4], dtype="uint8"),
        np.array([1, 2, 3, 4], dtype=">u2"),
        None,
    ],
    ids=["another class", "too long", "strided", "masked", "another byte order", "nothing"],
)
def test_values_that_only_look_like_a_form_are_left_to_the_general_way(value):
    outgoing = Outgoing(Kind.INFER)
    for known in (Buffer(b"1234", "uint8", (4,)), np.zeros(4, "uint8"), np.zeros(4, "uint16")):
        general(outgoing, 1, 0, {"x": known})
    assert outgoing.frame(2, 0, {"x": value}) is None


def test_a_run_time_beyond_the_header_is_left_to_the_general_way():
    outgoing = Outgoing(Kind.RESULT)
    given = {"x": Buffer(b"1234", "uint8", (4,))}
    general(outgoing, 1, 0, given)
    assert outgoing.frame(2, 1 << 32, given) is None


def test_the_bytes_are_those_of_the_page():
    outgoing = Outgoing(Kind.INFER)
    given = {"x": Buffer(bytes(range(8)), "float32", (2,))}
    first = general(outgoing, 2, 0, given)
    head = b'{"tensors":[{"name":"x","dtype":"float32","shape":[2]}]}'
    table = struct.pack("<Q56x", 8)
    assert first == struct.pack("<BBHIQIIQ", 3, 0, 1, 1, 2, len(head), 0, 72) + head + table + bytes(range(8))
    assert outgoing.frame(3, 5000, given) == struct.pack("<BBHIQIIQ", 3, 0, 1, 1, 3, 0, 5000, 72) + table + bytes(
        range(8)
    )
