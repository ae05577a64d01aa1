"""Where references lead: what is found out for the first run of one, and good for the next ones."""

from __future__ import annotations

import msgspec

from mer.audit.bodies import Subject
from mer.execution.forms import InputForms
from mer.execution.workplaces import Workplace
from mer.meal.pooled import Key
from mer.registry.resolve import MAX_REMEMBERED, Candidate, Resolved


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A version on a server, and all that a run of it there needs."""

    resolved: Resolved
    """The resolver's answer that led here."""
    subject: Subject
    candidate: Candidate
    workplace: Workplace
    worker: Key
    """Which workers of the pool it has."""
    forms: InputForms
    model: str
    version: int
    server: str
    until: float
    epoch: int
    """As Resolved has them."""
    far: bool
    """Whether the server is another machine, whose key goes on record."""
    plain: bool
    """Whether a call is sent as soon as it is made, and nothing surrounds it: no batch, no wall limit."""


class Routes:
    """Those of references that have one candidate only, by reference and server as they were asked for."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str | None], Route] = {}
        """Each is good for as long as what was resolved is."""

    def keep(self, asked: tuple[str, str | None], route: Route) -> None:
        """Know a route from now on, if it is the only one."""
        if len(route.resolved.candidates) != 1:  # among several, each call chooses anew
            return
        if len(self.known) >= MAX_REMEMBERED:
            self.known.clear()
        self.known[asked] = route
