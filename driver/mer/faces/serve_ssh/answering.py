"""One request of a guest, answered: the result on stdout, words on stderr, and every run on record under his name."""

from __future__ import annotations

import asyncio
import contextlib
from importlib.metadata import version
from typing import Any, assert_never

import msgspec

from mer.core.actor import Guest
from mer.core.errors import DeadlineExceeded, FinishNotRecorded, InputInvalid, NotFound, UsageError
from mer.faces.commands.inputs import read_inputs
from mer.faces.commands.output_parts import Parts
from mer.faces.commands.pings import show_steps
from mer.faces.face import Face
from mer.faces.render.result import result_document, show_result
from mer.faces.render.table import Column
from mer.faces.render.text import visible
from mer.faces.serve_ssh.grammar import Form, Frames, ListModels, Ping, Request, Run, ShowModel
from mer.faces.serve_ssh.npz import write_arrays
from mer.faces.serve_ssh.shown import list_models, show_model, steps_of, text_of
from mer.faces.serve_ssh.stdin import read_stdin

COLUMNS = (Column("name", whole=True), Column("description"))


async def answer(face: Face, guest: Guest, request: Request) -> None:
    """Do what a guest asks for.

    Raises:
        MerError: as the commands of the console of the same names.
    """
    console = face.console
    match request:
        case Run():
            await _run(face, request)
        case ListModels():
            console.json = request.json
            mer = await face.mer()
            models, following = await list_models(mer, guest, limit=request.limit, after=request.after)
            if request.json:
                items = [{"name": model.name, "description": model.description} for model in models]
                console.document({"items": items, "next": following})
                return
            console.table(COLUMNS, [(model.name, model.description.partition("\n")[0]) for model in models])
            if following is not None:
                console.note(f"there are more: the same again with --after {following}")
        case ShowModel():
            console.json = request.json
            model = await show_model(await face.mer(), guest, request.reference)
            face.show(model, lambda: visible(text_of(model), lines=True))
        case Ping():
            console.json = request.json
            await _ping(face, guest, request)
        case Frames():
            from mer.faces.serve_ssh.lending import lend

            await lend(face, guest)
        case _:
            assert_never(request)


async def _run(face: Face, request: Run) -> None:
    console, reference = face.console, str(request.reference)
    console.json = request.form in (Form.JSON, Form.LINES)
    inputs = await _inputs(face, request)
    mer = await face.mer()
    lines = request.form is Form.LINES
    stream = mer.stream(reference, inputs, timeout=request.timeout, on_log=console.model_log())
    shown = Parts(console, lines=lines, files={}, folder=None)
    async with contextlib.aclosing(stream):
        async for outputs in stream:
            if not stream.whole:
                if request.form is Form.NPZ:
                    raise UsageError("the model answers in parts, which no .npz file holds", hint="--jsonl does")
                await shown.show(outputs)
    assert stream.result is not None
    result = msgspec.structs.replace(stream.result, server="", failed_attempts=())  # they tell of the owner's machines
    if not stream.whole:
        shown.end(result)
    elif request.form is Form.NPZ:
        console.raw(await asyncio.to_thread(write_arrays, result.outputs))
    elif lines:
        await shown.show(result.outputs)
    elif console.json:
        console.document(result_document(result, result.outputs))
    else:
        show_result(console, result, result.outputs, inputs)
    if not result.recorded:
        raise FinishNotRecorded


async def _inputs(face: Face, request: Run) -> dict[str, Any]:
    """Return the inputs: those of the command line, in which the grammar has let no file pass, else those of stdin."""
    reference = str(request.reference)
    try:
        if request.text is None and not request.pairs:
            return await read_stdin(face.stdin)
        spec = await (await face.mer()).spec_of(reference)
        return await read_inputs(spec, text=request.text, given=request.pairs, together=None, stdin=None)
    except (NotFound, UsageError, InputInvalid, DeadlineExceeded) as error:
        await (await face.mer()).refuse(reference, error)
        raise


async def _ping(face: Face, guest: Guest, request: Ping) -> None:
    mer = await face.mer()
    if request.reference is not None:
        show_steps(face, steps_of(await mer.ping_model(str(request.reference))))
        return
    told = {"ok": True, "mer": version("mer"), "actor": guest.name}
    face.show(told, lambda: f"mer {told['mer']} answers {visible(guest.name)}\n")
