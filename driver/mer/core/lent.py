"""Versions that somebody else runs: known by their digests, with nothing of theirs here (docs/decisions/36-serve-ssh.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mer.core.records import Digest, Version
from mer.core.specs import VersionSpec

RUNNER = "lent"
"""Of a version whose package another MER has; its digests stand in its options."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digests(spec: VersionSpec) -> tuple[Digest, Digest | None]:
    """Return the digests of package and weights of such a version, whose spec has no fault."""
    weights = spec.options.get("weights")
    return Digest(str(spec.options["package"])), None if weights is None else Digest(str(weights))


def known_by(version: Version) -> tuple[Digest | None, Digest | None]:
    """Return the digests of package and weights by which any version is known: a record says what ran, whoever has it."""
    return digests(version.spec) if version.spec.runner == RUNNER else (version.package, version.weights)


def lent_faults(spec: VersionSpec) -> Iterator[str]:
    """Give what is wrong with the spec of such a version."""
    if spec.runner != RUNNER:
        return
    if "package" not in spec.options:
        yield "options.package is missing: a lent version is known by the sha256 of its package"
    for name, value in spec.options.items():
        if name not in ("package", "weights"):
            yield f"options.{name}: the options of a lent version are its owner's, but for package and weights"
        elif not isinstance(value, str) or not _DIGEST.fullmatch(value):
            yield f"options.{name} is {value!r}: 64 lower-case hex digits are meant"
