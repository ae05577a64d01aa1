"""What a carton.toml may say, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mer.core.lent import lent_faults
from mer.core.running import running_faults
from mer.core.specs import Tokens, VersionSpec, check_specs
from mer.core.toml import INT64

CARTON_TOML = "carton.toml"

SPEC_VERSION = 1
"""The version of Carton's specification that is read and written here."""

MAX_BYTES = 1 << 20
"""Of a carton.toml: it is read whole."""

DTYPES = frozenset(
    {"float32", "float64", "string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)
"""What Carton has a word for."""

MAX_RANK = 64
"""Dimensions of a tensor: numpy takes no more."""

MAX_SHORT_DESCRIPTION = 100
"""Characters; Carton's."""

ARRAYS = ("numpy", "buffer", "torch")

COMMAND = "command"
"""The runner of programs that speak the line-token protocol."""

_PLATFORM = re.compile(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+){1,3}")

_PATCH = r"\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?"
_COMPARATOR = rf"(?:[=~^]|[<>]=?)?\s*(?:\*|\d+(?:\.(?:\*|\d+(?:\.(?:\*|{_PATCH}))?))?)"
_REQUIREMENT = re.compile(rf"\s*{_COMPARATOR}(?:\s*,\s*{_COMPARATOR})*\s*", re.ASCII)
"""A requirement as Rust's crate `semver` reads it, which is Carton's."""


def spec_faults(spec: VersionSpec) -> list[str]:
    """Return what is wrong with the spec, each fault with the key that it has in carton.toml."""
    running = running_faults(limits=spec.limits, concurrency=spec.concurrency, batch=spec.batch, workers=spec.workers)
    return [*_runner_faults(spec), *_tensor_faults(spec), *_command_faults(spec), *lent_faults(spec), *running]


def is_shape(value: object) -> bool:
    """Tell whether `value` is "*", a symbol, or a sequence of lengths, "*" and symbols."""
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, list | tuple) and len(value) <= MAX_RANK and all(map(_is_dimension, value))


def _is_dimension(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < INT64.stop


def _runner_faults(spec: VersionSpec) -> Iterator[str]:
    if not spec.runner:
        yield "runner.runner_name is empty"
    if not _REQUIREMENT.fullmatch(spec.required_framework_version):
        yield (
            f"runner.required_framework_version is {spec.required_framework_version!r}: "
            "a requirement such as *, =1.2.3 or >=1.0, <2 is meant"
        )
    if not 0 <= spec.runner_compat_version < INT64.stop:
        yield f"runner.runner_compat_version is {spec.runner_compat_version}: an integer of 0 or more is meant"
    if spec.short_description and len(spec.short_description) > MAX_SHORT_DESCRIPTION:
        yield f"short_description is longer than {MAX_SHORT_DESCRIPTION} characters"
    for platform in spec.required_platforms:
        if not _PLATFORM.fullmatch(platform):
            yield f"required_platforms: {platform!r} is no target triple such as x86_64-unknown-linux-gnu"


def _tensor_faults(spec: VersionSpec) -> Iterator[str]:
    yield from check_specs(spec.inputs, what="input")
    yield from check_specs(spec.outputs, what="output")
    for tensor in (*spec.inputs, *spec.outputs):
        if not is_shape(tensor.shape):
            yield f"{tensor.name!r} has the shape {tensor.shape!r}: {SHAPE_MEANT}"
    if spec.arrays not in ARRAYS:
        yield f"mer.arrays is {spec.arrays!r}: {', '.join(ARRAYS[:-1])} or {ARRAYS[-1]} is meant"


SHAPE_MEANT = f'"*", a symbol, or at most {MAX_RANK} lengths of 0 or more, "*" or symbols are meant'


def _command_faults(spec: VersionSpec) -> Iterator[str]:
    if spec.runner == COMMAND and not (spec.command and spec.command.argv and spec.command.argv[0]):
        yield "mer.command.argv is missing: the command runner starts a program"
    if spec.command is None:
        return
    if spec.runner != COMMAND:
        yield f"mer.command is there, but the runner is {spec.runner!r}"
    if spec.concurrency > 1 or spec.batch is not None or spec.workers.max > 1:
        yield "mer.concurrency, mer.batch, mer.workers: a command has a state, so it takes one request at a time"
    if any("\0" in part for part in (*spec.command.argv, spec.command.directory or "")):
        yield "mer.command: a NUL can stand in no argument and no path"
    yield from _token_faults(spec.command.tokens)


def _token_faults(tokens: Tokens) -> Iterable[str]:
    words = (tokens.ready, tokens.start, tokens.stop, tokens.exit)
    if not all(words) or any("\n" in word or "\r" in word for word in words):
        yield "mer.command.tokens: each is a line of its own and not empty"
    if len(set(words)) < len(words):
        yield "mer.command.tokens: two of them are the same"
