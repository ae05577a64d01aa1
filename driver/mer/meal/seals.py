"""Sealed inputs, as their sender holds them: sent early, run by handle, released on use, on demand or when their time is over."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from mer.core.errors import HandleUnknown, MerError, ProtocolViolation, UsageError
from mer.meal.calls import LogCallback
from mer.meal.host import Bytes
from mer.meal.session import Session
from mer.meal.streams import flagged
from mer_worker.tensors import Encoded
from mer_worker.wire import Flag, Frame, Kind, WireError, frame

CAPABILITY = "seal"

SEAL_SECONDS = 300.0
"""How long sealed inputs are kept where nobody says: what is prepared ahead is run within minutes, and holds memory till then."""

MOST_SEAL_SECONDS = 600.0
"""A worker may forget them after that (docs/wire.md, section 4.2)."""

MAX_HANDLE_BYTES = 64


class Handle:
    """Sealed inputs: for one use, with the worker that has them."""

    __slots__ = ("_forgetting", "_gone", "_session", "_text", "_timer")

    def __init__(self, session: Session, text: str, seconds: float) -> None:
        self._session = session
        self._text = text
        self._gone = False
        loop = asyncio.get_running_loop()
        self._forgetting: asyncio.Task[None] | None = None
        self._timer = loop.call_later(seconds, self._expire)

    def __repr__(self) -> str:
        return f"<{self._text}{', gone' if self.gone else ''}>"

    @property
    def gone(self) -> bool:
        """Whether nothing is sealed under it any more."""
        return self._gone or self._session.lost is not None

    @property
    def session(self) -> Session:
        """The conversation with the worker that has the inputs."""
        return self._session

    def use(self) -> str:
        """Return its text on the wire, once.

        Raises:
            HandleUnknown: it was used or released before, its time is over, or its worker has ended.
        """
        if self._session.lost is not None:
            raise HandleUnknown(f"the worker that had the sealed inputs has ended: {self._session.lost.message}")
        if self._gone:
            raise HandleUnknown
        self._gone = True
        self._timer.cancel()
        return self._text

    def _expire(self) -> None:
        if not self.gone:
            self._forgetting = asyncio.get_running_loop().create_task(self._forget(), name="releasing sealed inputs")

    async def _forget(self) -> None:
        try:
            await release(self)
        except MerError:  # its worker ended meanwhile, or forgot it by itself
            pass


async def seal(
    session: Session,
    encoded: Encoded,
    *,
    keep: float | None = None,
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
    most = session.peer.most_body
    answer = await session.ask(
        lambda request: encoded.message(Kind.SEAL, request, most=most), deadline=deadline, on_log=on_log
    )
    return Handle(session, _text(answer), seconds)


async def release(handle: Handle) -> None:
    """Have the worker forget sealed inputs.

    Raises:
        HandleUnknown: nothing is sealed under this handle any more.
    """
    text = handle.use()
    await handle.session.ask(lambda request: (frame(Kind.RELEASE, {"handle": text}, request=request),))


def by_handle(handle: Handle, *, number: int = 0, meta: Mapping[str, Any] | None = None) -> Any:
    """Return what makes the frame that runs sealed inputs, for Session.ask; the handle is used up by that.

    Raises:
        HandleUnknown: nothing is sealed under this handle any more.
    """
    fields: dict[str, Any] = {"handle": handle.use()}
    if meta:
        fields["meta"] = meta

    def form(request: int) -> tuple[Bytes, ...]:
        return flagged((frame(Kind.INFER, fields, request=request, number=number),), Flag.HANDLE)

    return form


def check_keep(seconds: float | None) -> float:
    """Return for how long inputs are to be kept. Raises: UsageError."""
    if seconds is None:
        return SEAL_SECONDS
    if not math.isfinite(seconds) or not 0 < seconds <= MOST_SEAL_SECONDS:
        raise UsageError(f"sealed inputs are kept for more than 0 and at most {MOST_SEAL_SECONDS:g} seconds")
    return seconds


def _text(answer: Frame) -> str:
    try:
        text = answer.fields().get("handle")
    except WireError as error:
        raise ProtocolViolation(f"the worker did not speak the protocol: {error}") from error
    if not isinstance(text, str) or not 0 < len(text.encode("utf-8", "replace")) <= MAX_HANDLE_BYTES:
        raise ProtocolViolation("the worker sealed inputs without a handle")
    return text
