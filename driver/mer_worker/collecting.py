"""Frees what a far host keeps and nobody needs (the task `gc` of mer_worker.far).

The driver says which packages and blobs its registry needs there. What a running worker has asked for stays too
(mer_worker.claims), and what came in, or was asked for, within the grace.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from mer_worker.blobs import own_folder, require_digest
from mer_worker.claims import claimed, locked
from mer_worker.failures import Failure
from mer_worker.trees import listed, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def collect(cache: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Remove what neither `packages`, `blobs`, a worker nor `grace_seconds` keeps; with `plan` only count it.

    Raises:
        Failure: a digest is none.
        OSError: the folder cannot be read or written.
    """
    before = time.time() - int(fields["grace_seconds"])
    only_planned = fields.get("plan") is True
    packages = {require_digest(digest) for digest in fields["packages"]}
    needed = packages | {require_digest(digest) for digest in fields["blobs"]}
    for name in ("blobs", "incoming", "trees"):
        os.close(own_folder(os.path.join(cache, name)))
    with locked(
        os.path.join(cache, "lock"), fcntl.LOCK_EX
    ):  # nobody looks at what is there meanwhile, and relies on it
        needed |= claimed(cache)
        for package in packages:
            needed |= _files(cache, package)
        stands = dict(_blobs(cache))
        blobs = [(path, found) for path, found in stands.items() if _is_old(path, found, needed, before)]
        kept = needed | ({os.path.basename(path) for path in stands} - {os.path.basename(path) for path, _ in blobs})
        trees = [name for name in os.listdir(os.path.join(cache, "trees")) if name not in kept]
        parts = [*_parts(cache, before)]
        if not only_planned:
            for name in trees:  # first: a tree whose blobs are gone would hold their bytes
                remove_tree(os.path.join(cache, "trees", name))
            for path, _ in blobs:
                os.unlink(path)
            for path in parts:
                _remove(path)
    return {
        "blobs": len(blobs),
        "size": sum(found.st_size for _, found in blobs),
        "trees": len(trees),
        "parts": len(parts),
    }


def _files(cache: str, package: str) -> set[str]:
    """Return what a package needs, if its MANIFEST is here."""
    try:
        return set(listed(os.path.join(cache, "blobs", package[:2], package), package).values())
    except Failure:  # not here, or no MANIFEST any more: then nothing of it can be loaded before it is pushed again
        return set()


def _blobs(cache: str) -> Iterator[tuple[str, os.stat_result]]:
    folder = os.path.join(cache, "blobs")
    for shelf in os.listdir(folder):
        place = os.path.join(folder, shelf)
        if os.path.islink(place) or not os.path.isdir(place):
            continue
        for name in os.listdir(place):
            path = os.path.join(place, name)
            yield path, os.lstat(path)


def _is_old(path: str, found: os.stat_result, needed: set[str], before: float) -> bool:
    # ctime: the modification time is the seal's, and whoever asks for a blob makes its ctime new
    return os.path.basename(path) not in needed and found.st_ctime < before and not stat.S_ISDIR(found.st_mode)


def _parts(cache: str, before: float) -> Iterator[str]:
    """Give what is left of blobs that nobody brings in any more: those that nobody can go on with, and the old."""
    folder = os.path.join(cache, "incoming")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        lost = not name.endswith(".part")  # only what has this name is found again by who goes on with it
        # who unpacks a tree holds the lock that we have
        if name.endswith(".tree") or (not _is_held(path) and (lost or os.lstat(path).st_mtime < before)):
            yield path


def _is_held(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # a link, or gone meanwhile
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
        return
    try:
        os.unlink(path)
    except FileNotFoundError:  # it has its final name meanwhile
        pass
