"""The folder that an author hands in: which of its files make the package, and their bytes.

Nothing here trusts the folder: what leaves it by a link, what is no file, and names that a terminal or another machine
would trip over are refused, all in one message.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mer.content.shelf import CHUNK
from mer.core.errors import PackageInvalid
from mer.core.manifest import MAX_FILES, path_fault

SKIPPED = frozenset(
    {
        "__pycache__",
        ".git",
        ".hg",
        ".svn",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
        ".DS_Store",
    }
)
"""What tools leave behind: none of it is the author's, and with it no two machines would give one id."""

MAX_PACKAGE_BYTES = 1 << 40
"""1 TiB: more is a folder that was named by mistake."""

MOST_FAULTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthorFile:
    """One file of the folder: its path in there, and where its bytes are (elsewhere in the folder, for a link)."""

    path: str
    place: Path
    size: int

    def chunks(self) -> Iterator[memoryview]:
        """Give the file's bytes; each chunk is overwritten by the next.

        Raises:
            PackageInvalid: it cannot be read, is no file any more, or has another size than before.
        """
        try:
            # O_NONBLOCK: a pipe that took its place meanwhile must not hold us
            descriptor = os.open(self.place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise PackageInvalid(f"{self.place} is no file any more")
                buffer = memoryview(bytearray(min(CHUNK, self.size + 1)))
                left = self.size
                while count := file.readinto(buffer):
                    left -= count
                    if left < 0:  # a log that something still writes to would never end
                        break
                    yield buffer[:count]
                if left:
                    raise PackageInvalid(f"{self.place} was changed while it was read: try again")
        except OSError as error:
            raise PackageInvalid(f"{self.place} cannot be read: {error.strerror}") from error


def author_files(folder: Path) -> dict[str, AuthorFile]:
    """Return the files of `folder` by path, without what SKIPPED names.

    Raises:
        PackageInvalid: with every fault (the first 20), or too many files or bytes.
    """
    try:
        root = folder.resolve(strict=True)
        walk = _Walk(root)
        walk.visit(root, "")
    except OSError as error:
        where = "" if str(error.filename) == str(folder) else f" ({error.filename})"
        raise PackageInvalid(f"the folder {folder} cannot be read: {error.strerror}{where}") from error
    if walk.faults:
        raise PackageInvalid(f"{folder}: {'; '.join(walk.faults[:MOST_FAULTS])}")
    return walk.files


def skipped_file(folder: Path, path: str) -> AuthorFile | None:
    """Return a file that SKIPPED left out, for a MANIFEST that lists it all the same; None where there is none.

    Raises:
        PackageInvalid: it is no file, or a link that leads elsewhere.
    """
    walk = _Walk(folder.resolve())
    place = folder / path
    if not place.exists():
        return None
    target = walk.target(path, place)  # a folder on the way may be a link too
    if target:
        walk.take(path, target)
    if walk.faults:
        raise PackageInvalid(f"{folder}: {walk.faults[0]}")
    return walk.files[path]


class _Walk:
    def __init__(self, root: Path) -> None:
        self.files: dict[str, AuthorFile] = {}
        self.faults: list[str] = []
        self._root = root
        self._size = 0

    def visit(self, folder: Path, prefix: str) -> None:
        """Note every file below `folder`."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in SKIPPED:
                    continue
                path = prefix + entry.name
                fault = path_fault(path)
                if fault:
                    self.faults.append(f"{path!r} {fault}")
                elif entry.is_dir(follow_symlinks=False):
                    self.visit(Path(entry.path), f"{path}/")  # as deep as a path's length allows
                else:
                    self.take(path, Path(entry.path))
                if len(self.faults) >= MOST_FAULTS:
                    return

    def take(self, path: str, place: Path) -> None:
        """Note the file at `place`, or why it cannot be one of the package."""
        found = place.lstat()
        if stat.S_ISLNK(found.st_mode):
            target = self.target(path, place)
            if target is None:
                return
            place, found = target, target.lstat()
        if not stat.S_ISREG(found.st_mode):
            self.faults.append(f"{path!r} is no file but {_kind(found.st_mode)}")
            return
        self.files[path] = AuthorFile(path=path, place=place, size=found.st_size)
        self._size += found.st_size
        if len(self.files) > MAX_FILES or self._size > MAX_PACKAGE_BYTES:
            raise PackageInvalid(
                f"{self._root} has more than {MAX_FILES} files or {MAX_PACKAGE_BYTES >> 40} TiB: is this the folder?"
            )

    def target(self, path: str, place: Path) -> Path | None:
        """Return where a link leads, if that is in the folder."""
        try:
            target = place.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop, until Python 3.13
            self.faults.append(f"{path!r} is a symbolic link to nothing")
            return None
        if not target.is_relative_to(self._root):
            self.faults.append(f"{path!r} is a symbolic link that leaves the folder")
            return None
        return target


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a link to a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISCHR, "a device"),
    )
    return next((kind for test, kind in kinds if test(mode)), "something else")
