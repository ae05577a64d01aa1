"""An answer that comes in parts, written as it comes: for people, for a pipe, a line of JSON each, or one document of all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer.core.errors import UsageError
from mer.faces.commands.outputs import STDOUT, content_of
from mer.faces.render.console import Console
from mer.faces.render.result import note_result, part_document, parts_document, show_part

if TYPE_CHECKING:
    from mer.execution.results import Result

MOST_GATHERED = 10_000
"""Parts of one JSON document: it is held in memory until the last one has come, which may be never."""


class Parts:
    """Where the parts of one run go."""

    def __init__(self, console: Console, *, lines: bool, files: Mapping[str, str], folder: Path | None) -> None:
        """Write a JSON object a line for each with `lines`; `files` and `folder` say where outputs were meant to go."""
        self._console = console
        self._lines = lines
        self._files = files
        self._folder = folder
        self._missing = dict.fromkeys(files)
        self._count = 0
        self._gathered: list[dict[str, Any]] = []

    async def show(self, outputs: Mapping[str, Any]) -> None:
        """Write a part, now.

        Raises:
            UsageError: it has no place where outputs were meant to go.
        """
        console = self._console
        self._count += 1
        if self._lines:
            console.document(part_document(self._count, outputs))
        elif self._folder is not None or any(file != STDOUT for file in self._files.values()):
            raise UsageError(
                "the model answers in parts, and files take an answer that comes whole",
                hint="--jsonl writes each part on a line; --output NAME=- writes an output of every part to stdout",
            )
        elif self._files:
            for name in self._files:
                if name in outputs:
                    self._missing.pop(name, None)
                    console.raw(await asyncio.to_thread(content_of, name, outputs[name], ""))
        elif console.json:
            self._gather(outputs)
            return
        else:
            show_part(console, outputs)
        console.flush()

    def end(self, result: Result) -> None:
        """Write what there is to say at the end.

        Raises:
            UsageError: an output was meant to go somewhere, and no part had it.
        """
        if self._missing:
            raise UsageError(f"no part of the answer had an output {next(iter(self._missing))!r}")
        if self._lines or self._files:
            return
        if self._console.json:
            self._console.document(parts_document(result, self._gathered))
        else:
            note_result(self._console, result)

    def _gather(self, outputs: Mapping[str, Any]) -> None:
        if len(self._gathered) >= MOST_GATHERED:
            raise UsageError(
                f"more than {MOST_GATHERED} parts are no document",
                hint="--jsonl writes each part on a line as it comes",
            )
        self._gathered.append(part_document(self._count, outputs))
