"""One process of a verification by several: `python -m mer.audit.job`, its task as a line on stdin, what it finds on stdout.

It ends with whoever started it: its stdin closes then.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import msgspec

from mer.core.chain import Checkpoint, Head, Part, Verifier
from mer.core.errors import MerError


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to verify."""

    store: str
    """What dal.elsewhere.reopened takes. Holds a password."""
    chain: str
    after: Head
    until: int | None
    checkpoint: Checkpoint | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error of mer's."""

    name: str
    """Its class."""
    message: str
    hint: str | None


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line on stdout: how many records are done, and in the last line what was found or why nothing was."""

    records: int = 0
    part: Part | None = None
    failure: Failure | None = None


async def work(task: Task) -> Part:
    """Verify the task's records, telling now and then how many are done."""
    from mer.dal.elsewhere import reopened

    store = reopened(task.store.encode())
    await store.open()
    try:
        verifier = Verifier(chain=task.chain, after=task.after, checkpoint=task.checkpoint, part=True)
        await store.access_log.feed(verifier, until=task.until, progress=lambda records: tell(Told(records=records)))
    finally:
        await store.close()
    return verifier.part()


def tell(told: Told) -> None:
    """Write a line for whoever started this."""
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Do the task on stdin."""
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        part = asyncio.run(work(task))
    except MerError as error:
        failure = Failure(name=type(error).__name__, message=error.message, hint=error.hint)
        tell(Told(failure=failure))
    else:
        tell(Told(records=part.records, part=part))


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
