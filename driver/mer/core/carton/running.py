"""How a version wants to be run, as tables of a carton.toml: `[mer.limits]`, `[mer.batch]`, `[mer.workers]`."""

from __future__ import annotations

from collections.abc import Iterator

from mer.core import toml
from mer.core.carton.document import Table
from mer.core.running import Batch, Limits, Workers
from mer.core.specs import VersionSpec

KEYS = ("limits", "concurrency", "batch", "workers")
"""Of `[mer]`."""

_SECONDS = ("wall_seconds", "load_seconds", "cpu_seconds")
_COUNTS = ("memory_bytes", "open_files", "processes", "log_bytes", "calls")
_LIMITS = (
    "wall_seconds",
    "load_seconds",
    "memory_bytes",
    "cpu_seconds",
    "open_files",
    "processes",
    "log_bytes",
    "calls",
)
"""In the order in which they are written."""


def read_limits(table: Table) -> Limits:
    """Return what `[mer.limits]` says."""
    table.only(_LIMITS)
    return Limits(
        **{name: table.number(name) for name in _SECONDS},  # type: ignore[arg-type]
        **{name: table.integer(name) for name in _COUNTS},
    )


def read_batch(table: Table) -> Batch:
    """Return what `[mer.batch]` says."""
    table.only(("max_size", "max_delay_ms"))
    size, delay = table.integer("max_size"), table.number("max_delay_ms")
    return Batch(
        max_size=Batch().max_size if size is None else size,
        max_delay_ms=Batch().max_delay_ms if delay is None else delay,
    )


def read_workers(table: Table) -> Workers:
    """Return what `[mer.workers]` says."""
    table.only(("min", "max"))
    least, most = table.integer("min"), table.integer("max")
    least = Workers().min if least is None else least
    return Workers(min=least, max=max(1, least) if most is None else most)


def running_tables(spec: VersionSpec) -> Iterator[str]:
    """Give the tables that read back as the spec's; what is as usual is left out."""
    limits, batch, workers = spec.limits, spec.batch, spec.workers
    # float: 30 and 30.0 are one limit
    seconds = {name: None if (value := getattr(limits, name)) is None else float(value) for name in _SECONDS}
    counts = {name: getattr(limits, name) for name in _COUNTS}
    yield toml.table("mer.limits", {name: seconds.get(name, counts.get(name)) for name in _LIMITS})
    if batch is not None:
        yield toml.table("mer.batch", {"max_size": batch.max_size, "max_delay_ms": float(batch.max_delay_ms)})
    if workers != Workers():
        yield toml.table("mer.workers", {"min": workers.min, "max": workers.max})
