"""The content store: packages and weights on disk."""

from __future__ import annotations

import click

from mer.core.errors import DigestMismatch
from mer.faces.commands.options import yes
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.text import counted


@click.group(cls=Noun, help=ENTRIES["store"].help)
def command() -> None:
    """The content store."""


@command.command()
@click.pass_obj
async def verify(face: Face) -> None:
    """Read everything in the content store again, and tell what is missing or wrong."""
    report = await (await face.mer()).verify_content()
    console = face.console
    read = (
        f"{counted(report.packages, 'package')}, {report.weights} weights, "
        f"{counted(report.files, 'file')}, {console.size(report.size)}"
    )
    face.show(report, lambda: "".join(f"{fault}\n" for fault in map(_visible, report.faults)) + f"read {read}\n")
    if report.fault_count:
        raise DigestMismatch(f"{report.fault_count} things in the content store are not as they should be")


@command.command()
@yes
@click.pass_obj
async def gc(face: Face, yes: bool) -> None:
    """Free what no registered version needs."""
    await face.confirm("Remove what no registered version needs?", yes=yes)
    collected = await (await face.mer()).collect_garbage()
    size = face.console.size(collected.size)
    face.show(
        collected,
        lambda: (
            f"removed {counted(collected.packages, 'package')}, {collected.weights} weights, "
            f"{counted(collected.blobs, 'file')}, {size}\n"
        ),
    )


def _visible(fault: object) -> str:
    from mer.faces.render.text import visible

    return visible(str(fault))
