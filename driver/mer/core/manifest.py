"""MANIFEST: which files a package has, by digest. Its bytes are what a package is named by.

What it may hold is `mer_worker.manifest`'s to say, since a far host checks what it is sent by the same rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mer.core.errors import PackageInvalid
from mer.core.records import Digest
from mer_worker.manifest import (
    CONTROL,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST,
    MAX_PART,
    MAX_PATH,
    faults_of,
    is_digest,
    parse,
    path_fault,
)

__all__ = [
    "CONTROL",
    "MANIFEST",
    "MAX_FILES",
    "MAX_MANIFEST",
    "MAX_PART",
    "MAX_PATH",
    "format_manifest",
    "is_digest",
    "package_id",
    "parse_manifest",
    "path_fault",
]

_MOST_TOLD = 20
"""Faults that an error names."""


def format_manifest(files: Mapping[str, Digest]) -> str:
    """Return the text for these files, each path with its digest.

    Raises:
        PackageInvalid: a path or the number of files is not allowed.
    """
    faults = list(faults_of(files))
    if faults:
        raise _invalid(faults)
    return "".join(f"{path}={files[path]}\n" for path in sorted(files, key=str.encode))


def parse_manifest(text: str) -> dict[str, Digest]:
    """Return each path with its digest, in the text's order.

    Raises:
        PackageInvalid: with every fault (the first 20): a line that is none, a path that is not allowed, no order.
    """
    files, faults = parse(text)
    if faults:
        raise _invalid(faults)
    return {path: Digest(digest) for path, digest in files.items()}


def package_id(text: str) -> Digest:
    """Return the id of the package whose MANIFEST this is."""
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def _invalid(faults: list[str]) -> PackageInvalid:
    return PackageInvalid(f"{MANIFEST}: {'; '.join(faults[:_MOST_TOLD])}")
