"""The database: whether the embedded one runs, and stopping it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from mer.core.errors import Busy, ConfigurationError
from mer.faces.commands.driver import grace as grace_option
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.table import details
from mer.faces.render.text import counted

if TYPE_CHECKING:
    from mer.dal.postgres.embedded import EmbeddedPostgres, Status


@click.group(cls=Noun, help=ENTRIES["db"].help)
def command() -> None:
    """The database."""


@command.command()
@click.pass_obj
async def status(face: Face) -> None:
    """Tell which database the settings mean, and whether the embedded one runs. Nothing is started."""
    from mer.setting_kinds import without_password

    settings = face.access.settings
    if settings.database_url:
        told: dict[str, Any] = {"database": without_password(settings.database_url)}
    else:
        found = await asyncio.to_thread(_embedded(face).status)
        told = {"database": "postgresql (embedded)", **_document(found)}
    texts = {name: _text(value) for name, value in told.items() if value is not None}
    face.show(told, lambda: details(face.console, texts))


@command.command()
@click.option("--drivers", is_flag=True, help="Ask your running drivers to finish before that.")
@grace_option
@click.pass_obj
async def stop(face: Face, drivers: bool, grace: float) -> None:
    """Stop the embedded database; it starts by itself when it is needed again."""
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


def _text(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _document(found: Status) -> dict[str, Any]:
    return {
        "running": found.running,
        "pid": found.pid,
        "data": str(found.data),
        "socket": str(found.socket),
        "log": str(found.log),
    }
