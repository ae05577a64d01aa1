"""A look at a server, step by step, from its name to a worker that answers; over a connection of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from mer.core.errors import MerError, ServerUnreachable
from mer.core.progress import waiting
from mer.meal import findings
from mer.meal.findings import Finding, Found
from mer.meal.host import Launch
from mer.meal.session import Session
from mer.meal.ssh.knock import Step
from mer.meal.ssh.unready import Unready
from mer.meal.stream import Stream

PROBE_SECONDS = 40.0
"""For the facts: a slow login shell, the worker's code where it is not there yet, and GPUs that wake up."""

WORKER_SECONDS = 30.0

PINGS = 5
"""Of which the quickest is the round trip: the others waited for somebody else."""


class Examined(Protocol):
    """A host over SSH, as far as a look at it goes (mer.meal.ssh.host)."""

    name: str

    async def connect(self) -> None: ...
    async def ask(self, name: str, fields: Mapping[str, Any], *, seconds: float) -> dict[str, Any]: ...
    async def prepare(self) -> Launch: ...
    async def open(self, launch: Launch) -> Stream: ...


class Examination:
    """One look. What failed ends it, and is the last finding."""

    def __init__(self, name: str, found: Found) -> None:
        self._name = name
        self._found = found
        self._step = Step.RESOLVE.value
        self._began = time.monotonic_ns()

    def told(self, step: Step, detail: str | None) -> None:
        """Hear of a step on the way in."""
        if detail is None:
            self._begin(step.value)
        else:
            self._done(detail)

    async def reached(self, host: Examined) -> None:
        """Connect to a host that nobody has connected to yet, and tell each step; raise what the last of them failed by."""
        try:
            await host.connect()
        except MerError as error:
            self._found(Finding(step=self._step, microseconds=self._lap(), error=error))
            raise

    async def of(self, host: Examined) -> None:
        """Look at a host that nobody has connected to yet."""
        try:
            await host.connect()
            await self._facts(host)
        except Unready as error:
            self._found(Finding(step=error.step, microseconds=self._lap(), error=error))
        except MerError as error:
            self._found(Finding(step=self._step, microseconds=self._lap(), error=error))

    async def _facts(self, host: Examined) -> None:
        self._begin("interpreter")
        asked = time.time()
        facts = await host.ask("probe", {}, seconds=PROBE_SECONDS)
        answered = time.time()
        for finding in findings.of_facts(host.name, facts, microseconds=self._lap()):
            self._found(finding)
        self._begin("worker")
        session = await Session.start(await host.open(await host.prepare()), seconds=WORKER_SECONDS)
        try:
            self._done("starts, and says hello")
            self._begin("clock")
            trips = [(await session.pulse(seconds=WORKER_SECONDS)).answered for _ in range(PINGS)]
            self._found(findings.clock(skew(facts, asked, answered)))
            self._found(Finding(step="round trip", microseconds=round(min(trips) * 1e6)))
        finally:
            await session.close(grace=1.0)

    def _begin(self, step: str) -> None:
        self._step, self._began = step, time.monotonic_ns()
        waiting(self._name, step)

    def _done(self, detail: str) -> None:
        self._found(Finding(step=self._step, microseconds=self._lap(), detail=detail))

    def _lap(self) -> int:
        return (time.monotonic_ns() - self._began) // 1000


def skew(facts: dict[str, object], asked: float, answered: float) -> float:
    """Return how far the far clock is ahead, seconds: 0 where it showed a time between the question and the answer."""
    if type(shown := facts.get("clock")) is not int or abs(shown) > findings.MAX_NUMBER:
        raise ServerUnreachable("the far clock shows no time")
    far = shown / 1e6
    return far - asked if far < asked else max(0.0, far - answered)
