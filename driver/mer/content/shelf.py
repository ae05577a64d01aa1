"""A folder of files that stand under the sha256 of their bytes: written whole or not at all, and never changed.

A file is hashed when it comes in. Then it is sealed: made read-only, its modification time set to one fixed instant.
Whoever writes to it later sets another time, so a seal costs one `lstat` to check, needs no database beside the files,
and a file without it is read again before it is trusted (docs/decisions/sealed-blobs.md).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import ContentError, ContentMissing, ContentUnwritable, DigestMismatch
from mer.core.manifest import is_digest
from mer.core.records import Digest

CHUNK = 1 << 20
"""Bytes read, hashed and written at a time: large enough that calls cost nothing, small enough to stay in the cache."""

SEALED = 315_532_800 * 10**9
"""1980-01-01 in ns since 1970: the earliest instant that a zip can hold, and one that every file system can."""

SEALED_MODE = 0o444

_INCOMING = itertools.count()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What came in."""

    digest: Digest
    size: int
    fresh: bool
    """False: the shelf had it already."""


class Shelf:
    """Files by digest. Any number of threads and processes may use one at the same time."""

    def __init__(self, folder: Path, *, incoming: Path) -> None:
        self.folder = folder
        self._incoming = incoming  # on the same file system, or nothing could be moved in whole

    def path(self, digest: Digest) -> Path:
        """Return where that file stands, or would."""
        if not is_digest(digest):
            raise ContentMissing(f"{digest[:80]!r} is no digest")  # it would become a path
        return self.folder / digest[:2] / digest

    def find(self, digest: Digest, *, size: int | None = None) -> Path:
        """Return the file's path once it is known to be whole: one `lstat` where its seal holds.

        Raises:
            ContentMissing: it is not there.
            DigestMismatch: it was changed, or has not `size` bytes.
        """
        path = self.path(digest)
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ContentMissing(f"{digest} is missing from the content store") from error
        except OSError as error:
            raise ContentError(f"{path} cannot be read: {error.strerror}") from error
        if size is not None and found.st_size != size:
            raise DigestMismatch(f"{path} has {found.st_size} bytes, not {size}")
        if not is_sealed(found):
            self.check(digest)
        return path

    def read(self, digest: Digest) -> str:
        """Return the text of a file that is known to be whole.

        Raises:
            ContentMissing, DigestMismatch.
            ContentError: it cannot be read, or is no text.
        """
        path = self.find(digest)
        try:
            return path.read_bytes().decode()  # as bytes: `read_text` would take `\r\n` for `\n`
        except OSError as error:
            raise ContentError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ContentError(f"{path} is no text") from error

    def has(self, digest: Digest) -> bool:
        """Tell whether the file is there and whole."""
        try:
            self.find(digest)
        except (ContentMissing, DigestMismatch):
            return False
        return True

    def check(self, digest: Digest) -> int:
        """Read the file again, whatever its seal says, and return its size. It is sealed if right, unsealed if wrong.

        Raises:
            ContentMissing, DigestMismatch.
        """
        path = self.path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise ContentMissing(f"{digest} is missing from the content store") from error
        except OSError as error:
            raise DigestMismatch(f"{path} cannot be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            before = os.fstat(descriptor)
            try:
                actual = hashlib.file_digest(file, "sha256").hexdigest() if stat.S_ISREG(before.st_mode) else None
            except OSError as error:
                raise DigestMismatch(f"{path} cannot be read: {error.strerror}") from error
            right = actual == digest
            with contextlib.suppress(OSError):  # somebody else's store may be read-only to us: then it stays as it is
                if right and not is_sealed(before):
                    seal(descriptor)
                elif not right and is_sealed(before):
                    os.utime(descriptor)  # no later `find` trusts it, and the next one who brings it in replaces it
        if not right:
            raise DigestMismatch(f"{path} was changed: its bytes have the digest {actual}")
        return before.st_size

    def add(self, chunks: Iterable[bytes | memoryview], *, expected: Digest | None = None) -> Stored:
        """Take in a file. It survives a crash once `settle` was called for its digest.

        Raises:
            DigestMismatch: its bytes do not have the digest `expected`.
            ContentUnwritable: the disk is full, or the folder cannot be written. Nothing half-written is left.
        """
        with incoming_file(self._incoming) as (temporary, descriptor):
            hashed = hashlib.sha256()
            size = 0
            for chunk in chunks:
                hashed.update(chunk)
                size += len(chunk)
                write_all(descriptor, chunk)
            digest = Digest(hashed.hexdigest())
            if expected is not None and digest != expected:
                raise DigestMismatch(f"what came in has the digest {digest}, not {expected}")
            if self._refresh(digest):
                return Stored(digest=digest, size=size, fresh=False)
            seal(descriptor)
            os.fsync(descriptor)
            path = self.path(digest)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # it replaces a file that lost its seal; when two bring in the same bytes, either may win
            temporary.rename(path)
        return Stored(digest=digest, size=size, fresh=True)

    def settle(self, digests: Iterable[Digest]) -> None:
        """Make the names of these files durable, where `add` made only their bytes so.

        Raises:
            ContentUnwritable.
        """
        with writing(self.folder):
            for folder in {self.path(digest).parent for digest in digests}:
                sync_folder(folder)
            sync_folder(self.folder)

    def digests(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Give every file with its `lstat`, in no order. What stands under no digest is left to `strays`."""
        for entry in self._entries():
            if self._in_place(entry):
                with contextlib.suppress(FileNotFoundError):
                    yield Digest(entry.name), entry.stat(follow_symlinks=False)

    def strays(self) -> Iterator[Path]:
        """Give what does not belong on the shelf."""
        for entry in self._entries():
            if not self._in_place(entry):
                yield Path(entry.path)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as folders:
            for folder in folders:
                if not folder.is_dir(follow_symlinks=False):
                    yield folder
                    continue
                with os.scandir(folder.path) as entries:
                    yield from entries

    def _in_place(self, entry: os.DirEntry[str]) -> bool:
        return (
            is_digest(entry.name)
            and entry.path == str(self.path(Digest(entry.name)))
            and entry.is_file(follow_symlinks=False)
        )

    def _refresh(self, digest: Digest) -> bool:
        """Tell whether the file is there and whole, and make it young again for gc's grace (its ctime)."""
        if not self.has(digest):
            return False
        try:
            os.utime(self.path(digest), ns=(SEALED, SEALED), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True


def is_sealed(found: os.stat_result) -> bool:
    """Tell whether this is a regular file that nobody wrote to since it came in."""
    return found.st_mtime_ns == SEALED and stat.S_ISREG(found.st_mode)


def seal(descriptor: int) -> None:
    """Make the open file read-only and mark it as verified."""
    os.fchmod(descriptor, SEALED_MODE)
    os.utime(descriptor, ns=(SEALED, SEALED))


def write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    """Write every byte; `os.write` may take fewer."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def incoming_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Give a new file and its descriptor; whatever still stands under that name afterwards is removed.

    Raises:
        ContentUnwritable: for what goes wrong with it, or in the block.
    """
    with writing(folder):
        path, descriptor = _new_file(folder)
        try:
            yield path, descriptor
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)


def incoming_folder(folder: Path) -> Path:
    """Return a new folder in which something can be put together; the caller removes what he leaves of it."""
    while True:
        path = _new_name(folder)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path


def _new_file(folder: Path) -> tuple[Path, int]:
    while True:
        path = _new_name(folder)
        try:
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue


def _new_name(folder: Path) -> Path:
    """Return a name that no other thread of this process gets. One that was killed may have left it: in a container
    the same pids come again and again.
    """
    return folder / f"{os.getpid()}-{next(_INCOMING)}"


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Translate what the system says of a write into ContentUnwritable. Errors of mer's own pass."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ContentUnwritable(
            f"the content store cannot be written at {place}: {error.strerror or error}",
            hint="`mer store gc` frees what nothing needs" if full else None,
        ) from error
