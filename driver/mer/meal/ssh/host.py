"""A server that is reached by SSH, as a host: each worker is one channel of its connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from mer.core.errors import MerError, ServerUnreachable
from mer.core.progress import waits
from mer.meal.bootstrap import FAR_START, START, Noticed, archive, command, notice
from mer.meal.findings import Found
from mer.meal.host import AddressValue, Freed, Host, HostKey, Launch, Probe
from mer.meal.local import ALLOWED, ALLOWED_PREFIX
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.ssh.connection import MAX_CHANNELS, Connection
from mer.meal.ssh.examining import Examination
from mer.meal.ssh.knock import described
from mer.meal.ssh.known_hosts import KnownHosts, entry_name
from mer.meal.ssh.reaching import KEEPALIVE_COUNT, address_of, shown_key
from mer.meal.ssh.stream import ChannelSession, ChannelStream
from mer.meal.ssh.unready import Unready
from mer.meal.staging import stage
from mer.meal.stream import Stream
from mer_worker.orphans import VARIABLE

MAX_SAID = 64 << 10
"""Bytes that a login shell may print before the worker speaks, on either stream: what docs/wire.md allows."""

START_SECONDS = 30.0
"""What a far host gets from the command to the worker's first word: slow start-up files of a shell on a slow disk."""

SWEEP_SECONDS = 10.0
"""What sweeping up after a worker may take; a host that cannot be reached any more is swept when it is reached again."""

GC_SECONDS = 300.0
"""What a host gets to look at all that it keeps, and to remove it: a million files on a slow disk."""

MAX_ANSWER = 64 << 20
"""Bytes of a far task's answer."""

MAX_WORDS = 500
"""Characters of what a far host says that an error repeats: it stands in a record too."""

MAX_UNSWEPT = 1000
"""Markers of workers that could not be swept up after, kept for the next connection."""


class SshHost(Host):
    """One server."""

    most_workers = MAX_CHANNELS

    def __init__(
        self, name: str, connection: Connection, *, python: str | None = None, shared_cache: bool = False
    ) -> None:
        """Run workers over `connection`, by the interpreter at the absolute path `python`, or by the one that is found.

        `shared_cache` lets the far cache folder lie below /tmp.
        """
        self.name = name
        self._connection = connection
        self._python = python
        self._shared_cache = shared_cache
        self._unswept: list[str] = []
        self._sweeping: set[asyncio.Task[None]] = set()

    async def probe(self) -> Probe:
        """Connect, and ask which interpreter a worker would have."""
        found = await self.ask("probe", {}, seconds=START_SECONDS)
        python, version = (str(found.get(name, ""))[:MAX_WORDS] for name in ("python", "version"))
        if not python:
            raise ServerUnreachable(f"{self.name} does not say by which interpreter it runs a worker")
        return Probe(address=self._connection.target.address, python=python, version=version)

    async def connect(self) -> None:
        """Connect, if need be: whoever has a deadline need not wait for a passphrase within it. Raises: as `open`."""
        await self._connection.open()

    async def examine(self, found: Found) -> None:
        """Look at it step by step, over a connection of its own, until one fails."""
        examination = Examination(self.name, found)
        connection = self._connection.another(told=examination.told)
        other = SshHost(self.name, connection, python=self._python, shared_cache=self._shared_cache)
        try:
            await examination.of(other)
        finally:
            await other.aclose()

    async def prepare(self) -> Launch:
        """Say how a worker is started there; its folder is made there when it is."""
        marker = uuid.uuid4().hex
        return Launch(argv=(), environment={VARIABLE: marker}, directory=Path("scratch") / marker, marker=marker)

    async def open(self, launch: Launch) -> Stream:
        """Start a worker, and send its code first where it is not there yet.

        Raises:
            ServerUnreachable, AuthenticationFailed, HostKeyRefused, Busy.
        """
        session = await self._connection.channel(self._line(launch))
        if self._unswept:
            self._sweep_later()
        try:
            log, first = await self._first_words(session)
        except BaseException:
            assert session.channel is not None
            session.channel.abort()
            raise
        return ChannelStream(
            session,
            first,
            log + b"".join(session.kept_log),
            name=self.name,
            clean_up=lambda: self.kill(launch),
            heartbeat_seconds=self._connection.target.keepalive_seconds,
            cleans_up=not launch.argv,
        )

    async def stage(self, session: Session, plan: WorkerPlan, *, deadline: float) -> dict[str, Any]:
        """Push there what the version needs and the host lacks (mer.meal.staging)."""
        return await stage(self, session, plan, deadline=deadline)

    async def collect(
        self, packages: Sequence[str], blobs: Sequence[str], *, grace_seconds: float, plan: bool
    ) -> Freed:
        """Have the host free what nobody needs there (mer_worker.collecting)."""
        kept = {"packages": list(packages), "blobs": list(blobs)}
        found = await self.ask("gc", {**kept, "grace_seconds": int(grace_seconds), "plan": plan}, seconds=GC_SECONDS)
        try:
            return Freed(**{name: int(found[name]) for name in ("blobs", "size", "trees", "parts")})
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # OverflowError: of Infinity
            raise ServerUnreachable(f"{self.name} did not say what it freed") from error

    async def ask(self, name: str, fields: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Have a task of mer_worker.far done there, and return its answer.

        Raises:
            ServerUnreachable: the host went away, did not do it, or took longer than `seconds`.
            AuthenticationFailed, HostKeyRefused.
        """
        line = self._command(self._task(FAR_START, {}, arguments=["--task", name]))
        await self.connect()
        try:
            async with asyncio.timeout(seconds), self._connection.task(line) as session:
                assert session.channel is not None
                said, looked_at = bytearray((await self._spoken(session)).after), 0
                session.take_log = _unheard  # it is read, or it would hold up the answer, and kept by nobody
                _send(session, json.dumps(fields).encode())
                session.channel.write_eof()
                while said.find(b"\n", looked_at) < 0:
                    looked_at = len(said)
                    if session.ended.is_set() and not session.kept:
                        raise ServerUnreachable(f"{self.name} went away in the middle of its answer")
                    if len(said) > MAX_ANSWER:
                        raise ServerUnreachable(f"{self.name} answers without end")
                    await session.arrived.wait()
                    session.arrived.clear()
                    said += session.taken()
        except TimeoutError:
            raise ServerUnreachable(f"{self.name} did not do {name!r} within {seconds:g} s") from None
        try:
            answer = json.loads(said.partition(b"\n")[0])
            if "failed" in answer:
                raise ServerUnreachable(f"{self.name} could not do {name!r}: {str(answer['failed'])[:MAX_WORDS]}")
            done = answer["done"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ServerUnreachable(f"{self.name} gave no answer to {name!r}") from error
        if not isinstance(done, dict):
            raise ServerUnreachable(f"{self.name} gave no answer to {name!r}")
        return done

    @property
    def reached(self) -> bool:
        """Whether its connection stands, as far as this side can tell."""
        return self._connection.alive

    @property
    def host_key(self) -> str | None:
        """The fingerprint of the key that it showed when it was last connected to."""
        return self._connection.host_key

    @property
    def choice_of_python(self) -> str:
        """That of its record."""
        return f"mer -a server edit {self.name} --python /PATH/TO/python3"

    def waiting(self, step: str) -> contextlib.AbstractContextManager[object]:
        """Let it be seen."""
        return waits(self.name, step)

    async def address(self) -> Mapping[str, AddressValue]:
        """Return what takes effect when it is reached, and where each value came from."""
        address = await address_of(self._connection.target)
        return {name: AddressValue(*told) for name, told in address.fields().items()}

    async def shown_key(self) -> HostKey:
        """Return the key that it shows now, or the first on the way to it that is not trusted."""
        address, knock = await shown_key(self._connection.target)
        key = knock.key
        assert key is not None
        assert knock.verdict is not None
        kind, public = key.export_public_key("openssh").decode("ascii").split()[:2]
        return HostKey(
            host=entry_name(address.key_name.value, address.port.value),
            kind=kind,
            fingerprint=key.get_fingerprint(),
            verdict=knock.verdict,
            former=tuple(line.key.get_fingerprint() for line in knock.by if line.key != key),
            known=tuple(f"{described(line.key)} in {line.where}" for line in knock.by),
            name=address.key_name.value,
            port=address.port.value,
            public=f"{kind} {public}",
        )

    async def trust(self, key: HostKey) -> None:
        """Keep a key in MER's own known_hosts, in the place of any other that it has of that machine."""
        own = KnownHosts(own=self._connection.target.operator.own_known_hosts)
        await asyncio.to_thread(own.pin, key.name, key.port, asyncssh.import_public_key(key.public))

    async def kill(self, launch: Launch) -> None:
        """End whatever carries the launch's mark there; where the host cannot be asked now, it is when it is reached again.

        A worker whose connection is gone ends by itself, with all that it forked: this is for one that was killed.
        """
        if len(self._unswept) < MAX_UNSWEPT:
            self._unswept.append(launch.marker)
        if self._connection.alive:
            await self._sweep()

    async def idle(self) -> None:
        """Wait until no worker has a channel of the connection."""
        await self._connection.idle()

    async def aclose(self) -> None:
        """Close the connection."""
        for sweeping in self._sweeping:
            sweeping.cancel()
        await asyncio.gather(*self._sweeping, return_exceptions=True)
        await self._connection.aclose()

    def _sweep_later(self) -> None:
        sweeping = asyncio.get_running_loop().create_task(self._sweep(), name=f"sweeping {self.name}")
        self._sweeping.add(sweeping)
        sweeping.add_done_callback(self._sweeping.discard)

    async def _sweep(self) -> None:
        markers, self._unswept = self._unswept, []
        if not markers:
            return
        try:
            await self.ask("sweep", {"markers": markers}, seconds=SWEEP_SECONDS)
        except BaseException as error:
            self._unswept = (markers + self._unswept)[-MAX_UNSWEPT:]
            if not isinstance(error, MerError):
                raise

    def _line(self, launch: Launch) -> str:
        """Return the command line that starts a worker there."""
        silence = self._connection.target.keepalive_seconds * (KEEPALIVE_COUNT + 1)
        arguments = ["--silence", f"{silence:g}"]
        return self._command(
            self._task(START, launch.environment, scratch=launch.marker, arguments=arguments, argv=list(launch.argv))
        )

    async def _first_words(self, session: ChannelSession) -> tuple[bytes, bytes]:
        """Wait until a worker begins to speak, and return what was printed before that, and what it has said."""
        found = await self._spoken(session)
        return found.before, found.after

    def _command(self, task: Mapping[str, Any]) -> str:
        return command(self._python, task)

    def _task(
        self,
        start: str,
        environment: Mapping[str, str],
        *,
        scratch: str = "",
        arguments: Sequence[str] = (),
        argv: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Return what stage0 is to do."""
        code = archive()
        return {
            "digest": code.digest,
            "size": len(code.data),
            "allowed": sorted(ALLOWED),
            "prefix": ALLOWED_PREFIX,
            "environment": dict(environment),
            "scratch": scratch,
            "start": start,
            "arguments": list(arguments),
            "argv": list(argv),
            "shared_cache": self._shared_cache,
        }

    async def _spoken(self, session: ChannelSession) -> Noticed:
        """Wait until what was started has said its first word, and send its code if it asks for that."""
        said, before, sent = bytearray(), b"", False
        assert session.channel is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    if not session.ended.is_set():  # which is told once only
                        await session.arrived.wait()
                        session.arrived.clear()
                    said += session.taken()
                    found = notice(bytes(said))
                    if found is None:
                        if session.ended.is_set():
                            raise self._unanswered(session, bytes(said))
                        if len(said) > MAX_SAID or session.logged > MAX_SAID:
                            raise ServerUnreachable(f"the login shell of {self.name} prints without end")
                    elif found.what == "fail":
                        raise await self._refused(session, found.after)
                    elif found.what != "need":
                        return found._replace(before=before + found.before)
                    elif sent:
                        raise ServerUnreachable(f"{self.name} asks for the worker's code twice")
                    else:
                        sent = True
                        _send(session, archive().data)
                        before, said[:] = found.before, found.after
        except TimeoutError:
            raise ServerUnreachable(
                f"{self.name} started no worker within {START_SECONDS:g} s{_quoted(bytes(said), session)}",
                hint="Does its login shell ask for something?",
            ) from None

    async def _refused(self, session: ChannelSession, after: bytes) -> MerError:
        said, session.take_log = bytearray(after), _unheard
        while b"\n" not in said and len(said) <= MAX_SAID and not session.ended.is_set():
            await session.arrived.wait()
            session.arrived.clear()
            said += session.taken()
        said += session.taken()
        try:
            fields = json.loads(said.partition(b"\n")[0])
            step, message = str(fields["step"])[:MAX_WORDS], str(fields["message"])[:MAX_WORDS]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ServerUnreachable(f"{self.name} refused to start a worker, and did not say why")
        hint = None
        if step == "interpreter":
            hint = self.choice_of_python
        elif step == "disk":
            hint = f"mer -a server gc {self.name} frees what is not needed there"
        return Unready(f"{self.name}, {step}: {message}", step=step, hint=hint)

    def _unanswered(self, session: ChannelSession, said: bytes) -> MerError:
        words = _quoted(said, session)
        if session.error is not None:
            return ServerUnreachable(f"{self.name} went away while a worker was started: {session.error}")
        if session.status in (126, 127):
            return ServerUnreachable(
                f"{self.name}, interpreter: it cannot run {self._python or 'python3'}{words}",
                hint=self.choice_of_python,
            )
        return ServerUnreachable(
            f"{self.name} ended with status {session.status} before a worker spoke{words}",
            hint=f"Is {self._python} a Python? {self.choice_of_python}" if self._python else None,
        )


def _quoted(said: bytes, session: ChannelSession) -> str:
    words = (said + b"".join(session.kept_log)).decode("utf-8", "replace").strip()
    return f"; it said: {words[-MAX_WORDS:]}" if words else ""


def _send(session: ChannelSession, data: bytes) -> None:
    """Write to a channel that may have ended meanwhile: whoever reads it next is told of that."""
    assert session.channel is not None
    with contextlib.suppress(OSError):
        session.channel.write(data)


def _unheard(text: bytes) -> None:
    """Take what a task says beside its answer."""
