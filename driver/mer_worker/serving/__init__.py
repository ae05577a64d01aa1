"""Ways of serving requests with a loaded model: one module a way, chosen when the model is loaded."""

from __future__ import annotations

from mer_worker.serving.serial import Serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
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
    """Return the way of serving that the load frame's head asks for."""
    del fields
    return Serial(runner, conversation)
