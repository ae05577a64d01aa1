"""A server that lends inference and no shell: its `mer serve-ssh` runs what it has, asked for by digest.

Nothing is installed there, nothing pushed and nothing swept: each worker is a channel to the lender's own MER, which has a
pool, a log and limits of its own.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mer.core.errors import ConfigurationError, MerError, NotAllowed, ProtocolMismatch, ServerUnreachable
from mer.core.lent import RUNNER, digests
from mer.core.progress import waiting
from mer.meal.findings import Finding, Found
from mer.meal.host import Freed, Launch, Probe
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.ssh.examining import PINGS, WORKER_SECONDS, Examination
from mer.meal.ssh.host import MAX_SAID, START_SECONDS, SshHost
from mer.meal.ssh.stream import ChannelSession
from mer_worker.wire import PREAMBLE

VIA = "serve-ssh"
"""The value of a server's parameter `via`."""

WORD = "frames"
"""The command line by which a lender is asked to speak as a worker does."""

CAPABILITY = "reference"

NOT_ALLOWED = 77


class LentHost(SshHost):
    """One server whose key is bound to `mer serve-ssh`."""

    async def probe(self) -> Probe:
        """Ask the lender's MER for its hello."""
        session = await Session.start(await self.open(await self.prepare()), seconds=WORKER_SECONDS)
        try:
            return Probe(
                address=self._connection.target.address,
                python=f"lent by {VIA}",
                version=str(session.hello.get("python", ""))[:40],
            )
        finally:
            await session.close(grace=1.0)

    async def examine(self, found: Found) -> None:
        """Look at the way in, and at the lender's MER behind it."""
        examination = Examination(self.name, found)
        other = LentHost(self.name, self._connection.another(told=examination.told))
        try:
            await examination.reached(other)
            began = time.monotonic_ns()
            try:
                await other._examine_lender(found)
            except MerError as error:
                found(Finding(step="worker", microseconds=(time.monotonic_ns() - began) // 1000, error=error))
        except MerError:
            pass  # the step that failed has been told
        finally:
            await other.aclose()

    async def _examine_lender(self, found: Found) -> None:
        waiting(self.name, "worker")
        began = time.monotonic_ns()
        session = await Session.start(await self.open(await self.prepare()), seconds=WORKER_SECONDS)
        try:
            took = (time.monotonic_ns() - began) // 1000
            found(Finding(step="worker", microseconds=took, detail=f"lends by {VIA}, and says hello"))
            waiting(self.name, "round trip")
            trips = [(await session.pulse(seconds=WORKER_SECONDS)).answered for _ in range(PINGS)]
            found(Finding(step="round trip", microseconds=round(min(trips) * 1e6)))
        finally:
            await session.close(grace=1.0)

    async def prepare(self) -> Launch:
        """There is nothing to prepare."""
        marker = uuid.uuid4().hex
        return Launch(argv=(), environment={}, directory=Path("/"), marker=marker)

    async def kill(self, launch: Launch) -> None:
        """Nothing of ours runs there: the lender's MER ends what its channel asked for when that ends."""

    async def stage(self, session: Session, plan: WorkerPlan, *, deadline: float) -> dict[str, Any]:
        """Return the head of a load frame that names the version by its digests.

        Raises:
            ProtocolMismatch: what answers there is no lender. ConfigurationError: the version has no package.
        """
        del deadline
        if session.peer is None or CAPABILITY not in session.peer.capabilities:
            raise ProtocolMismatch(f"what answers on {self.name} does not lend by reference")
        lent = plan.spec.runner == RUNNER
        package, weights = digests(plan.spec) if lent else (plan.package_id, plan.weights_id)
        if package is None:
            raise ConfigurationError(f"{plan.key} has no package by which {self.name} could know it")
        return {"package": package, "weights": weights}

    async def collect(
        self, packages: Sequence[str], blobs: Sequence[str], *, grace_seconds: float, plan: bool
    ) -> Freed:
        """Refuse: what a lender keeps is his own. Raises: ConfigurationError."""
        del packages, blobs, grace_seconds, plan
        raise ConfigurationError(f"nothing is pushed to {self.name}, which lends what it has")

    def _line(self, launch: Launch) -> str:
        """Have the lender's MER speak as a worker."""
        del launch
        return WORD

    async def _first_words(self, session: ChannelSession) -> tuple[bytes, bytes]:
        """Wait for the preamble. Raises: also NotAllowed, where the lender lends nothing by frames."""
        said = bytearray()
        try:
            async with asyncio.timeout(START_SECONDS):
                while PREAMBLE not in said:
                    if session.ended.is_set() and not session.kept:
                        raise self._refusal(session, bytes(said))
                    if len(said) > MAX_SAID or session.logged > MAX_SAID:
                        raise ServerUnreachable(f"{self.name} prints without end, and lends nothing")
                    await session.arrived.wait()
                    session.arrived.clear()
                    said += session.taken()
        except TimeoutError:
            raise ServerUnreachable(f"{self.name} did not begin to lend within {START_SECONDS:g} s") from None
        return b"", bytes(said)

    def _refusal(self, session: ChannelSession, said: bytes) -> MerError:
        if session.error is not None:
            return ServerUnreachable(f"{self.name} went away while it was asked to lend: {session.error}")
        words = (said + b"".join(session.kept_log)).decode("utf-8", "replace").strip()[-500:]
        told = f"; it said: {words}" if words else ""
        if session.status == NOT_ALLOWED:
            return NotAllowed(f"{self.name} does not lend by {VIA}{told}")
        return ServerUnreachable(
            f"{self.name} ended with status {session.status} before it lent anything{told}",
            hint=f"Is this key bound to `mer {VIA}` in its authorized_keys?",
        )
