"""Folders that are ours alone: made 0700, and refused when somebody else could have put something there."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from mer.core.errors import FolderUnsafe

PRIVATE = 0o700
TRAVERSABLE = 0o711
"""Of a root's state folder: the database's own user passes through it to its data, and can list nothing."""


def own_folder(path: Path, *, mode: int = PRIVATE, owner: int | None = None) -> Path:
    """Make `path` (and what is missing above it) if need be, check it, and return it.

    `owner` is a uid, this process's by default; only root can make a folder for another.

    Raises:
        FolderUnsafe: it is a symbolic link or no folder, belongs to somebody else, or is open to more than `mode`.
    """
    owner = os.geteuid() if owner is None else owner
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        try:
            path.mkdir(mode=mode)
        except FileExistsError:
            pass
        else:
            path.chmod(mode)  # mkdir's mode is cut by the umask
            if owner != os.geteuid():
                os.chown(path, owner, -1)
        check_folder(path, mode=mode, owner=owner)
    except OSError as error:
        raise FolderUnsafe(f"the folder {path} cannot be used: {error.strerror or error}") from error
    return path


def made_state_folder(path: Path) -> Path:
    """Make the state folder where there is none, as whoever comes first needs it, and return it.

    One that is there is looked at by those who keep something secret in it. Raises: FolderUnsafe.
    """
    return path if path.exists() else own_folder(path, mode=PRIVATE if os.geteuid() else TRAVERSABLE)


def check_folder(path: Path, *, mode: int = PRIVATE, owner: int) -> None:
    """Raise FolderUnsafe unless `path` is a folder of `owner` with no permission beyond `mode`, OSError where it is missing."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise FolderUnsafe(f"{path} is {'a symbolic link' if stat.S_ISLNK(found.st_mode) else 'no folder'}")
    if found.st_uid != owner:
        raise FolderUnsafe(f"{path} belongs to uid {found.st_uid}, not to {owner}")
    beyond = stat.S_IMODE(found.st_mode) & 0o777 & ~mode
    if beyond:
        raise FolderUnsafe(
            f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            # who named / or /tmp must not be told to shut it
            hint=f"Name a folder that is MER's alone; if this one is: chmod {mode:04o} {shlex.quote(str(path))}",
        )
