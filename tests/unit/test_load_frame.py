"""The load frame: fields in its head, the list of weights in its body, each within its cap."""

import pytest

from mer_worker import loading
from mer_worker.decoder import Decoder
from mer_worker.loading import load_fields, load_frame
from mer_worker.wire import MAX_HEAD_BYTES, BodyDropped, Frame, FrameTooLarge, Kind, WireError, dump

WEIGHTS = [["w", "uint8", [1], "/somewhere"]]
SIZE = len(dump(WEIGHTS))


def received(frame: bytes) -> Frame:
    (found,) = Decoder(preamble=False).feed(frame)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"runner": "python"},
        {"runner": "python", "weights": WEIGHTS},
        {"runner": "python", "weights": []},
        {"package": "ab" * 32, "weights": "cd" * 32},
        {"package": "ab" * 32, "weights": None},
    ],
)
def test_what_was_said_is_read(fields):
    assert load_fields(received(load_frame(fields, 1))) == fields


def test_a_list_is_longer_than_any_head():
    weights = [[f"layer.{number}", "uint8", [1], {"sha256": f"{number:064}"}] for number in range(20_000)]
    frame = received(load_frame({"weights": weights}, 7))
    assert (frame.kind, frame.request, len(frame.body) > MAX_HEAD_BYTES) == (Kind.LOAD, 7, True)
    assert load_fields(frame)["weights"] == weights


def test_a_list_is_as_long_as_its_receiver_takes_and_no_longer(monkeypatch):
    fields = {"weights": WEIGHTS}
    assert load_frame(fields, 1, most_body=SIZE)
    with pytest.raises(FrameTooLarge, match=f"the cap is {SIZE - 1}"):
        load_frame(fields, 1, most_body=SIZE - 1)
    frame = received(load_frame(fields, 1))
    monkeypatch.setattr(loading, "MAX_LIST_BYTES", SIZE)
    assert load_fields(frame) == fields
    monkeypatch.setattr(loading, "MAX_LIST_BYTES", SIZE - 1)
    with pytest.raises(FrameTooLarge, match=f"the cap is {SIZE - 1}"):
        load_fields(frame)
    with pytest.raises(FrameTooLarge, match=f"the cap is {SIZE - 1}"):
        load_frame(fields, 1)


@pytest.mark.parametrize("body", [b"{}", b"nonsense", b"7", b"\xff", b"[NaN]"])
def test_a_body_that_is_no_list_is_refused(body):
    with pytest.raises(WireError):
        load_fields(Frame(Kind.LOAD, body=body))


def test_a_list_for_which_there_was_no_memory_is_not_taken_for_none():
    frame = Frame(Kind.LOAD)
    frame.dropped = 1 << 20
    with pytest.raises(BodyDropped):
        load_fields(frame)
