"""Models: registered, named by aliases, placed on servers, retired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mer.core.errors import AliasNotFound, UsageError, VersionNotFound
from mer.core.records import AliasMove, Model
from mer.core.references import DEFAULT_ALIAS, parse_reference
from mer.faces.commands.model_view import show_model
from mer.faces.commands.options import (
    describing,
    label_changes,
    labels_text,
    paging,
    pairs,
    retired,
    unlabelling,
    yes,
)
from mer.faces.commands.pings import show_steps
from mer.faces.commands.running import limiting, take_limits, take_running
from mer.faces.commands.specs import make_spec
from mer.faces.commands.tree import ENTRIES, Noun, Verb
from mer.faces.face import Face
from mer.faces.render.listing import show_page
from mer.faces.render.table import Column

COLUMNS = (Column("name", whole=True), Column("description"), Column("labels"), Column("registered", whole=True))

HISTORY_COLUMNS = (
    Column("alias", whole=True),
    Column("move", right=True, whole=True),
    Column("version", right=True, whole=True),
    Column("at", whole=True),
    Column("by"),
)

TOKENS = ("ready", "start", "stop", "exit")


@click.group(cls=Noun, help=ENTRIES["model"].help)
def command() -> None:
    """Models."""


@command.command("list")
@paging("NAME")
@retired
@click.pass_obj
async def list_models(face: Face, limit: int, after: str | None, retired: bool) -> None:
    """List the models by name."""
    page = await (await face.mer()).models.list(after=after, limit=limit, retired=retired)

    def row(model: Model) -> tuple[str, ...]:
        name = f"{model.name} (retired)" if model.retired_at else model.name
        first_line = model.description.partition("\n")[0]
        return name, first_line, labels_text(model.labels), face.console.time(model.created_at)

    show_page(face.console, page, COLUMNS, row)


@command.command()
@click.argument("reference", metavar="MODEL[:N|@ALIAS]")
@paging("VERSION")
@click.pass_obj
async def show(face: Face, reference: str, limit: int, after: str | None) -> None:
    """Show a model: its code, aliases, placements and versions, or one version."""
    wanted = parse_reference(reference)
    models = (await face.mer()).models
    view = await models.show(wanted.name, after=after, limit=limit)
    number = wanted.version
    if number is None:
        alias = wanted.alias or DEFAULT_ALIAS
        number = next((move.version for move in view.aliases if move.alias == alias), None)
        if number is None and wanted.alias is not None:
            raise AliasNotFound(f"{wanted.name} has no alias {wanted.alias}", hint=f"mer model show {wanted.name}")
    bare = wanted.version is None and wanted.alias is None
    meant = next(iter(view.versions.items), None)  # where the bare name means none, the newest is shown
    if number is not None:
        one = await models.show(wanted.name, after=str(number + 1), limit=1)
        meant = next((version for version in one.versions.items if version.number == number), None)
        if meant is None:
            raise VersionNotFound(f"{wanted.name} has no version {number}", hint=f"mer model show {wanted.name}")
        view = view if bare else one
    show_model(face, view, meant=meant, only=not bare)


class WithWords(Verb):
    """A command whose words after `--` are somebody else's: they are neither options nor arguments of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words: tuple[str, ...] = ()
        if "--" in args:
            at = args.index("--")
            args, words = args[:at], tuple(args[at + 1 :])
        rest = super().parse_args(ctx, args)
        ctx.params["argv"] = words
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- PROGRAM WORD…]"]


@command.command(cls=WithWords)
@click.argument("name", metavar="MODEL")
@click.argument("folder", required=False, type=Path)
@click.option("--runner", metavar="RUNNER", help="python, or command for a program; python by default.")
@click.option("--entry", metavar="MODULE:CALLABLE", help="What makes the handler, in a python package.")
@click.option("--input", "inputs", multiple=True, metavar="SPEC", help="As in image:float32[8,8]; several times.")
@click.option("--output", "outputs", multiple=True, metavar="SPEC", help="As in digit:int64[]; several times.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Given to the entry point.")
@click.option(
    "--arrays", type=click.Choice(["numpy", "buffer", "torch"]), help="What a python handler gets its arrays as."
)
@click.option("--weights", metavar="WEIGHTS[:N]", help="Registered weights to use.")
@click.option("--directory", metavar="PATH", help="Where a command runs.")
@click.option("--ready-token", metavar="LINE", help="The line that a command prints once it has loaded.")
@click.option("--start-token", metavar="LINE", help="The line before a request and a reply.")
@click.option("--stop-token", metavar="LINE", help="The line after them.")
@click.option("--exit-token", metavar="LINE", help="The line that ends a command.")
@limiting
@describing
@click.pass_obj
async def register(
    face: Face,
    /,
    name: str,
    folder: Path | None,
    weights: str | None,
    description: str | None,
    labels: tuple[str, ...],
    **given: Any,
) -> None:
    """Register a version from a FOLDER, or from a program that the host already has.

    A FOLDER with a carton.toml is taken as it is; any other becomes a package with the runner, entry point, inputs and
    outputs given here. The first version of a name is what its bare name means.
    """
    tokens = {token: line for token in TOKENS if (line := given.pop(f"{token}_token")) is not None}
    limits, running = take_limits(given), take_running(given)
    spec = make_spec(tokens=tokens, limits=limits, running=running, **given)
    mer = await face.mer()
    registered = await mer.register_model(
        name,
        folder,
        spec=spec,
        weights=weights,
        description=description,
        labels=pairs(labels, option="--label") or None,
    )
    face.access.changed()
    version = f"{registered.model.name}:{registered.version.number}"
    came = "registered" if registered.created else "registered already:"
    face.show(registered, lambda: f"{came} {version}\n")


@command.command()
@click.argument("name", metavar="MODEL")
@describing
@unlabelling
@click.pass_obj
async def edit(
    face: Face, name: str, description: str | None, labels: tuple[str, ...], removed: tuple[str, ...]
) -> None:
    """Change what is said of a model. Its versions never change."""
    changed = label_changes(labels, removed)
    if description is None and changed is None:
        raise UsageError("nothing was given to change: --description, --label or --remove-label is meant")
    mer = await face.mer()
    model = await mer.models.edit(mer.actor, name, description=description, labels=changed)
    face.access.changed()
    face.show(model, lambda: f"edited {model.name}\n")


@command.command()
@click.argument("name", metavar="MODEL")
@click.argument("alias", metavar="ALIAS")
@click.argument("version", type=click.IntRange(1), required=False)
@click.option("--remove", is_flag=True, help="Let the alias mean nothing any more.")
@click.pass_obj
async def alias(face: Face, name: str, alias: str, version: int | None, remove: bool) -> None:
    """Let an ALIAS mean a VERSION; `default` is what the bare name means."""
    if remove == (version is not None):
        raise UsageError("either a VERSION or --remove is meant")
    mer = await face.mer()
    move = await mer.models.alias(mer.actor, name, alias.removeprefix("@"), version)
    face.access.changed()
    means = "means nothing any more" if version is None else f"means {name}:{version}"
    face.show(move, lambda: f"{name}@{move.alias} {means}\n")


@command.command()
@click.argument("name", metavar="MODEL")
@paging("KEY")
@click.pass_obj
async def history(face: Face, name: str, limit: int, after: str | None) -> None:
    """Show how a model's aliases moved, newest first."""
    page = await (await face.mer()).models.history(name, after=after, limit=limit)

    def row(move: AliasMove) -> tuple[str, ...]:
        version = "none" if move.version is None else str(move.version)
        return move.alias, str(move.move), version, face.console.time(move.at), move.actor

    show_page(face.console, page, HISTORY_COLUMNS, row)


@command.command()
@click.argument("reference", metavar="MODEL[:N]")
@yes
@click.pass_obj
async def retire(face: Face, reference: str, yes: bool) -> None:
    """Take a model, or one version of it, out of use. It stays readable, its name taken."""
    await face.confirm(f"Retire {reference}?", yes=yes)
    mer = await face.mer()
    await mer.models.retire(mer.actor, reference)
    face.access.changed()
    face.show({"retired": reference}, lambda: f"retired {reference}\n")


@command.command()
@click.argument("reference", metavar="MODEL[:N|@ALIAS]")
@click.option("--on", metavar="SERVER", help="On this server only.")
@click.pass_obj
async def ping(face: Face, reference: str, on: str | None) -> None:
    """Try each step on the way to a model's answer, short of asking it something."""
    show_steps(face, await (await face.mer()).ping_model(reference, on=on))


@command.command()
@click.argument("reference", metavar="MODEL[:N]")
@click.argument("server")
@click.option("--device", help="The device that it gets there, such as cuda:0.")
@click.option("--path", metavar="PATH", help="Where it stands there, for a model that is there already.")
@click.pass_obj
async def place(face: Face, reference: str, server: str, device: str | None, path: str | None) -> None:
    """Let a model run on a SERVER; with a version it is pinned to that."""
    mer = await face.mer()
    placement = await mer.placements.place(mer.actor, reference, server, device=device, path=path)
    face.access.changed()
    face.show(placement, lambda: f"{reference} runs on {server}\n")


@command.command()
@click.argument("name", metavar="MODEL")
@click.argument("server")
@click.pass_obj
async def unplace(face: Face, name: str, server: str) -> None:
    """Take a model's placement on a SERVER away."""
    mer = await face.mer()
    await mer.placements.remove(mer.actor, name, server)
    face.access.changed()
    face.show({"model": name, "server": server}, lambda: f"{name} is placed on {server} no more\n")
