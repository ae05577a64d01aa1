"""What a ping found, step by step; it exits with the code of the first step that failed."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping, Sequence
from types import TracebackType

import click

from mer.core.progress import WAITS, Wait
from mer.execution.ping import Step
from mer.faces.face import Face
from mer.faces.render.console import Console
from mer.faces.render.live import LiveLines
from mer.faces.render.table import Column

SERVER = Column("server", whole=True)

COLUMNS = (
    Column("step", whole=True),
    Column("result", whole=True),
    Column("took", right=True, whole=True, spare=True),
    Column("detail"),
)

SERVER_COLUMNS = (
    SERVER,
    Column("result", whole=True),
    Column("took", right=True, whole=True, spare=True),
    Column("failed at", whole=True, spare=True),
    Column("detail"),
)


class Looks:
    """The picture of looks at servers while they go on: of each the step that it waits for, then how the look ended."""

    def __init__(self, console: Console) -> None:
        self._live = LiveLines(console)
        self._ends: dict[str, str] = {}
        self._seen: contextvars.Token[Wait | None] | None = None

    def __enter__(self) -> Looks:
        self._seen = WAITS.set(self._waits)
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._seen is not None
        WAITS.reset(self._seen)
        self._live.__exit__(kind, error, traceback)

    def ended(self, server: str, step: Step) -> None:
        """Hear of a step that has ended."""
        if self._ends.get(server, "ok") == "ok":  # the first that fails is what counts
            self._ends[server] = "ok" if step.ok else f"{step.name} failed"

    def _waits(self, server: str, step: str) -> None:
        self._live(server, f"{step} …" if step else self._ends.get(server, ""))


def show_steps(face: Face, steps: Sequence[Step]) -> None:
    """Write the steps; of several servers with whose each of them is.

    Raises:
        Exit: one of them failed.
    """
    console = face.console
    failed = _failed(steps)
    if console.json:
        console.document({"ok": failed is None, "steps": steps})
    else:
        rows = [(step.name, _standing(step), _spent(step.microseconds), _told(step)) for step in steps]
        if several := len({step.server for step in steps}) > 1:
            console.table((SERVER, *COLUMNS), [(step.server, *row) for step, row in zip(steps, rows, strict=True)])
        else:
            console.table(COLUMNS, rows)
        if failed is not None and console.terminal:
            whose = f"{failed.server}, " if several else ""
            console.failed(f"{whose}{failed.name}: {_told(failed)}")  # the table may have cut it
        if failed is not None and failed.hint:
            console.hint(failed.hint)
    if failed is not None:
        raise click.exceptions.Exit(failed.exit_code)


def show_servers(face: Face, servers: Mapping[str, Sequence[Step]]) -> None:
    """Write a line for each server, with the first step that failed.

    Raises:
        Exit: one of them failed.
    """
    console = face.console
    failed = {name: found for name, steps in servers.items() if (found := _failed(steps)) is not None}
    if console.json:
        told = {name: {"ok": _failed(steps) is None, "steps": steps} for name, steps in servers.items()}
        console.document({"ok": not failed, "servers": told})
    else:
        console.table(SERVER_COLUMNS, [_row(name, steps) for name, steps in servers.items()])
        for name, step in failed.items() if console.terminal else ():
            console.failed(f"{name}, {step.name}: {_told(step)}")
            if step.hint:
                console.hint(step.hint)
    if failed:
        raise click.exceptions.Exit(next(iter(failed.values())).exit_code)


def _row(name: str, steps: Sequence[Step]) -> tuple[str, ...]:
    failed, took = _failed(steps), _spent(sum(step.microseconds for step in steps))
    if failed is not None:
        return name, "failed", took, failed.name, _told(failed)
    known = {step.name: step.detail for step in steps}
    told = [known[step] for step in ("host", "interpreter") if step in known]
    return name, "ok", took, "", "; ".join([*told, *([f"GPUs {known['GPUs']}"] if "GPUs" in known else [])])


def _failed(steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if not step.ok), None)


def _standing(step: Step) -> str:
    return "ok" if step.ok else "failed"


def _told(step: Step) -> str:
    """Return what was found, or why it failed: without `SERVER, STEP: `, which stands beside it."""
    _, _, reason = step.detail.partition(f", {step.name}: ")
    return step.detail if step.ok else reason or step.detail


def _spent(microseconds: int) -> str:
    if not microseconds:
        return "at once"  # nothing was waited for, as for a clock that an answer has told
    if microseconds < 1000:
        return f"{microseconds} µs"
    return f"{microseconds / 1e3:.1f} ms" if microseconds < 1_000_000 else f"{microseconds / 1e6:.1f} s"
