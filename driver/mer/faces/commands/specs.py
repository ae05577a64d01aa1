"""Specs as they are typed: `image:float32[8,8]`, `text:string[]`, `anything:json`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mer.core.carton import spec_faults
from mer.core.carton.document import MOST_FAULTS
from mer.core.errors import UsageError
from mer.core.specs import ANY, Command, Dimension, Limits, Option, Shape, TensorSpec, Tokens, VersionSpec
from mer.faces.commands.running import as_options
from mer_worker.dtypes import DTYPES

FORM = "NAME:DTYPE[DIMENSIONS], for example image:float32[8,8] or words:string[n]"


def parse_tensor(text: str, *, option: str) -> TensorSpec:
    """Read `NAME:DTYPE`, of any shape, or `NAME:DTYPE[…]` with lengths, `*` or symbols; `[]` is a scalar.

    Raises:
        UsageError: it is none of these.
    """
    found = re.fullmatch(r"(.+):([a-z0-9]+)(?:\[([^\[\]]*)\])?", text.strip())
    if not found:
        raise UsageError(f"{option} {text[:80]!r}: {FORM} is meant")
    name, dtype, dimensions = found.groups()
    if dtype not in DTYPES:
        raise UsageError(f"{option} {text[:80]!r}: {dtype} is no dtype; there are {', '.join(sorted(DTYPES))}")
    shape: Shape = ANY
    if dimensions is not None:
        words = [word.strip() for word in dimensions.split(",")] if dimensions.strip() else []
        shape = tuple(_dimension(word, text, option) for word in words)
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _dimension(word: str, text: str, option: str) -> Dimension:
    if re.fullmatch(r"[0-9]{1,18}", word, re.ASCII):
        return int(word)
    if word == ANY or word.isidentifier():
        return word
    raise UsageError(f"{option} {text[:80]!r}: {word[:20]!r} is no length, * or symbol")


def parse_option(text: str) -> tuple[str, Option]:
    """Read KEY=VALUE; VALUE is a number, true, false, or text (in double quotes where it looks like one of these).

    Raises:
        UsageError: there is no `=`, or the value is none that a package's options can hold.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--option {text[:80]!r}: KEY=VALUE is meant")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return key, value
    if isinstance(parsed, dict | list) or parsed is None:
        return key, value
    if isinstance(parsed, float) and not math.isfinite(parsed):
        raise UsageError(f"--option {text[:80]!r}: a finite number is meant")
    option: Option = parsed
    return key, option


def parse_entry(text: str) -> dict[str, Option]:
    """Read `module:callable` into the options that name an entry point.

    Raises:
        UsageError: it is no such text.
    """
    module, colon, function = text.partition(":")
    if not colon or not function.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"--entry {text[:80]!r}: MODULE:CALLABLE is meant")
    return {"entrypoint_package": module, "entrypoint_fn": function}


def make_spec(
    *,
    runner: str | None,
    entry: str | None,
    options: Iterable[str],
    inputs: Iterable[str],
    outputs: Iterable[str],
    arrays: str | None,
    argv: tuple[str, ...],
    directory: str | None,
    tokens: dict[str, str],
    limits: dict[str, Any],
    running: Mapping[str, Any] | None = None,
) -> VersionSpec | None:
    """Return the spec that the options of `model register` describe; None where they say nothing.

    `running` are those of concurrency, batches and workers (mer.faces.commands.running).

    Raises:
        UsageError: they contradict each other.
    """
    options, inputs, outputs = tuple(options), tuple(inputs), tuple(outputs)
    if not any((runner, entry, options, inputs, outputs, arrays, argv, directory, tokens, limits, running)):
        return None
    if runner is None:
        runner = "command" if argv else "python"
    named = _options(options)
    if runner == "command":
        if entry or arrays:
            raise UsageError("a command has no --entry and no --arrays: it gets text, line by line")
        if not argv:
            raise UsageError(
                "a command needs its words", hint="mer model register NAME --runner command -- PROGRAM WORD…"
            )
    elif argv or directory or tokens:
        raise UsageError(f"words after --, --directory and tokens are for the runner command, not for {runner}")
    spec = VersionSpec(
        runner=runner,
        options={**named, **(parse_entry(entry) if entry else {})},
        inputs=tuple(parse_tensor(text, option="--input") for text in inputs),
        outputs=tuple(parse_tensor(text, option="--output") for text in outputs),
        arrays=arrays or "numpy",
        command=Command(argv=argv, directory=directory, tokens=Tokens(**tokens)) if runner == "command" else None,
        limits=Limits(**limits),
        **(running or {}),
    )
    if faults := spec_faults(spec):
        raise UsageError("; ".join(map(as_options, faults[:MOST_FAULTS])))
    return spec


def _options(texts: Iterable[str]) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for text in texts:
        key, value = parse_option(text)
        if key in found:
            raise UsageError(f"--option gives {key!r} twice")
        found[key] = value
    return found
