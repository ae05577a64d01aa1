"""Outputs that go to files: which name goes where, in which form."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mer.core.errors import ContentUnwritable, UsageError
from mer.detached import detached
from mer.faces.render.console import Console
from mer.faces.render.files import written
from mer.faces.render.values import described

STDOUT = "-"

EXTENSIONS = {"bytes": ".bin", "string": ".txt", "json": ".json"}
"""Of files in --output-dir; what is not here is an array."""


def planned(saved: Sequence[str]) -> dict[str, str]:
    """Return where each output goes, from NAME=FILE texts.

    Raises:
        UsageError: one is no such text, or a name or stdout stands twice.
    """
    files: dict[str, str] = {}
    for pair in saved:
        name, equals, file = pair.partition("=")
        if not equals or not name or not file:
            raise UsageError(f"--output {pair[:80]!r}: NAME=FILE is meant")
        if name in files or (file == STDOUT and STDOUT in files.values()):
            raise UsageError(f"--output {pair[:80]!r} stands twice")
        files[name] = file
    return files


async def save(
    console: Console, outputs: Mapping[str, Any], files: Mapping[str, str], folder: Path | None
) -> dict[str, Any]:
    """Write outputs to their files; return those that are still to be shown.

    Raises:
        UsageError: the model gave no output of a name, or its value has no form in that kind of file.
        ContentUnwritable
    """
    if missing := [name for name in files if name not in outputs]:
        given = ", ".join(outputs) or "none"
        raise UsageError(f"the model gave no output {missing[0]!r}; it gave {given}")
    if folder is not None:
        try:
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise ContentUnwritable(f"{folder} cannot be made: {error.strerror or error}") from error
        files = {name: str(folder / file) for name, file in _names(outputs).items()}
    for name, file in files.items():
        content = await asyncio.to_thread(content_of, name, outputs[name], Path(file).suffix.lower())
        if file == STDOUT:
            console.raw(content)
            continue
        await detached(_write, Path(file), content)
        if not console.json:
            console.note(f"wrote {name} to {file}")
    return {name: value for name, value in outputs.items() if name not in files}


def _write(path: Path, content: bytes) -> None:
    with written(path) as file:
        file.write(content)


def _names(outputs: Mapping[str, Any]) -> dict[str, str]:
    """Return a file's name for each output: a model's words must not lead out of the folder."""
    names: dict[str, str] = {}
    for name, value in outputs.items():
        stem = re.sub(r"[^\w.-]", "_", name).lstrip(".")[:100] or "output"
        file = stem + EXTENSIONS.get(described(value).dtype, ".npy")
        number = 2
        while file in names.values():
            file = f"{stem}-{number}{Path(file).suffix}"
            number += 1
        names[name] = file
    return names


def content_of(name: str, value: Any, suffix: str) -> bytes:
    """Return an output as a file with that suffix has it.

    Raises:
        UsageError: it has no form there.
    """
    shown = described(value)
    if suffix == ".npy":
        import numpy

        array = shown.array()
        if array is None:
            raise UsageError(f"the output {name!r} is {shown.dtype}: it has no form in an .npy file")
        out = io.BytesIO()
        numpy.save(out, array, allow_pickle=False)
        return out.getvalue()
    if suffix == ".json":
        return (json.dumps(shown.document()["value"], ensure_ascii=False) + "\n").encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if shown.dtype == "json":
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    raise UsageError(f"the output {name!r} is {shown}: write it to a file that ends in .npy or .json")
