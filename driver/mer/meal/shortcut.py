"""The shortest way of a small call through the driver: from the caller's dict to the written frame, and back.

Driver and worker of a small call push each other's code out of the processor's caches, so that each function, object and
look-up on the way costs several times what it does in a loop of its own. Hence one function here for the request and one
for its result, longer than they would be elsewhere. Both leave whatever is out of the ordinary to the session's general
way: a head that was not named yet (mer_worker.templates), a result in several pieces or with others, a full pipe, an error.
"""

from __future__ import annotations

import asyncio
from asyncio import Future, InvalidStateError
from collections.abc import Callable, Mapping
from os import read
from typing import Any

from mer.meal.calls import Call, Calls, LogCallback, ShortCall
from mer_worker.encoded import Encoded
from mer_worker.layout import Layout
from mer_worker.templates import FIRST, NUMBERS, OPENING, REST, UNUSUAL, Incoming, Outgoing
from mer_worker.tensors import Buffer
from mer_worker.wire import RECEIVE_BYTES, Kind

Answer = tuple[int, int, dict[str, Any], Layout]
"""A result by this way, as Incoming.opened gives it: request, microseconds of run time, outputs, layout."""


_pack, _unpack, _new = OPENING.pack, NUMBERS.unpack_from, Buffer.__new__


class Shortcut:
    """Small requests and results of one session."""

    __slots__ = (
        "_calls",
        "_fill",
        "_forms",
        "_general",
        "_incoming",
        "_loop",
        "_outgoing",
        "_write",
        "blocked",
        "whole",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        calls: Calls,
        incoming: Incoming,
        write: Callable[[bytes], bool],
        general: Callable[[bytes], None],
        fill: Callable[[int, Callable[[], None]], None],
    ) -> None:
        """`general` takes what was read and is not for here, `fill` reads what goes on with it."""
        self._loop = loop
        self._calls = calls
        self._incoming = incoming
        self._write = write
        self._general = general
        self._fill = fill
        self._forms = incoming.forms
        self._outgoing = Outgoing(Kind.INFER)
        self.blocked = False
        """Whether the next request has to go the general way: the stream takes no more, or something is to be said first."""
        self.whole = False
        """Whether the next bytes begin a frame."""

    def open(self, outgoing: Outgoing) -> None:
        """Send requests whose heads `outgoing` has named."""
        self._outgoing = outgoing

    def close(self) -> None:
        """Take no more requests."""
        self._outgoing = Outgoing(Kind.INFER)  # has no forms, so nothing goes this way

    def send(
        self,
        inputs: Mapping[str, Any],
        deadline: float | None = None,
        on_log: LogCallback | None = None,
        encoded: Encoded | None = None,
    ) -> Call | None:
        """Send a request and return its call, whose future gets an Answer, or a frame.

        None: it has to go the general way. `encoded` are the inputs where they were encoded already.
        """
        if self.blocked:
            return None
        calls, outgoing = self._calls, self._outgoing
        request = calls.last + 1
        number = 0 if deadline is None else calls.milliseconds(deadline)
        try:
            if encoded is None:
                ((name, value),) = inputs.items()
                kind = type(value)
                if kind is list:
                    frame = outgoing.texts(request, number, name, value)
                else:
                    start, rest, whole = outgoing.forms[kind, name, value.dtype, value.shape]
                    if rest is None:
                        frame = outgoing.shared(request, number, value, start, whole)
                    else:
                        frame = _pack(start, request, 0, number, rest) + (
                            value.data if kind is Buffer else value.tobytes()
                        )
                        if len(frame) != whole:
                            return None
            else:
                frame = outgoing.encoded(request, number, encoded)
        except UNUSUAL:
            return None
        if frame is None:
            return None
        calls.last = request
        calls.waiting[request] = call = ShortCall()
        call.request = request
        call.future = Future(loop=self._loop)
        if on_log is not None:
            call.on_log = on_log
        if deadline is not None:
            call.due = deadline
            if deadline < calls.first:
                calls.postpone(call, deadline)
        if not self._write(frame):
            self.blocked = True
        return call

    def read_from(self, descriptor: int, ended: Callable[[], None]) -> None:
        """Read what has come (stream.Reader)."""
        if not self.whole:
            self._fill(descriptor, ended)
            return
        try:
            data = read(descriptor, RECEIVE_BYTES)
        except BlockingIOError:
            return
        if data:
            self.received(data)
        else:
            ended()

    def received(self, data: bytes) -> None:
        """Take what has come; `whole` says that it begins a frame."""
        form = self._forms.get(data[:8])
        if form is not None:
            whole, rest, name, dtype, shape, array, layout = form
            if len(data) == whole and data.startswith(rest, REST):
                request, head, number = _unpack(data, 8)
                calls = self._calls
                call = calls.waiting.get(request)
                if call is not None and call.short and not head:
                    # a copy: the caller's own, to write to
                    if array is None:
                        value = _new(Buffer)
                        value.data, value.dtype, value.shape = memoryview(bytearray(data[FIRST:])), dtype, shape
                    else:
                        value = array(shape, dtype, bytearray(data), FIRST)
                    del calls.waiting[request]
                    try:
                        call.future.set_result((request, number, {name: value}, layout))
                    except InvalidStateError:  # its caller has gone; to ask first would cost every call something
                        pass
                    if calls.settling is not None:
                        calls.settle()
                    return
        else:
            found = self._incoming.rarer(data)
            if found is not None:
                request = found[0]
                call = self._calls.waiting.get(request)
                if call is not None and call.short:
                    self._calls.take(request)
                    if not call.future.done():
                        call.future.set_result(found)
                    return
        self._general(data)
