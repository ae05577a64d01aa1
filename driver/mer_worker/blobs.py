"""Files by digest in the cache folder of a far host: whole and verified under their name, or not there.

A blob has the name of its sha256, mode 0400, and 1980-01-01 as its modification time: the seal that says that it was verified
and that nobody wrote to it since (docs/content.md). Every folder is opened without following a link and must be ours alone;
from there on names are relative to it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import stat

from mer_worker.failures import Failure
from mer_worker.manifest import is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Union

    Bytes = Union[bytes, bytearray, memoryview]

CHUNK = 1 << 20
"""Bytes read and hashed at a time."""

MAX_BLOB = 1 << 40
"""1 TiB: what a package or a tensor may have, and no number that a broken driver makes up."""

SEALED = 315_532_800 * 10**9
"""1980-01-01 in ns since 1970, as in the driver's store."""

SEALED_MODE = 0o400

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_OWN = itertools.count()
"""Numbers of the parts of this process that nobody can go on with."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe under that name must not keep us


class Blobs:
    """The blobs of one cache folder, and those that are on their way in. Any number of processes may use them at once."""

    def __init__(self, cache: str, marker: str) -> None:
        """Use the cache folder; `marker` names what this process writes for itself.

        Raises:
            Failure: a folder is not ours alone, or cannot be made.
        """
        root = own_folder(cache)
        try:
            self.incoming = own_folder("incoming", within=root)
            self._blobs = own_folder("blobs", within=root)
        finally:
            os.close(root)
        self._place = os.path.join(cache, "blobs")
        self._marker = marker

    def path(self, digest: str) -> str:
        """Return where the blob stands, or would."""
        return os.path.join(self._place, require_digest(digest)[:2], digest)

    def has(self, digest: str) -> bool:
        """Tell whether the blob is there and whole, and make it young again for the grace of gc."""
        try:
            shelf = os.open(require_digest(digest)[:2], _FOLDER, dir_fd=self._blobs)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise unwritable(error, self._place) from error
        try:
            found = os.stat(digest, dir_fd=shelf, follow_symlinks=False)
            if is_sealed(found):
                os.utime(digest, ns=(SEALED, SEALED), dir_fd=shelf, follow_symlinks=False)
                return True
            return self._renewed(digest, shelf)
        except OSError:  # not there, or not to be read: what is brought in takes its place
            return False
        finally:
            os.close(shelf)

    def require(self, digest: str) -> str:
        """Return the blob's path. Raises: Failure: it is not there, or not whole."""
        if not self.has(digest):
            raise Failure("content", "missing", f"{digest} is not on this host, or was damaged here")
        return self.path(digest)

    def partial(self, digest: str) -> int:
        """Return how many bytes of a blob have come that nobody brings in at the moment."""
        try:
            descriptor = os.open(f"{require_digest(digest)}.part", os.O_RDWR | _FILE, dir_fd=self.incoming)
        except OSError:
            return 0
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.fstat(descriptor).st_size
        except OSError:
            return 0
        finally:
            os.close(descriptor)

    def begin(self, digest: str, size: int, offset: int) -> Part:
        """Begin to bring a blob in, or go on at `offset` with one of which so much has come.

        Raises:
            Failure: the numbers are none, there is no room, or there is no such part to go on with.
        """
        require_digest(digest)
        if type(size) is not int or type(offset) is not int or not 0 <= offset <= size <= MAX_BLOB:
            raise Failure("input", "input-invalid", f"a blob of {size!r} bytes, from {offset!r} on")
        try:
            room = os.fstatvfs(self.incoming)
            if room.f_bavail * room.f_frsize < size - offset:
                raise Failure(
                    "content",
                    "no-room",
                    f"{self._place}: {size - offset} bytes are to come, and the disk has not that many",
                )
            return self._part(digest, size, offset)
        except OSError as error:
            raise unwritable(error, self._place) from error

    def keep(self, part: Part) -> None:
        """Give a blob that is whole its name. Raises: OSError."""
        os.fsync(part.descriptor)  # its bytes before its name; a name that a crash takes back is pushed again
        # after what takes long: a part that was cut while it had the seal could not be written to again
        seal(part.descriptor)
        try:
            os.mkdir(part.digest[:2], 0o700, dir_fd=self._blobs)
        except FileExistsError:
            pass
        shelf = own_folder(part.digest[:2], within=self._blobs)
        try:
            # in place of one that has lost its seal; when two bring in the same bytes, either may win
            os.rename(part.name, part.digest, src_dir_fd=self.incoming, dst_dir_fd=shelf)
        finally:
            os.close(shelf)

    def _part(self, digest: str, size: int, offset: int) -> Part:
        name = f"{digest}.part"
        while True:
            try:
                descriptor = self._locked(name)
            except (BlockingIOError, PermissionError):
                # somebody else brings in the same, or was cut between its seal and its name: this one is written beside it
                if name != f"{digest}.part":
                    raise
                name = f"{digest}.{self._marker}-{next(_OWN)}"
                if offset:
                    raise Failure("content", "no-part", f"{digest} comes in by somebody else meanwhile") from None
                continue
            try:
                # whoever had the lock before may have given the file its final name: then this is no part any more
                known = os.stat(name, dir_fd=self.incoming, follow_symlinks=False)
                if os.path.samestat(known, os.fstat(descriptor)):
                    return Part(self, digest, size, offset, name, descriptor)
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _locked(self, name: str) -> int:
        """Open what comes in under this name, for this process alone. Raises: OSError."""
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | _FILE, 0o600, dir_fd=self.incoming)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _renewed(self, digest: str, shelf: int) -> bool:
        """Read a blob again that has lost its seal, and seal it if it is right. Raises: OSError."""
        descriptor = os.open(digest, os.O_RDONLY | _FILE, dir_fd=shelf)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            if hashed(descriptor).hexdigest() != digest:
                return False
            seal(descriptor)
            return True
        finally:
            os.close(descriptor)


class Part:
    """A blob that is being brought in, by this process alone."""

    def __init__(self, blobs: Blobs, digest: str, size: int, offset: int, name: str, descriptor: int) -> None:
        """Go on with an open and locked file at `offset`. Raises: Failure: it has not so many bytes."""
        self.digest = digest
        self.name = name
        self.descriptor = descriptor
        self._blobs = blobs
        self._size = size
        if os.fstat(descriptor).st_size < offset:
            raise Failure("content", "no-part", f"of {digest} there are not {offset} bytes to go on with")
        os.ftruncate(descriptor, offset)
        self._hash = hashed(descriptor)
        self._written = offset

    def write(self, data: Bytes) -> None:
        """Take the next bytes.

        Raises:
            Failure: they are more than were announced, or have no room; the part is gone then.
        """
        view = memoryview(data)
        self._written += len(view)
        if self._written > self._size:
            self.drop()
            raise Failure("input", "input-invalid", f"more than the {self._size} bytes that {self.digest} was to have")
        self._hash.update(view)
        try:
            while view:
                view = view[os.write(self.descriptor, view) :]
        except OSError as error:
            self.drop()  # half of a large blob would keep the disk full
            raise unwritable(error, self.digest) from error

    def finish(self) -> None:
        """Verify what has come, and give it its name.

        Raises:
            Failure: it is not what was announced, and gone; or it cannot be kept.
        """
        if self._written < self._size:
            self.drop()
            raise Failure("input", "input-invalid", f"{self.digest} ended after {self._written} of {self._size} bytes")
        found = self._hash.hexdigest()
        if found != self.digest:
            self.drop()
            raise Failure("content", "digest-mismatch", f"what came in as {self.digest} has the digest {found}")
        try:
            if self._blobs.has(self.digest):
                self._remove()
            else:
                self._blobs.keep(self)
        except OSError as error:
            self._remove()
            raise unwritable(error, self.digest) from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of it; what has come stays, to be gone on with, unless nobody would find it."""
        if self.descriptor < 0:
            return
        if self.name != f"{self.digest}.part":
            self._remove()
        os.close(self.descriptor)
        self.descriptor = -1

    def drop(self) -> None:
        """Let go of it, and remove what has come."""
        self._remove()
        self.close()

    def _remove(self) -> None:
        try:
            os.unlink(self.name, dir_fd=self._blobs.incoming)
        except OSError:  # it has its final name
            pass


def own_folder(path: str, *, within: Optional[int] = None) -> int:
    """Open a folder that is ours alone, and make it where there is none. Raises: Failure."""
    try:
        try:
            os.mkdir(path, 0o700, dir_fd=within)
        except FileExistsError:
            pass
        descriptor = os.open(path, _FOLDER, dir_fd=within)
    except OSError as error:
        raise unwritable(error, path) from error
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(descriptor)
        raise Failure("content", "unsafe-folder", f"{path} is not this user's alone: chmod 700 it")
    return descriptor


def hashed(descriptor: int) -> hashlib._Hash:
    """Return the sha256 of a file from its beginning; its place is then its end."""
    whole = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while True:
        piece = os.read(descriptor, CHUNK)
        if not piece:
            return whole
        whole.update(piece)


def seal(descriptor: int) -> None:
    """Make the open file read-only, and mark it as verified."""
    os.fchmod(descriptor, SEALED_MODE)
    os.utime(descriptor, ns=(SEALED, SEALED))


def is_sealed(found: os.stat_result) -> bool:
    """Tell whether this is a file of ours that nobody wrote to since it was verified."""
    return found.st_mtime_ns == SEALED and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def require_digest(digest: object) -> str:
    """Return it, if it is a digest: it becomes a path. Raises: Failure."""
    if type(digest) is not str or not is_digest(digest):
        raise Failure("input", "input-invalid", f"{str(digest)[:80]!r} is no sha256 in lower-case hex")
    return digest


def unwritable(error: OSError, place: str) -> Failure:
    """Return what the system's refusal of a write is to the driver."""
    code = "no-room" if error.errno in FULL else "unwritable"
    return Failure("content", code, f"{place}: {error.strerror or error}")
