"""Appending to the access log: what is there already is found, and what waits at the same moment goes as one group.

In this process the client chains and hashes: it alone has the folder, and Python does it faster than the engine. On a
server the database does (the event `append` of migration 00): nobody's login may write a record, only ask for it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from mer.core.chain import EMPTY, Head
from mer.core.errors import BeingFilled, ConcurrentChange, InputInvalid, LogNotVerified, MerError, NotAllowed
from mer.dal.filling import RESUMES
from mer.dal.surreal.answers import Refused
from mer.dal.surreal.connection import Connection
from mer.dal.surreal.entries import Entry, Key, first_of_each, link, places_after
from mer.dal.surreal.executor import Direct, Executor
from mer.dal.surreal.queries import load

Write: TypeAlias = "Callable[[Sequence[Entry]], Awaitable[tuple[Head, ...]]]"
"""How entries get into the log: in a group with others', or in a unit of work."""

MAX_GROUP = 256
"""Records that wait together are committed together up to this many (one caller's own stay together however many they
are): beyond it a group gains little, and everybody in it waits for all of it."""

TRIES = 5
"""Of one group: a try fails where the head has moved or records are there already, and the next knows better."""

TAKEN_SECONDS = 0.05
"""Before another try where another process took the next place: at most so long, at random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """Where each entry stands, in their order, and the head after them."""

    places: tuple[Head, ...]
    head: Head


@dataclass(frozen=True, kw_only=True, slots=True)
class _Standing:
    """The one record of an invocation and kind."""

    place: Head
    body: str

    def place_of(self, entry: Entry) -> Head:
        """Return the place for who wanted to append this entry: its own record may be there, or another's."""
        return self.place if entry.body == self.body else replace(self.place, other=True)


async def head_of(run: Executor) -> Head:
    """Return the place of the last record."""
    found = await run.ask(load("access_log")["head"])
    return Head(seq=found["seq"], digest=found["digest"])


async def append(run: Executor, entries: Sequence[Entry], head: Head, *, fills: bool = False) -> Appended:
    """Append entries after `head` (or after the true one, if that has moved) in one transaction; `fills` says that it is this
    process's copy or restore that the database is being filled by.

    Raises:
        BeingFilled: it is another's. NotAllowed: this one was given up.
        ConcurrentChange: others were faster, time and again.
        LogNotVerified: a record stands where the next one belongs.
    """
    known: dict[Key, _Standing] = {}
    for tries in range(1, TRIES + 1):
        missing = first_of_each(each for each in entries if each.key not in known)
        if not missing:
            return Appended(places=tuple(known[each.key].place_of(each) for each in entries if each.key), head=head)
        try:
            places = await (
                _chained_there(run, missing, fills) if run.shared else _chained_here(run, missing, head, fills)
            )
        except Refused as refused:
            if refused.reason == "taken":
                found = await _places(run, missing)
                if not found and run.shared and tries < TRIES:
                    # somebody else took it between this one's look and its commit: the engine tells that as a conflict,
                    # or, seldom, as a row that is there
                    await asyncio.sleep(random.uniform(0, TAKEN_SECONDS))  # noqa: S311 - spreads retries
                elif not found:
                    raise LogNotVerified(
                        f"the access log cannot go on after record {head.seq}: its next place is taken"
                    ) from refused
                known |= found
            elif refused.reason == "filling":
                raise BeingFilled(hint=RESUMES) from refused
            elif refused.reason == "given-up":
                raise NotAllowed("what filled the database was given up") from refused
            else:
                head = await head_of(run)
            continue
        placed = dict(zip((id(each) for each in missing), places, strict=True))
        known |= {
            each.key: _Standing(place=place, body=each.body)
            for each, place in zip(missing, places, strict=True)
            if each.key
        }
        return Appended(
            places=tuple(known[each.key].place_of(each) if each.key else placed[id(each)] for each in entries),
            head=places[-1],
        )
    raise ConcurrentChange(f"the access log moved {TRIES} times while a record was appended")


async def _chained_here(run: Executor, entries: Sequence[Entry], head: Head, fills: bool) -> tuple[Head, ...]:
    chained = link(entries, head)
    await run.ask(
        load("access_log")["append"],
        previous=chained.previous,
        rows=chained.rows,
        opening=chained.opening,
        seq=chained.places[-1].seq,
        digest=chained.places[-1].digest,
        fills=fills,
    )
    return chained.places


async def _chained_there(run: Executor, entries: Sequence[Entry], fills: bool) -> tuple[Head, ...]:
    # one that is there already is refused, and found: only a change, which may come twice, must not be sent twice
    request = replace(load("access_log")["request"], repeatable=all(each.key for each in entries))
    before = await run.ask(request, bodies=[each.body for each in entries], fills=fills)
    return places_after(entries, Head(seq=before["seq"], digest=before["digest"]))


async def append_each(
    run: Executor, entries: Sequence[Entry], head: Head, *, fills: bool = False
) -> tuple[list[Head | MerError], Head]:
    """Append entries one by one, and return the place of each, or why the database refuses it."""
    outcomes: list[Head | MerError] = []
    for each in entries:
        try:
            appended = await append(run, [each], head, fills=fills)
        except InputInvalid as error:
            outcomes.append(error)
        else:
            outcomes.extend(appended.places)
            head = appended.head
    return outcomes, head


async def append_settled(run: Executor, entries: Sequence[Entry], *, fills: bool = False) -> tuple[Head, ...]:
    """Append entries after the head as it is; what the database refuses does not take its neighbours with it.

    Raises:
        InputInvalid: it refused one; the others are appended.
    """
    head = EMPTY if run.shared else await head_of(run)
    try:
        return (await append(run, entries, head, fills=fills)).places
    except InputInvalid:
        outcomes, _ = await append_each(run, entries, head, fills=fills)
        return _agreed(outcomes)


async def _places(run: Executor, entries: Sequence[Entry]) -> dict[Key, _Standing]:
    wanted = {each.key for each in entries if each.key}
    rows = await run.ask(load("access_log")["places"], invocations=sorted({invocation for invocation, _ in wanted}))
    found = {
        (row["invocation"], row["kind"]): _Standing(place=Head(seq=row["seq"], digest=row["digest"]), body=row["body"])
        for row in rows
    }
    return {key: standing for key, standing in found.items() if key in wanted}


@dataclass(kw_only=True, slots=True, eq=False)
class _Request:
    entries: Sequence[Entry]
    places: asyncio.Future[tuple[Head, ...]]


class GroupWriter:
    """The one writer of a process: whatever waits when a group is committed is the next group."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._run = Direct(connection)
        self.fills = False
        """Whether it is this process that the database is being filled by."""
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._head: Head | None = None
        self._head_of = 0
        """In which opening of the engine the head was read: between two openings another process may have appended."""

    async def append(self, entries: Sequence[Entry]) -> tuple[Head, ...]:
        """Append entries and return their places.

        A caller who is cancelled may find them there: a group is not cut off.
        """
        request = _Request(entries=entries, places=asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._write())
        return await request.places

    async def close(self) -> None:
        """Wait until everything that waits is appended."""
        if self._task:
            await self._task

    async def _write(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft()]
                size = len(group[0].entries)
                while self._waiting and size + len(self._waiting[0].entries) <= MAX_GROUP:
                    group.append(self._waiting.popleft())
                    size += len(group[-1].entries)
                await self._append(group)
        finally:
            self._task = None

    async def _append(self, group: Sequence[_Request]) -> None:
        entries = [each for request in group for each in request.entries]
        outcomes: Sequence[Head | MerError]
        try:
            async with self._connection.in_use():
                head = await self._last()
                try:
                    appended = await append(self._run, entries, head, fills=self.fills)
                    outcomes, self._head = appended.places, appended.head
                except InputInvalid:
                    outcomes, self._head = await append_each(self._run, entries, head, fills=self.fills)
        except asyncio.CancelledError:
            for request in group:
                request.places.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - the callers have to hear of everything, a bug of ours included
            self._head = None
            for request in group:
                if not request.places.done():
                    request.places.set_exception(error)
            return
        at = 0
        for request in group:
            _settle(request, outcomes[at : at + len(request.entries)])
            at += len(request.entries)

    async def _last(self) -> Head:
        if self._run.shared:
            return EMPTY  # the database knows
        if self._head is None or self._head_of != self._connection.opened:
            self._head = await head_of(self._run)
            self._head_of = self._connection.opened
        return self._head


def _settle(request: _Request, outcomes: Sequence[Head | MerError]) -> None:
    if request.places.done():  # its caller was cancelled
        return
    try:
        request.places.set_result(_agreed(outcomes))
    except MerError as error:
        request.places.set_exception(error)


def _agreed(outcomes: Sequence[Head | MerError]) -> tuple[Head, ...]:
    """Return the places, or raise the first refusal."""
    places: list[Head] = []
    for outcome in outcomes:
        if isinstance(outcome, MerError):
            raise outcome
        places.append(outcome)
    return tuple(places)
