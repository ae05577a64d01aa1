"""Handlers and plans for workers on a far host, which reads this machine's files: it is this machine."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from mer.core.specs import VersionSpec
from mer.meal.plan import WorkerPlan

ECHO = """
    def load():
        return lambda inputs: inputs
"""


def plan(folder: Path, source: str, **given: Any) -> WorkerPlan:
    """Return the plan of a handler with this source, whose `load` gives it."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "handler.py").write_text(textwrap.dedent(source))
    options: dict[str, Any] = {"entrypoint_package": "handler", "entrypoint_fn": "load"}
    spec = VersionSpec(runner="python", options=options, **given)
    return WorkerPlan(key="far:1", spec=spec, package=None, model_folder=model)
