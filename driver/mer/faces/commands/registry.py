"""The registry as a file: applied, and written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer.core.errors import MerError
from mer.faces.commands.options import yes
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.text import visible

if TYPE_CHECKING:
    from mer.registry.declared.steps import Line, Plan, Step


@click.group(cls=Noun, help=ENTRIES["registry"].help)
def command() -> None:
    """The registry as a file."""


@command.command()
@click.argument("file", type=Path)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Retire and take away what FILE no longer names.")
@yes
@click.pass_obj
async def apply(face: Face, file: Path, only_plan: bool, prune: bool, yes: bool) -> None:
    """Make the registry what FILE says; a second time changes nothing.

    FILE is TOML: servers, weights and models with versions, aliases and placements. A FILE with faults is refused whole.
    """
    mer = await face.mer()
    plan = await mer.declared.plan(file, prune=prune)
    if only_plan:
        _show(face, plan, done=False)
        return
    if prune and plan.taking_away:
        face.console.note("\n".join(map(str, plan.lines())))
        await face.confirm(f"Make these {len(plan.steps)} changes?", yes=yes)
    made: list[Step] = []
    try:
        await mer.declared.apply(mer.actor, plan, on_step=made.append)
    except MerError:
        if made:
            face.console.note(f"{len(made)} of {len(plan.steps)} changes were made; apply the file again for the rest")
        raise
    finally:
        if made:
            face.access.changed()
    _show(face, plan, done=True)


@command.command()
@click.argument("file", type=Path, required=False)
@click.pass_obj
async def export(face: Face, file: Path | None) -> None:
    """Write the registry as such a FILE, or to stdout. Content stands in it by digest."""
    text = await (await face.mer()).declared.export()
    if file is None:
        shown = visible(text, lines=True) if face.console.terminal else text
        face.show({"registry": text}, lambda: shown)
        return
    await asyncio.to_thread(_write, file, text)
    face.show({"file": file}, lambda: f"wrote the registry to {visible(str(file))}\n")


def _write(file: Path, text: str) -> None:
    from mer.faces.render.files import written

    with written(file) as opened:
        opened.write(text.encode())


def _show(face: Face, plan: Plan, *, done: bool) -> None:
    lines = plan.lines()
    document: dict[str, Any] = {"applied": done, "changes": lines}
    face.show(document, lambda: _text(lines))


def _text(lines: tuple[Line, ...]) -> str:
    return "".join(visible(str(line)) + "\n" for line in lines) or "nothing to change\n"
