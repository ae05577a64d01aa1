"""Options of `model register` that say how a version is run and what it may use, and how `model show` shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from mer.core.errors import UsageError
from mer.core.running import MAX_BATCH, MAX_CONCURRENCY, MAX_DELAY_MS, MOST_WORKERS, Batch, Limits, Workers
from mer.core.specs import VersionSpec
from mer.faces.commands.options import SECONDS
from mer.faces.render.console import Console

F = TypeVar("F", bound=Callable[..., Any])

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""Powers of 1024, as `ulimit` and systemd count."""


class Size(click.ParamType[int]):
    """Bytes, with a unit or without: 1048576, 512M, 1.5G, 64MiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(
            r"([0-9]{1,16}(?:\.[0-9]{1,6})?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower(), re.ASCII
        )
        if not found:
            self.fail(f"{str(value)[:80]!r}: a number of bytes is meant, as in 512M or 1.5G", param, ctx)
        return int(float(found[1]) * UNITS[found[2]])


SIZE = Size()
COUNT = click.IntRange(1)

_OPTIONS = (
    ("--run-limit", "wall_seconds", SECONDS, "SECONDS", "How long a run may take."),
    ("--load-limit", "load_seconds", SECONDS, "SECONDS", "How long it may take to load."),
    ("--memory-limit", "memory_bytes", SIZE, "BYTES", "Memory of a worker and what it starts; 512M, 1.5G."),
    ("--cpu-limit", "cpu_seconds", SECONDS, "SECONDS", "CPU time of a run."),
    ("--open-files-limit", "open_files", COUNT, "N", "Files that a worker may have open."),
    ("--processes-limit", "processes", click.IntRange(0), "N", "Processes that a worker may have started."),
    ("--log-limit", "log_bytes", SIZE, "BYTES", "What is kept of a run's prints."),
    ("--calls-limit", "calls", COUNT, "N", "Replace a worker by a new one after so many runs."),
    (
        "--concurrency",
        "concurrency",
        click.IntRange(1, MAX_CONCURRENCY),
        "N",
        "Runs at once in one worker: the handler is thread-safe, or async.",
    ),
    ("--batch", "batch_size", click.IntRange(1, MAX_BATCH), "N", "Give the handler lists of up to N inputs."),
    (
        "--batch-delay",
        "batch_delay_ms",
        click.FloatRange(0, MAX_DELAY_MS),
        "MS",
        "How long a batch waits for more, milliseconds.",
    ),
    ("--min-workers", "least_workers", click.IntRange(0, MOST_WORKERS), "N", "Workers kept warm."),
    ("--max-workers", "most_workers", click.IntRange(1, MOST_WORKERS), "N", "Workers at most; 1 by default."),
)

LIMITS = tuple(Limits.__struct_fields__)

FLAGS: Mapping[str, str] = {
    **{f"mer.limits.{name}": flag for flag, name, *_ in _OPTIONS if name in LIMITS},
    "mer.concurrency": "--concurrency",
    "mer.batch": "--batch",
    "mer.batch.max_size": "--batch",
    "mer.batch.max_delay_ms": "--batch-delay",
    "mer.workers": "--max-workers",
    "mer.workers.min": "--min-workers",
    "mer.workers.max": "--max-workers",
    "mer.arrays": "--arrays",
    "mer.command": "the command",
    "mer.command.argv": "PROGRAM",
    "mer.command.tokens": "--ready-token, --start-token, --stop-token, --exit-token",
}
"""Options, by the keys of a carton.toml that they become."""


def limiting(function: F) -> F:
    """Add the options."""
    for flag, name, kind, metavar, told in reversed(_OPTIONS):
        function = click.option(flag, name, type=kind, metavar=metavar, help=told)(function)
    return function


def take_limits(given: dict[str, Any]) -> dict[str, Any]:
    """Take the limits out of what was given."""
    return {name: value for name in LIMITS if (value := given.pop(name)) is not None}


def take_running(given: dict[str, Any]) -> dict[str, Any]:
    """Take concurrency, batch and workers out of what was given, as fields of a VersionSpec.

    Raises:
        UsageError: a delay without batches.
    """
    concurrency, size, delay = (given.pop(name) for name in ("concurrency", "batch_size", "batch_delay_ms"))
    least, most = (given.pop(name) for name in ("least_workers", "most_workers"))
    found: dict[str, Any] = {}
    if concurrency is not None:
        found["concurrency"] = concurrency
    if size is None and delay is not None:
        raise UsageError("--batch-delay says how long a batch waits: give --batch too")
    if size is not None:
        found["batch"] = Batch(max_size=size, max_delay_ms=delay or 0.0)
    if least is not None or most is not None:
        least = least or 0
        found["workers"] = Workers(min=least, max=max(1, least) if most is None else most)
    return found


def running_rows(console: Console, spec: VersionSpec) -> Mapping[str, str | None]:
    """Return what `model show` says of it; None for what is as usual."""
    limits, workers = spec.limits, spec.workers
    given = {name: value for name in LIMITS if (value := getattr(limits, name)) is not None}
    told = ", ".join(_limit(console, name, value) for name, value in given.items())
    return {
        "limits": told or None,
        "concurrency": str(spec.concurrency) if spec.concurrency > 1 else None,
        "batch": _batch(spec.batch) if spec.batch else None,
        "workers": f"{workers.min} to {workers.max}" if workers != Workers() else None,
    }


def _batch(batch: Batch) -> str:
    waits = f", waits {batch.max_delay_ms:g} ms for more" if batch.max_delay_ms else ""
    return f"up to {batch.max_size}{waits}"


def _limit(console: Console, name: str, value: float) -> str:
    what, _, unit = name.rpartition("_")
    if unit == "bytes":
        return f"{what} {console.size(int(value))}"
    if unit == "seconds":
        return f"{what} {value:g} s"
    return f"{name.replace('_', ' ')} {value}"


def as_options(fault: str) -> str:
    """Return a fault that names keys of a carton.toml with the options in their place, as they were typed."""
    return re.sub(r"\bmer\.[a-z_.]*[a-z_]", lambda found: FLAGS.get(found[0], found[0]), fault)
