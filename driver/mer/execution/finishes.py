"""Gets every finish on record: in the log, as `late` where it was given up for lost, or in the journal until the log is back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from mer.audit.recorder import Recorder
from mer.core.canonical import canonical
from mer.core.errors import MerError, Unreachable
from mer.core.records import AccessRecord, InvocationId, RecordKind
from mer.dal.base import Store
from mer.execution.journal import Journal

logger = logging.getLogger(__name__)


class Finishes:
    """Appends finishes, and takes up what the journal holds."""

    def __init__(self, store: Store, recorder: Recorder, journal: Journal) -> None:
        self._store = store
        self._recorder = recorder
        self._journal = journal

    async def record(self, invocation: InvocationId, body: str, *, in_doubt: bool) -> bool:
        """Append a finish; return False where it had to be left in the journal because the database is gone.

        `in_doubt` asks to look whether somebody has recorded the invocation as lost meanwhile.
        """
        try:
            await self._append(invocation, body, in_doubt=in_doubt)
        except Unreachable as error:
            chain = json.loads(body)["chain"]
            path = await asyncio.to_thread(self._journal.keep, invocation, body, chain=chain)
            logger.warning("a finish waits in the journal %s: %s", path, error)
            return False
        return True

    async def take_up(self) -> int:
        """Append what waits in the journal for this log, and return how many records that were.

        What cannot be appended stays, for the next start.
        """
        if not self._journal.holds_any:
            return 0
        chain = (await self._recorder.bodies()).chain
        waiting = await asyncio.to_thread(list, self._journal.waiting(chain=chain))
        for path, body in waiting:
            try:
                await self._take_up(path, body)
            except (MerError, ValueError, KeyError) as error:
                logger.warning("%s could not be appended: %s", path, error)
        return len(waiting)

    async def _take_up(self, path: Path, body: str) -> None:
        await self._append(InvocationId(json.loads(body)["invocation"]), body, in_doubt=True)
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _append(self, invocation: InvocationId, body: str, *, in_doubt: bool) -> None:
        if in_doubt and _given_up(await self._store.access_log.of_invocation(invocation), body):
            body = canonical({**json.loads(body), "kind": RecordKind.LATE.value})
        await self._recorder.append(body)


def _given_up(records: Sequence[AccessRecord], body: str) -> bool:
    """Whether the log has another finish of this invocation already."""
    return any(record.columns["kind"] == RecordKind.FINISHED and record.body != body for record in records)
