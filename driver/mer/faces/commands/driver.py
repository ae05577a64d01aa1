"""Drivers: the living processes that run models, by their leases in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mer.core.errors import Busy
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.table import Column
from mer.faces.render.text import counted

if TYPE_CHECKING:
    from mer.execution.drivers import Driver

COLUMNS = (
    Column("pid", right=True, whole=True),
    Column("host"),
    Column("actor"),
    Column("since", whole=True),
    Column("silent", right=True, whole=True),
    Column("lease", whole=True),
)

GRACE_SECONDS = 20.0
"""For a driver that was asked to finish: it ends its workers (a few seconds each) and records what it was at."""


grace = click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=GRACE_SECONDS,
    metavar="SECONDS",
    show_default=True,
    help="How long to wait for them.",
)


@click.group(cls=Noun, help=ENTRIES["driver"].help)
def command() -> None:
    """Drivers."""


@command.command("list")
@click.pass_obj
async def list_drivers(face: Face) -> None:
    """List every driver that holds a lease: one has run a model since it started, and has not ended."""
    drivers = await (await face.mer()).drivers.living()
    if face.console.json:
        face.console.document({"items": [_document(driver) for driver in drivers]})
        return
    face.console.table(
        COLUMNS,
        [
            (
                str(driver.lease.pid),
                driver.lease.host,
                driver.lease.actor,
                face.console.time(driver.lease.acquired_at),
                "dead" if driver.dead else f"{driver.silent_seconds:.0f} s",
                driver.lease.id,
            )
            for driver in drivers
        ],
    )


@command.command()
@grace
@click.pass_obj
async def stop(face: Face, grace: float) -> None:
    """Ask your own drivers on this machine to finish, and wait for them. What they run is recorded as cancelled."""
    ended, remaining = await (await face.mer()).drivers.stop(grace_seconds=grace)
    face.show(
        {"ended": [_document(driver) for driver in ended], "remaining": [_document(driver) for driver in remaining]},
        lambda: f"{counted(len(ended), 'driver')} ended\n",
    )
    if remaining:
        pids = ", ".join(str(driver.lease.pid) for driver in remaining)
        raise Busy(f"still running after {grace:g} s: pid {pids}")


def _document(driver: Driver) -> dict[str, Any]:
    return {
        "lease": driver.lease,
        "silent_seconds": round(driver.silent_seconds, 3),
        "here": driver.here,
        "dead": driver.dead,
    }
