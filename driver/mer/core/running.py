"""How a version wants to be run, and what it may use: what `[mer]` says beyond its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

MAX_CONCURRENCY = 1024
"""Requests at once in one worker: each may hold a thread, and a driver has no more workers either."""

MAX_BATCH = 512
"""Requests in one batch (mer_worker.serving.batches)."""

MAX_DELAY_MS = 60_000
"""Milliseconds that a batch may wait for more: beyond it nobody waits for a request to begin."""

MOST_WORKERS = 1024
"""Processes of one driver (mer.setting_kinds.MAX_WORKERS)."""

LONGEST_SECONDS = 10**9
"""Of a limit, 30 years: what the clocks and counters of kernels take, with something added to it."""

LEAST_MEMORY = 32 << 20
"""Bytes: a worker without a model holds 6 to 13 MB, and some more for a request; below that it would be ended as it loads."""

LEAST_OPEN_FILES = 16
"""A worker imports its runner with 6 open, and holds its pipes, its channel and the shared memory of a request."""

LARGEST = 2**53
"""Bytes, files, processes, calls: what any JSON reader takes exactly."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one version may use. None: the driver's settings for the times, and no limit for the rest."""

    wall_seconds: float | None = None
    """Of one request."""
    load_seconds: float | None = None
    memory_bytes: int | None = None
    """Of a worker with everything that it forked: memory of their own, not mapped files."""
    cpu_seconds: float | None = None
    """Of one request."""
    open_files: int | None = None
    """Of a worker; each process that it forks has as many."""
    processes: int | None = None
    """That a worker may have forked at one time."""
    log_bytes: int | None = None
    """Of one request's prints; the rest is dropped."""
    calls: int | None = None
    """After so many a worker is replaced by a new one."""


class Batch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Requests that wait at the same time go to the handler together, as a list of inputs."""

    max_size: int = 8
    max_delay_ms: float = 0.0
    """How long the first of a batch waits for others, where others are under way; a lone one never does."""


class Workers(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many workers a driver keeps of the version."""

    min: int = 0
    """Kept warm once one was started, however long they are idle."""
    max: int = 1


def running_faults(*, limits: Limits, concurrency: int, batch: Batch | None, workers: Workers) -> Iterator[str]:
    """Tell what is wrong with these, each fault with the key that it has in carton.toml."""
    yield from _limit_faults(limits)
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        yield f"mer.concurrency is {concurrency}: from 1 to {MAX_CONCURRENCY} is meant"
    if batch is not None:
        if not 1 <= batch.max_size <= MAX_BATCH:
            yield f"mer.batch.max_size is {batch.max_size}: from 1 to {MAX_BATCH} is meant"
        if not 0 <= batch.max_delay_ms <= MAX_DELAY_MS:
            yield f"mer.batch.max_delay_ms is {batch.max_delay_ms}: from 0 to {MAX_DELAY_MS} is meant"
        if concurrency > 1:
            yield "mer.batch and mer.concurrency: a worker that takes batches has one at a time"
    if not 1 <= workers.max <= MOST_WORKERS:
        yield f"mer.workers.max is {workers.max}: from 1 to {MOST_WORKERS} is meant"
    if not 0 <= workers.min <= workers.max:
        yield f"mer.workers.min is {workers.min}: from 0 to mer.workers.max, {workers.max}, is meant"


def _limit_faults(limits: Limits) -> Iterator[str]:
    for name in ("wall_seconds", "load_seconds", "cpu_seconds"):
        seconds = getattr(limits, name)
        if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= LONGEST_SECONDS):
            yield f"mer.limits.{name} is {seconds}: seconds above 0, and up to 10**9, are meant"
    least = {
        "memory_bytes": LEAST_MEMORY,
        "open_files": LEAST_OPEN_FILES,
        "processes": 0,
        "log_bytes": 0,
        "calls": 1,
    }
    for name, smallest in least.items():
        count = getattr(limits, name)
        if count is not None and not smallest <= count <= LARGEST:
            yield f"mer.limits.{name} is {count}: an integer from {smallest} to 2**53 is meant"
