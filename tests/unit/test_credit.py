"""Credits and windows at their bounds."""

from __future__ import annotations

import pytest

from mer_worker.credit import MOST_CREDIT, Credit, Window, weight, weight_of
from mer_worker.decoder import Decoder
from mer_worker.tensors import Buffer, encode
from mer_worker.wire import Frame, Kind, WireError, dump


def credit(parts: int, fields: object) -> Frame:
    return Frame(Kind.CREDIT, request=1, number=parts, head=dump(fields))


@pytest.mark.parametrize("fields", [{}, {"bytes": -1}, {"bytes": "1"}, {"bytes": 1.5}, {"bytes": True}])
def test_a_credit_names_a_number_of_bytes(fields):
    with pytest.raises(WireError, match="bytes"):
        Credit().add(credit(1, fields))


def test_credit_adds_up_to_a_bound_and_no_further():
    held = Credit()
    held.add(credit(1, {"bytes": MOST_CREDIT}))
    assert held.open
    with pytest.raises(WireError, match="more credit"):
        held.add(credit(1, {"bytes": 1}))


def test_a_part_larger_than_what_is_left_goes_and_is_made_good_before_the_next():
    held = Credit()
    held.add(credit(9, {"bytes": 10}))
    held.spend(25)
    assert not held.open
    held.add(credit(0, {"bytes": 15}))
    assert not held.open
    held.add(credit(0, {"bytes": 1}))
    assert held.open


def test_a_part_beyond_the_window_is_an_error():
    window = Window(2, 100)
    window.open(1)
    window.came(1)
    window.came(1)
    with pytest.raises(WireError, match="without credit"):
        window.came(1)


def test_bytes_beyond_the_window_are_an_error():
    window = Window(8, 100)
    window.open(1)
    window.came(100)
    with pytest.raises(WireError, match="without credit"):
        window.came(1)


def test_what_was_read_is_granted_again_by_halves():
    window = Window(4, 100)
    window.open(1)
    assert window.taken(1, 1) is None
    granted = window.taken(1, 2)
    assert granted is not None
    (frame,) = Decoder(preamble=False).feed(granted)
    assert (frame.number, frame.fields()) == (2, {"bytes": 3})


@pytest.mark.parametrize("values", [{}, {"x": "text"}, {"x": Buffer(bytes(100), "uint8", (100,)), "y": b"z"}])
def test_both_ends_count_a_part_alike(values):
    encoded = encode(values)
    pieces = encoded.message(Kind.PART, 1)
    (received,) = Decoder(preamble=False).feed(b"".join(bytes(piece) for piece in pieces))
    assert weight_of(encoded, pieces[0]) == weight(received)
