"""Lending models to a key: what `authorized_keys` runs in place of a shell."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import click

from mer.core.actor import Guest, check_guest
from mer.core.errors import MerError, UsageError
from mer.core.progress import unseen
from mer.core.references import check_name
from mer.faces.commands.tree import ENTRIES, Verb
from mer.faces.face import Face
from mer.faces.render.console import OutputClosed

VARIABLE = "SSH_ORIGINAL_COMMAND"
"""What the client asked for, as sshd tells a forced command."""

STDOUT = 1


@click.command("serve-ssh", cls=Verb, help=ENTRIES["serve-ssh"].help)
@click.option("--actor", required=True, metavar="NAME", help="Who is put on record for whatever this key asks for.")
@click.option("--allow", "allowed", metavar="MODEL,…", help="The models that may be run; all of them without it.")
@click.pass_obj
async def command(face: Face, actor: str, allowed: str | None) -> None:
    """Answer what SSH_ORIGINAL_COMMAND asks for, if it is among the few things that a key may be lent."""
    from mer.faces.reports import told_of_bug
    from mer.faces.serve_ssh.answering import answer
    from mer.faces.serve_ssh.grammar import POSSIBLE, parse
    from mer.faces.serve_ssh.leaving import unless_gone
    from mer.faces.serve_ssh.refusals import for_guest

    if face.access.repl:
        raise UsageError("serve-ssh is for a line of authorized_keys, not for the REPL")
    models = None if allowed is None else frozenset(check_name(name.strip()) for name in allowed.split(","))
    guest = Guest(name=check_guest(actor), models=models)
    line = face.access.environ.get(VARIABLE, "")
    if not line.strip():
        raise UsageError(f"there is no shell here: this key may be used for {POSSIBLE}")
    face.access.environ = _without_settings(face.access.environ)
    logging.getLogger().addHandler(logging.NullHandler())  # without one it goes to stderr, which is the guest's
    # whatever .env says of the owner's own console
    face.access.flags = {**face.access.flags, "allow_changes": False, "auditor": False}
    face.access.guest = guest
    unseen()  # which of the owner's servers is waited for is his own affair
    try:
        try:
            request = parse(line)
        except MerError as error:
            await (await face.mer()).refuse(line, error)
            raise
        await unless_gone(answer(face, guest, request), STDOUT)
    except MerError as error:
        raise for_guest(error) from error
    except (OutputClosed, click.exceptions.Exit):
        raise
    except Exception as error:  # the outermost edge: a bug's words name paths, which are the owner's to read
        told_of_bug(error, access=face.access, console=face.console)
        raise MerError(hint="its owner finds a report of it in his state folder") from error


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings, save where `.env` is: an sshd with a wide AcceptEnv lets clients set them."""
    from mer.settings import SETTINGS

    settings = {setting.variable for setting in SETTINGS if setting.name != "home"}
    return {name: value for name, value in environ.items() if name not in settings}
