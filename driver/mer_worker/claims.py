"""What running workers need of the cache folder: gc takes nothing away that one of them has asked for.

Each worker has a file `using/MARKER`, a digest a line, and holds its lock for as long as it, or something that it has forked,
lives: a file that nobody holds is one that nobody needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

from mer_worker.blobs import own_folder, unwritable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Claims:
    """The claims on one cache folder."""

    def __init__(self, cache: str, marker: str) -> None:
        """Claim under the name `marker`. Raises: Failure."""
        self._lock = os.path.join(cache, "lock")
        self._folder = own_folder(os.path.join(cache, "using"))
        self._marker = marker
        self._file = -1
        self._claimed: set[str] = set()
        self._adding = threading.Lock()  # a load and a push are different threads' work

    @contextlib.contextmanager
    def looking(self, digests: Iterable[str]) -> Iterator[None]:
        """Claim these blobs for good, and keep gc away while the block looks at them. Raises: Failure."""
        try:
            with locked(self._lock, fcntl.LOCK_SH):
                self._add(digests)
                yield
        except OSError as error:
            raise unwritable(error, self._lock) from error

    def _add(self, digests: Iterable[str]) -> None:
        with self._adding:
            if self._file < 0:
                self._file = os.open(self._marker, _OPEN | os.O_APPEND, 0o600, dir_fd=self._folder)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh = [digest for digest in dict.fromkeys(digests) if digest not in self._claimed]
            lines = memoryview("".join(f"{digest}\n" for digest in fresh).encode())
            while lines:
                lines = lines[os.write(self._file, lines) :]
            self._claimed.update(fresh)


def claimed(cache: str) -> set[str]:
    """Return what running workers claim, and forget those that run no more. The caller holds the lock alone."""
    needed: set[str] = set()
    folder = own_folder(os.path.join(cache, "using"))
    try:
        for name in os.listdir(folder):
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    needed.update(file.read().decode("ascii", "replace").split())
                else:
                    os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    return needed


@contextlib.contextmanager
def locked(path: str, operation: int) -> Iterator[None]:
    """Hold a file's lock while the block runs. Raises: OSError."""
    descriptor = os.open(path, _OPEN, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)
