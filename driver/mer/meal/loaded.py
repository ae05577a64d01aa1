"""A loaded handler: what `load_unpacked` returns."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self

from mer.core.errors import InputInvalid, ModelFailed, WorkerLost
from mer.core.timeouts import check_timeout
from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.seals import Handle, by_handle, seal
from mer.meal.session import Session
from mer.meal.starting import start
from mer.meal.streams import InputParts, PartStream, encoded_parts, inference
from mer_worker.encoded import Encoded
from mer_worker.tensors import encode
from mer_worker.wire import WireError


class LoadedModel(ABC):
    """A handler that is loaded: call `infer`, then `aclose`; or use it as an async context manager."""

    @abstractmethod
    async def infer(
        self,
        inputs: Mapping[str, Any] | Handle,
        *,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> dict[str, Any]:
        """Return the outputs for these inputs, or for those that were sealed.

        `timeout` is in seconds; `on_log` takes what the handler prints.

        Raises:
            InputInvalid: an input cannot be sent, or the model answers in parts.
            HandleUnknown: nothing is sealed under that handle any more.
            UsageError: the timeout is not a finite number above 0.
            ModelFailed: the handler raised; its traceback is in the error.
            DeadlineExceeded, WorkerLost, ProtocolViolation: as Session.infer.
        """

    @abstractmethod
    def stream(
        self,
        inputs: Mapping[str, Any] | Handle,
        *,
        parts: InputParts | None = None,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Give the answer in parts, each as soon as it is there: what the handler yields, then what it returns, if anything.

        A handler that does not yield gives one part. The model stops while nobody reads; who ends early by `aclose()`, or
        by letting go of the iterator, cancels. `parts` are further inputs, dicts or what makes them one after the other,
        which the handler takes from `context.parts()`. `timeout` is in seconds, for all of it.

        Raises: as `infer`; and whatever the iterable of parts raises.
        """

    @abstractmethod
    async def seal(
        self,
        inputs: Mapping[str, Any],
        *,
        keep: float | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> Handle:
        """Send inputs ahead, for `infer` or `stream` to run by the handle, once. A handler's method `seal` stages them.

        They are kept for `keep` seconds, SEAL_SECONDS where it is not said.

        Raises:
            Busy: as much is sealed as may be.
            UsageError: `keep` or the timeout is no such time.
            InputInvalid, ModelFailed, DeadlineExceeded, WorkerLost, ProtocolViolation: as `infer`.
        """

    async def release(self, handle: Handle) -> None:
        """Let go of sealed inputs.

        Raises:
            HandleUnknown: nothing is sealed under that handle any more.
        """
        await handle.release()

    @abstractmethod
    async def aclose(self) -> None:
        """End the worker and everything that it left."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class WorkerModel(LoadedModel):
    """A handler in a worker of its own; a worker that is lost is replaced by the next call."""

    def __init__(self, host: Host, plan: WorkerPlan, session: Session, on_log: LogCallback | None) -> None:
        self.session = session
        """The conversation with the worker of now."""
        self._host = host
        self._plan = plan
        self._on_log = on_log
        """Takes what the handler prints, where a call has no listener of its own."""
        self._starting = asyncio.Lock()
        self._closed = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def infer(
        self,
        inputs: Mapping[str, Any] | Handle,
        *,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> dict[str, Any]:
        session = self.session
        on_log = on_log or self._on_log
        deadline = None if timeout is None else self._deadline(timeout)
        try:
            call = session.shortcut.send(inputs, deadline, on_log) if type(inputs) is dict and not meta else None
            if call is None:
                if isinstance(inputs, Handle):
                    message = by_handle(session, inputs, meta=meta, deadline=deadline)
                    return session.reply(await session.ask(message, deadline=deadline, on_log=on_log)).outputs
                if session.lost is not None:
                    session = await self._again()
                return await session.infer_values(inputs, meta=meta, deadline=deadline, on_log=on_log)
            try:
                answer = await call.future
            except asyncio.CancelledError:
                session.abandon(call.request)
                raise
            if type(answer) is tuple:
                return answer[2]  # type: ignore[no-any-return]
            return session.reply(session.result(answer, call)).outputs
        except ModelFailed as error:
            _explain(error)
            raise

    async def stream(
        self,
        inputs: Mapping[str, Any] | Handle,
        *,
        parts: InputParts | None = None,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        deadline = self._deadline(timeout)
        session = self.session
        on_log = on_log or self._on_log
        if isinstance(inputs, Handle):
            message = by_handle(session, inputs, meta=meta, deadline=deadline)
        else:
            encoded = _encoded(inputs)
            if session.lost is not None:
                session = await self._again()
            message = await inference(session, encoded, meta=meta, deadline=deadline)
        further = None if parts is None else encoded_parts(parts)
        streaming = await PartStream.open(session, message, parts=further, deadline=deadline, on_log=on_log)
        try:
            async for reply in streaming:
                yield reply.outputs
        except ModelFailed as error:
            _explain(error)
            raise
        finally:
            await streaming.aclose()

    async def seal(
        self,
        inputs: Mapping[str, Any],
        *,
        keep: float | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> Handle:
        deadline = self._deadline(timeout)
        encoded = _encoded(inputs)
        session = self.session if self.session.lost is None else await self._again()
        try:
            return await seal(session, encoded, keep=keep, deadline=deadline, on_log=on_log or self._on_log)
        except ModelFailed as error:
            _explain(error)
            raise

    async def aclose(self) -> None:
        self._closed = True
        async with self._starting:
            for leaving in self._leaving:
                leaving.cancel()
            await asyncio.gather(self.session.close(), *self._leaving, return_exceptions=True)
            await self._host.aclose()

    def _deadline(self, timeout: float | None) -> float | None:
        seconds = check_timeout(timeout)
        return None if seconds is None else self._loop.time() + seconds

    async def _again(self) -> Session:
        """Start another worker in the place of a lost one."""
        async with self._starting:
            if self._closed:
                raise WorkerLost("the model was closed")
            if self.session.lost is not None:
                leaving = self._loop.create_task(_leave(self.session), name="leaving a worker")
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
                self.session = await start(self._host, self._plan, arrays=self.session.arrays, on_log=self._on_log)
            return self.session


async def _leave(session: Session) -> None:
    """End a worker that gets no more requests, after those that it still runs (mer.meal.ladder bounds them)."""
    try:
        await session.settled()
    finally:
        await session.close(grace=0.0)


def _encoded(inputs: Mapping[str, Any]) -> Encoded:
    try:
        return encode(inputs)
    except WireError as error:
        raise InputInvalid(str(error)) from error


def _explain(error: ModelFailed) -> None:
    """Have Python show the traceback of the worker below its own."""
    if error.traceback:
        error.add_note(f"\nIn the worker:\n{error.traceback.rstrip()}")
