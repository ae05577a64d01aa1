"""Inputs that come in parts, as they lie in a file or come through a pipe: a JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import Any, BinaryIO

from mer.core.errors import InputInvalid, UsageError
from mer.faces.commands.inputs import STDIN
from mer.faces.repl.lines import read_lines

MAX_PART_LINE = 16 << 20
"""Bytes of one part as JSON: more than anybody types, and a binary file fed in by mistake is told of."""


async def input_parts(source: str, stdin: BinaryIO | None) -> AsyncGenerator[dict[str, Any], None]:
    """Give the objects of a file, or of stdin where `source` is -, each as soon as its line is there.

    Raises:
        InputInvalid: it cannot be read, or a line is no text, too long, or no JSON object.
    """
    if source != STDIN:
        try:
            with closing(_Descriptor(source)) as file:
                async for part in _objects(file.number, source):
                    yield part
        except OSError as error:
            raise InputInvalid(f"{source} cannot be read: {error.strerror or error}") from error
    elif stdin is None:
        raise InputInvalid("--input-parts - means stdin, but commands are being read from there")
    else:
        async for part in _objects(stdin.fileno(), "stdin"):
            yield part


class _Descriptor:
    """A file, open for reading."""

    def __init__(self, path: str) -> None:
        try:
            self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except ValueError as error:
            raise InputInvalid(f"{path!r} cannot be read: {error}") from error  # a NUL in the path

    def close(self) -> None:
        os.close(self.number)


async def _objects(descriptor: int, name: str) -> AsyncGenerator[dict[str, Any], None]:
    number = 0
    async with aclosing(read_lines(descriptor, most=MAX_PART_LINE, what="part of the inputs")) as lines:
        while True:
            number += 1
            try:
                line = await anext(lines)
            except StopAsyncIteration:
                return
            except UsageError as error:
                raise InputInvalid(f"{name}, line {number}: {error}") from error
            if not line.strip():
                continue
            try:
                part = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputInvalid(f"{name}, line {number}, is not JSON: {error}") from error
            if not isinstance(part, dict):
                raise InputInvalid(f"{name}, line {number}, is no JSON object of inputs by name")
            yield part
