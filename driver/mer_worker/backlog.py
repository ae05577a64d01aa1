"""What was read and the main thread has not taken yet, where another thread reads the one stream on while it computes."""

from __future__ import annotations

from collections import deque

from mer_worker.credit import size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from mer_worker.wire import Frame

MOST_WAITING = 1024
MOST_WAITING_BYTES = 1 << 30
"""Frames, and bytes of them with their segments in shared memory, that a worker over a single stream keeps while its model
computes. It reads on, since a cancel may come; a request beyond this is answered as busy."""


class Backlog:
    """Frames in order: who reads the stream puts them, the main thread takes them."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        # each is written by one thread at a time, so that neither needs a lock
        self._put = 0
        self._taken = 0

    def __len__(self) -> int:
        """Return how many frames wait."""
        return len(self._frames)

    @property
    def full(self) -> bool:
        """Whether so much waits that one more request is too many."""
        return self._beyond(MOST_WAITING, MOST_WAITING_BYTES)

    @property
    def overflowing(self) -> bool:
        """Whether more waits than anybody was allowed to send."""
        return self._beyond(4 * MOST_WAITING, 4 * MOST_WAITING_BYTES)

    def _beyond(self, most: int, most_bytes: int) -> bool:
        waiting = len(self._frames)
        return waiting >= most or (waiting > 0 and self._put - self._taken >= most_bytes)

    def put(self, frame: Frame) -> None:
        """Add a frame."""
        self._put += size_of(frame)
        self._frames.append(frame)

    def get(self) -> Optional[Frame]:
        """Return the next frame; None where none waits."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._taken += size_of(frame)
        return frame
