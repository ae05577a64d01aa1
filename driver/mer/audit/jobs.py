"""Verification by several processes, this one among them, each of a part of the log: hashing and reading fill a core.

A part is chained by the digest of the record before it, which the process of the part before has to arrive at. So what is
found, and in which order, is what one process finds.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from mer import children
from mer.audit.job import Failure, Task, Told
from mer.core.chain import EMPTY, Checkpoint, Head, Part, Verifier
from mer.core.errors import MerError, WorkerLost
from mer.core.records import AccessFilter
from mer.dal.base import AccessLog

LEAST_RECORDS = 50_000
"""Of a part: to start a process takes as long as to verify them. So the first part, which is this one's, has as many more."""

MAX_RECORDS = 10**17
"""That are shared: no log has as many, but a forged place may be as far as a database can count, where no page begins."""

MAX_LINE = 2**24
"""Bytes of a line: a hundred faults, each with what a record says of itself in it."""


async def verify_in_jobs(
    log: AccessLog,
    verifier: Verifier,
    *,
    elsewhere: bytes,
    jobs: int,
    chain: str,
    checkpoint: Checkpoint | None,
    progress: Callable[[int], None] | None,
    least: int = LEAST_RECORDS,
) -> None:
    """Feed the whole log to a verifier that has seen nothing, by up to that many processes.

    Raises:
        What one process would. WorkerLost: one of them was killed.
    """
    borders = await _borders(log, jobs=jobs, least=least)
    done = [0] * len(borders)

    def note(index: int, records: int) -> None:
        done[index] = records
        if progress:
            progress(sum(done))

    ends = [*(border.seq for border in borders[1:]), None]
    tasks = [
        Task(store=elsewhere.decode(), chain=chain, after=after, until=until, checkpoint=checkpoint)
        for after, until in zip(borders[1:], ends[1:], strict=True)
    ]
    if tasks:
        try:
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(_part(task, index, note)) for index, task in enumerate(tasks, 1)]
                await asyncio.sleep(0)  # they start before this one is busy
                await log.feed(verifier, until=ends[0], progress=lambda records: note(0, records))
        except* MerError as errors:
            raise _first(errors) from errors
        if all(verifier.take_over(part.result()) for part in parts):
            return
    # one process is enough; or a record at a border was changed in between: the rest is looked at as it is now
    await log.feed(verifier, progress=progress)


async def _borders(log: AccessLog, *, jobs: int, least: int) -> list[Head]:
    """Return the places behind which each part begins: those of records that are there, whatever is missing."""
    records = min((await log.head()).seq, MAX_RECORDS)
    parts = max(1, min(jobs, records // max(1, least)))
    borders = [EMPTY]
    for number in range(1, parts):
        place = least + (records - least) * number // parts
        page = await log.page(AccessFilter(), after=str(place + 1), limit=1)
        for last in page.items:
            if last.seq > borders[-1].seq:
                borders.append(Head(seq=last.seq, digest=last.digest))
    return borders


async def _part(task: Task, index: int, note: Callable[[int, int], None]) -> Part:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "mer.audit.job"),  # -P: whatever lies in the current folder is no module of ours
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE,
        process_group=0,  # a Ctrl-C is for the one who started it, and he ends it
    )
    assert process.stdin
    assert process.stdout
    try:
        with suppress(ConnectionError):  # it ended already: the exit status below tells
            process.stdin.write(msgspec.json.encode(task) + b"\n")
            await process.stdin.drain()
        while line := await process.stdout.readline():
            told = msgspec.json.decode(line, type=Told)
            if told.failure:
                raise _error(told.failure)
            note(index, told.records)
            if told.part:
                return told.part
        raise WorkerLost(
            f"a process that verified the records behind {task.after.seq} ended with status {await process.wait()}"
        )
    finally:
        await children.end(process)


def _error(failure: Failure) -> MerError:
    """Return the error that a process met, of its own class: its exit code is the command's."""
    known = {each.__name__: each for each in _kinds(MerError)}
    return known.get(failure.name, MerError)(failure.message, hint=failure.hint)


def _kinds(kind: type[MerError]) -> Iterator[type[MerError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def _first(errors: BaseExceptionGroup[MerError]) -> MerError:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
