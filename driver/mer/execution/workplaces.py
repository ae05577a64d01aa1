"""Where a version will run, and with what: its host, and the files that its worker loads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from mer.content.store import ContentStore
from mer.meal.host import Host
from mer.meal.hosts import Hosts
from mer.meal.pool import WeightFile, WorkerPlan
from mer.registry.resolve import Candidate

MAX_PLANS = 1000
"""Versions whose files are remembered; a driver that runs for months must not fill the memory."""


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """A host, and what a worker there is to load."""

    host: Host
    plan: WorkerPlan


class Workplaces:
    """Finds the host of a candidate and the content of its version, before anything is started."""

    def __init__(
        self, hosts: Hosts, content: ContentStore, *, load_seconds: float, holder: Mapping[str, Any] | None = None
    ) -> None:
        """Find hosts and content; `holder` is who is named to others who wait for a device that a worker of this driver has."""
        self._hosts = hosts
        self._content = content
        self._load_seconds = load_seconds
        self._holder = dict(holder or {})
        self._plans: dict[tuple[str, str, int, str | None], WorkerPlan] = {}

    async def prepare(self, candidate: Candidate) -> Workplace:
        """Return where and with what to run.

        Raises:
            ContentMissing, DigestMismatch: the package or the weights are not (whole) in the content store.
            ConfigurationError: such a server cannot be reached from here.
        """
        host = self._hosts.of(candidate.server)
        key = (candidate.server.id, candidate.version.model, candidate.version.number, _device(candidate))
        plan = self._plans.get(key)
        if plan is None:
            plan = await asyncio.to_thread(self._plan, candidate)
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[key] = plan
        return Workplace(host=host, plan=plan)

    def _plan(self, candidate: Candidate) -> WorkerPlan:
        version, device = candidate.version, _device(candidate)
        where = candidate.server.name if device is None else f"{candidate.server.name}, {device}"
        return WorkerPlan(
            key=f"{where}/{version.model}:{version.number}",
            spec=version.spec,
            package=self._content.tree(version.package) if version.package else None,
            package_id=version.package,
            weights_id=version.weights,
            manifest=self._content.manifest(version.package) if version.package else None,
            weights=self._weights(candidate),
            device=device,
            holder=self._holder,
            load_seconds=version.spec.limits.load_seconds or self._load_seconds,
        )

    def _weights(self, candidate: Candidate) -> tuple[WeightFile, ...] | None:
        if candidate.version.weights is None:
            return None
        return tuple(
            WeightFile(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, path=tensor.path, digest=tensor.digest)
            for tensor in self._content.weights(candidate.version.weights).tensors
        )


def _device(candidate: Candidate) -> str | None:
    return None if candidate.placement is None else candidate.placement.device
