"""Where a backup is written to: a file that has its name once it is whole, or a stream that takes nothing back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from mer.core.errors import AlreadyExists, ContentUnwritable
from mer.locks import open_lock, try_lock

MAX_STEM = 40
"""Characters of the file's name in its temporary one: four bytes each at most, and 255 are what a name may have."""

MOST_HELD = 8 * 2**20
"""Bytes of a registry, compressed, that are held in memory before a stream gets them; what is more waits in a file."""

TRIES = 10
"""To make a temporary file that nobody takes for a dead process's before it is locked: a matter of microseconds."""


class Output(Protocol):
    """Takes a backup from its first byte to its last."""

    def begin_anew(self) -> None:
        """Forget what was written. Never after `keep`."""

    def keep(self) -> None:
        """What was written will not be forgotten any more."""

    def write(self, content: bytes) -> None: ...


class _File:
    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def begin_anew(self) -> None:
        self._raw.seek(0)
        self._raw.truncate()

    def keep(self) -> None: ...

    def write(self, content: bytes) -> None:
        self._raw.write(content)


class _Stream:
    """Holds what may have to be forgotten."""

    def __init__(self, write: Callable[[bytes], None], held: tempfile.SpooledTemporaryFile[bytes]) -> None:
        self._write = write
        self._held: tempfile.SpooledTemporaryFile[bytes] | None = held

    def begin_anew(self) -> None:
        assert self._held is not None
        self._held.seek(0)
        self._held.truncate()

    def keep(self) -> None:
        assert self._held is not None
        self._held.seek(0)
        while some := self._held.read(2**20):
            self._write(some)
        self._held = None

    def write(self, content: bytes) -> None:
        if self._held is None:
            self._write(content)
        else:
            self._held.write(content)


@contextlib.contextmanager
def stream(write: Callable[[bytes], None]) -> Iterator[Output]:
    """Give an output that passes on to `write`. A backup that is not whole has no end, and is refused when it is read."""
    try:
        with tempfile.SpooledTemporaryFile(max_size=MOST_HELD) as held:
            yield _Stream(write, held)
    except OSError as error:
        raise ContentUnwritable(f"the backup cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def new_file(file: Path, *, force: bool) -> Iterator[Output]:
    """Give a file to write to, which takes its name when the block ends well.

    Raises:
        AlreadyExists: there is such a file, and `force` was not said.
        ContentUnwritable: it cannot be written, or is a device or a folder.
    """
    there = AlreadyExists(f"{file} is there already", hint="--force replaces it")
    try:
        if os.path.lexists(file):
            if not force:
                raise there
            if not file.is_file():  # a device or a pipe would be gone, and this be a file in its place
                raise ContentUnwritable(f"{file} is no file, and is left alone")
        _remove_left_behind(file)
        temporary, descriptor = _temporary(file)
        try:
            with os.fdopen(descriptor, "wb") as raw:
                yield _File(raw)
                raw.flush()
                os.fsync(raw.fileno())
                if force:
                    temporary.replace(file)
                else:
                    _take_name(temporary, file)
        except FileExistsError as error:
            raise there from error
        finally:
            temporary.unlink(missing_ok=True)
        _sync(file.parent)
    except OSError as error:
        raise ContentUnwritable(f"{file} cannot be written: {error.strerror or error}") from error


def _prefix(file: Path) -> str:
    return f".{file.name[:MAX_STEM]}."


def _temporary(file: Path) -> tuple[Path, int]:
    """Make the file that will be that one, locked for as long as this process lives."""
    for _ in range(TRIES):
        path = file.with_name(f"{_prefix(file)}{secrets.token_hex(4)}.part")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks: what is left behind there stays
            try_lock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # between the two calls another backup took it for one that was left behind
    raise ContentUnwritable(f"beside {file} other backups remove what this one makes")


def _remove_left_behind(file: Path) -> None:
    """Remove what backups to that name have left that were ended by kill -9: who lives holds a lock on his."""
    ours = re.compile(rf"{re.escape(_prefix(file))}[0-9a-f]{{8}}\.part")
    with os.scandir(file.parent) as entries:
        left = [Path(entry.path) for entry in entries if ours.fullmatch(entry.name)]
    for path in left:
        # what another user has left is his to remove, and no reason to fail
        with contextlib.suppress(OSError):
            if not stat.S_ISREG(path.lstat().st_mode):  # to open a pipe would wait for its writer
                continue
            descriptor = open_lock(path, make=False)
            try:
                if try_lock(descriptor, fcntl.LOCK_EX):
                    path.unlink()
            finally:
                os.close(descriptor)


def _take_name(temporary: Path, file: Path) -> None:
    """Give the file its name, which must still be free. Raises: FileExistsError."""
    try:
        file.hardlink_to(temporary)  # who made such a file meanwhile keeps it, where rename would replace it
    except FileExistsError:
        raise
    except OSError:  # a file system without links: between these two calls is all that is left to chance
        if os.path.lexists(file):
            raise FileExistsError(file) from None
        temporary.replace(file)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
