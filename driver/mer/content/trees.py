"""Packages unpacked on this machine, for workers to read: hard links to the blobs, so that they cost no bytes.

A tree appears whole or not at all. It is read-only, since workers share it: a handler that writes beside its own code
would change what the others run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mer.content.shelf import CHUNK, Shelf, incoming_file, incoming_folder, is_sealed, seal, write_all, writing
from mer.core.errors import DigestMismatch
from mer.core.manifest import MANIFEST
from mer.core.records import Digest

FOLDER_MODE = 0o555

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP)
"""The file system has no hard links, forbids them, or has as many of this file as it can."""


class Trees:
    """Unpacked packages by id."""

    def __init__(self, folder: Path, *, incoming: Path, blobs: Shelf, manifests: Shelf) -> None:
        self.folder = folder
        self._incoming = incoming
        self._blobs = blobs
        self._manifests = manifests

    def path(self, identifier: Digest) -> Path:
        """Return where that tree stands, or would."""
        return self.folder / identifier

    def find(self, identifier: Digest, files: Mapping[str, Digest]) -> Path | None:
        """Return the tree if it is there and no file of it lost its seal: one `lstat` a file."""
        path = self.path(identifier)
        root = os.fspath(path)
        try:
            whole = all(is_sealed(os.lstat(f"{root}/{name}")) for name in (MANIFEST, *files))
        except OSError:
            return None
        return path if whole else None

    def build(self, identifier: Digest, files: Mapping[str, Digest]) -> Path:
        """Unpack the package, in place of a tree of it that is not whole. The caller sees to it that nobody else does.

        Raises:
            ContentMissing, DigestMismatch: a blob is not there, or was changed.
            ContentUnwritable: nothing of the tree is left.
        """
        path = self.path(identifier)
        with writing(self.folder):
            unfinished = incoming_folder(self._incoming)
            try:
                self._fill(unfinished, identifier, files)
                self._put_in_place(unfinished, path)
            finally:
                remove_tree(unfinished)
        return path

    def _fill(self, root: Path, identifier: Digest, files: Mapping[str, Digest]) -> None:
        folders = {root / parent for name in files for parent in Path(name).parents}
        for folder in sorted(folders - {root}):
            folder.mkdir(mode=0o700)
        for name, digest in files.items():
            self._link(self._blobs, digest, root / name)
        self._link(self._manifests, identifier, root / MANIFEST)
        for folder in folders - {root}:
            folder.chmod(FOLDER_MODE)

    def _link(self, shelf: Shelf, digest: Digest, target: Path) -> None:
        source = shelf.find(digest)
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._copy(source, digest, target)

    def _copy(self, source: Path, digest: Digest, target: Path) -> None:
        with incoming_file(self._incoming) as (temporary, descriptor), source.open("rb", buffering=0) as file:
            hashed = hashlib.sha256()
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                write_all(descriptor, chunk)
            if hashed.hexdigest() != digest:
                raise DigestMismatch(f"{source} was changed: its bytes have the digest {hashed.hexdigest()}")
            seal(descriptor)
            os.fsync(descriptor)
            temporary.rename(target)

    def _put_in_place(self, unfinished: Path, path: Path) -> None:
        if path.exists():  # it is not whole, or nobody would have called
            aside = incoming_folder(self._incoming)
            path.chmod(0o700)  # a folder that is moved is written to: its `..` changes
            path.rename(aside / path.name)
            remove_tree(aside)
        unfinished.rename(path)
        path.chmod(FOLDER_MODE)  # last, for the same reason


def remove_tree(root: Path) -> None:
    """Remove a folder of ours with all that is in it; none at all is no fault."""
    import shutil  # 5 ms, and a one-shot finds its tree there

    if not root.exists():
        return
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(stat.S_IRWXU)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)
