"""References: how an operator writes which version of which model he means, `name[:version|@alias]`."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from mer.core.errors import UsageError

DEFAULT_ALIAS = "default"
"""What a bare name means. The first version sets it; after that only an explicit act moves it."""

MAX_NAME = 100
"""Characters of a name: it stands in tables, prompts and completions."""

MAX_VERSION = 2**31 - 1
"""Numbers of versions are 32-bit integers in every store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A model's name with a version's number or an alias; with neither, the alias `default` is meant."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


def parse_reference(text: str) -> Reference:
    """Read `name`, `name:3` or `name@prod`.

    Raises:
        UsageError: it is none of these.
    """
    found = re.fullmatch(r"([^:@]*)(?::([^:@]*)|@([^:@]*))?", text)
    if not found:
        raise UsageError(f"{text[:MAX_NAME]!r} is no reference: write NAME, NAME:VERSION or NAME@ALIAS")
    name, version, alias = found.groups()
    return Reference(
        name=check_name(name),
        version=None if version is None else parse_version(version),
        alias=None if alias is None else check_name(alias, what="alias"),
    )


def parse_version(text: str) -> int:
    """Read a version's number, 1 or more.

    Raises:
        UsageError: it is no such number.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,9}", text, re.ASCII) or int(text) > MAX_VERSION:
        raise UsageError(f"{text[:20]!r} is no version: versions are numbered 1, 2, 3 …")
    return int(text)


def check_name(name: str, *, what: str = "name") -> str:
    """Return `name` in Unicode's composed form (NFC) if it may name a server, model, alias or weights.

    Letters, marks and digits of any script, and `.` `_` `-` after the first character: nothing that a shell, a path
    or a reference gives a meaning to.

    Raises:
        UsageError: it is empty, too long, or has other characters.
    """
    composed = unicodedata.normalize("NFC", name)
    allowed = all(unicodedata.category(c)[0] in "LMN" or c in "._-" for c in composed)
    if not composed or len(composed) > MAX_NAME or not allowed or composed[0] in "._-":
        raise UsageError(
            f"{name[:MAX_NAME]!r} is no {what}: use letters, digits and . _ - (not first), at most {MAX_NAME} characters"
        )
    return composed
