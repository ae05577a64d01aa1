"""The database: its state, moving it, backing it up, and stopping the embedded one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mer.core.errors import Busy, ConfigurationError, UsageError
from mer.faces.commands.driver import grace as grace_option
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.progress import Phases
from mer.faces.render.text import counted, visible

if TYPE_CHECKING:
    from mer.core.actor import Actor
    from mer.dal.postgres.embedded import EmbeddedPostgres
    from mer.settings import Settings

STANDARD_OUTPUT = "-"
"""As everywhere; a file of that name is `./-`."""


@click.group(cls=Noun, help=ENTRIES["db"].help)
def command() -> None:
    """The database."""


@command.command()
@click.pass_obj
async def status(face: Face) -> None:
    """Tell which database it is, its state and what is in it. Nothing is started."""
    from mer.database_status import status as look
    from mer.faces.commands.database_view import document, text

    found = await look(face.access.settings)
    face.show(document(found), lambda: text(face.console, found))
    if found.fault is not None:
        raise found.fault


@command.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO", required=False)
@click.option("--ahead", is_flag=True, help="Copy while drivers live on FROM; once more without this brings the rest.")
@click.option("--abandon", is_flag=True, help="Copy nothing: give up a copy into FROM that was cut, or copied ahead.")
@click.pass_obj
async def copy(face: Face, source: str, destination: str | None, ahead: bool, abandon: bool) -> None:
    """Copy registry and access log into an empty database. Cut at any point, it goes on when it is run again.

    Until it has ended, and after --ahead, nobody else can use TO.

    FROM and TO are `embedded` or a URL, without a password: that comes from DRIVER_DB_PASSWORD, or where the two differ
    from FROM_DB_PASSWORD and TO_DB_PASSWORD, or from ~/.pgpass. The log is verified on both sides.
    """
    from mer.databases import copy as copied
    from mer.faces.commands.database_names import named
    from mer.faces.commands.database_view import moved_text

    settings, environ = face.access.settings, face.access.environ
    if abandon:
        if destination is not None or ahead:
            raise UsageError("--abandon takes one database, and nothing else", hint="mer db copy --abandon TO")
        await _abandon(face, named(source, settings, side="TO", environ=environ))
        return
    if destination is None:
        raise UsageError("a copy has a FROM and a TO", hint="mer db copy --help says what it takes")
    old = named(source, settings, side="FROM", environ=environ)
    new = named(destination, settings, side="TO", environ=environ)
    with Phases(face.console) as progress:
        done = await copied(old, new, actor=_actor(face), ahead=ahead, progress=progress)
    face.show(done, lambda: moved_text(done))
    if not ahead:
        face.console.note(
            f"To use it, set DB_CONNECTION_URL to {new.database_url or 'nothing'} everywhere: "
            "who goes on using the old one writes a log that has parted.\n"
            "Packages and weights are in the content store, which was not moved (docs/databases.md)."
        )


async def _abandon(face: Face, settings: Settings) -> None:
    from mer.databases import abandon
    from mer.faces.commands.database_view import abandoned_text

    with Phases(face.console) as progress:
        left = await abandon(settings, actor=_actor(face), progress=progress)
    face.access.changed()
    face.show(left, lambda: abandoned_text(left))


@command.command()
@click.argument("file")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.pass_obj
async def backup(face: Face, file: str, force: bool) -> None:
    """Write registry and access log into one FILE, or to standard output with `-`. They are as of one moment; others may
    work on meanwhile.
    """
    from mer.databases import backup as written
    from mer.databases import backup_stream as streamed

    settings, console = face.access.settings, face.console
    if file == STANDARD_OUTPUT:
        _require_pipe(face)
        with Phases(console) as progress:
            heading, end = await streamed(settings, console.raw, progress=progress)
    else:
        with Phases(console) as progress:
            heading, end = await written(settings, Path(file), force=force, progress=progress)
    wrote = f"{counted(end.records, 'record')} and {counted(end.registered, 'thing')} of the registry"
    if file == STANDARD_OUTPUT:
        console.note(f"wrote {wrote}")
    else:
        told = {"file": file, "chain": heading.chain, "head": heading.head, "at": heading.at}
        face.show(
            told | {"records": end.records, "registered": end.registered},
            lambda: f"wrote {wrote} to {visible(file)}\n",
        )
    console.note("packages and weights are not in it: copy the content store too (docs/databases.md)")


def _require_pipe(face: Face) -> None:
    if face.console.json:
        raise UsageError("standard output is the backup's, and cannot be JSON's too", hint="Name a FILE.")
    if face.console.terminal:
        raise UsageError("a backup is no text for a terminal", hint="Name a FILE, or have a program read it.")


@command.command()
@click.argument("file", type=Path)
@click.pass_obj
async def restore(face: Face, file: Path) -> None:
    """Bring a backup into the settings' database. It must be empty; nothing is written before all of FILE was checked."""
    from mer.databases import restore as restored
    from mer.faces.commands.database_view import moved_text

    with Phases(face.console) as progress:
        heading, done = await restored(file, face.access.settings, actor=_actor(face), progress=progress)
    face.access.changed()
    face.show({"backup": heading, "restored": done}, lambda: moved_text(done))


@command.command()
@click.option("--drivers", is_flag=True, help="Ask your running drivers to finish before that.")
@grace_option
@click.pass_obj
async def stop(face: Face, drivers: bool, grace: float) -> None:
    """Stop the embedded database. It starts by itself when it is needed again."""
    settings = face.access.settings
    if settings.database_url and not drivers:
        raise ConfigurationError("the settings name a database that MER has not started", hint="mer db status")
    running = not settings.database_url and (await asyncio.to_thread(_embedded(face).status)).running
    ended: list[str] = []
    if drivers and (running or settings.database_url.startswith("postgres")):
        stopped, remaining = await (await face.mer()).drivers.stop(grace_seconds=grace)
        if remaining:
            pids = ", ".join(str(driver.lease.pid) for driver in remaining)
            raise Busy(
                f"drivers still running after {grace:g} s: pid {pids}", hint="they were asked to finish; try again"
            )
        ended = [str(driver.lease.pid) for driver in stopped]
    if running:
        await face.access.aclose()
        await asyncio.to_thread(_embedded(face).stop)
    words = "stopped the embedded database" if running else "no embedded database was running"
    face.show(
        {"drivers": ended, "stopped": running},
        lambda: (f"{counted(len(ended), 'driver')} ended; " if ended else "") + words + "\n",
    )


def _embedded(face: Face) -> EmbeddedPostgres:
    from mer.dal.postgres.embedded import EmbeddedPostgres

    return EmbeddedPostgres(face.access.settings.state_folder, face.access.settings.socket_folder)


def _actor(face: Face) -> Actor:
    from mer.core.actor import Via
    from mer.surroundings import current_actor

    return current_actor(Via.REPL if face.access.repl else Via.ONE_SHOT, environ=face.access.environ)
