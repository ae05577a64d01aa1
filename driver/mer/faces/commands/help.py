"""Help, in the REPL."""

from __future__ import annotations

import click

from mer.faces.commands.tree import REPL_ENTRIES, Verb
from mer.faces.face import Face


@click.command(cls=Verb, help=REPL_ENTRIES["help"].help)
@click.argument("words", nargs=-1, metavar="[COMMAND]…")
@click.pass_context
def command(context: click.Context, words: tuple[str, ...]) -> None:
    """Show help."""
    root = context.find_root()
    face: Face = context.obj
    if not words:
        face.console.result(root.get_help())
        return
    group, place = root.command, root
    for word in words:
        if not isinstance(group, click.Group):
            break
        name, found, _ = group.resolve_command(place, [word])
        assert found is not None, "resolve_command raises where there is none"
        place, group = click.Context(found, info_name=name, parent=place), found
    face.console.result(group.get_help(place))
