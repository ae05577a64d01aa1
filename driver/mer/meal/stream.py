"""Streams: the bytes to and from one worker, and who takes them.

A stream pushes: the receiver gives the memory, the stream fills it and says so. A pull (`await read()`) would wake a task
for every piece, which alone costs a small call a third of its time (docs/decisions/20-streams-push.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

from mer.meal.memory import WorkerMemory

Bytes: TypeAlias = "bytes | bytearray | memoryview"


class Receiver(Protocol):
    """Who takes what comes from a worker. All of it is called in the event loop, and returns at once."""

    def get_buffer(self) -> memoryview:
        """Return memory for the next bytes, never empty."""

    def buffer_updated(self, count: int) -> None:
        """Say that `count` bytes were put there."""

    def log(self, text: bytes) -> None:
        """Take what the worker wrote to its standard error."""

    def ended(self, reason: str) -> None:
        """Learn, once, that nothing more comes, and why: "was killed by SIGKILL"."""


@runtime_checkable
class Reader(Receiver, Protocol):
    """A receiver that reads from a descriptor itself, where the stream has one: it knows best where its bytes go."""

    def read_from(self, descriptor: int, ended: Callable[[], None]) -> None:
        """Read once what has come, without blocking; say `ended` at the end."""


@runtime_checkable
class BytesReceiver(Receiver, Protocol):
    """A receiver that takes bytes as a stream has them, which may save it a copy: of a small frame, say."""

    def received(self, data: bytes) -> None:
        """Take what has come."""


def pour(receiver: Receiver, data: bytes) -> None:
    """Give a receiver bytes that came elsewhere, by the memory that it has for them.

    One that has given its worker up, for what it sent, may have none left: the rest goes nowhere.
    """
    view = memoryview(data)
    while view and (room := receiver.get_buffer()):
        count = min(len(room), len(view))
        room[:count] = view[:count]
        receiver.buffer_updated(count)
        view = view[count:]


class Stream(Protocol):
    """Bytes to and from one worker: pipes, an SSH channel, a container's stdin."""

    control: Stream | None
    """A second, narrow stream that the worker reads while it computes; None where there is one stream only."""
    memory: WorkerMemory | None
    """Memory shared with the worker; None where there is none. A session that uses it closes it."""
    without_memory: str
    """Why there is none, for people; "" where there is."""

    def start(self, receiver: Receiver) -> None:
        """Begin to receive."""

    def write(self, *pieces: Bytes) -> bool:
        """Send the pieces without joining them, and return whether more may be written now.

        Never blocks: what cannot go at once is kept, by reference, and goes later. False: `drain` before the next one.
        What is written after the end is dropped; `ended` tells.
        """

    def write_frame(self, frame: bytes) -> bool:
        """As `write`, for one small frame."""

    async def drain(self) -> None:
        """Wait until more may be written, or the stream has ended."""

    async def flush(self) -> None:
        """Wait until nothing is kept by reference any more, or the stream has ended."""

    async def close(self, grace: float) -> int | None:
        """End the worker and everything that it left, and return its exit status (negative: a signal) where it is known.

        Its input is closed; after `grace` seconds it is asked by a signal, after as long again it is killed.
        """

    def kill(self) -> None:
        """End the worker's whole group at once; `ended` follows."""
