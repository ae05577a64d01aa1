"""What a look at a host finds, step by step: the words and verdicts that a ping shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mer.core.errors import MerError, ServerUnreachable

LEAST_DISK = 64 << 20
"""Bytes free below which a host is told to be full: less than the worker's code and a model's scratch folder need."""

MAX_TEXT = 300
"""Characters of each thing that a host says of itself in words."""

MAX_NUMBER = 1 << 62
"""Of bytes and microseconds: what a host says beyond that is nonsense, and no float, column or JSON reader takes it."""

MAX_GPUS = 64

LARGE_SKEW_SECONDS = 2.0
"""From which on two clocks are told to differ: below that a slow connection may be what is measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One step: what was found, or what failed."""

    step: str
    microseconds: int = 0
    detail: str = ""
    error: MerError | None = None


Found: TypeAlias = Callable[[Finding], None]
"""Is told each finding as it comes."""


def of_facts(name: str, facts: Mapping[str, Any], *, microseconds: int) -> Iterator[Finding]:
    """Return what the facts of mer_worker.probing come to; `microseconds` is how long it took to have them.

    Raises:
        ServerUnreachable: these are no such facts.
    """
    try:
        took = {name: _number(number) for name, number in facts["took"].items()}
        waited = max(0, microseconds - sum(took.values()))
        told = f"{_text(facts['python'])}, Python {_text(facts['version'])}"
        yield Finding(step="interpreter", microseconds=waited, detail=told)
        yield _cache(name, facts, took["cache"])
        yield _disk(name, facts["disk"], took["disk"])
        yield _memory(facts["memory"], took["memory"])
        yield _gpus(name, facts["gpus"], took["gpus"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ServerUnreachable(f"{name} tells of itself what cannot be understood") from error


def clock(skew_seconds: float) -> Finding:
    """Return what is told of a clock that is so far ahead of this one's."""
    if abs(skew_seconds) < LARGE_SKEW_SECONDS:
        return Finding(step="clock", detail="as here")
    return Finding(step="clock", detail=f"{_duration(abs(skew_seconds))} {'ahead' if skew_seconds > 0 else 'behind'}")


def _cache(name: str, facts: Mapping[str, Any], took: int) -> Finding:
    folder = _text(facts["cache"])
    if (reason := facts["unwritable"]) is None:
        return Finding(step="cache", microseconds=took, detail=f"{folder}, writable")
    return _failed("cache", took, f"{name} cannot write {folder}: {_text(reason)}")


def _disk(name: str, disk: Mapping[str, int], took: int) -> Finding:
    told = f"{_size(disk['free'])} free of {_size(disk['total'])}"
    if disk["free"] >= LEAST_DISK:
        return Finding(step="disk", microseconds=took, detail=told)
    return _failed("disk", took, f"{name} is full: {told}")


def _memory(memory: Mapping[str, int] | None, took: int) -> Finding:
    told = "not told by this system"
    if memory is not None:
        told = f"{_size(memory['available'])} available of {_size(memory['total'])}"
    return Finding(step="memory", microseconds=took, detail=told)


def _gpus(name: str, gpus: Mapping[str, Any], took: int) -> Finding:
    if reason := gpus.get("failed"):
        return _failed("GPUs", took, f"{name} has GPUs that cannot be asked: {_text(reason)}")
    return Finding(step="GPUs", microseconds=took, detail="; ".join(map(_gpu, gpus["found"][:MAX_GPUS])) or "none")


def _gpu(gpu: Mapping[str, Any]) -> str:
    free, total = gpu["free"], gpu["total"]
    memory = "" if free is None or total is None else f", {_size(free)} free of {_size(total)}"
    return f"{_text(gpu['index'])}: {_text(gpu['name'])}{memory}"


def _failed(step: str, took: int, message: str) -> Finding:
    return Finding(step=step, microseconds=took, error=ServerUnreachable(message))


def _text(value: object) -> str:
    return str(value)[:MAX_TEXT]


def _number(value: object) -> int:
    """Return a number of bytes or microseconds. Raises: TypeError."""
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise TypeError(f"{_text(value)} is no such number")
    return value


def _size(count: object) -> str:
    amount = float(_number(count))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
