"""Which of several servers runs an invocation, and which are passed over for a while, since they could not be reached.

What is known of servers here is this driver's own: it spares the next call the wait for one that is off. A server that nobody
asks for is tried again by the first call after its time is over, and by that one alone until it is known how that ended.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mer.core.errors import Unreachable
from mer.core.records import Server, ServerId
from mer.dal.base import AccessLog
from mer.registry.resolve import Candidate

SET_ASIDE_SECONDS = 30.0
"""How long a server is passed over after it failed: a machine that boots takes minutes, a cut network may be back at once."""

LONGEST_SECONDS = 300.0
"""At most, doubled with each failure in a row: one that is back serves again five minutes later."""

SPREAD = 0.2
"""Of these times, up or down by chance, so that the drivers of a team do not return in step."""

MAX_ASIDE = 1000
"""Servers; a registry that is rewritten all the time must not fill the memory."""


@dataclass(slots=True)
class _Aside:
    """A server that failed."""

    server: Server
    failures: int
    until: float
    tried: bool = False
    """Whether somebody tries it again."""


class Choice:
    """Chooses among the servers of a model."""

    def __init__(self, log: AccessLog, *, monotonic: Callable[[], float]) -> None:
        self._log = log
        self._monotonic = monotonic
        self._aside: dict[ServerId, _Aside] = {}

    async def among(self, model: str, candidates: Sequence[Candidate], *, patient: bool = True) -> Candidate:
        """Return the candidate with the fewest unfinished invocations of the model on record, of those not set aside.

        Where all are, it is the one whose time is over first. Unless `patient`, it is any where the database is away.

        Raises:
            DatabaseUnreachable
        """
        if len(candidates) == 1:
            return candidates[0]
        now = self._monotonic()
        ready = [candidate for candidate in candidates if self._until(candidate.server) <= now]
        if not ready:
            return min(candidates, key=lambda candidate: self._until(candidate.server))
        if len(ready) == 1:
            return ready[0]
        try:
            unfinished = await self._log.unfinished_by_server(model)
        except Unreachable:
            if patient:
                raise
            unfinished = {}
        least = min(unfinished.get(candidate.server.name, 0) for candidate in ready)
        idle = [candidate for candidate in ready if unfinished.get(candidate.server.name, 0) == least]
        return random.choice(idle)  # noqa: S311 - among equals; a fixed order would send every one-shot to the first

    def taken(self, server: Server) -> None:
        """Take in that a call goes to a server: one whose time was over is not tried by others too meanwhile."""
        aside = self._known(server) if self._aside else None
        if aside is not None and aside.until <= self._monotonic():
            aside.until, aside.tried = self._after(aside.failures), True

    def failed(self, server: Server) -> None:
        """Set a server aside: it could not be reached, or has no room."""
        aside = self._known(server)
        if aside is None:
            if len(self._aside) >= MAX_ASIDE:
                self._aside.clear()
            aside = self._aside[server.id] = _Aside(server, failures=0, until=0.0)
        elif not aside.tried and aside.until > self._monotonic():
            return  # of the calls that were under way with the first one
        aside.failures += 1
        aside.until, aside.tried = self._after(aside.failures), False

    def served(self, server: Server) -> None:
        """Take in that a worker runs there."""
        if self._aside:
            self._aside.pop(server.id, None)

    def _known(self, server: Server) -> _Aside | None:
        """Return what is known of a server, as it stands in the registry now."""
        aside = self._aside.get(server.id)
        return aside if aside is not None and aside.server.parameters == server.parameters else None

    def _until(self, server: Server) -> float:
        aside = self._known(server)
        return 0.0 if aside is None else aside.until

    def _after(self, failures: int) -> float:
        seconds = min(LONGEST_SECONDS, SET_ASIDE_SECONDS * 2.0 ** min(failures - 1, 30))
        return self._monotonic() + seconds * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - spreads retries
