"""Servers: the places that run models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mer.core.errors import UsageError
from mer.core.records import Server, ServerKind
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
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.listing import show_page
from mer.faces.render.table import Column, details

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
    """Add the options that say how a server is reached."""
    for option in (
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
    show_page(face.console, page, COLUMNS, _row)


@command.command()
@click.argument("name", metavar="SERVER")
@click.pass_obj
async def show(face: Face, name: str) -> None:
    """Show one server."""
    _show(face, await (await face.mer()).servers.show(name))


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
        parameters=_given(given),
        description=description or "",
        labels=pairs(labels, option="--label"),
    )
    face.access.changed()
    _show(face, server)


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
    _show(face, server)


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
    _show(face, server)


@command.command()
@click.argument("name", metavar="SERVER")
@click.pass_obj
async def ping(face: Face, name: str) -> None:
    """Try each step on the way to a server, and tell how long it took."""
    show_steps(face, await (await face.mer()).ping_server(name))


def _given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _row(server: Server) -> tuple[str, ...]:
    name = f"{server.name} (retired)" if server.retired_at else server.name
    return name, server.kind.value, _address(server), server.description, labels_text(server.labels)


def _address(server: Server) -> str:
    known = server.parameters
    address = str(known.get("address", ""))
    user = f"{known['user']}@" if known.get("user") else ""
    return f"{user}{address}" + (f":{known['port']}" if known.get("port") else "")


def _show(face: Face, server: Server) -> None:
    console = face.console
    face.show(
        server,
        lambda: details(
            console,
            {
                "name": server.name,
                "kind": server.kind.value,
                "address": _address(server) or None,
                "python": server.parameters.get("python"),
                "description": server.description or None,
                "labels": labels_text(server.labels) or None,
                "registered": console.time(server.created_at),
                "retired": console.time(server.retired_at) if server.retired_at else None,
                "id": server.id,
            },
        ),
    )
