"""Flow control of parts: whatever the order of sending, reading and granting, nothing is overrun and nothing stands still."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mer_worker.credit import Credit, Window
from mer_worker.decoder import Decoder
from mer_worker.wire import Frame

PARTS, BYTES = 8, 100


def read(raw: bytes) -> Frame:
    (frame,) = Decoder(preamble=False).feed(raw)
    return frame


class Ends:
    """A sender and a receiver, with a channel each way on which frames take their time."""

    def __init__(self) -> None:
        self.credit = Credit()
        self.window = Window(PARTS, BYTES)
        self.granted = [self.window.open(1)]
        """Credits on their way to the sender."""
        self.flying: list[int] = []
        """Parts on their way to the receiver."""
        self.waiting: list[int] = []
        """Parts that wait for their reader."""

    def send(self, size: int) -> bool:
        if not self.credit.open:
            return False
        self.credit.spend(size)
        self.flying.append(size)
        return True

    def deliver(self) -> None:
        if self.flying:
            size = self.flying.pop(0)
            self.window.came(size)  # raises, if it was sent without credit
            self.waiting.append(size)

    def take(self) -> None:
        if self.waiting:
            granted = self.window.taken(1, self.waiting.pop(0))
            if granted is not None:
                self.granted.append(granted)

    def grant(self) -> None:
        if self.granted:
            self.credit.add(read(self.granted.pop(0)))


steps = st.lists(
    st.one_of(
        st.integers(0, 3 * BYTES),  # a part of that many bytes is sent
        st.sampled_from(["deliver", "take", "grant"]),
    ),
    max_size=200,
)


@given(steps)
@settings(deadline=None)
def test_no_more_than_the_window_and_one_part_ever_waits(done: list[int | str]) -> None:
    ends = Ends()
    for step in done:
        if isinstance(step, int):
            ends.send(step)
        else:
            getattr(ends, step)()
        held = ends.flying + ends.waiting
        assert len(held) <= PARTS
        assert sum(held[:-1]) < BYTES or sum(held) - max(held) < BYTES


@given(steps)
@settings(deadline=None)
def test_a_reader_that_goes_on_always_gets_the_next_part(done: list[int | str]) -> None:
    ends = Ends()
    for step in done:
        if isinstance(step, int):
            ends.send(step)
        else:
            getattr(ends, step)()
    while ends.flying or ends.waiting or ends.granted:
        ends.deliver()
        ends.take()
        ends.grant()
    assert ends.send(1)
