"""The content store: packages and weights by digest, in one folder of ours that any number of processes share.

Layout and ids: docs/content.md. Everything here blocks on the disk, so async callers use a thread.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mer.content import packages, weights
from mer.content.claims import Claims
from mer.content.holdings import Holdings
from mer.content.lock import WAIT_SECONDS, locked
from mer.content.packages import Package
from mer.content.shelf import Shelf
from mer.content.trees import Trees
from mer.content.weights import WeightsList
from mer.core.records import Digest
from mer.core.specs import VersionSpec
from mer.folders import own_folder

if TYPE_CHECKING:
    from mer.content.checking import Collected, ContentReport

GRACE_SECONDS = 24 * 60 * 60.0
"""How long gc leaves alone what nothing needs: an add may be done and its registration under way."""

UNPACK_SECONDS = 600.0
"""How long to wait while another process unpacks: links take milliseconds, copies of a large package minutes."""


class ContentStore:
    """Packages and weights. Safe for any number of threads and processes at the same time."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Use the store in `folder`, and make it where there is none. `clock` gives seconds since 1970.

        Raises:
            FolderUnsafe: the folder is not ours alone.
        """
        self.folder = own_folder(folder)
        self._clock = clock
        incoming = self._part("incoming")
        self._blobs = Shelf(self._part("blobs"), incoming=incoming)
        self._manifests = Shelf(self._part("packages"), incoming=incoming)
        self._lists = Shelf(self._part("weights"), incoming=incoming)
        self._trees = Trees(self._part("trees"), incoming=incoming, blobs=self._blobs, manifests=self._manifests)
        self.claims = Claims(self.folder / "claims")
        self._holdings = Holdings(
            blobs=self._blobs, manifests=self._manifests, lists=self._lists, trees=self._trees, incoming=incoming
        )

    def add_package(self, folder: Path, spec: VersionSpec | None = None) -> Package:
        """Bring in a folder: a Carton's tree as it is, any other as the `model/` of a package that `spec` describes.

        Raises:
            PackageInvalid, UsageError: the folder cannot be a package, or not with this spec.
            DigestMismatch, ContentMissing: the folder's own MANIFEST does not hold.
            ContentUnwritable, Busy.
        """
        from mer.content.packing import pack  # what only changes need is not loaded for a run

        with self._adding():
            return pack(folder, spec, blobs=self._blobs, manifests=self._manifests)

    def package(self, identifier: Digest) -> Package:
        """Return a package: what carton.toml says, its files and its size. One `lstat` a file.

        Raises:
            ContentMissing, DigestMismatch.
        """
        return packages.load(identifier, blobs=self._blobs, manifests=self._manifests)

    def tree(self, identifier: Digest) -> Path:
        """Return the folder in which the package is unpacked; unpack it where it is not. One `lstat` a file.

        The folder is read-only and stays as long as gc is told to keep the package.

        Raises:
            ContentMissing, DigestMismatch, ContentUnwritable, Busy.
        """
        files = packages.listed(identifier, self._manifests)
        found = self._trees.find(identifier, files)
        if found:
            return found
        with self._adding(), locked(self.folder / "lock-trees", alone=True, wait_seconds=UNPACK_SECONDS):
            # whoever held the lock before us may have unpacked this one
            return self._trees.find(identifier, files) or self._trees.build(identifier, files)

    def manifest(self, identifier: Digest) -> Path:
        """Return the file of a package's MANIFEST. Raises: ContentMissing, DigestMismatch."""
        return self._manifests.find(identifier)

    def add_weights(self, path: Path) -> WeightsList:
        """Bring in the tensors of a `.safetensors`, `.npz` or `.npy` file, or of a folder of them; never whole in memory.

        Raises:
            WeightsInvalid, ContentUnwritable, Busy.
        """
        with self._adding():
            return weights.take_in(path, blobs=self._blobs, lists=self._lists)

    def weights(self, identifier: Digest) -> WeightsList:
        """Return the tensors with the files of their bytes. One `lstat` a tensor.

        Raises:
            ContentMissing, DigestMismatch.
        """
        return weights.load(identifier, blobs=self._blobs, lists=self._lists)

    def missing(self, identifier: Digest) -> tuple[Digest, ...]:
        """Return what the store lacks of a package or of weights: its own id where even the list is not there."""
        for shelf in (self._manifests, self._lists):
            if shelf.has(identifier):
                needed = dict.fromkeys(self._holdings.references(shelf, identifier))
                return tuple(digest for digest in needed if not self._blobs.has(digest))
        return (identifier,)

    def verify(self) -> ContentReport:
        """Read everything again and tell every fault: missing, wrong digest, stray file.

        Raises:
            Busy: gc is at work.
        """
        from mer.content import checking

        with self._adding():  # adds go on; gc would take away what is just being read
            return checking.verify(self._holdings)

    def gc(
        self, keep: Collection[str], *, grace_seconds: float = GRACE_SECONDS, wait_seconds: float = WAIT_SECONDS
    ) -> Collected:
        """Remove what nothing needs: all but the packages and weights whose ids are in `keep`, and what is young.

        Raises:
            Busy: somebody adds or verifies for longer than `wait_seconds`.
            DigestMismatch: a list that is kept was changed; nothing is removed then.
            ContentUnwritable.
        """
        from mer.content import checking

        with locked(self.folder / "lock", alone=True, wait_seconds=wait_seconds):
            return checking.gc(self._holdings, frozenset(keep), now=self._clock(), grace_seconds=grace_seconds)

    @contextlib.contextmanager
    def _adding(self) -> Iterator[None]:
        with locked(self.folder / "lock", alone=False):
            yield

    def _part(self, name: str) -> Path:
        return own_folder(self.folder / name)
