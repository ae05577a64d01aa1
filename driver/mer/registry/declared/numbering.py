"""Which number each version of a file has: one that stands already, or the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from mer.core.carton.document import Fault
from mer.registry.declared.records import DeclaredVersion, DeclaredWeightsVersion

V = TypeVar("V", bound=DeclaredVersion | DeclaredWeightsVersion)
C = TypeVar("C")


class Numbered(msgspec.Struct, Generic[V, C], frozen=True, kw_only=True):
    """A version of the file with its number."""

    version: V
    number: int
    content: C
    new: bool


def number_versions(
    declared: Sequence[tuple[V, C]], standing: Mapping[int, C], *, retired: frozenset[int] = frozenset()
) -> tuple[list[Numbered[V, C]], list[Fault]]:
    """Return the number of each version, and what stands against it. `standing` is what the numbers in use consist of.

    A version with a number is that one, or the next. Without, it is the newest in use that consists of the same, or
    else the next: an author who changes a folder gets a new version.
    """
    claimed = {version.number for version, _ in declared if version.number in standing}
    following = max(standing, default=0) + 1
    numbered: list[Numbered[V, C]] = []
    faults: list[Fault] = []
    for version, content in declared:
        number = version.number
        if number is None:
            same = [n for n in standing if standing[n] == content and n not in retired and n not in claimed]
            if not same and (twin := _twin(numbered, content)):
                faults.append(Fault(version.path, f"consists of the same as version {twin.number} of this file"))
                continue
            number = max(same, default=following)
        if number in standing:
            claimed.add(number)
            if standing[number] != content:
                faults.append(
                    Fault((*version.path, "number"), f"is {number}, which is registered with other content; {_NEVER}")
                )
                continue
        elif number != following:
            faults.append(Fault((*version.path, "number"), f"is {number}, but the next version is {following}"))
            continue
        new = number == following
        following += new
        numbered.append(Numbered(version=version, number=number, content=content, new=new))
    return numbered, faults


_NEVER = "a version never changes: give the new content another number, or none"


def _twin(numbered: Sequence[Numbered[V, C]], content: C) -> Numbered[V, C] | None:
    for other in numbered:
        if other.content == content and not (isinstance(other.version, DeclaredVersion) and other.version.retired):
            return other
    return None
