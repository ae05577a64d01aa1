"""Workers that keep what they are pushed, as those of a far host do, started on this machine without sshd in between."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mer.meal.blobs import Blob
from mer.meal.host import Launch
from mer.meal.local import LocalHost
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.staging import stage
from mer_worker.wire import Flag, Kind, dump, pack
from tests.support import compiled


class CachingHost(LocalHost):
    """This machine as a far host: content by digest, control frames in the stream, no shared memory."""

    def __init__(self, folder: Path, *, wrap: tuple[str, ...] = ()) -> None:
        """Keep everything in `folder`; `wrap` stands before the worker's argv."""
        super().__init__(scratch_folder=folder / "scratch", cache_folder=compiled.cache(), name="far")
        folder.mkdir(parents=True, exist_ok=True)
        self.far = folder / "far"
        self.far.mkdir(mode=0o700, exist_ok=True)
        self._wrap = wrap

    async def prepare(self) -> Launch:
        launch = await super().prepare()
        argv = (*self._wrap, *launch.argv, "--cache", str(self.far))
        return dataclasses.replace(launch, argv=argv, control=False, memory=0)

    async def stage(self, session: Session, plan: WorkerPlan, *, deadline: float) -> dict[str, Any]:
        return await stage(self, session, plan, deadline=deadline)

    def blob(self, digest: str) -> Path:
        return self.far / "blobs" / digest[:2] / digest

    def incoming(self) -> list[Path]:
        return sorted((self.far / "incoming").iterdir())


@contextlib.asynccontextmanager
async def worker_of(host: CachingHost) -> AsyncIterator[Session]:
    """Give the session of a worker that has loaded nothing."""
    session = await Session.start(await host.open(await host.prepare()))
    try:
        yield session
    finally:
        await session.close()


def blob_of(content: bytes) -> Blob:
    return Blob(digest=hashlib.sha256(content).hexdigest(), source=content, size=len(content))


async def put_frame(
    session: Session, fields: dict[str, object] | None, body: bytes = b"", *, more: bool = False
) -> tuple[int, asyncio.Future[Any]]:
    """Send the first frame of a put as it is said, right or wrong, and return its request's number and its end."""
    head = b"" if fields is None else dump(fields)
    flags = Flag.MORE if more else 0
    request, call = await session.begin(
        lambda number: (pack(Kind.PUT, head, request=number, flags=flags, body_bytes=len(body)), body)
    )
    return request, asyncio.ensure_future(session.outcome(request, call))
