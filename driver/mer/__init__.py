"""MER, a model executor runtime: run registered models on any machine you can reach, every access on record.

With the database and its records, as the console does it:

    async with mer.open() as m:
        result = await m.run("digits", {"image": image})

A handler alone, for tests and notebooks:

    async with await mer.load_unpacked("my_model", entry="handler:load") as model:
        outputs = await model.infer({"x": x})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mer.library import load_unpacked as load_unpacked
    from mer.library import open as open  # noqa: A004 - `mer.open()` is what every user would look for

__version__ = "0.1.0"

_LAZY = {"open": "mer.library", "load_unpacked": "mer.library"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import mer` alone costs next to nothing, and so does `mer --help`."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
