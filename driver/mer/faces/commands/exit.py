"""Leaving the REPL."""

from __future__ import annotations

import click

from mer.faces.commands.tree import REPL_ENTRIES, Verb
from mer.faces.face import Face


@click.command(cls=Verb, help=REPL_ENTRIES["exit"].help)
@click.pass_obj
def command(face: Face) -> None:
    """Leave."""
    face.leave = True
