"""What a ping found, step by step; it exits with the code of the first step that failed."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mer.execution.ping import Step
from mer.faces.face import Face
from mer.faces.render.table import Column

COLUMNS = (
    Column("step", whole=True),
    Column("result", whole=True),
    Column("took", right=True, whole=True),
    Column("detail"),
)


def show_steps(face: Face, steps: Sequence[Step]) -> None:
    """Write the steps.

    Raises:
        Exit: one of them failed.
    """
    console = face.console
    failed = next((step for step in steps if not step.ok), None)
    if console.json:
        console.document({"ok": failed is None, "steps": steps})
    else:
        console.table(COLUMNS, [(step.name, "ok" if step.ok else "failed", _took(step), step.detail) for step in steps])
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code)


def _took(step: Step) -> str:
    return f"{step.microseconds} µs" if step.microseconds < 1000 else f"{step.microseconds / 1000:.1f} ms"
