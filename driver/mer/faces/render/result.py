"""The result of a run: drawn for a person, plain and stable for a pipe, one JSON document for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mer.faces.render import pictures
from mer.faces.render.console import Console
from mer.faces.render.style import Style
from mer.faces.render.text import visible
from mer.faces.render.values import Described, described
from mer_worker.dtypes import BYTES, STRING

if TYPE_CHECKING:
    from mer.execution.results import Result

MOST_NUMBERS = 1000
"""Written of an array as text: a whole image would scroll everything else away. `--output` and `--json` give all."""

MOST_ON_TERMINAL = 64


def result_document(result: Result, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all there is to know of a run; `outputs` are those that did not go to files."""
    return {"outputs": _documents(outputs), **_about(result)}


def part_document(number: int, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return one part of an answer; they are counted from 1."""
    return {"part": number, "outputs": _documents(outputs)}


def parts_document(result: Result, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all there is to know of a run that was answered in parts."""
    return {"parts": parts, **_about(result)}


def _documents(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: described(value).document() for name, value in outputs.items()}


def _about(result: Result) -> dict[str, Any]:
    return {
        "invocation": result.invocation,
        "model": result.model,
        "version": result.version,
        "server": result.server,
        "timings": result.timings,
        "attempts": len(result.failed_attempts) + 1,
        "failed_attempts": result.failed_attempts,
        "recorded": result.recorded,
    }


def warn_of_attempts(console: Console, result: Result) -> None:
    """Say which servers were to run it before another one did."""
    for attempt in result.failed_attempts:
        if attempt.code == "server-unreachable":
            why = "cannot be reached"
        elif attempt.code == "worker-lost":
            why = "lost its worker"
        else:
            why = "does not run it"
        told = visible(f"{attempt.server} {why} ({attempt.message})")
        console.warn(f"{told}; ran on {visible(result.server)}")


def show_result(console: Console, result: Result, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Write the outputs; on a terminal with the picture that was read, and with what the run was."""
    if not console.terminal:
        console.result(_plain(outputs), end="")
        return
    if console.pictures:
        for value in inputs.values():
            shown = described(value)
            if shown.numeric and (drawn := pictures.picture(console, shown.array())):
                console.result(drawn)
    show_part(console, outputs)
    note_result(console, result)


def show_part(console: Console, outputs: Mapping[str, Any]) -> None:
    """Write outputs, those of a part or all of them."""
    if not console.terminal:
        console.result(_plain(outputs), end="")
        return
    for name, value in outputs.items():
        console.result(_drawn(console, name, described(value)), end="")


def note_result(console: Console, result: Result) -> None:
    """Say on a terminal what the run was."""
    if not console.terminal:
        return
    timings = result.timings
    took = (timings.queue_us + timings.start_us + timings.transfer_us + timings.run_us) / 1000
    parts = "" if result.parts is None else f", {result.parts} parts"
    told = f"{result.model}:{result.version} on {result.server}{parts}, {took:.1f} ms, {result.invocation}"
    console.note(told)


def _plain(outputs: Mapping[str, Any]) -> str:
    """Return the outputs for a pipe: a lone text as it is, everything else `name = value` on a line each."""
    if len(outputs) == 1:
        (only,) = outputs.values()
        if isinstance(only, str):
            return only if only.endswith("\n") else only + "\n"
    return "".join(
        f"{visible(name)} = {_one_line(described(value), MOST_NUMBERS)}\n" for name, value in outputs.items()
    )


def _one_line(shown: Described, most: int) -> str:
    if shown.dtype == BYTES:
        return f"{len(shown.plain())} bytes"
    if shown.numeric and shown.array().size > most:
        return f"{shown} (too long for a line: --output NAME=FILE.npy, or --json)"
    return visible(json.dumps(shown.document()["value"], ensure_ascii=False))


def _drawn(console: Console, name: str, shown: Described) -> str:
    head = console.styled(visible(name), Style.BOLD)
    if shown.dtype == STRING and not shown.shape:
        text = visible(shown.plain(), lines=True)
        return f"{head}: {text}\n" if "\n" not in text else f"{head}:\n{text}\n"
    if not shown.numeric:
        return f"{head}: {_one_line(shown, MOST_ON_TERMINAL)}\n"
    kind = console.styled(str(shown), Style.DIM)
    array = shown.array()
    if not shown.shape:
        return f"{head}: {console.styled(str(array.item()), Style.GREEN)}  {kind}\n"
    if drawn := pictures.bars(console, array):
        return f"{head}: {kind}\n{drawn}"
    if console.pictures and (drawn := pictures.picture(console, array)):
        return f"{head}: {kind}\n{drawn}"
    if array.size > MOST_ON_TERMINAL:
        return f"{head}: {kind} (--output {name}=FILE.npy writes it, --json shows it)\n"
    return f"{head}: {kind}\n{_numbers(array)}\n"


def _numbers(array: Any) -> str:
    import numpy

    text = numpy.array2string(array, separator=" ", precision=6, suppress_small=True)
    return "\n".join(f"  {line}" for line in text.split("\n"))
