"""A handler in the caller's own process and thread, so that `breakpoint()` in it works.

It goes through the very encoding that a worker's does, so that a handler which works here works there. What it does not
have is a worker's isolation: it blocks the event loop, its prints are the caller's, and its crash is his crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from mer.core.errors import InputInvalid, MerError, WorkerLost
from mer.meal.calls import LogCallback
from mer.meal.failing import error_of
from mer.meal.loaded import LoadedModel
from mer.meal.plan import WorkerPlan
from mer.meal.seals import Handle, check_keep
from mer.meal.streams import InputParts, each
from mer_worker.context import Context
from mer_worker.encoded import Encoded
from mer_worker.failures import Failure, of_model
from mer_worker.outputs import Outputs
from mer_worker.runners import Runner, load
from mer_worker.runners.python import PythonRunner
from mer_worker.serving.flows import NO_PARTS
from mer_worker.serving.streams import is_parts
from mer_worker.tensors import decode, encode
from mer_worker.wire import WireError


class InProcess(LoadedModel):
    """A handler of the python runner, here."""

    def __init__(self, runner: Runner, folder: str, arrays: str, undo: Callable[[], None]) -> None:
        self._runner: Runner | None = runner
        self._folder = folder
        self._arrays = arrays
        self._undo = undo
        self._sealed: dict[str, Any] = {}
        self._seals = 0

    @classmethod
    def load(cls, plan: WorkerPlan) -> InProcess:
        """Import the handler's module and make the handler.

        Raises:
            PackageInvalid: there is no such entry point.
            ModelFailed: the author's code raised.
        """
        fields = plan.fields()
        path, modules = list(sys.path), set(sys.modules)
        folder = str(fields["folder"])

        def undo() -> None:
            """Forget the handler's modules: the next one may have modules of the same names."""
            if folder in sys.path and folder not in path:
                sys.path.remove(folder)
            for name, module in list(sys.modules.items()):
                file = getattr(module, "__file__", None)
                if name not in modules and file and Path(file).is_relative_to(folder):
                    del sys.modules[name]

        try:
            runner = load(fields)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
            undo()
            _fail(error, "load", "while the model was loaded")
        return cls(runner, folder, plan.spec.arrays, undo)

    async def infer(
        self,
        inputs: Mapping[str, Any] | Handle,
        *,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - nothing can stop a handler in its own thread
        on_log: LogCallback | None = None,  # noqa: ARG002 - its prints are the caller's own
    ) -> dict[str, Any]:
        runner, given = self._loaded(), self._given(inputs)
        try:
            context = Context(meta=meta, outputs=Outputs(self._arrays))
            if isinstance(runner, PythonRunner) and runner.is_async:
                outputs = runner.checked(
                    await _called(runner, given, Context(0, meta, NO_PARTS, Outputs(self._arrays)))
                )
            else:
                outputs = runner.infer(given, context)
            return _across(encode(outputs), self._arrays, writable=True)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
            _fail(error, "model", "in the handler")

    async def stream(
        self,
        inputs: Mapping[str, Any] | Handle,
        *,
        parts: InputParts | None = None,
        meta: Mapping[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - as for infer
        on_log: LogCallback | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[dict[str, Any], None]:
        """As LoadedModel.stream; a handler that is not `async def` runs in the thread that would give it input parts, so that
        they are gathered first.
        """
        runner, given = self._loaded(), self._given(inputs)
        if isinstance(runner, PythonRunner) and runner.is_async:
            async with contextlib.aclosing(self._stream_async(runner, given, parts, meta)) as streaming:
                async for part in streaming:
                    yield part
            return
        gathered = [] if parts is None else [self._given(part) async for part in each(parts)]
        try:
            outputs = runner.begin(given, Context(0, meta, gathered, Outputs(self._arrays)))
            if is_parts(outputs):
                try:
                    while True:
                        following = runner.checked(next(outputs))
                        yield _across(encode(following), self._arrays, writable=True)
                except StopIteration as end:
                    outputs = {} if end.value is None else runner.checked(end.value)
                finally:
                    if hasattr(outputs, "close"):
                        outputs.close()
            if outputs:
                yield _across(encode(outputs), self._arrays, writable=True)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
            _fail(error, "model", "in the handler")

    async def _stream_async(
        self, runner: PythonRunner, given: Any, parts: InputParts | None, meta: Mapping[str, Any] | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Stream from a handler that is `async def`: it and the caller take turns in this loop."""
        arriving = NO_PARTS if parts is None else _Arriving(parts, self._given)
        try:
            outputs = await _called(runner, given, Context(0, meta, arriving, Outputs(self._arrays)))
            if hasattr(type(outputs), "__anext__"):
                async with contextlib.aclosing(outputs):
                    async for part in outputs:
                        yield _across(encode(runner.checked(part)), self._arrays, writable=True)
            elif runner.checked(outputs):
                yield _across(encode(outputs), self._arrays, writable=True)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
            if isinstance(arriving, _Arriving) and arriving.failed is not None:
                raise arriving.failed from None  # the caller's own
            _fail(error, "model", "in the handler")

    async def seal(
        self,
        inputs: Mapping[str, Any],
        *,
        keep: float | None = None,
        timeout: float | None = None,  # noqa: ARG002 - as for infer
        on_log: LogCallback | None = None,  # noqa: ARG002
    ) -> Handle:
        runner, given, seconds = self._loaded(), self._given(inputs), check_keep(keep)
        try:
            staged = runner.seal(given)
            if asyncio.iscoroutine(staged):
                staged = await staged
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the author's code may raise anything
            _fail(error, "model", "while inputs were sealed")
        self._seals += 1
        text = f"sealed-{self._seals}"
        self._sealed[text] = staged
        return Handle(self, text, seconds, self._forget)

    @property
    def lost(self) -> MerError | None:
        """Why nothing is sealed here any more."""
        return None if self._runner is not None else WorkerLost("the model was closed")

    async def _forget(self, text: str) -> None:
        del self._sealed[text]

    def _loaded(self) -> Runner:
        if self._runner is None:
            raise WorkerLost("the model was closed")
        return self._runner

    def _given(self, inputs: Mapping[str, Any] | Handle) -> Any:
        """Return what the handler gets."""
        if isinstance(inputs, Handle):
            return self._sealed.pop(inputs.use(self))
        try:
            return _across(encode(inputs), self._arrays, writable=False)
        except WireError as error:
            raise InputInvalid(str(error)) from error

    async def aclose(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
            self._undo()


class _Arriving:
    """Input parts, each as a worker would get it."""

    def __init__(self, parts: InputParts, given: Callable[[Mapping[str, Any]], Any]) -> None:
        self._parts = each(parts)
        self._given = given
        self.failed: Exception | None = None
        """What the caller's iterable has raised, or why a part of it cannot be sent."""

    def __aiter__(self) -> _Arriving:
        return self

    async def __anext__(self) -> dict[str, Any]:
        try:
            return self._given(await anext(self._parts))  # type: ignore[no-any-return]
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.failed = error
            raise


async def _called(runner: PythonRunner, given: Any, context: Context) -> Any:
    """Return what an async handler gives: outputs, or an async generator."""
    outputs = runner.call(given, context)
    return outputs if hasattr(type(outputs), "__anext__") else await outputs


def _across(encoded: Encoded, arrays: str, *, writable: bool) -> dict[str, Any]:
    """Return the values as the other side of a wire would get them: copies."""
    _, pieces = encoded.body()
    return decode(encoded.descriptors, bytearray(b"".join(pieces)), arrays, writable=writable)


def _fail(error: BaseException, kind: str, doing: str) -> NoReturn:
    failure: Failure = of_model(error, kind, doing)
    raise error_of(
        kind=failure.kind, code=failure.code, message=failure.message, traceback=failure.traceback
    ) from error
