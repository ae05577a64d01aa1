"""Run a model."""

from __future__ import annotations

from pathlib import Path

import click

from mer.core.errors import FinishNotRecorded, InputInvalid, UsageError
from mer.core.trace import Trace
from mer.faces.commands.inputs import read_inputs, unread
from mer.faces.commands.options import SECONDS
from mer.faces.commands.outputs import planned, save
from mer.faces.commands.tree import ENTRIES, Verb
from mer.faces.face import Face
from mer.faces.render.files import write_trace
from mer.faces.render.result import result_document, show_result


@click.command(cls=Verb, help=ENTRIES["run"].help)
@click.argument("reference", metavar="MODEL[:N|@ALIAS]")
@click.argument("text", required=False)
@click.option(
    "-i",
    "--input",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Text, JSON, or @FILE (.npy .npz .json .txt, else bytes; @- is stdin, @@ a literal @); several times.",
)
@click.option("--inputs", "together", metavar="@FILE", help="All inputs at once, from a .json or .npz file.")
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
) -> None:
    """Run a model and show what it answers. TEXT is for its only input, or its only string."""
    files = planned(saved)
    if folder is not None and files:
        raise UsageError("--output and --output-dir do not go together")
    mer = await face.mer()
    console = face.console
    inputs = await read_inputs(
        await mer.spec_of(reference, on=on), text=text, given=given, together=together, stdin=face.stdin
    )
    trace = Trace() if traced else None
    try:
        result = await mer.run(reference, inputs, on=on, timeout=timeout, on_log=console.model_log(), trace=trace)
    except InputInvalid as error:
        error.hint = error.hint or unread(inputs)
        raise
    finally:
        if traced is not None and trace is not None:
            write_trace(traced, trace)
    left = await save(console, result.outputs, files, folder)
    if console.json:
        console.document(result_document(result, left))
    elif "-" not in files.values():
        show_result(console, result, left, inputs)
    if not result.recorded:
        raise FinishNotRecorded
