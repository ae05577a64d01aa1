"""The context: what a handler may ask of the request that it runs, if it takes a parameter of that name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Protocol

    from mer_worker.outputs import Outputs

    class Parts(Iterator[dict[str, Any]], AsyncIterator[dict[str, Any]], Protocol):
        """Inputs that come in parts: for `for`, and in a coroutine function for `async for`."""


class Context:
    """One request, as its handler sees it. Of no use once the handler has returned."""

    __slots__ = ("_outputs", "_parts", "cancelled", "meta", "request")

    of_process: Outputs | None = None
    """Makes the outputs of a worker: it has one model, and so one of it."""

    def __init__(
        self,
        request: int = 0,
        meta: Mapping[str, Any] | None = None,
        parts: Iterable[dict[str, Any]] | AsyncIterator[dict[str, Any]] = (),
        outputs: Outputs | None = None,
    ) -> None:
        self._outputs = outputs
        self.request = request
        """Its number in this conversation."""
        self.meta: Mapping[str, Any] = {} if meta is None else meta
        """What the caller sent along: headers and the like, JSON."""
        self.cancelled = False
        """Whether nobody waits for the answer any more. A handler in a thread that computes for long looks now and then."""
        self._parts: Any = parts if hasattr(parts, "__anext__") else iter(parts)

    def parts(self) -> Parts:
        """Return the inputs that come in parts: dicts by name, each as soon as the caller has given it. Mostly there are none.

        A handler that is `async def` takes them by `async for`.
        """
        return self._parts  # type: ignore[no-any-return]

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """Return an array for an output, not filled: one made here needs no copy on its way to the caller.

        It is of the kind that inputs are. `dtype` is the name of one of numbers ("float32"), or numpy's or torch's own.
        An output that the handler keeps beyond its return is copied after all.

        Raises:
            ValueError: no array has this dtype or shape.
        """
        outputs = self._outputs or self.of_process
        if outputs is None:
            raise RuntimeError("this context belongs to no model")
        return outputs.empty(shape, dtype)
