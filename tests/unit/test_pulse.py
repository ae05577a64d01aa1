"""What a pong tells, also where it tells nonsense."""

import pytest

from mer.meal.pulse import Pulse, Running, pulse_of
from mer_worker.wire import Frame, Kind, dump


def pong(head: object) -> Frame:
    return Frame(Kind.PONG, request=1, head=dump(head))


@pytest.mark.parametrize(
    ("head", "running"),
    [
        ({}, ()),
        ({"busy": {"request": 4, "milliseconds": 1500}}, (Running(request=4, seconds=1.5),)),
        (
            {
                "busy": {"request": 4, "milliseconds": 20},
                "running": [{"request": r, "milliseconds": 20} for r in (4, 6)],
            },
            (Running(request=4, seconds=0.02), Running(request=6, seconds=0.02)),
        ),
        ({"busy": 7}, ()),
        ({"busy": {"request": "4", "milliseconds": 1}}, ()),
        ({"running": [None, {"request": 1}, {"request": True, "milliseconds": 1}]}, ()),
        ({"running": {"request": 1}, "busy": {"request": 4, "milliseconds": 0}}, (Running(request=4, seconds=0.0),)),
    ],
)
def test_a_pong_is_read(head: object, running: tuple[Running, ...]) -> None:
    assert pulse_of(pong(head), 0.001).running == running


def test_a_pong_that_is_no_json_is_still_an_answer() -> None:
    assert pulse_of(Frame(Kind.PONG, head=b"{"), 0.25) == Pulse(answered=0.25)


def test_no_more_requests_are_told_than_the_page_says() -> None:
    many = {"running": [{"request": n, "milliseconds": 1} for n in range(1, 200)]}
    assert len(pulse_of(pong(many), 0.0).running) == 64


def test_it_says_in_words_what_the_model_is_at() -> None:
    pulse = Pulse(answered=0.0001, running=(Running(request=3, seconds=2.5), Running(request=4, seconds=1.0)))
    assert str(pulse) == "busy with request 3 for 2.5 s, 2 at once; answers a ping in 100 µs"
    assert str(Pulse(answered=0.0001)) == "idle; answers a ping in 100 µs"
