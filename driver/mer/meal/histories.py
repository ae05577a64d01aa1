"""What is remembered of versions whose workers died: they are started ever later, and set aside where that does not help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mer.core.errors import MerError
from mer.meal.pooled import Key
from mer.meal.starting import delay


@dataclass(slots=True)
class History:
    """What is remembered of a key that failed."""

    crashes: int = 0
    not_before: float = 0.0
    refused: MerError | None = None


class Histories:
    """Those of one pool."""

    def __init__(self, *, set_aside_seconds: float, clock: Callable[[], float]) -> None:
        """Refuse a key for `set_aside_seconds` after its workers have died while loading."""
        self._set_aside = set_aside_seconds
        self._clock = clock
        self.known: dict[Key, History] = {}
        """Of what has failed; nearly always none."""

    def check(self, key: Key) -> None:
        """Raise a MerError where the key is set aside: what it was set aside for."""
        history = self.known.get(key)
        if history is not None and history.refused is not None:
            left = history.not_before - self._clock()
            if left > 0:
                raise history.refused.again(f"{history.refused.message} (not tried again for {left:.0f} s)")
            del self.known[key]

    def refuses(self, key: Key) -> bool:
        """Whether no worker of the key is to be started now."""
        history = self.known.get(key)
        return history is not None and history.refused is not None and history.not_before > self._clock()

    def wait(self, key: Key) -> float:
        """Return the seconds until the key's next worker may be started."""
        history = self.known.get(key)
        return 0.0 if history is None else max(0.0, history.not_before - self._clock())

    def remember(self, key: Key, refused: MerError | None = None) -> None:
        """Take in that a worker has died; `refused`: it could not be started at all."""
        history = self.known.setdefault(key, History())
        history.crashes += 1
        history.refused = refused
        history.not_before = self._clock() + (self._set_aside if refused else delay(history.crashes - 1))

    def forgive(self, key: Key) -> None:
        """Forget the crashes of a key whose workers have been well for a while."""
        history = self.known.get(key)
        if history is not None and self._clock() > history.not_before + self._set_aside:
            del self.known[key]
