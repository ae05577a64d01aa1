"""A server that is reached by SSH, as a host: each worker is one channel of its connection."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

from mer.core.errors import MerError, ServerUnreachable
from mer.meal.bootstrap import START, archive, command, notice
from mer.meal.host import Host, Launch, Probe, Stream
from mer.meal.local import ALLOWED, ALLOWED_PREFIX
from mer.meal.ssh.connection import Connection
from mer.meal.ssh.stream import ChannelSession, ChannelStream
from mer_worker.orphans import VARIABLE
from mer_worker.wire import PREAMBLE

MAX_SAID = 64 << 10
"""Bytes that a login shell may print before the worker speaks, on either stream: what docs/wire.md allows."""

START_SECONDS = 30.0
"""What a far host gets from the command to the worker's first word: slow start-up files of a shell on a slow disk."""


class SshHost(Host):
    """One server."""

    def __init__(self, name: str, connection: Connection, *, python: str | None = None) -> None:
        """Run workers over `connection`, by the interpreter at the absolute path `python`, or by the one that is found."""
        self.name = name
        self._connection = connection
        self._python = python
        self._shared_cache = False

    async def probe(self) -> Probe:
        """Connect, and ask which interpreter a worker would have."""
        launch = await self.prepare()
        stream = await self.open(launch)
        await stream.close(0.0)
        raise NotImplementedError

    async def prepare(self) -> Launch:
        """Say how a worker is started there; the folder is made there when it is."""
        marker = uuid.uuid4().hex
        return Launch(argv=(), environment={VARIABLE: marker}, directory=Path("scratch") / marker, marker=marker)

    async def open(self, launch: Launch) -> Stream:
        """Start a worker, and send its code first where it is not there yet."""
        session = await self._started(self._task(launch))
        try:
            return await self._answered(session, launch)
        except BaseException:
            if session.channel is not None:
                session.channel.abort()
            raise

    async def kill(self, launch: Launch) -> None:
        """End whatever carries the launch's mark."""
        await self._connection.forget(launch.marker)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()

    def _task(self, launch: Launch) -> dict[str, Any]:
        code = archive()
        return {
            "digest": code.digest,
            "size": len(code.data),
            "allowed": sorted(ALLOWED),
            "prefix": ALLOWED_PREFIX,
            "environment": dict(launch.environment),
            "scratch": launch.marker,
            "start": START,
            "arguments": [],
            "shared_cache": self._shared_cache,
        }

    async def _started(self, task: dict[str, Any]) -> ChannelSession:
        return await self._connection.execute(command(self._python, task))

    async def _answered(self, session: ChannelSession, launch: Launch) -> Stream:
        said = bytearray()
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    await session.arrived.wait()
                    session.arrived.clear()
                    said += b"".join(session.kept)
                    session.kept.clear()
                    found = notice(bytes(said))
                    if found is None:
                        if session.ended.is_set():
                            raise self._unanswered(session, bytes(said))
                        if len(said) > MAX_SAID:
                            raise ServerUnreachable(f"the login shell of {self.name} prints without end")
                        continue
                    if found.what == "fail":
                        raise await self._refused(session, found.after)
                    if found.what == "worker":
                        log = found.before + b"".join(session.kept_log)
                        return ChannelStream(session, PREAMBLE + found.after, log, clean_up=lambda: self.kill(launch))
                    assert session.channel is not None
                    session.channel.write(archive().data)
                    said[:] = found.after
        except TimeoutError:
            raise ServerUnreachable(
                f"{self.name} started no worker within {START_SECONDS:g} s{_quoted(bytes(said), session)}",
                hint="Does its login shell ask for something?",
            ) from None

    async def _refused(self, session: ChannelSession, after: bytes) -> MerError:
        await asyncio.wait_for(session.ended.wait(), START_SECONDS)
        line = (after + b"".join(session.kept)).split(b"\n", 1)[0]
        try:
            fields = json.loads(line)
            return ServerUnreachable(f"{self.name}, {fields['step']}: {fields['message']}")
        except (ValueError, KeyError, TypeError):
            return ServerUnreachable(f"{self.name} refused to start a worker, and did not say why")

    def _unanswered(self, session: ChannelSession, said: bytes) -> MerError:
        if session.error is not None:
            return ServerUnreachable(f"{self.name} went away while a worker was started: {session.error}")
        if session.status in (126, 127):
            return ServerUnreachable(
                f"{self.name} has no {self._python or 'python3'}{_quoted(said, session)}",
                hint=f"mer -a server edit {self.name} --python /PATH/TO/python3",
            )
        return ServerUnreachable(
            f"{self.name} ended with status {session.status} before a worker spoke{_quoted(said, session)}"
        )


def _quoted(said: bytes, session: ChannelSession) -> str:
    words = (said + b"".join(session.kept_log)).decode("utf-8", "replace").strip()
    return f"; it said: {words[-500:]}" if words else ""
