"""Whether everything in the store is what it should be, and what of it nothing needs any more."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mer.content import packages
from mer.content.author import SKIPPED
from mer.content.holdings import Holdings
from mer.content.shelf import Shelf, writing
from mer.content.trees import remove_tree
from mer.core.errors import ContentMissing, DigestMismatch, MerError
from mer.core.manifest import MANIFEST, is_digest
from mer.core.records import Digest

MAX_FAULTS = 1000
"""Faults told: a store that lost a disk must not fill the memory with them."""


class FaultKind(StrEnum):
    """What can be wrong with a file of the store."""

    MISSING = "missing"
    WRONG_DIGEST = "wrong digest"
    STRAY = "stray file"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentFault:
    """One thing in the store that is not as it should be."""

    kind: FaultKind
    place: Path
    needed_by: Digest | None = None
    """The package or the weights that cannot be used for it; None where it is a file's own fault."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.place}" + (f" (needed by {self.needed_by})" if self.needed_by else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentReport:
    """What `verify` found: the faults (the first 1000 of `fault_count`), and how much it read."""

    faults: tuple[ContentFault, ...]
    fault_count: int
    files: int
    size: int
    packages: int
    weights: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What `gc` removed; `size` is in bytes of blobs."""

    packages: int
    weights: int
    trees: int
    blobs: int
    size: int


def verify(store: Holdings) -> ContentReport:
    """Read everything again, and tell every fault. A file that fails loses its seal: from then on nothing trusts it."""
    check = _Check(store)
    check.lists(store.manifests)
    check.lists(store.lists)
    check.blobs()
    check.trees()
    for shelf in (store.manifests, store.lists, store.blobs):
        for stray in shelf.strays():
            check.fault(FaultKind.STRAY, stray)
    return check.report()


class _Check:
    def __init__(self, store: Holdings) -> None:
        self._store = store
        self._faults: list[ContentFault] = []
        self._count = 0
        self._files = 0
        self._size = 0
        self._listed = {store.manifests: 0, store.lists: 0}
        self._needed: dict[Digest, Digest] = {}

    def report(self) -> ContentReport:
        return ContentReport(
            faults=tuple(self._faults),
            fault_count=self._count,
            files=self._files,
            size=self._size,
            packages=self._listed[self._store.manifests],
            weights=self._listed[self._store.lists],
        )

    def fault(self, kind: FaultKind, place: Path, needed_by: Digest | None = None) -> None:
        self._count += 1
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(ContentFault(kind=kind, place=place, needed_by=needed_by))

    def lists(self, shelf: Shelf) -> None:
        for identifier, _ in shelf.digests():
            self._listed[shelf] += 1
            if self._whole(shelf, identifier):
                try:
                    self._needed.update(dict.fromkeys(self._store.references(shelf, identifier), identifier))
                except DigestMismatch:
                    # its bytes are what its name says, yet no list: it stands on the wrong shelf
                    self.fault(FaultKind.STRAY, shelf.path(identifier))

    def blobs(self) -> None:
        seen = set()
        for digest, _ in self._store.blobs.digests():
            seen.add(digest)
            self._whole(self._store.blobs, digest, self._needed.get(digest))
        for digest in self._needed.keys() - seen:
            # none of these is one that another process just added: a list stands only after its blobs
            self.fault(FaultKind.MISSING, self._store.blobs.path(digest), self._needed[digest])

    def trees(self) -> None:
        for tree in _entries(self._store.trees.folder):
            try:
                files = packages.listed(Digest(tree.name), self._store.manifests)
            except MerError:
                self.fault(FaultKind.STRAY, tree)
                continue
            wanted = {tree / name: self._store.blobs.path(digest) for name, digest in files.items()}
            wanted[tree / MANIFEST] = self._store.manifests.path(Digest(tree.name))
            present = set(_files(tree))
            for place in sorted(present - wanted.keys()):
                self.fault(FaultKind.STRAY, place)
            for place, blob in wanted.items():
                self._unpacked(place, blob, Digest(tree.name))

    def _unpacked(self, place: Path, blob: Path, identifier: Digest) -> None:
        try:
            # a hard link was read as the blob; a copy is read here
            if blob.exists() and place.samefile(blob):
                return
            with place.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                    self.fault(FaultKind.WRONG_DIGEST, place, identifier)
        except OSError:
            self.fault(FaultKind.MISSING, place, identifier)

    def _whole(self, shelf: Shelf, digest: Digest, needed_by: Digest | None = None) -> bool:
        self._files += 1
        try:
            self._size += shelf.check(digest)
        except ContentMissing:
            self.fault(FaultKind.MISSING, shelf.path(digest), needed_by)
            return False
        except DigestMismatch:
            self.fault(FaultKind.WRONG_DIGEST, shelf.path(digest), needed_by)
            return False
        return True


def gc(store: Holdings, keep: Collection[str], *, now: float, grace_seconds: float) -> Collected:
    """Remove what neither `keep` nor the grace time holds. The caller holds the store alone.

    Raises:
        ContentMissing, DigestMismatch: a list that is kept cannot be read, so what it needs is not known.
        ContentUnwritable.
    """
    before = now - grace_seconds
    needed: set[Digest] = set()
    dropped: dict[Shelf, list[Digest]] = {store.manifests: [], store.lists: []}
    # every list is read before anything is removed: one that cannot be read must stop this while all is there
    for shelf, drop in dropped.items():
        for identifier, found in shelf.digests():
            # ctime, not mtime: that one is the seal's, and every add that finds a file here renews its ctime
            if identifier in keep or found.st_ctime >= before:
                needed.update(store.references(shelf, identifier))
            else:
                drop.append(identifier)
    with writing(store.blobs.folder):
        # lists go first: one without its blobs would be a fault, blobs without a list are not
        for shelf, drop in dropped.items():
            for identifier in drop:
                shelf.path(identifier).unlink(missing_ok=True)
        trees = _remove_trees(store)
        for leftover in _entries(store.incoming):  # of processes that were killed: nobody else is at work now
            if leftover.is_dir() and not leftover.is_symlink():
                remove_tree(leftover)
            else:
                leftover.unlink(missing_ok=True)
        blobs = size = 0
        for digest, found in list(store.blobs.digests()):
            if digest not in needed and found.st_ctime < before:
                store.blobs.path(digest).unlink(missing_ok=True)
                blobs += 1
                size += found.st_size
    return Collected(
        packages=len(dropped[store.manifests]),
        weights=len(dropped[store.lists]),
        trees=trees,
        blobs=blobs,
        size=size,
    )


def _remove_trees(store: Holdings) -> int:
    removed = 0
    for tree in _entries(store.trees.folder):
        if not (is_digest(tree.name) and store.manifests.path(Digest(tree.name)).exists()):
            remove_tree(tree)
            removed += 1
    return removed


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _files(tree: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in names:
            yield Path(folder, name)
