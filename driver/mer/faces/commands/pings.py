"""What a ping found, step by step; it exits with the code of the first step that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from mer.execution.ping import Step
from mer.faces.face import Face
from mer.faces.render.style import Style
from mer.faces.render.table import Column

COLUMNS = (
    Column("step", whole=True),
    Column("result", whole=True),
    Column("took", right=True, whole=True, spare=True),
    Column("detail"),
)

SERVER_COLUMNS = (
    Column("server", whole=True),
    Column("result", whole=True),
    Column("took", right=True, whole=True, spare=True),
    Column("failed at", whole=True, spare=True),
    Column("detail"),
)


def show_steps(face: Face, steps: Sequence[Step]) -> None:
    """Write the steps.

    Raises:
        Exit: one of them failed.
    """
    console = face.console
    failed = _failed(steps)
    if console.json:
        console.document({"ok": failed is None, "steps": steps})
    else:
        console.table(COLUMNS, [(step.name, "ok" if step.ok else "failed", _took(step), step.detail) for step in steps])
        _explain(face, failed)
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code)


def show_servers(face: Face, servers: Mapping[str, Sequence[Step]]) -> None:
    """Write a line for each server, with the first step that failed.

    Raises:
        Exit: one of them failed.
    """
    console = face.console
    failed = [found for steps in servers.values() if (found := _failed(steps)) is not None]
    if console.json:
        told = {name: {"ok": _failed(steps) is None, "steps": steps} for name, steps in servers.items()}
        console.document({"ok": not failed, "servers": told})
    else:
        console.table(SERVER_COLUMNS, [_row(name, steps) for name, steps in servers.items()])
    if failed:
        raise click.exceptions.Exit(failed[0].exit_code)


def _row(name: str, steps: Sequence[Step]) -> tuple[str, ...]:
    failed, took = _failed(steps), _spent(sum(step.microseconds for step in steps))
    if failed is not None:
        return name, "failed", took, failed.name, failed.detail
    known = {step.name: step.detail for step in steps}
    told = [known[step] for step in ("host", "interpreter") if step in known]
    return name, "ok", took, "", "; ".join([*told, *([f"GPUs {known['GPUs']}"] if "GPUs" in known else [])])


def _failed(steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if not step.ok), None)


def _explain(face: Face, failed: Step | None) -> None:
    """Tell the whole of what a table may have cut, and what to do about it."""
    if failed is None:
        return
    if face.console.terminal:
        face.console.note(f"{face.console.error_styled('failed:', Style.RED)} {failed.name}: {failed.detail}")
    if failed.hint:
        face.console.note(f"{face.console.error_styled('hint:', Style.CYAN)} {failed.hint}")


def _took(step: Step) -> str:
    return _spent(step.microseconds)


def _spent(microseconds: int) -> str:
    return f"{microseconds} µs" if microseconds < 1000 else f"{microseconds / 1000:.1f} ms"
