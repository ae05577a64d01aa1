"""Servers: the places that run models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from mer.core.errors import ConfigurationError, UsageError
from mer.core.hops import MAX_HOPS
from mer.core.records import ServerKind
from mer.faces.commands.options import (
    describing,
    label_changes,
    paging,
    pairs,
    retired,
    unlabelling,
    yes,
)
from mer.faces.commands.pings import Looks, show_servers, show_steps
from mer.faces.commands.server_view import question_of, row, show_import, show_keys, show_server
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.listing import show_page
from mer.faces.render.table import Column
from mer.faces.render.text import counted
from mer.meal.host import HostKey

COLUMNS = (
    Column("name", whole=True),
    Column("kind", whole=True),
    Column("address"),
    Column("description"),
    Column("labels"),
)


@click.group(cls=Noun, help=ENTRIES["server"].help)
def command() -> None:
    """Servers."""


def parameters(function: Any) -> Any:
    """Add the options that say how a server is reached; an empty value takes one away."""
    for option in (
        click.option(
            "--password-from", metavar="REFERENCE", help="Where the password stands: env:NAME or keyring:SERVICE/USER."
        ),
        click.option(
            "--jump",
            multiple=True,
            metavar="[USER@]HOST[:PORT]",
            help="By way of this machine. May be given several times.",
        ),
        click.option(
            "--via", metavar="serve-ssh", help="What answers there in place of a shell: its owner lends models."
        ),
        click.option("--python", metavar="PATH", help="The interpreter there, an absolute path."),
        click.option("--port", type=click.IntRange(1, 65535), help="Where its sshd listens."),
        click.option("--user", help="Whom to log in as."),
        click.option("--address", metavar="HOST", help="Host name, address, or a Host of your ssh_config."),
    ):
        function = option(function)
    return function


@command.command("list")
@paging("NAME")
@retired
@click.pass_obj
async def list_servers(face: Face, limit: int, after: str | None, retired: bool) -> None:
    """List the servers by name."""
    page = await (await face.mer()).servers.list(after=after, limit=limit, retired=retired)
    show_page(face.console, page, COLUMNS, row)


@command.command()
@click.argument("name", metavar="SERVER")
@click.pass_obj
async def show(face: Face, name: str) -> None:
    """Show one server, and what takes effect when it is reached."""
    mer = await face.mer()
    server = await mer.servers.show(name)
    try:
        effective = await mer.addresses.of(name)
    except ConfigurationError as error:  # what is registered can be shown all the same
        effective = {}
        face.console.warn(error.message)
    show_server(face, server, effective)


@command.command()
@click.argument("name", metavar="SERVER")
@click.option(
    "--kind", type=click.Choice([ServerKind.SSH.value]), default=ServerKind.SSH.value, help="How it is reached."
)
@parameters
@describing
@click.pass_obj
async def register(
    face: Face, /, name: str, kind: str, description: str | None, labels: tuple[str, ...], **given: Any
) -> None:
    """Register a server. The local one is always there."""
    mer = await face.mer()
    server = await mer.servers.register(
        mer.actor,
        name,
        kind=ServerKind(kind),
        parameters={parameter: value for parameter, value in _given(given).items() if value is not None},
        description=description or "",
        labels=pairs(labels, option="--label"),
    )
    face.access.changed()
    show_server(face, server)


@command.command()
@click.argument("name", metavar="SERVER")
@parameters
@describing
@unlabelling
@click.pass_obj
async def edit(
    face: Face,
    /,
    name: str,
    description: str | None,
    labels: tuple[str, ...],
    removed: tuple[str, ...],
    **given: Any,
) -> None:
    """Change what is said of a server, or how it is reached."""
    changed, reached = label_changes(labels, removed), _given(given) or None
    if description is None and changed is None and reached is None:
        raise UsageError("nothing was given to change", hint="mer server edit --help")
    mer = await face.mer()
    server = await mer.servers.edit(mer.actor, name, description=description, labels=changed, parameters=reached)
    face.access.changed()
    show_server(face, server)


@command.command()
@click.argument("name", metavar="SERVER")
@yes
@click.pass_obj
async def retire(face: Face, name: str, yes: bool) -> None:
    """Take a server out of use. Its records stay readable, its name taken."""
    await face.confirm(f"Retire the server {name}?", yes=yes)
    mer = await face.mer()
    server = await mer.servers.retire(mer.actor, name)
    face.access.changed()
    show_server(face, server)


@command.command()
@click.argument("name", metavar="[SERVER]", required=False)
@click.option("--all", "everything", is_flag=True, help="Try all servers, side by side.")
@click.pass_obj
async def ping(face: Face, name: str | None, everything: bool) -> None:
    """Try each step on the way to a server, and tell how long it took."""
    if everything == (name is not None):
        raise UsageError("a server is meant, or --all")
    mer = await face.mer()
    if name is not None:
        with Looks(face.console) as looks:
            steps = await mer.ping_server(name, told=partial(looks.ended, name))
        show_steps(face, steps)
        return
    with Looks(face.console) as looks:
        found = await mer.ping_servers(told=looks.ended)
    show_servers(face, found)


@command.command()
@click.argument("name", metavar="SERVER")
@yes
@click.pass_obj
async def trust(face: Face, name: str, yes: bool) -> None:
    """Trust the host key that a server shows, and those of the machines on the way to it."""
    mer = await face.mer()
    await mer.servers.require_allowed(mer.actor, "server.trust")
    keys: list[HostKey] = []
    for _ in range(MAX_HOPS + 1):
        key = await mer.addresses.key(name)
        if key.verdict != "trusted":
            face.console.note(question_of(key))
            await face.confirm(f"Trust this key of {key.host}?", yes=yes)
            await mer.addresses.trust(mer.actor, name, key)
        elif keys and keys[-1].host == key.host:
            break
        keys.append(key)
        if key.verdict == "trusted":
            break
    face.access.changed()
    show_keys(face, name, keys)


@command.command("import")
@click.option(
    "--ssh-config",
    "pattern",
    is_flag=False,
    flag_value="*",
    required=True,
    metavar="[PATTERN]",
    help="The hosts that your ssh_config names, or those that match.",
)
@click.option("--plan", is_flag=True, help="Only tell what would be done.")
@click.pass_obj
async def import_servers(face: Face, pattern: str, plan: bool) -> None:
    """Register servers by the names that your ssh_config gives them; it stays the source of how they are reached."""
    mer = await face.mer()
    found = await (mer.addresses.planned(pattern) if plan else mer.addresses.take_in(mer.actor, pattern))
    face.access.changed()
    show_import(face, found, planned=plan)


@command.command()
@click.argument("name", metavar="SERVER")
@click.option("--plan", is_flag=True, help="Only tell what would be freed.")
@click.option(
    "--grace",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Leave alone what came, or was asked for, within that long; a day without it.",
)
@yes
@click.pass_obj
async def gc(face: Face, name: str, plan: bool, grace: int | None, yes: bool) -> None:
    """Free what a server was pushed and no version that may run there needs."""
    if not plan:
        await face.confirm(f"Remove from {name} what no version that may run there needs?", yes=yes)
    mer = await face.mer()
    freed = await mer.far_content.collect(mer.actor, name, grace_seconds=grace, plan=plan)
    size = face.console.size(freed.size)
    verb = "would remove" if plan else "removed"
    face.show(freed, lambda: f"{verb} {counted(freed.blobs, 'file')}, {counted(freed.trees, 'package')}, {size}\n")


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given, None for one that is to be taken away."""
    given = {name: value for name, value in parameters.items() if value is not None and value != ()}
    if "jump" in given:
        given["jump"] = [hop for text in given["jump"] for hop in text.split(",") if hop]
    return {name: value or None for name, value in given.items()}
