"""What a version consists of, by digest: its package's files, the MANIFEST that lists them, and its tensors.

A plain folder of the author's has no MANIFEST yet: one is made of its files, so that a handler which is only tried gets to a
far host in the same way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer.core.errors import ContentMissing, DigestMismatch
from mer.core.manifest import MANIFEST, format_manifest, package_id, parse_manifest
from mer.core.records import Digest
from mer.meal.plan import MODEL_FOLDER, WorkerPlan

_SKIPPED = ("__pycache__", ".git")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The blobs of one version."""

    package: str | None
    weights: tuple[str, ...] | None
    """Digests of the tensors, in the plan's order."""
    sources: dict[str, Path | bytes]
    """Every blob, and where it is on this machine."""

    def fields(self, plan: WorkerPlan) -> dict[str, Any]:
        """Return the head of the load frame, with digests in place of paths."""
        fields = plan.fields()
        if self.package is not None:
            fields["package"] = self.package
            del fields["folder"]
        if self.weights is not None:
            fields["weights"] = [
                [*item[:3], {"sha256": digest}] for item, digest in zip(fields["weights"], self.weights, strict=True)
            ]
        return fields


def contents_of(plan: WorkerPlan) -> Contents:
    """Return what a version consists of. Blocks on the disk.

    Raises:
        ContentMissing, DigestMismatch: a list or a file cannot be read, or is not what it was.
        PackageInvalid: a folder holds what no package may.
    """
    package, sources = _package(plan)
    weights = None
    if plan.weights is not None:
        weights = tuple(tensor.digest or _digest(tensor.path) for tensor in plan.weights)
        sources |= {digest: tensor.path for digest, tensor in zip(weights, plan.weights, strict=True)}
    return Contents(package=package, weights=weights, sources=sources)


def _package(plan: WorkerPlan) -> tuple[str | None, dict[str, Path | bytes]]:
    if plan.package_id is not None and plan.package is not None and plan.manifest is not None:
        text = _read(plan.manifest)
        if package_id(text) != plan.package_id:
            raise DigestMismatch(f"{plan.manifest} was changed: its bytes are not the {MANIFEST} of {plan.package_id}")
        files = parse_manifest(text)
        root = plan.package
        return plan.package_id, {
            plan.package_id: plan.manifest,
            **{digest: root / path for path, digest in files.items()},
        }
    folder, prefix = (plan.package, "") if plan.model_folder is None else (plan.model_folder, f"{MODEL_FOLDER}/")
    if folder is None:
        return None, {}
    found = {f"{prefix}{path.relative_to(folder).as_posix()}": path for path in _files(folder)}
    found.pop(MANIFEST, None)  # one that was there says nothing of what the folder has become
    digests = {name: Digest(_digest(path)) for name, path in found.items()}
    text = format_manifest(digests)
    sources: dict[str, Path | bytes] = {digest: found[name] for name, digest in digests.items()}
    return package_id(text), {**sources, package_id(text): text.encode()}


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        yield from (path for name in names if (path := Path(place, name)).is_file())


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ContentMissing(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DigestMismatch(f"{path} is no text") from error


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ContentMissing(f"{path} cannot be read: {error.strerror}") from error
