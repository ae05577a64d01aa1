"""Whatever bytes come, in whatever pieces: frames, or WireError; never a hang, another error, or memory beyond the cap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mer_worker import wire
from mer_worker.decoder import Decoder
from mer_worker.layout import read_head, segments_of
from mer_worker.tensors import values_of
from mer_worker.wire import HEADER, Frame, Limits, WireError

SMALL = Limits(head=4096, body=200_000)

HEADS = st.binary(max_size=60) | st.sampled_from([b"", b"{}", b'{"a":1}', b"x" * 4096])


@st.composite
def frames(draw: st.DrawFn) -> tuple[list[tuple[int, int, bytes, bytes]], bytes]:
    """Draw frames, as (kind, request, head, body), and their bytes."""
    made = []
    raw = b""
    for _ in range(draw(st.integers(0, 6))):
        kind, request = draw(st.integers(1, 255)), draw(st.integers(0, 2**64 - 1))
        head = draw(HEADS)
        size = draw(st.sampled_from([0, 1, 63, 64, 1000, 65_536, 131_072, 200_000]))
        body = (draw(st.binary(min_size=1, max_size=1)) * size)[:size]
        made.append((kind, request, head, body))
        raw += wire.pack(kind, head, request=request, body_bytes=len(body)) + body
    return made, raw


def feed(decoder: Decoder, raw: bytes, cuts: list[int]) -> list[Frame]:
    found: list[Frame] = []
    at, turn = 0, 0
    while at < len(raw):
        room = decoder.buffer()
        assert len(room) > 0
        count = min(len(room), len(raw) - at, cuts[turn % len(cuts)])
        room[:count] = raw[at : at + count]
        at, turn = at + count, turn + 1
        found += decoder.received(count)
    return found


@given(frames(), st.lists(st.integers(1, 70_000) | st.integers(1, 40), min_size=1, max_size=8), st.booleans())
def test_frames_survive_any_cutting(made, cuts, preamble):
    said, raw = made
    if min(cuts) < 20 and len(raw) > 20_000:
        cuts = [*cuts, 65_536]
    decoder = Decoder(SMALL, preamble=preamble)
    found = feed(decoder, (b"Welcome!\n" + wire.PREAMBLE if preamble else b"") + raw, cuts)
    assert [(f.kind, f.request, f.head, bytes(f.body)) for f in found] == said
    assert decoder.between_frames


@given(st.binary(max_size=500), st.lists(st.integers(1, 100), min_size=1, max_size=4), st.booleans())
def test_garbage_gives_frames_or_a_wire_error(raw, cuts, preamble):
    decoder = Decoder(SMALL, preamble=preamble)
    try:
        for frame in feed(decoder, raw, cuts):
            assert len(frame.head) <= SMALL.head
            assert len(frame.body) <= SMALL.body
    except WireError:
        pass


@given(
    st.tuples(st.integers(0, 30), st.integers(0, 255), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    st.integers(0, 200) | st.integers(0, 2**32 - 1),
    st.integers(0, 400) | st.integers(0, 2**64 - 1),
    st.binary(max_size=600),
)
def test_a_plausible_header_with_garbage_behind_gives_frames_or_a_wire_error(first, head, body, rest):
    kind, flags, segments, template, request = first
    raw = HEADER.pack(kind, flags, segments, template, request, head, 0, body) + rest
    try:
        for frame in feed(Decoder(SMALL, preamble=False), raw, [64]):
            layout, _ = read_head(frame)
            values_of(layout, segments_of(layout, frame), "buffer")
    except WireError:
        pass


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.text(max_size=4)
    | st.sampled_from(["int8", "string", "nested"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["tensors", "name", "dtype", "shape", "inner", "meta"]), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(JSON, st.integers(0, 4), st.binary(max_size=300))
def test_any_head_over_any_body_gives_values_or_a_wire_error(fields, segments, body):
    frame = Frame(wire.Kind.INFER, segments=segments, head=wire.dump(fields), body=body)
    try:
        layout, _ = read_head(frame)
        values_of(layout, segments_of(layout, frame), "buffer")
    except WireError:
        pass
