"""What a version takes, gives and needs: its specs, options and limits, and whether inputs fit them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from mer.core.errors import InputInvalid
from mer.core.running import Batch, Limits, Workers
from mer_worker.dtypes import DTYPES

Option: TypeAlias = int | float | str | bool
"""Carton's options: a flat table of these."""

Dimension: TypeAlias = int | str
"""A length, `*` for any, or a symbol: equal symbols stand for equal lengths within one set of inputs."""

Shape: TypeAlias = str | tuple[Dimension, ...]
"""`*` for any shape, a symbol for a whole shape, or a dimension each; `()` is a scalar."""

__all__ = [
    "ANY",
    "Batch",
    "Command",
    "Dimension",
    "Limits",
    "Option",
    "Shape",
    "TensorSpec",
    "Tokens",
    "VersionSpec",
    "Workers",
    "check_fit",
    "check_specs",
]

ANY = "*"


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One named input or output."""

    name: str
    dtype: str
    shape: Shape = ANY
    description: str | None = None
    internal_name: str | None = None

    def __str__(self) -> str:
        shape = self.shape if isinstance(self.shape, str) else "[" + ", ".join(map(str, self.shape)) + "]"
        return f"{self.name}: {self.dtype} {shape}"


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The lines that frame requests and replies of a `command` model."""

    ready: str = "@!#READY#!@"
    start: str = "@!#START#!@"
    stop: str = "@!#STOP#!@"
    exit: str = "@!#EXIT#!@"


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program that speaks the line-token protocol: an argv, never a shell's line."""

    argv: tuple[str, ...]
    directory: str | None = None
    """Working directory: absolute, or relative to the package's model folder; None is that folder, or a scratch one."""
    tokens: Tokens = Tokens()


class VersionSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a version says of itself beyond its files: what carton.toml holds, read."""

    runner: str
    required_framework_version: str = "*"
    runner_compat_version: int = 1
    options: dict[str, Option] = {}
    inputs: tuple[TensorSpec, ...] = ()
    """Empty: nothing is said, anything is passed on."""
    outputs: tuple[TensorSpec, ...] = ()
    arrays: str = "numpy"
    """What the python runner hands to the handler: `numpy`, `buffer` or `torch`."""
    command: Command | None = None
    """Of the `command` runner only."""
    limits: Limits = Limits()
    concurrency: int = 1
    """Requests at once in one worker: in threads, or as tasks where the handler is a coroutine function."""
    batch: Batch | None = None
    """Whether, and how, requests go to the handler as lists."""
    workers: Workers = Workers()
    short_description: str | None = None
    required_platforms: tuple[str, ...] = ()

    @property
    def stateful(self) -> bool:
        """Whether a worker remembers its requests and so belongs to one caller."""
        return self.runner == "command"


def check_fit(
    specs: Iterable[TensorSpec], given: Mapping[str, tuple[str, tuple[int, ...]]], *, what: str = "input"
) -> None:
    """Check names, dtypes and shapes of `given` (name to dtype and shape) against `specs`.

    Without any spec everything fits. A symbol has one length (or, for a whole shape, one shape) throughout the set.

    Raises:
        InputInvalid: with every fault in one message, since an operator mends them together.
    """
    specs = tuple(specs)
    if not specs:
        return
    faults: list[str] = []
    symbols: dict[str, tuple[object, str]] = {}
    for spec in specs:
        if spec.name not in given:
            faults.append(f"{what} {spec.name!r} is missing ({spec})")
            continue
        dtype, shape = given[spec.name]
        if dtype != spec.dtype:
            faults.append(f"{what} {spec.name!r} is {dtype}, not {spec.dtype}")
        faults.extend(_shape_faults(spec, shape, symbols, what))
    known = {spec.name for spec in specs}
    faults.extend(
        f"{what} {name!r} is not one of this model's: {', '.join(sorted(known))}" for name in given if name not in known
    )
    if faults:
        raise InputInvalid("; ".join(faults))


def _shape_faults(
    spec: TensorSpec, shape: tuple[int, ...], symbols: dict[str, tuple[object, str]], what: str
) -> Iterable[str]:
    where = f"{what} {spec.name!r}"
    if isinstance(spec.shape, str):
        if spec.shape != ANY:
            yield from _bind(symbols, f"shape {spec.shape}", list(shape), where)
        return
    if len(shape) != len(spec.shape):
        yield f"{where} has shape {list(shape)}, not {list(spec.shape)}"
        return
    for axis, (wanted, length) in enumerate(zip(spec.shape, shape, strict=True)):
        if isinstance(wanted, int):
            if wanted != length:
                yield f"{where} has {length} along axis {axis}, not {wanted} (shape {list(shape)}, not {list(spec.shape)})"
        elif wanted != ANY:
            yield from _bind(symbols, wanted, length, f"{where}, axis {axis},")


def _bind(symbols: dict[str, tuple[object, str]], symbol: str, value: object, where: str) -> Iterable[str]:
    bound, first = symbols.setdefault(symbol, (value, where))
    if bound != value:
        yield f"{where} has {symbol} = {value}, but {first} has {bound}"


def check_specs(specs: Iterable[TensorSpec], *, what: str) -> list[str]:
    """Return what is wrong with the specs themselves: an unknown dtype, a negative length, a name twice."""
    faults: list[str] = []
    seen: set[str] = set()
    for spec in specs:
        if not spec.name:
            faults.append(f"an {what} has no name")
        if spec.name in seen:
            faults.append(f"{what} {spec.name!r} stands twice")
        seen.add(spec.name)
        if spec.dtype not in DTYPES:
            faults.append(f"{what} {spec.name!r} has the unknown dtype {spec.dtype!r}")
        if not isinstance(spec.shape, str) and any(isinstance(d, int) and d < 0 for d in spec.shape):
            faults.append(f"{what} {spec.name!r} has a negative length")
    return faults
