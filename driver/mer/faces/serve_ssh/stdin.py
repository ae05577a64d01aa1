"""A guest's inputs as they come by stdin: a JSON object or an .npz file, told apart by its first bytes."""

from __future__ import annotations

import asyncio
import json
from typing import Any, BinaryIO

from mer.core.errors import DeadlineExceeded, InputInvalid
from mer.detached import detached
from mer.faces.serve_ssh import npz
from mer_worker.wire import MAX_BODY_BYTES, MAX_JSON_BYTES

MAX_BYTES = MAX_BODY_BYTES
"""Of an .npz file; it is held in memory whole."""

INPUT_SECONDS = 600.0
"""For all of stdin: a gigabyte over a slow line. Who holds a session open and sends nothing is not waited for."""

FIRST_BYTES = 4
CHUNK = 1 << 20


async def read_stdin(stdin: BinaryIO | None) -> dict[str, Any]:
    """Return the inputs by name; none where stdin is empty.

    Raises:
        InputInvalid: they are neither, or too large. DeadlineExceeded: they do not come to an end.
    """
    if stdin is None:
        return {}
    try:
        async with asyncio.timeout(INPUT_SECONDS):
            content = await detached(_bounded, stdin)
    except TimeoutError as error:
        raise DeadlineExceeded(f"stdin did not end within {INPUT_SECONDS:g} s") from error
    return await asyncio.to_thread(_read, content)


def _bounded(stdin: BinaryIO) -> bytes:
    """Read to the end, or to the bound of what the first bytes say that it is."""
    parts, size, most = list[bytes](), 0, MAX_JSON_BYTES
    while part := stdin.read(CHUNK if size else FIRST_BYTES):
        if not parts and part.startswith(npz.MAGIC):
            most = MAX_BYTES
        parts.append(part)
        size += len(part)
        if size > most:
            raise InputInvalid(f"stdin has more than {most} bytes")
    return b"".join(parts)


def _read(content: bytes) -> dict[str, Any]:
    if content.startswith(npz.MAGIC):
        return npz.read_arrays(content)
    if not content.strip():
        return {}
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputInvalid(f"stdin is neither a JSON object nor an .npz file: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise InputInvalid("stdin is no JSON object of inputs by name")
    return value
