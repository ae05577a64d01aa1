"""Lending models to a key: what `authorized_keys` runs in place of a shell."""

from __future__ import annotations

import click

from mer.core.actor import Guest, check_guest
from mer.core.errors import MerError, UsageError
from mer.core.references import check_name
from mer.faces.commands.tree import ENTRIES, Verb
from mer.faces.face import Face

VARIABLE = "SSH_ORIGINAL_COMMAND"
"""What the client asked for, as sshd tells a forced command."""


@click.command("serve-ssh", cls=Verb, help=ENTRIES["serve-ssh"].help)
@click.option("--actor", required=True, metavar="NAME", help="Who is put on record for whatever this key asks for.")
@click.option("--allow", "allowed", metavar="MODEL,…", help="The models that may be run; all of them without it.")
@click.pass_obj
async def command(face: Face, actor: str, allowed: str | None) -> None:
    """Answer what SSH_ORIGINAL_COMMAND asks for, if it is among the few things that a key may be lent."""
    from mer.faces.serve_ssh.answering import answer
    from mer.faces.serve_ssh.grammar import POSSIBLE, parse
    from mer.faces.serve_ssh.refusals import for_guest

    if face.access.repl:
        raise UsageError("serve-ssh is for a line of authorized_keys, not for the REPL")
    models = None if allowed is None else frozenset(check_name(name.strip()) for name in allowed.split(","))
    guest = Guest(name=check_guest(actor), models=models)
    line = face.access.environ.get(VARIABLE, "")
    if not line.strip():
        raise UsageError(f"there is no shell here: this key may be used for {POSSIBLE}")
    # whatever the environment and .env say of the owner's own console
    face.access.flags = {**face.access.flags, "allow_changes": False, "auditor": False}
    face.access.guest = guest
    try:
        try:
            request = parse(line)
        except MerError as error:
            await (await face.mer()).refuse(line, error)
            raise
        await answer(face, guest, request)
    except MerError as error:
        raise for_guest(error) from error
