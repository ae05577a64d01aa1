"""Hosts: where workers run. All that a new kind of host has to provide, beside its stream."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mer.core.errors import ConfigurationError, MerError, UsageError
from mer.meal.findings import Finding, Found
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.stream import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be started: an argv, never a shell's line."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """All of it: nothing is inherited."""
    directory: Path
    descriptors: tuple[int, ...] = ()
    """Inherited beside 0, 1 and 2, under the same numbers. A host that is not this machine has none."""
    control: bool = False
    """Whether to open a control channel; its descriptor's number follows the argv as `--control-fd N`."""
    memory: int = 0
    """Bytes of memory to share with it in either direction; their descriptors follow the argv as `--memory-fds N,N`."""
    marker: str
    """By which everything that the worker forks is found again (mer_worker.orphans)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a host says of itself."""

    address: str
    python: str
    """The interpreter's absolute path."""
    version: str


class AddressValue(NamedTuple):
    """One thing that takes effect when a host is reached."""

    value: str
    origin: str
    """`record`, `/home/ada/.ssh/config:12`, `environment`, `setting` or `default`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKey:
    """A key that a machine has shown."""

    host: str
    """As known_hosts names it: `[gpu1]:2222`."""
    kind: str
    fingerprint: str
    """`SHA256:…`"""
    verdict: Literal["trusted", "unknown", "changed", "revoked"]
    former: tuple[str, ...] = ()
    """Fingerprints by which it is known instead."""
    known: tuple[str, ...] = ()
    """Where it is known, or those: kind, fingerprint, file and line."""
    name: str
    port: int
    public: str
    """The key itself, as a line of known_hosts has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Freed:
    """What was removed, or would be, of what a host was pushed; `size` is in bytes of blobs."""

    blobs: int
    size: int
    trees: int
    parts: int
    """Beginnings of blobs that nobody goes on with."""


class Host(ABC):
    """A place that runs workers."""

    name: str

    most_workers: int | None = None
    """How many it runs at once; None: as many as the pool may have."""

    @abstractmethod
    async def probe(self) -> Probe:
        """Look whether workers can run there. Raises: ServerUnreachable."""

    async def examine(self, found: Found) -> None:
        """Try each step on the way to a worker, and tell what was found, until one fails."""
        began = time.monotonic_ns()
        try:
            probe = await self.probe()
        except MerError as error:
            found(Finding(step="host", microseconds=(time.monotonic_ns() - began) // 1000, error=error))
        else:
            detail = f"{probe.address}: {probe.python}, Python {probe.version}"
            found(Finding(step="host", microseconds=(time.monotonic_ns() - began) // 1000, detail=detail))

    @abstractmethod
    async def prepare(self) -> Launch:
        """Make ready what a new worker needs (its code, a folder of its own), and return what starts it.

        Raises:
            ServerUnreachable: it cannot be.
        """

    @abstractmethod
    async def open(self, launch: Launch) -> Stream:
        """Start it. Raises: ServerUnreachable."""

    @abstractmethod
    async def kill(self, launch: Launch) -> None:
        """End whatever is left of a worker whose stream is gone."""

    @property
    def host_key(self) -> str | None:
        """The fingerprint of the key by which the machine was known when it was last reached; None where it needs none."""
        return None

    @property
    def reached(self) -> bool:
        """Whether the way there stands now, so that what takes long is not the way."""
        return True

    @property
    def choice_of_python(self) -> str | None:
        """The command that names another interpreter for its workers; None where there is none."""
        return None

    @property
    def cache(self) -> str:
        """Where its workers keep what can be made again, as one of its users would name it (mer_worker.stage0)."""
        return "~/.cache/mer-worker"

    def waiting(self, step: str) -> contextlib.AbstractContextManager[object]:
        """Let it be seen that this step is waited for within the block; on this machine nothing is: it is there at once."""
        del step
        return contextlib.nullcontext()

    async def address(self) -> Mapping[str, AddressValue]:
        """Return what takes effect when it is reached; nothing where there is no way to it. Raises: ConfigurationError."""
        return {}

    async def shown_key(self) -> HostKey:
        """Return the key that the machine shows now, without logging in; or the first on the way that is not trusted.

        Raises:
            UsageError: it has none.
            ServerUnreachable, AuthenticationFailed, ConfigurationError
        """
        raise UsageError(f"{self.name} is not reached by SSH: it shows no key")

    async def trust(self, key: HostKey) -> None:
        """Trust a key that it has shown, and no other of that machine. Raises: UsageError, ConfigurationError."""
        del key
        raise UsageError(f"{self.name} is not reached by SSH: it shows no key")

    async def stage(self, session: Session, plan: WorkerPlan, *, deadline: float) -> dict[str, Any]:
        """Bring there what the version needs and the host lacks, and return the head of its load frame.

        `deadline` is loop time. On this machine the worker reads the files where they are.

        Raises:
            ServerUnreachable, WorkerLost, DeadlineExceeded: it went away meanwhile, or took too long.
            ContentError: what came there is not what was sent, or has no room.
        """
        del session, deadline
        return plan.fields()

    async def collect(
        self, packages: Sequence[str], blobs: Sequence[str], *, grace_seconds: float, plan: bool
    ) -> Freed:
        """Remove what was pushed there, but for these packages and blobs, what workers use and what is younger than the grace.

        With `plan` it is only counted.

        Raises:
            ServerUnreachable: it cannot be asked.
            ConfigurationError: nothing is pushed to it.
        """
        del packages, blobs, grace_seconds, plan
        raise ConfigurationError(f"nothing is pushed to {self.name}", hint="`mer store gc` frees room on this machine.")

    async def idle(self) -> None:  # noqa: B027 - a host that holds nothing need not be waited for
        """Wait until no worker of this driver runs there."""

    async def aclose(self) -> None:  # noqa: B027 - a host that holds nothing has nothing to free
        """Free what the host holds; its workers have ended before."""
