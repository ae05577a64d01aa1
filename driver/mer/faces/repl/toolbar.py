"""The line at the bottom: which database, how many models, whether changes are allowed. All of it is known already."""

from __future__ import annotations

from collections.abc import Callable

from mer.faces.face import Face
from mer.faces.render.text import cut, visible
from mer.faces.repl.names import NameCache


def toolbar(face: Face, database: str, names: NameCache) -> Callable[[], str]:
    """Return what gives the toolbar's text."""
    allowed = "changes allowed" if face.access.settings.allow_changes else "read-only"

    def text() -> str:
        return cut(f" {visible(database)} · {names.models_told()} · {allowed} ", face.console.width)

    return text
