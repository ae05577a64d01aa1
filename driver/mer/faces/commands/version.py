"""Which MER this is."""

from __future__ import annotations

import platform
from importlib.metadata import version

import click

from mer.faces.commands.tree import ENTRIES, Verb
from mer.faces.face import Face


def show(face: Face) -> None:
    """Write the version."""
    told = {
        "mer": version("mer"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    face.show(told, lambda: "".join(f"{name} {value}\n" for name, value in told.items()))


@click.command(cls=Verb, help=ENTRIES["version"].help)
@click.pass_obj
def command(face: Face) -> None:
    """Show which MER this is."""
    show(face)
