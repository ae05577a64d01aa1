"""A unit of work: several calls in one transaction, on an engine whose transactions are one script each.

The embedded engine has no transactions over several calls. So a unit of work is a script that grows. Each call runs
the whole script so far with its own query as the last step, and throws at the end: the engine takes everything back
and the answer travels in the thrown message. The calls see their own writes, and nobody else does. At the end the
script runs once more, checks that every step gives what it gave before, and commits. Where it does not, somebody else
changed what the unit had seen: ConcurrentChange. Changes are made one at a time (Connection.changing), so what the last
run has checked still holds when it commits: units of work are serializable.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mer.core.errors import ConcurrentChange, MerError
from mer.dal.surreal import cbor
from mer.dal.surreal.answers import Failure, Refused, failure
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.executor import TURN, Direct, Otherwise, until_alone
from mer.dal.surreal.queries import Query, numbered_name

EAGER_STEPS = 32
"""Steps of a unit that are tried as they are told. Trying one runs those before it again, so a thousand would cost half
a million; beyond this, a step without an answer waits for the next question or the end. Changes of the registry have
fewer than ten."""

_SEEN_PREFIX = "mer-seen:"
_SEEN = f"An error occurred: {_SEEN_PREFIX}"
_BEGIN = 1
"""Statements of a script before its first step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    query: Query
    parameters: dict[str, Any]
    otherwise: Otherwise = field(default_factory=dict)
    seen: str | None = None
    """The digest of the answer that its caller was given."""


class UnitOfWork:
    """The steps of one unit, in order; an Executor for the repositories of one `transaction()`."""

    concurrent = False  # each step runs those before it

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._steps: list[_Step] = []
        self._tried = 0
        """How many steps, from the first on, are known to be accepted."""
        self._held = AsyncExitStack()
        self._changing = False

    @property
    def shared(self) -> bool:
        return self._connection.shared

    async def ask(self, query: Query, /, **parameters: Any) -> Any:
        if query.volatile and not query.changes:
            return await Direct(self._connection).ask(query, **parameters)
        text = await self._try(_Step(query=query, parameters=parameters))
        seen = None if query.volatile else hashlib.sha256(text.encode()).hexdigest()
        self._steps.append(_Step(query=query, parameters=parameters, seen=seen))
        self._tried = len(self._steps)
        return _decoded(text)

    async def tell(self, query: Query, otherwise: Otherwise, /, **parameters: Any) -> None:
        step = _Step(query=query, parameters=parameters, otherwise=otherwise)
        if len(self._steps) < EAGER_STEPS:
            await self._try(step)
            self._tried = len(self._steps) + 1
        self._steps.append(step)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        if not self._changing:
            await self._held.enter_async_context(self._connection.changing())
            self._changing = True
        yield

    async def commit(self) -> None:
        """Run the script for good.

        Raises:
            ConcurrentChange: a step gives another answer than its caller was given.
        """
        if not any(step.query.changes for step in self._steps):
            return
        async with self.changing():
            checks = "\n".join(
                f"IF crypto::sha256({_text(number)}) != $seen_{number} {{ THROW 'mer:changed' }};"
                for number, step in enumerate(self._steps)
                if step.seen
            )
            seen = {f"seen_{number}": step.seen for number, step in enumerate(self._steps) if step.seen}
            turn = TURN if self._connection.shared and any(step.query.in_turn for step in self._steps) else ""
            ending = f"{checks}\n{turn}\nCOMMIT;"
            # it checks all that was seen each time, so a try that met somebody else's commit may be made again
            await until_alone(lambda: self._run(self._steps, ending, seen), self._connection)

    async def end(self) -> None:
        """Let the others go on."""
        await self._held.aclose()

    async def _try(self, step: _Step) -> str:
        """Run the steps so far and this one, take everything back, and return the answer as text."""
        steps = [*self._steps, step]
        ending = f"THROW '{_SEEN_PREFIX}' + {_text(len(steps) - 1)};\nCOMMIT;"
        return await self._run(steps, ending, {})

    async def _run(self, steps: list[_Step], ending: str, extra: dict[str, Any]) -> str:
        lines = [f"LET $step_{number} = {{\n{step.query.numbered(number)}\n}};" for number, step in enumerate(steps)]
        parameters = extra | {
            numbered_name(number, name): value
            for number, step in enumerate(steps)
            for name, value in step.parameters.items()
        }
        repeatable = _SEEN_PREFIX in ending  # it takes back whatever it does
        statements = await self._connection.run(
            "\n".join(["BEGIN;", *lines, ending]), parameters, repeatable=repeatable
        )
        failed = failure(statements)
        if failed is None:
            return ""
        if failed.message.startswith(_SEEN):
            return failed.message.removeprefix(_SEEN)
        raise self._error(failed, steps)

    def _error(self, failed: Failure, steps: list[_Step]) -> Exception:
        number = failed.statement - _BEGIN
        error = failed.error()
        if number < self._tried or number >= len(steps):
            # it was accepted when it was tried: somebody else has changed something since
            return ConcurrentChange() if isinstance(error, Refused) else error
        if isinstance(error, Refused) and error.reason in steps[number].otherwise:
            return steps[number].otherwise[error.reason]
        return error


def _text(step: int) -> str:
    """Return the expression for a step's answer as text: CBOR, which keeps every type, in Base64."""
    return f"encoding::base64::encode(encoding::cbor::encode([$step_{step}]))"


def _decoded(text: str) -> Any:
    (answer,) = cbor.decode(b64decode(text + "=" * (-len(text) % 4)))
    return answer


@asynccontextmanager
async def unit_of_work(connection: Connection) -> AsyncIterator[UnitOfWork]:
    """Give a unit of work that is committed when the block ends without an error."""
    async with connection.in_use():
        unit = UnitOfWork(connection)
        try:
            yield unit
            await unit.commit()
        except Refused as refused:
            raise MerError(f"a query refused for a reason that nobody named: {refused.reason}") from refused
        finally:
            await unit.end()
