"""Adapters, one file a framework: each loads one kind of package and answers for it."""

from __future__ import annotations

import importlib

from mer_worker.failures import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Optional, Protocol

    from mer_worker.context import Context

    class Runner(Protocol):
        """One loaded model."""

        arrays: str
        """What its handler gets: `numpy`, `buffer` or `torch`."""
        ended: bool
        """Whether it can answer no more; the worker then ends, and the driver starts another."""

        plain: Optional[Callable[[dict[str, Any]], Any]]
        """Does as `infer`, where the context is not needed; what it gives is for `checked` if it is no dict."""

        def infer(self, inputs: dict[str, Any], context: Context) -> Mapping[str, Any]:
            """Return the outputs by name. Raises whatever the author's code raises, or Failure."""

        def begin(self, inputs: Any, context: Context) -> Any:
            """Return the outputs by name, or an iterator of parts. Raises: as `infer`."""

        def checked(self, outputs: Any) -> Mapping[str, Any]:
            """Return outputs, or a part of them, if they are by name. Raises: Failure."""

        def seal(self, inputs: dict[str, Any]) -> Any:
            """Return what the handler is to get in place of these inputs, later. Raises: as `infer`."""

        def close(self) -> None:
            """Free what it holds."""

else:
    Runner = object

RUNNERS = ("python", "command")


def load(fields: Mapping[str, Any]) -> Runner:
    """Load what a load frame's head describes (docs/wire.md, "load").

    Raises:
        Failure: there is no such runner, or the package is not as it must be.
    """
    name = fields.get("runner")
    if name not in RUNNERS:
        raise Failure("load", "no-runner", f"there is no runner {name!r}, only {', '.join(RUNNERS)}")
    loaded: Runner = importlib.import_module(f"mer_worker.runners.{name}").load(fields)
    return loaded
