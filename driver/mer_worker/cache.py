"""The cache folder of a far host, as one worker uses it: what it is pushed, what it loads from there, whose turn it is.

Opened when it is first needed. Several of a driver's workers, and several drivers, share one.
"""

from __future__ import annotations

import os
import threading
import time

from mer_worker.blobs import Blobs, require_digest
from mer_worker.claims import Claims
from mer_worker.failures import Failure
from mer_worker.intake import Intake
from mer_worker.trees import Trees
from mer_worker.turns import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Optional

    from mer_worker.channel import Channel
    from mer_worker.wire import Frame

MODEL_FOLDER = "model"
"""Where in a package the author's files are."""

MOST_WAIT_MILLISECONDS = 24 * 60 * 60 * 1000
"""For a device; a driver that waits longer asks again."""


class Cache:
    """One worker's view of it."""

    def __init__(self, folder: str, marker: str, answers: Channel) -> None:
        """Use the folder; `marker` names what is this worker's in it. What is pushed is answered over the channel."""
        self._folder = folder
        self._marker = marker or f"{os.getpid()}-{time.time_ns()}"  # alone in its name: who has none is no driver's
        self._answers = answers
        self._opening = threading.Lock()
        self._claims: Optional[Claims] = None
        self._blobs: Optional[Blobs] = None
        self._intake: Optional[Intake] = None

    def take(self, received: Frame) -> None:
        """Take a frame of what is pushed (mer_worker.intake); waits while the disk is behind."""
        if self._intake is None:
            self._intake = Intake(self._opened, self._answers)
        self._intake.put(received)

    def cancel(self, received: Frame) -> None:
        """Hear of a cancel, which may be of what is pushed."""
        if self._intake is not None:
            self._intake.put(received)

    def resolved(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a load frame's head with paths in place of digests.

        Raises:
            Failure: what it names is not here, or damaged, or no digest.
        """
        found = dict(fields)
        package, weights = fields.get("package"), fields.get("weights")
        if package is not None:
            blobs, claims = self._opened()
            trees = Trees(self._folder, self._marker, blobs, claims)
            found["folder"] = os.path.join(trees.open(require_digest(package)), MODEL_FOLDER)
        if type(weights) is list and any(_by_digest(item) for item in weights):
            blobs, claims = self._opened()
            with claims.looking(require_digest(item[3].get("sha256")) for item in weights if _by_digest(item)):
                found["weights"] = [
                    [*item[:3], blobs.require(item[3]["sha256"])] if _by_digest(item) else item for item in weights
                ]
        return found

    def await_turn(self, fields: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        """Wait until the device that a load frame's head names is this driver's. Raises: Failure."""
        device, holder, wait = fields.get("device"), fields.get("holder", {}), fields.get("wait_ms", 0)
        if device is None:
            return
        if type(device) is not str or type(holder) is not dict or type(wait) is not int:
            raise Failure("protocol", "bad-load", "a device is a text, its holder an object, and wait_ms an integer")
        Turn(self._folder, device).take(holder, min(max(0, wait), MOST_WAIT_MILLISECONDS) / 1e3, tell)

    def _opened(self) -> tuple[Blobs, Claims]:
        with self._opening:
            if self._blobs is None or self._claims is None:
                self._blobs, self._claims = Blobs(self._folder, self._marker), Claims(self._folder, self._marker)
            return self._blobs, self._claims


def _by_digest(item: object) -> bool:
    return type(item) is list and len(item) == 4 and type(item[3]) is dict
