"""Run a model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer.core.errors import FinishNotRecorded, InputInvalid, UsageError
from mer.core.trace import Trace
from mer.faces.commands.input_parts import input_parts
from mer.faces.commands.inputs import STDIN, read_inputs, unread
from mer.faces.commands.options import SECONDS
from mer.faces.commands.output_parts import Parts
from mer.faces.commands.outputs import planned, save
from mer.faces.commands.tree import ENTRIES, Verb
from mer.faces.face import Face
from mer.faces.render.files import require_writable, write_trace
from mer.faces.render.result import result_document, show_result, warn_of_attempts

if TYPE_CHECKING:
    from mer.execution.results import Result


@click.command(cls=Verb, help=ENTRIES["run"].help)
@click.argument("reference", metavar="MODEL[:N|@ALIAS]")
@click.argument("text", required=False)
@click.option(
    "-i",
    "--input",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Text, JSON, or @FILE (.npy .npz .json .txt, else bytes); @- is stdin in any of these forms, @@ a literal @. "
    "Several times.",
)
@click.option(
    "--inputs", "together", metavar="@FILE", help="All inputs at once, from a .json or .npz file; @- is stdin."
)
@click.option(
    "--input-parts",
    "further",
    metavar="FILE",
    help="Further inputs for a model that takes them while it runs: a JSON object a line; - is stdin.",
)
@click.option("--on", metavar="SERVER", help="Run it there.")
@click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Give up after that long.")
@click.option(
    "-o",
    "--output",
    "saved",
    multiple=True,
    metavar="NAME=FILE",
    help="Write an output to a file (.npy .json .txt, else its bytes; - is stdout); several times.",
)
@click.option(
    "--trace", "traced", type=Path, metavar="FILE", help="Write what took how long, for ui.perfetto.dev, to a file."
)
@click.option("--output-dir", "folder", type=Path, metavar="FOLDER", help="Write every output to a file in there.")
@click.option(
    "--retry", is_flag=True, help="Run it once more if its worker is lost in the middle: the model allows that."
)
@click.option(
    "--jsonl", "lines", is_flag=True, help="Write a JSON object a line for each part of the answer, as it comes."
)
@click.pass_obj
async def command(
    face: Face,
    reference: str,
    text: str | None,
    given: tuple[str, ...],
    together: str | None,
    on: str | None,
    timeout: float | None,
    saved: tuple[str, ...],
    folder: Path | None,
    traced: Path | None,
    lines: bool,
    further: str | None,
    retry: bool,
) -> None:
    """Run a model and show what it answers. TEXT is for its only input, or its only string."""
    files = planned(saved)
    if folder is not None and files:
        raise UsageError("--output and --output-dir do not go together")
    if lines and (files or folder is not None):
        raise UsageError("--jsonl writes all outputs to stdout: it does not go with --output or --output-dir")
    if further == STDIN and f"@{STDIN}" in (together, *(pair.partition("=")[2] for pair in given)):
        raise InputInvalid("--input-parts - and @- both mean stdin, which can be read once")
    if retry and further is not None:
        raise UsageError("--retry does not go with --input-parts: what was taken of them cannot be taken again")
    if traced is not None:
        require_writable(traced)
    mer = await face.mer()
    console = face.console
    console.json = console.json or lines
    spec = await mer.spec_of(reference, on=on)
    inputs = await read_inputs(spec, text=text, given=given, together=together, stdin=face.stdin)
    asked = further is None

    async def parts(source: str) -> AsyncGenerator[dict[str, Any], None]:
        nonlocal asked
        async with contextlib.aclosing(input_parts(source, face.stdin)) as objects:
            async for part in objects:
                yield part
                asked = True  # the first one waits here until the model wants it
        asked = True  # there was none that it could have left

    trace = Trace() if traced else None
    shown = Parts(console, lines=lines, files=files, folder=folder)
    result: Result | None
    try:
        if retry:
            result = await mer.run(
                reference, inputs, on=on, timeout=timeout, on_log=console.model_log(), trace=trace, retry=True
            )
        else:
            stream = mer.stream(
                reference,
                inputs,
                parts=None if further is None else parts(further),
                on=on,
                timeout=timeout,
                on_log=console.model_log(),
                trace=trace,
            )
            async with contextlib.aclosing(stream):
                async for outputs in stream:
                    if not stream.whole:
                        await shown.show(outputs)
            result = stream.result
    except InputInvalid as error:
        error.hint = error.hint or unread(inputs)
        raise
    finally:
        if traced is not None and trace is not None:
            write_trace(traced, trace)
    assert result is not None
    warn_of_attempts(console, result)
    if not asked:
        console.warn("the model asked for no further inputs: it was given none of --input-parts")
    if result.parts is not None:
        shown.end(result)
    elif lines:
        await shown.show(result.outputs)
    else:
        left = await save(console, result.outputs, files, folder)
        if console.json:
            console.document(result_document(result, left))
        elif "-" not in files.values():
            show_result(console, result, left, inputs)
    if not result.recorded:
        raise FinishNotRecorded
