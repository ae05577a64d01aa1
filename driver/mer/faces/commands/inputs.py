"""Inputs as they are typed and as they lie in files, read into what `Mer.run` takes."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mer.core.errors import InputInvalid, UsageError
from mer.core.specs import TensorSpec, VersionSpec
from mer.detached import detached
from mer.faces.commands.numpy_files import Form, form_of, holds_arrays, read_array, read_arrays
from mer_worker.dtypes import BYTES, STRING

STDIN = "-"

MAX_INPUT_BYTES = 4 << 30
"""Of a file or of stdin, unpacked: it is held in memory whole, and whoever names a disk image by mistake should be told so."""

CHUNK = 1 << 20
"""Bytes asked for at first of what does not say how long it is; after that, as many as are there already."""

COMMAND_INPUT = "text"
"""The name that the one text of a `command` model gets where its spec names none."""


async def read_inputs(
    spec: VersionSpec, *, text: str | None, given: Sequence[str], together: str | None, stdin: BinaryIO | None
) -> dict[str, Any]:
    """Return the inputs by name: `together` (all of them, in one file), then each of `given`, then `text`.

    Files and stdin are read in a thread: a slow disk must not hold up the heartbeats of this driver, nor a pipe that
    nobody writes to its end.

    Raises:
        UsageError: a text is no NAME=VALUE, or an input is given twice. InputInvalid: a file cannot be read as one.
    """
    values: dict[str, Any] = {}
    source = _Source(stdin)
    if together is not None:
        values.update(await detached(source.together, together))
    named = [_named(pair) for pair in given]
    if text is not None:
        named.append((text_input(spec), text))
    specs = {tensor.name: tensor for tensor in spec.inputs}
    for name, value in named:
        if name in values:
            raise UsageError(f"the input {name!r} is given twice")
        values[name] = await detached(source.value, specs.get(name), name, value)
    return values


def text_input(spec: VersionSpec) -> str:
    """Return the name of the input that a bare TEXT is for: the only one there is, or the only string.

    Raises:
        InputInvalid: there is none, or there are several.
    """
    if not spec.inputs and spec.runner == "command":
        return COMMAND_INPUT
    strings = [tensor.name for tensor in spec.inputs if tensor.dtype == STRING]
    for candidates in (strings, [tensor.name for tensor in spec.inputs]):
        if len(candidates) == 1:
            return candidates[0]
    takes = f"takes {'; '.join(map(str, spec.inputs))}" if spec.inputs else "does not say what it takes"
    raise InputInvalid(f"which input is that text for? The model {takes}", hint="--input NAME=VALUE")


def unread(inputs: Mapping[str, Any]) -> str | None:
    """Return why an input was taken for a text though it looks like a list or an object; None where none does."""
    for name, value in inputs.items():
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                json.loads(value)
            except (ValueError, RecursionError) as error:
                return f"{name} is taken for a text, for it is not JSON: {error}"
    return None


def _named(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise UsageError(f"--input {pair[:80]!r}: NAME=VALUE or NAME=@FILE is meant")
    return name, value


class _Source:
    """Where values come from; stdin can be read once."""

    def __init__(self, stdin: BinaryIO | None) -> None:
        self._stdin = stdin
        self._read = False

    def value(self, spec: TensorSpec | None, name: str, value: str) -> Any:
        if value.startswith("@@"):
            return _typed(spec, value[1:])
        if not value.startswith("@"):
            return _typed(spec, value)
        return self._file(spec, name, value[1:])

    def together(self, value: str) -> dict[str, Any]:
        path = value.removeprefix("@")
        if not value.startswith("@"):
            return _object(value, "--inputs")
        if path.endswith(Form.SEVERAL):
            with self._opened(path) as file:
                return read_arrays(file, path, most=MAX_INPUT_BYTES)
        content, name = self._content(path), _name(path)
        if path == STDIN and form_of(content):
            return read_arrays(io.BytesIO(content), name, most=MAX_INPUT_BYTES)
        return _object(_text(content, name), name)

    def _file(self, spec: TensorSpec | None, name: str, path: str) -> Any:
        """Return what a file holds: what its name says; where that says nothing, what the input is to be."""
        match Path(path).suffix.lower() if path != STDIN else "":
            case Form.ONE | Form.SEVERAL:
                with self._opened(path) as file:
                    return read_array(file, path, most=MAX_INPUT_BYTES)
            case ".json":
                return _json(_text(self._content(path), path), path)
            case ".txt":
                return _text(self._content(path), path)
        content = self._content(path)
        if spec is None:
            return _guessed(content) if path == STDIN else content
        if spec.dtype == BYTES:
            return content
        if form_of(content):
            return read_array(io.BytesIO(content), _name(path), most=MAX_INPUT_BYTES)
        return _typed(spec, _text(content, f"{_name(path)} (for {name})"))

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[BinaryIO]:
        """Open a file in which a reader may go back and forth."""
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(Path(path).open("rb"))
            except (OSError, ValueError) as error:  # ValueError: a NUL in the path
                raise InputInvalid(f"{path} cannot be read: {_why(error)}", hint=_literal(path)) from error
            yield file if file.seekable() else io.BytesIO(_bounded(file, path))

    def _content(self, path: str) -> bytes:
        if path != STDIN:
            return _read_file(path)
        if self._stdin is None:
            raise InputInvalid("@- means stdin, but commands are being read from there")
        if self._read:
            raise InputInvalid("@- stands twice, and stdin can be read once")
        self._read = True
        return _bounded(self._stdin, _name(STDIN))


def _read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return _bounded(file, path)
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the path
        raise InputInvalid(f"{path} cannot be read: {_why(error)}", hint=_literal(path)) from error


def _bounded(file: BinaryIO, name: str) -> bytes:
    parts: list[bytes] = []
    size, asked = 0, _length(file) + 1
    # never the bound itself at once: a reader allocates what it is asked for, and a small machine has not that much
    while part := file.read(min(asked, MAX_INPUT_BYTES + 1 - size)):
        parts.append(part)
        size += len(part)
        asked = max(CHUNK, size)
        if size > MAX_INPUT_BYTES:
            raise InputInvalid(f"{name} has more than {MAX_INPUT_BYTES} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _length(file: BinaryIO) -> int:
    """Return how long the file says it is; a pipe and a device say 0."""
    try:
        return min(os.fstat(file.fileno()).st_size, MAX_INPUT_BYTES)
    except OSError:
        return 0  # stdin without a descriptor


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputInvalid(f"{name} is not UTF-8 text (byte {error.start})") from error


def _guessed(content: bytes) -> Any:
    """Return what stdin holds for an input of which nothing is known: an array, JSON, text, or else its bytes."""
    form = form_of(content)
    if form is Form.ONE or (form and holds_arrays(io.BytesIO(content))):
        return read_array(io.BytesIO(content), _name(STDIN), most=MAX_INPUT_BYTES)
    try:
        return _typed(None, content.decode())
    except UnicodeDecodeError:
        return content


def _typed(spec: TensorSpec | None, text: str) -> Any:
    """Return what a typed text means for an input: text where text is asked for, else JSON where it is some, else text."""
    if spec is not None and spec.dtype == BYTES:
        return text
    # a list of strings is asked for: only then is ["a", "b"] a list, and not a text with brackets
    several = spec is not None and isinstance(spec.shape, tuple) and len(spec.shape) > 0
    if spec is not None and spec.dtype == STRING and not several:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputInvalid(f"{name} is not JSON: {error}") from error


def _object(text: str, name: str) -> dict[str, Any]:
    value = _json(text, name)
    if not isinstance(value, dict):
        raise InputInvalid(f"{name} is no JSON object of inputs by name")
    return value


def _why(error: BaseException) -> str:
    told = error.strerror if isinstance(error, OSError) else None
    return told or (str(error).partition("\n")[0] or type(error).__name__)


def _name(path: str) -> str:
    return "stdin" if path == STDIN else path


def _literal(path: str) -> str:
    return f"@ reads a file; @@{path} is the text @{path}"
