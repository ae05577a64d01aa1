"""A loaded handler: what `load_unpacked` returns."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from mer.core.errors import InputInvalid, ModelFailed, WorkerLost
from mer.core.timeouts import check_timeout
from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.starting import start
from mer_worker.tensors import encode
from mer_worker.wire import WireError


class LoadedModel(ABC):
    """A handler that is loaded: call `infer`, then `aclose`; or use it as an async context manager."""

    @abstractmethod
    async def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> dict[str, Any]:
        """Return the outputs for these inputs.

        `timeout` is in seconds; `on_log` takes what the handler prints.

        Raises:
            InputInvalid: an input cannot be sent.
            UsageError: the timeout is not a finite number above 0.
            ModelFailed: the handler raised; its traceback is in the error.
            DeadlineExceeded, WorkerLost, ProtocolViolation: as Session.infer.
        """

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
        self._starting = asyncio.Lock()
        self._closed = False
        self._loop = asyncio.get_running_loop()

    async def infer(
        self,
        inputs: Mapping[str, Any],
        *,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_log: LogCallback | None = None,
    ) -> dict[str, Any]:
        try:
            encoded = encode(inputs)
        except WireError as error:
            raise InputInvalid(str(error)) from error
        timeout = check_timeout(timeout)
        session = self.session if self.session.lost is None else await self._again()
        deadline = None if timeout is None else self._loop.time() + timeout
        try:
            return (await session.infer(encoded, meta=meta, deadline=deadline, on_log=on_log)).outputs
        except ModelFailed as error:
            if error.traceback:
                error.add_note(f"\nIn the worker:\n{error.traceback.rstrip()}")  # Python shows it below its own
            raise

    async def aclose(self) -> None:
        self._closed = True
        async with self._starting:
            await self.session.close()
            await self._host.aclose()

    async def _again(self) -> Session:
        """Start another worker in the place of a lost one."""
        async with self._starting:
            if self._closed:
                raise WorkerLost("the model was closed")
            if self.session.lost is not None:
                await self.session.close(grace=0.0)
                self.session = await start(self._host, self._plan, arrays=self.session.arrays, on_log=self._on_log)
            return self.session
