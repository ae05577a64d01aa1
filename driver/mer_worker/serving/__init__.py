"""Ways of serving requests with a loaded model: one module a way, chosen when the model is loaded."""

from __future__ import annotations

import importlib

from mer_worker.failures import Failure
from mer_worker.serving.serial import Serial
from mer_worker.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    from mer_worker.conversation import Conversation
    from mer_worker.runners import Runner
    from mer_worker.wire import Frame

    class Serving(Protocol):
        """Takes the frames that are about requests of the loaded model."""

        kinds: frozenset[int]
        """Which kinds it takes beside infer; any other is answered with `unknown-kind`."""

        def infer(self, received: Frame) -> None:
            """Answer an infer frame, now or later."""

        def take(self, received: Frame) -> None:
            """Take a frame of one of `kinds`."""

        def close(self) -> None:
            """End what still runs."""

else:
    Serving = object


def serving(runner: Runner, conversation: Conversation, fields: Mapping[str, Any]) -> Serving:
    """Return the way of serving that the load frame's head asks for, and that the handler allows.

    Raises:
        WireError: it asks for what there is not.
        Failure: the handler cannot be served so.
    """
    concurrency, batch = fields.get("concurrency", 1), fields.get("batch")
    if type(concurrency) is not int or concurrency < 1 or (batch is not None and type(batch) is not int):
        raise WireError("concurrency and batch are integers above 0")
    is_async = getattr(runner, "is_async", False)
    if batch is not None:
        if is_async:
            raise Failure("load", "no-batches", "a handler that takes batches is no coroutine function")
        return _with("batches", "Batches")(runner, conversation)
    if is_async:
        return _with("tasks", "Tasks")(runner, conversation, concurrency)
    if concurrency > 1:
        return _with("threads", "Threads")(runner, conversation, concurrency)
    return Serial(runner, conversation)


def _with(module: str, name: str) -> Callable[..., Serving]:
    """Import a way of serving that not every worker needs."""
    found: Callable[..., Serving] = getattr(importlib.import_module(f"mer_worker.serving.{module}"), name)
    return found
