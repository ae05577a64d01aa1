"""Gets every finish on record: in the log, as `late` where it was given up for lost, or in the journal until the log is back."""

from __future__ import annotations

import asyncio
import json
import logging

from mer.audit.recorder import Recorder
from mer.core.canonical import canonical
from mer.core.chain import Head
from mer.core.errors import DatabaseUnreachable, MerError, Unreachable
from mer.core.records import InvocationId, RecordKind
from mer.execution.journal import Journal

FINISH_SECONDS = 5.0
"""How long a result waits for its record where the database does not answer: longer than the restart of a server, shorter
than the patience of who waits for the result. After that the record waits, in the journal."""

logger = logging.getLogger(__name__)


class Finishes:
    """Appends finishes, and takes up what the journal holds."""

    def __init__(self, recorder: Recorder, journal: Journal) -> None:
        self._recorder = recorder
        self._journal = journal
        self._kept = False
        """Whether this driver has put or left something in the journal: it takes that up itself once the log is back."""

    async def append(self, body: str) -> Head:
        """Append a finish, and return its place. Cut off, it may stand there or not: to append it again is safe.

        Raises:
            MerError: it is not known to be in the log: the database is gone, locked or full.
        """
        waiting = self._recorder.enqueue(body)
        # not asyncio.timeout, which costs each run more than the timer
        timer = asyncio.get_running_loop().call_later(FINISH_SECONDS, _give_up, waiting)
        try:
            return await waiting
        except TimeoutError as error:
            raise DatabaseUnreachable(f"the database did not take it within {FINISH_SECONDS:g} s") from error
        finally:
            timer.cancel()

    def settled(self, head: Head) -> bool:
        """Whether a finish that was appended there needs nothing more: else it is told to `record`."""
        return not head.other and not self._kept

    async def record(self, invocation: InvocationId, body: str, *, answer: Head | MerError | None = None) -> bool:
        """Append a finish; return False where it is not in the log: the database is gone, locked or full.

        It then waits in the journal. Where even that cannot be written, the invocation stays open and becomes `lost`.
        `answer` is what `append` gave, or raised, if it was called before.
        """
        try:
            if isinstance(answer, MerError):
                raise answer
            await self._append(body, answer)
        except MerError as error:
            await self._keep(invocation, body, because=error)
            return False
        if self._kept:
            self._kept = False
            await self.take_up()
        return True

    async def take_up(self) -> None:
        """Append what waits in the journal for this log. What cannot be appended stays, for the next start.

        Where the database goes away meanwhile, it stays for the next finish that the log takes.
        """
        if not self._journal.holds_any:
            return
        chain = (await self._recorder.bodies()).chain
        for path in await asyncio.to_thread(self._journal.waiting, chain=chain):
            try:
                await self._append(await asyncio.to_thread(self._journal.read, path, chain=chain))
                await asyncio.to_thread(path.unlink, missing_ok=True)
            except FileNotFoundError:
                continue  # another start has taken it up
            except Unreachable as error:
                logger.warning("the journal could not be taken up: %s", error)
                self._kept = True
                return  # the rest would wait as long, each
            except (MerError, OSError) as error:
                logger.warning("%s could not be appended: %s", path, error)

    async def _append(self, body: str, head: Head | None = None) -> None:
        if head is None:
            head = await self.append(body)
        if head.other:
            # an invocation finishes once: where another finish stands, it was given up as lost before this came
            await self.append(canonical({**json.loads(body), "kind": RecordKind.LATE.value}))

    async def _keep(self, invocation: InvocationId, body: str, *, because: MerError) -> None:
        try:
            path = await asyncio.to_thread(self._journal.keep, invocation, body, chain=json.loads(body)["chain"])
        except (MerError, OSError) as error:
            logger.error("the finish of %s is lost: %s; nor can the journal be written: %s", invocation, because, error)
        else:
            self._kept = True
            logger.warning("a finish waits in the journal %s: %s", path, because)


def _give_up(waiting: asyncio.Future[Head]) -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())
