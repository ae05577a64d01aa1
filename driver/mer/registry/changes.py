"""A change to the registry: allowed or refused, one transaction, its record last."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from mer.audit.recorder import Recorder
from mer.core.actor import Actor
from mer.core.canonical import Json
from mer.core.errors import ChangesNotAllowed, ConcurrentChange
from mer.dal.base import Repositories, Store

T = TypeVar("T")

ATTEMPTS = 8
"""Of one change, against others' changes to the same thing at the same moment."""

ALLOW = "start with -a (--allow-model-server-runtime-changes) to allow them"
"""What to do where changes are not allowed."""

FIRST_PAUSE_SECONDS = 0.01
"""Before the second attempt; doubled each time and spread, so that those who met once do not meet again."""


class Changes:
    """Runs changes; made with `allowed=False` it refuses every one, and puts that on record."""

    def __init__(
        self, store: Store, recorder: Recorder, *, allowed: bool, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._allowed = allowed
        self._changed = changed
        """Called after each attempt at a change, so that what was remembered of the registry is forgotten."""

    async def require_allowed(self, actor: Actor, action: str) -> None:
        """Refuse before any work is done for a change that is not allowed.

        Raises:
            ChangesNotAllowed: recorded.
        """
        if not self._allowed:
            error = ChangesNotAllowed(hint=ALLOW)
            await self._recorder.append_refused_change(actor=actor, action=action, error=error)
            raise error

    async def apply(
        self, actor: Actor, action: str, work: Callable[[Repositories], Awaitable[tuple[T, Mapping[str, Json] | None]]]
    ) -> T:
        """Run `work` in a transaction, append what it tells of itself, commit, and return its result.

        A `work` that tells None has found everything as it should be, and leaves no record. It may run several times:
        it must have no effect but through the repositories it is given.

        Raises:
            ChangesNotAllowed: recorded.
            ConcurrentChange: others changed the same thing at each of several attempts.
        """
        await self.require_allowed(actor, action)
        await (
            self._recorder.bodies()
        )  # asks for the chain's name, which must not be asked for beside an open transaction
        for attempt in range(ATTEMPTS):
            try:
                async with self._store.transaction() as repositories:
                    result, detail = await work(repositories)
                    if detail is not None:
                        await self._recorder.append_change(repositories, actor=actor, action=action, detail=detail)
                return result
            except ConcurrentChange:
                if attempt + 1 == ATTEMPTS:
                    raise
                await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - spreads retries
            finally:
                self._changed()  # after an error too: the commit may have come through, and only its answer been lost
        raise AssertionError("unreachable: the last attempt returns or raises")
