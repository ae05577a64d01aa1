"""What a far host gets before a worker there loads a version: the content that it lacks, and whose turn a device is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mer.core.errors import ConfigurationError, ContentMissing, ContentUnwritable
from mer.core.trace import span
from mer.meal.blobs import CAPABILITY, Blob, lacking
from mer.meal.contents import contents_of
from mer.meal.host import Host
from mer.meal.plan import WorkerPlan
from mer.meal.pushing import Push
from mer.meal.session import Session

ANSWER_SECONDS = 60.0
"""What a host gets to say what it lacks: it looks at each file, and reads again what has lost its seal."""

TURN_MARGIN = 0.1
"""Of the time that a load has, for what follows the wait for a device: the worker itself gives up first, and says who has it."""


async def stage(host: Host, session: Session, plan: WorkerPlan, *, deadline: float) -> dict[str, Any]:
    """Push over the session what the version needs and the host lacks, and return the head of its load frame.

    `deadline` (loop time) is the load's: pushing does not count, and goes on for as long as anything moves.

    Raises:
        ConfigurationError: the worker there takes no content.
        ContentError: something is missing here, or cannot be kept there.
        DeadlineExceeded, WorkerLost, ProtocolViolation: as Push.over.
    """
    loop = asyncio.get_running_loop()
    left = deadline - loop.time()
    contents = await asyncio.to_thread(contents_of, plan)
    head = contents.fields(plan)
    if plan.device is not None:
        head |= {"holder": dict(plan.holder), "wait_ms": max(0, int(1e3 * left * (1 - TURN_MARGIN)))}
    if not contents.sources:
        return head
    if session.peer is None or CAPABILITY not in session.peer.capabilities:
        raise ConfigurationError(
            f"the worker on {host.name} takes no content",
            hint="Content is pushed to a worker that states the capability `blobs`.",
        )
    with span("have"):
        there = await lacking(session, list(contents.sources), deadline=loop.time() + ANSWER_SECONDS)
    if not there.missing:
        return head
    blobs = await asyncio.to_thread(lambda: [_blob(digest, contents.sources[digest]) for digest in there.missing])

    async def further() -> Session:
        launch = await host.prepare()
        try:
            stream = await host.open(launch)
        except BaseException:
            await asyncio.shield(host.kill(launch))
            raise
        return await Session.start(stream)

    try:
        with span("push"):
            await Push(host.name, blobs, there.partial).over(session, further)
    except ContentUnwritable as error:
        error.hint = f"mer -a server gc {host.name} frees what is not needed there"
        raise
    return head


def _blob(digest: str, source: Path | bytes) -> Blob:
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
    except OSError as error:
        raise ContentMissing(f"{source!s} cannot be read: {error.strerror}") from error
    return Blob(digest=digest, source=source, size=size)
