"""One call to a worker, traced: its spans there, by its own clock, on the same line as those of this side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from mer.core.errors import MerError
from mer.core.trace import META, Lane, traced
from mer.meal.answers import Reply
from mer.meal.calls import LogCallback
from mer.meal.session import Session
from mer_worker.encoded import Encoded

CAPABILITY = "trace"

MOST_SPANS = 64
"""That a worker's answer is believed to have: ours tells two."""

_CLOCK_SECONDS = 1.0
"""What a worker gets to tell its clock, after the call: without it the middle of the call is taken."""


class Answer(Protocol):
    """What a call gives: outputs, or a handle."""

    run_us: int
    """Microseconds in the author's code."""
    meta: Mapping[str, Any]


A = TypeVar("A", bound=Answer)

R = TypeVar("R")


async def along(lane: Lane, name: str, running: Coroutine[Any, Any, R]) -> R:
    """Return what `running` does, with its steps on a lane, under one of that name."""
    with traced(lane, name):
        return await running


async def infer(
    session: Session, lane: Lane, encoded: Encoded, *, deadline: float | None, on_log: LogCallback | None
) -> Reply:
    """Run the model once (Session.infer), and add what took how long."""
    ask = functools.partial(session.infer, encoded, deadline=deadline, on_log=on_log)
    return await call(session, lane, lambda meta: ask(meta=meta), given=size_of(encoded))


async def call(
    session: Session,
    lane: Lane,
    ask: Callable[[Mapping[str, Any] | None], Coroutine[Any, Any, A]],
    *,
    given: int,
    doing: str = "run",
) -> A:
    """Have something asked of the worker with the meta that is for it, and add what took how long.

    `given` is how many bytes of inputs go there; `doing` what is done with them.
    """
    sent = lane.now()
    try:
        answer = await ask(asking(session))
    except BaseException as error:
        await show_failure(session, lane, error, given=given, doing=doing, sent=sent, came=lane.now())
        raise
    await show(session, lane, answer, given=given, doing=doing, sent=sent, came=lane.now())
    return answer


def asking(session: Session) -> Mapping[str, Any] | None:
    """Return the meta of a request whose steps are to be told; None where the worker cannot."""
    return {META: True} if CAPABILITY in session.hello.get("capabilities", ()) else None


def size_of(encoded: Encoded) -> int:
    """Return the bytes of inputs."""
    return sum(map(len, encoded.segments))


async def show(
    session: Session, lane: Lane, answer: Answer, *, given: int, sent: int, came: int, doing: str = "run"
) -> None:
    """Add the spans of a call that has ended well, here and in the worker."""
    lane.add("call", sent, came)
    begin, end = await _show_worker(session, lane, answer.meta, answer.run_us, doing=doing, sent=sent, came=came)
    lane.add("request on its way", sent, begin, bytes=given)
    gave = sum(map(len, answer.segments)) if isinstance(answer, Reply) else 0
    lane.add("answer on its way", end, came, bytes=gave)


async def show_failure(
    session: Session, lane: Lane, error: BaseException, *, given: int, sent: int, came: int, doing: str = "run"
) -> None:
    """Add the spans of a call that has failed, those in the worker as far as it has told them."""
    lane.add("call", sent, came, error=type(error).__name__)
    if isinstance(error, MerError) and error.run_us:
        begin, end = await _show_worker(session, lane, error.meta, error.run_us, doing=doing, sent=sent, came=came)
        lane.add("request on its way", sent, begin, bytes=given)
        lane.add("error on its way", end, came)


async def _show_worker(
    session: Session, lane: Lane, meta: Mapping[str, Any], run_us: int, *, doing: str, sent: int, came: int
) -> tuple[int, int]:
    """Add the spans in the worker, and return when the first one began and the last one ended."""
    pid = session.hello.get("pid")
    spans = [] if asking(session) is None else _spans(meta)
    try:
        # the clock is asked for only now: nothing of the call waits for it
        ahead = await session.clock(seconds=_CLOCK_SECONDS) if spans else None
    except MerError:  # the answer is there: whatever has happened to its worker since is another call's
        ahead = None
    if ahead is None:
        middle = max(0, came - sent - run_us) // 2
        spans, ahead = [(doing, sent + middle, came - middle)], 0
    begin, end = came, sent
    for name, began, ended in spans:
        # the two clocks are known to half a round trip: what took place within the call is drawn within it
        began, ended = (min(max(at - ahead, sent), came) for at in (began, ended))
        begin, end = min(begin, began), max(end, ended)
        lane.add(name, began, ended, worker=pid if isinstance(pid, int) else 0)
    return begin, end


def _spans(meta: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return what a worker told, as far as it is what is meant."""
    told = meta.get(META)
    found: list[tuple[str, int, int]] = []
    for one in told[:MOST_SPANS] if isinstance(told, list) else ():
        match one:
            case [str() as name, int() as began, int() as ended]:
                found.append((name, began, ended))
    return found


def marking(lane: Lane, listener: LogCallback | None) -> LogCallback:
    """Return a listener that marks in the trace what the model says, and passes it on."""

    def mark(stream: str, level: str, text: bytes) -> None:
        lane.mark("log", stream=stream, level=level, text=text.decode("utf-8", "replace"))
        if listener is not None:
            listener(stream, level, text)

    return mark
