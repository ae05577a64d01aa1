"""Weights: named, versioned lists of tensors, swappable apart from a model's code."""

from __future__ import annotations

from pathlib import Path

import click

from mer.core.records import Weights, WeightsVersion
from mer.faces.commands.options import describing, labels_text, paging, pairs, retired, yes
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.listing import show_page
from mer.faces.render.table import Column, details
from mer.faces.render.text import counted

COLUMNS = (Column("name", whole=True), Column("description"), Column("labels"), Column("registered", whole=True))

VERSION_COLUMNS = (
    Column("version", right=True, whole=True),
    Column("tensors", right=True, whole=True),
    Column("size", right=True, whole=True),
    Column("registered", whole=True),
    Column("digest", spare=True),
)


@click.group(cls=Noun, help=ENTRIES["weights"].help)
def command() -> None:
    """Weights."""


@command.command("list")
@paging("NAME")
@retired
@click.pass_obj
async def list_weights(face: Face, limit: int, after: str | None, retired: bool) -> None:
    """List the weights by name."""
    page = await (await face.mer()).weights.list(after=after, limit=limit, retired=retired)

    def row(weights: Weights) -> tuple[str, ...]:
        name = f"{weights.name} (retired)" if weights.retired_at else weights.name
        return name, weights.description, labels_text(weights.labels), face.console.time(weights.created_at)

    show_page(face.console, page, COLUMNS, row)


@command.command()
@click.argument("name", metavar="WEIGHTS")
@paging("VERSION")
@click.pass_obj
async def show(face: Face, name: str, limit: int, after: str | None) -> None:
    """Show weights and their versions, newest first."""
    view = await (await face.mer()).weights.show(name, after=after, limit=limit)
    console, weights = face.console, view.weights
    if console.json:
        console.document(view)
        return
    console.result(
        details(
            console,
            {
                "name": weights.name,
                "description": weights.description or None,
                "labels": labels_text(weights.labels) or None,
                "registered": console.time(weights.created_at),
                "retired": console.time(weights.retired_at) if weights.retired_at else None,
                "id": weights.id,
            },
        )
    )

    def row(version: WeightsVersion) -> tuple[str, ...]:
        return (
            str(version.number),
            str(version.tensors),
            console.size_in_column(version.size),
            console.time(version.created_at),
            version.digest,
        )

    show_page(console, view.versions, VERSION_COLUMNS, row)


@command.command()
@click.argument("name", metavar="WEIGHTS")
@click.argument("file", type=Path)
@describing
@click.pass_obj
async def register(face: Face, name: str, file: Path, description: str | None, labels: tuple[str, ...]) -> None:
    """Register a version of weights from a safetensors FILE."""
    mer = await face.mer()
    registered = await mer.register_weights(
        name, file, description=description, labels=pairs(labels, option="--label") or None
    )
    face.access.changed()
    version, console = registered.version, face.console
    came = "registered weights" if registered.created else "registered already: weights"
    face.show(
        registered,
        lambda: (
            f"{came} {name}:{version.number} ({counted(version.tensors, 'tensor')}, {console.size(version.size)})\n"
        ),
    )


@command.command()
@click.argument("reference", metavar="MODEL")
@click.argument("weights", metavar="WEIGHTS[:N]")
@click.pass_obj
async def use(face: Face, reference: str, weights: str) -> None:
    """Register a version of a model with other weights. No alias moves by itself."""
    registered = await (await face.mer()).use_weights(reference, weights)
    face.access.changed()
    named = f"{registered.model.name}:{registered.version.number}"
    came = "registered" if registered.created else "registered already:"
    face.show(registered, lambda: f"{came} {named} with the weights {weights}\n")
    if registered.created:
        face.console.note(f"a bare {registered.model.name} still means what it meant: see mer model alias")


@command.command()
@click.argument("name", metavar="WEIGHTS")
@yes
@click.pass_obj
async def retire(face: Face, name: str, yes: bool) -> None:
    """Take weights out of use. Versions of models that have them keep them."""
    await face.confirm(f"Retire the weights {name}?", yes=yes)
    mer = await face.mer()
    weights = await mer.weights.retire(mer.actor, name)
    face.access.changed()
    face.show(weights, lambda: f"retired the weights {weights.name}\n")
