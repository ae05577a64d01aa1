"""Packages unpacked on a far host, for its workers to read: hard links of the blobs, built from the MANIFEST.

A tree appears whole or not at all, and is read-only, since workers share it.
"""

from __future__ import annotations

import fcntl
import os
import shutil

from mer_worker.blobs import Blobs, hashed, is_sealed, own_folder, seal, unwritable
from mer_worker.claims import Claims, locked
from mer_worker.failures import Failure
from mer_worker.manifest import MANIFEST, MAX_MANIFEST, folders, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER_MODE = 0o500
"""A handler that writes beside its own code would change what others run."""

_MOST_TOLD = 20
"""Faults of a MANIFEST that an error names."""


class Trees:
    """Unpacked packages by id."""

    def __init__(self, cache: str, marker: str, blobs: Blobs, claims: Claims) -> None:
        """Unpack in the cache folder. Raises: Failure."""
        os.close(own_folder(os.path.join(cache, "trees")))
        self._cache = cache
        self._marker = marker
        self._blobs = blobs
        self._claims = claims

    def open(self, package: str) -> str:
        """Return the folder of a package, unpacked now if it is not there.

        Raises:
            Failure: its MANIFEST or a file of it is not on this host, the MANIFEST lists what it may not, or there is no room.
        """
        with self._claims.looking((package,)):
            files = self._files(package)
            with self._claims.looking(files.values()):
                return self._opened(package, files)

    def _opened(self, package: str, files: Mapping[str, str]) -> str:
        tree = os.path.join(self._cache, "trees", package)
        try:
            if not _whole(tree, files):
                with locked(os.path.join(self._cache, "lock-trees"), fcntl.LOCK_EX):
                    if not _whole(tree, files):  # whoever held the lock before may have unpacked it
                        self._build(tree, package, files)
        except OSError as error:
            raise unwritable(error, tree) from error
        return tree

    def _files(self, package: str) -> dict[str, str]:
        return listed(self._blobs.require(package), package)

    def _build(self, tree: str, package: str, files: Mapping[str, str]) -> None:
        making = os.path.join(self._cache, "incoming", f"{package}.{self._marker}.tree")
        remove_tree(making)
        os.mkdir(making, 0o700)
        root = own_folder(making)
        try:
            made = dict.fromkeys(folder for path in files for folder in folders(path))
            for folder in made:
                os.mkdir(folder, 0o700, dir_fd=root)
            for path, digest in (*files.items(), (MANIFEST, package)):
                self._link(digest, path, root)
            for folder in reversed(made):
                os.chmod(folder, FOLDER_MODE, dir_fd=root)
            remove_tree(tree)  # one that is not whole
            os.rename(making, tree)
            os.fchmod(root, FOLDER_MODE)  # last: a folder that is moved is written to, since its `..` changes
        except BaseException:
            remove_tree(making)
            raise
        finally:
            os.close(root)

    def _link(self, digest: str, path: str, root: int) -> None:
        source = self._blobs.require(digest)
        try:
            os.link(source, path, dst_dir_fd=root, follow_symlinks=False)
        except OSError:  # no hard links here, or as many of this file as there can be
            self._copy(source, digest, path, root)

    def _copy(self, source: str, digest: str, path: str, root: int) -> None:
        with open(source, "rb") as read:
            target = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root
            )
            with os.fdopen(target, "w+b") as written:
                shutil.copyfileobj(read, written)
                written.flush()
                if hashed(target).hexdigest() != digest:
                    raise Failure("content", "damaged", f"{digest} was changed on this host")
                seal(target)
                os.fsync(target)  # as of a blob: a machine that goes down would leave an empty file with a seal


def listed(path: str, package: str) -> dict[str, str]:
    """Return each path of a package with its digest, from the file of its MANIFEST. Raises: Failure."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_MANIFEST + 1)
        if len(text) > MAX_MANIFEST:
            raise Failure(
                "content", "manifest-invalid", f"{package} is more than {MAX_MANIFEST} bytes long: no MANIFEST"
            )
        files, faults = parse(text.decode())
    except OSError as error:
        raise unwritable(error, path) from error
    except UnicodeDecodeError as error:
        raise Failure("content", "manifest-invalid", f"{package} is no MANIFEST: {error}") from error
    if faults:
        raise Failure("content", "manifest-invalid", f"{MANIFEST} {package}: {'; '.join(faults[:_MOST_TOLD])}")
    return files


def remove_tree(path: str) -> None:
    """Remove a folder of ours with all that is in it; none at all is no fault."""
    if not os.path.isdir(path) or os.path.islink(path):
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _whole(tree: str, files: Mapping[str, str]) -> bool:
    """Tell whether each file is there and has its seal."""
    try:
        return all(is_sealed(os.lstat(f"{tree}/{path}")) for path in (MANIFEST, *files))
    except OSError:
        return False
