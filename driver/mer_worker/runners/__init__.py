"""Adapters, one file a framework: each loads one kind of package and answers for it."""

from __future__ import annotations

import importlib

from mer_worker.failures import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from mer_worker.context import Context

    class Runner(Protocol):
        """One loaded model."""

        arrays: str
        """What its handler gets: `numpy`, `buffer` or `torch`."""
        ended: bool
        """Whether it can answer no more; the worker then ends, and the driver starts another."""

        def infer(self, inputs: dict[str, Any], context: Context) -> Mapping[str, Any]:
            """Return the outputs by name. Raises whatever the author's code raises, or Failure."""

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
