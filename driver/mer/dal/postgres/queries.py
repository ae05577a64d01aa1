"""Named queries: `queries/NOUN.sql`, each under `-- name: …` with a line that says what it is for."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent / "queries"

_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@functools.cache
def queries(noun: str) -> Mapping[str, str]:
    """Return a noun's queries by name, without their comments; the file is read once, when it is first needed."""
    _, *parts = _NAME.split((FOLDER / f"{noun}.sql").read_text())
    return MappingProxyType({name: _without_comments(text) for name, text in zip(parts[::2], parts[1::2], strict=True)})


def _without_comments(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return "\n".join(lines).strip().removesuffix(";")
