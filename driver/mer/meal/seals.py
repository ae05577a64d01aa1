"""Sealed inputs, as their sender holds them: sent early, run by handle, released on use, on demand or when their time is over."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from mer.core.errors import HandleUnknown, MerError, ProtocolViolation, UsageError
from mer.meal.calls import LogCallback
from mer.meal.session import Session
from mer.meal.stream import Bytes
from mer.meal.streams import Message, milliseconds
from mer_worker.encoded import Encoded
from mer_worker.layout import NO_META, meta_text
from mer_worker.wire import Flag, Frame, Kind, WireError, flagged, frame

CAPABILITY = "seal"

SEAL_SECONDS = 300.0
"""How long sealed inputs are kept where nobody says: what is prepared ahead is run within minutes, and holds memory till then."""

MOST_SEAL_SECONDS = 600.0
"""A worker may forget them after that (docs/wire.md, section 4.2)."""

MAX_HANDLE_BYTES = 64


class Holder(Protocol):
    """Who has sealed inputs: the conversation with a worker, or a handler in this very process."""

    @property
    def lost(self) -> MerError | None:
        """Why it has nothing any more; None while it can have something."""


class Handle:
    """Sealed inputs: for one use, with the worker that has them."""

    __slots__ = ("_forgetting", "_gone", "_release", "_text", "_timer", "holder", "meta", "run_us")

    def __init__(
        self,
        holder: Holder,
        text: str,
        seconds: float,
        release: Callable[[str], Coroutine[Any, Any, None]],
        *,
        run_us: int = 0,
        meta: Mapping[str, Any] = NO_META,
    ) -> None:
        """Stand for what `holder` has under `text`, until `release` was called after so many seconds."""
        self.holder = holder
        self.run_us = run_us
        """Microseconds that the staging took there."""
        self.meta = meta
        """What the worker said beside."""
        self._text = text
        self._gone = False
        self._release = release
        self._forgetting: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def __repr__(self) -> str:
        return f"<{self._text}{', gone' if self.gone else ''}>"

    @property
    def gone(self) -> bool:
        """Whether nothing is sealed under it any more."""
        return self._gone or self.holder.lost is not None

    def use(self, holder: Holder) -> str:
        """Return its text on the wire, once. Raises: as `check`."""
        text = self.check(holder)
        self._gone = True
        self._timer.cancel()
        return text

    def check(self, holder: Holder) -> str:
        """Return its text on the wire, while it can be used.

        Raises:
            HandleUnknown: it was used or released before, its time is over, its worker has ended, or another has it.
        """
        if self.holder.lost is not None:
            raise HandleUnknown(f"the worker that had the sealed inputs has ended: {self.holder.lost.message}")
        if self.holder is not holder:
            raise HandleUnknown("another model has the sealed inputs")
        if self._gone:
            raise HandleUnknown
        return self._text

    async def release(self) -> None:
        """Have them forgotten.

        Raises:
            HandleUnknown: as `use`.
            WorkerLost: the worker ended.
        """
        await self._release(self.use(self.holder))

    def _expire(self) -> None:
        if not self.gone:
            self._forgetting = asyncio.get_running_loop().create_task(self._forget(), name="releasing sealed inputs")

    async def _forget(self) -> None:
        try:
            await self.release()
        except MerError:  # its worker ended meanwhile, or forgot it by itself
            pass


async def seal(
    session: Session,
    encoded: Encoded,
    *,
    keep: float | None = None,
    meta: Mapping[str, Any] | None = None,
    deadline: float | None = None,
    on_log: LogCallback | None = None,
) -> Handle:
    """Have the worker take and stage inputs, and return their handle. They are released after `keep` seconds.

    `deadline` is loop time.

    Raises:
        Busy: it keeps as much as it may.
        UsageError: it cannot, or `keep` is no time from 0 to MOST_SEAL_SECONDS.
        ModelFailed, InputInvalid, DeadlineExceeded, WorkerLost: as Session.infer.
    """
    assert session.peer is not None
    seconds = check_keep(keep)
    if CAPABILITY not in session.peer.capabilities:
        raise UsageError("this worker keeps no sealed inputs")
    form = await session.form(encoded, Kind.SEAL, meta=meta)
    request, call = await session.begin(form, deadline=deadline, on_log=on_log)

    async def release(text: str) -> None:
        await session.ask(lambda request: (frame(Kind.RELEASE, {"handle": text}, request=request),))

    def unwanted(future: asyncio.Future[Frame]) -> None:
        """Have inputs forgotten that were sealed after all, when nobody waited for their handle any more."""
        if not future.cancelled() and future.exception() is None and future.result().kind == Kind.RESULT:
            with contextlib.suppress(ProtocolViolation):
                Handle(session, _read(future.result())[0], 0.0, release)

    try:
        answer = session.result(await asyncio.shield(call.future), call)
    except asyncio.CancelledError:
        session.abandon(request)
        call.future.add_done_callback(unwanted)
        raise
    text, told = _read(answer)
    return Handle(session, text, seconds, release, run_us=answer.number, meta=told)


def by_handle(
    session: Session, handle: Handle, *, meta: Mapping[str, Any] | None = None, deadline: float | None = None
) -> Message:
    """Return what makes the `infer` frame of sealed inputs, which uses the handle up. `deadline` is loop time.

    Raises:
        HandleUnknown: nothing is sealed under this handle any more, or not there.
    """
    number = milliseconds(deadline)
    handle.check(session)
    more = {"meta": meta} if meta else {}

    def form(request: int) -> tuple[Bytes, ...]:
        if meta:
            meta_text(meta)  # for its cap
        # used only now: what is never sent is released in its time
        fields = {"handle": handle.check(session), **more}
        message = flagged((frame(Kind.INFER, fields, request=request, number=number),), Flag.HANDLE)
        handle.use(session)
        return message

    return form


def check_keep(seconds: float | None) -> float:
    """Return for how long inputs are to be kept. Raises: UsageError."""
    if seconds is None:
        return SEAL_SECONDS
    if not math.isfinite(seconds) or not 0 < seconds <= MOST_SEAL_SECONDS:
        raise UsageError(f"sealed inputs are kept for more than 0 and at most {MOST_SEAL_SECONDS:g} seconds")
    return seconds


def _read(answer: Frame) -> tuple[str, Mapping[str, Any]]:
    """Return the handle that a seal was answered by, and the meta beside it."""
    try:
        fields = answer.fields()
    except WireError as error:
        raise ProtocolViolation(f"the worker did not speak the protocol: {error}") from error
    text, meta = fields.get("handle"), fields.get("meta")
    if not isinstance(text, str) or not 0 < len(text.encode("utf-8", "replace")) <= MAX_HANDLE_BYTES:
        raise ProtocolViolation("the worker sealed inputs without a handle")
    return text, meta if isinstance(meta, dict) else NO_META
