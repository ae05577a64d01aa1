"""Files that results go to: under their name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mer.core.errors import ContentUnwritable, MerError
from mer.core.trace import Trace


@contextlib.contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of `path` when the block ends well, durable; else nothing is left.

    What is there already keeps its mode; a link is followed. A device and a pipe are written to as they are: what takes
    the place of root's /dev/null is the end of that machine.

    Raises:
        ContentUnwritable: the disk is full, the folder is missing, or may not be written.
    """
    try:
        mode = _mode(path)
        if mode is None or stat.S_ISREG(mode):
            with _replacing(Path(os.path.realpath(path)), mode) as file:
                yield file
        else:
            with path.open("wb") as file:
                yield file
    except MerError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error


def require_writable(path: Path) -> None:
    """See, before what goes there is made, that `written` will find no fault with the path. Raises: as `written`."""
    try:
        mode = _mode(path)
        if mode is None or stat.S_ISREG(mode):
            descriptor, temporary = _temporary(Path(os.path.realpath(path)))
            os.close(descriptor)
            temporary.unlink()
        elif stat.S_ISDIR(mode) or not os.access(path, os.W_OK):
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EACCES
            raise OSError(number, os.strerror(number))
    except OSError as error:
        raise _unwritable(path, error) from error


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace. Raises: as `written`."""
    with written(path) as file:
        file.write(trace.document())


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _unwritable(path: Path, error: OSError) -> ContentUnwritable:
    return ContentUnwritable(f"{path} cannot be written: {error.strerror or error}")


def _temporary(path: Path) -> tuple[int, Path]:
    """Make a file beside the one of this path, for what is to take its place, and return its descriptor and its path."""
    temporary = path.with_name(f".mer-{secrets.token_hex(8)}.part")
    # 0666 less the umask, as whoever writes a file makes it
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), temporary


@contextlib.contextmanager
def _replacing(path: Path, mode: int | None) -> Iterator[BinaryIO]:
    descriptor, temporary = _temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
