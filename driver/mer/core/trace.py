"""Traces: when each step of an invocation began and ended, in the driver and in the worker, for Perfetto and its like.

The form is Chrome's trace events
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): complete events (`X`) of a begin and a
duration, and instants (`i`), in microseconds. Where nobody traces, a `span` is a look at a context variable.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

MAX_EVENTS = 200_000
"""Of one trace, some 30 MB: a whole evening's session, and no memory without end. What comes after is counted."""

MAX_WORDS = 500
"""Characters of a text that an event shows."""

META = "mer.trace"
"""The key of a request's meta that asks a worker for its spans, and of the result's that has them (docs/wire.md)."""

_PLAIN = contextlib.nullcontext()


def _microseconds() -> int:
    return time.monotonic_ns() // 1000


class Trace:
    """Events of one or more invocations."""

    def __init__(self, *, clock: Callable[[], int] = _microseconds) -> None:
        """Begin now; `clock` gives microseconds that only rise."""
        self.clock = clock
        self._origin = clock()
        self._events: list[dict[str, Any]] = []
        self._dropped = 0
        self._lanes = 0
        self._named: set[tuple[int, int]] = set()

    def line(self) -> int:
        """Return the number of a line of its own for an invocation: those that run at the same time do not cover each other."""
        self._lanes += 1
        return self._lanes

    def document(self) -> bytes:
        """Return the whole as a file has it: JSON."""
        told: dict[str, Any] = {"traceEvents": self._events, "displayTimeUnit": "ms"}
        if self._dropped:
            told["otherData"] = {"dropped events": self._dropped}
        return msgspec.json.encode(told)

    def add(self, event: dict[str, Any]) -> None:
        """Keep an event, whose `ts` is by the clock."""
        if len(self._events) >= MAX_EVENTS:
            self._dropped += 1
            return
        since = event["ts"] - self._origin
        if since < 0 and "dur" in event:  # it began before the trace: of what was sealed earlier, say
            event = {**event, "dur": max(0, event["dur"] + since)}
        self._events.append({**event, "ts": max(0, since)})

    def name(self, pid: int, process: str, lane: int, words: str) -> None:
        """Say, once, what a process and one of its lines are called."""
        if (pid, lane) not in self._named:
            self._named.add((pid, lane))
            for kind, text in (("process_name", process), ("thread_name", words)):
                self.add({"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": lane, "args": {"name": text}})


class Lane:
    """The line of one invocation, in the driver's process and in its worker's."""

    def __init__(self, traces: Sequence[Trace], name: str) -> None:
        """Draw it in each of the traces, whose clock is one."""
        self._lines = [(trace, trace.line()) for trace in traces]
        self._name = name[:MAX_WORDS]
        self._pid = os.getpid()
        self.now = traces[0].clock
        """Returns the clock's microseconds."""
        self._introduce(self._pid, "mer")

    def join(self, trace: Trace) -> None:
        """Be drawn in this trace, too, from now on; its clock is that of the others."""
        if all(known is not trace for known, _ in self._lines):
            self._lines.append((trace, trace.line()))
            self._introduce(self._pid, "mer")

    def add(self, name: str, begin: int, end: int, *, worker: int | None = None, **args: object) -> None:
        """Say that a step lasted from `begin` to `end`, microseconds by the clock, here or in the worker of that pid."""
        self._add(name, begin, end, worker, args)

    def _add(self, name: str, begin: int, end: int, worker: int | None, args: dict[str, object]) -> None:
        if worker is not None:
            self._introduce(worker, "worker")
        pid = self._pid if worker is None else worker
        event = {"name": name, "cat": "mer", "ph": "X", "ts": begin, "dur": max(0, end - begin), "pid": pid}
        self._draw({**event, "args": args})

    def mark(self, name: str, **args: object) -> None:
        """Say that something has just happened."""
        shown = {key: value[:MAX_WORDS] if isinstance(value, str) else value for key, value in args.items()}
        event = {"name": name, "cat": "mer", "ph": "i", "s": "t", "ts": self.now(), "pid": self._pid}
        self._draw({**event, "args": shown})

    @contextlib.contextmanager
    def span(self, name: str, **args: object) -> Iterator[None]:
        """Say how long the block took, and whether it failed."""
        begin = self.now()
        try:
            yield
        except BaseException as error:
            args["error"] = type(error).__name__
            raise
        finally:
            self._add(name, begin, self.now(), None, args)

    def _draw(self, event: dict[str, Any]) -> None:
        for trace, number in self._lines:
            trace.add({**event, "tid": number})

    def _introduce(self, pid: int, process: str) -> None:
        for trace, number in self._lines:
            trace.name(pid, process, number, self._name)


CURRENT: contextvars.ContextVar[Lane | None] = contextvars.ContextVar("mer.trace", default=None)
"""The lane of the invocation that this task works for; tasks that it starts inherit it (docs/decisions/32-traces.md)."""


def span(name: str, **args: object) -> contextlib.AbstractContextManager[None]:
    """Say how long the block took, if somebody traces."""
    lane = CURRENT.get()
    return _PLAIN if lane is None else lane.span(name, **args)


@contextlib.contextmanager
def resumed(lane: Lane | None) -> Iterator[None]:
    """Work for an invocation within the block: for what is no task of its own, as a generator."""
    token = CURRENT.set(lane)
    try:
        yield
    finally:
        CURRENT.reset(token)


def lane_of(name: str, *traces: Trace | None) -> Lane | None:
    """Return a line for an invocation, in each of the traces: its caller's and its process's; None where there is none."""
    found = [trace for at, trace in enumerate(traces) if trace is not None and trace not in traces[:at]]
    return Lane(found, name) if found else None


@contextlib.contextmanager
def traced(lane: Lane, name: str) -> Iterator[None]:
    """Trace all that the block does as one invocation."""
    with resumed(lane), lane.span("invocation", reference=name):
        yield
