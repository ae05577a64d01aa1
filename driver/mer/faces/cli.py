"""The command line: global options, then one command, or the REPL where none is given."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

import click

from mer.faces.commands.tree import CONTEXT_SETTINGS, ENTRIES, Root, output_options
from mer.faces.face import Access, Face, OpenMer
from mer.faces.render.console import Console
from mer.faces.runner import start, told

HELP = """Run registered models on any machine that you can reach, with every access on record.

Without a command it opens the REPL, or reads commands from stdin, one a line. The names of old (model-list,
model-execute …) work too.
"""


def main(argv: Sequence[str], *, environ: Mapping[str, str], open_mer: OpenMer) -> int:
    """Run the command line `argv` on this process's terminal, and return its exit code."""
    stdout = _closed() if sys.stdout is None else _writable(sys.stdout)
    console = Console(stdout=stdout, stderr=_writable(sys.stderr), environ=environ)
    face = Face(
        console=console,
        access=Access(environ=environ, open_mer=open_mer),
        stdin=_unshared(sys.stdin),
        stdin_terminal=bool(sys.stdin) and sys.stdin.isatty(),
    )
    with told(face, argv) as ending:
        awaited = start(root(), argv, face, name="mer")
        if awaited is not None:
            ending.code = _run(awaited, face)
    face.console.finish()
    return ending.code


def root() -> Root:
    """Return the tree of commands with the options that stand before them."""

    @click.pass_context
    def entered(
        context: click.Context,
        allow_changes: bool | None,
        auditor: bool | None,
        database_url: str | None,
        env_file: Path | None,
        show_version: bool,
    ) -> Awaitable[int] | None:
        face: Face = context.obj
        if show_version:
            from mer.faces.commands.version import show

            show(face)
            context.exit()
        face.access.flags = {"allow_changes": allow_changes, "auditor": auditor, "database_url": database_url}
        face.access.env_file = env_file
        if context.invoked_subcommand is None:
            from mer.faces.repl.loop import converse

            return converse(face)
        return None

    return Root(
        "mer",
        callback=entered,
        entries=ENTRIES,
        help=HELP,
        invoke_without_command=True,
        context_settings=CONTEXT_SETTINGS,
        params=[
            click.Option(
                ["-a", "--allow-model-server-runtime-changes", "allow_changes"],
                is_flag=True,
                default=None,
                help="Allow changes to the registry; without it, it is read-only.",
            ),
            click.Option(
                ["--auditor"],
                is_flag=True,
                default=None,
                help="Log in to the database as the auditor, who may only read.",
            ),
            click.Option(["--database-url"], metavar="URL", help="Which database, in place of the embedded one."),
            click.Option(["--env-file"], type=Path, metavar="FILE", help="Read settings from this file."),
            *output_options(shown=("--json", "--no-color", "--debug")),
            click.Option(["--version", "show_version"], is_flag=True, help="Show which MER this is."),
        ],
    )


def _run(awaited: Awaitable[int | None], face: Face) -> int:
    from mer.faces.one_shot import run_to_its_end  # asyncio: not needed by `--help`

    return run_to_its_end(awaited, face)


def _unshared(stream: TextIO | None) -> BinaryIO | None:
    """Return stdin with a buffer of its own: a thread that reads from it when the process ends holds that buffer's lock,
    and the interpreter would abort over the lock of its own."""
    return open(stream.fileno(), "rb", closefd=False) if stream else None


def _closed() -> TextIO:
    """Return what stands for a stdout that was closed by whoever started us, as `>&-` does: what is written to it is an error.

    It takes the number of the one that was closed: a database's socket would get the results otherwise.
    """
    return os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")


def _writable(stream: TextIO | None) -> TextIO:
    """Return a stream that takes any character: one that its encoding lacks is written as an escape."""
    if stream is None:  # what is said on a closed stderr is lost, as everywhere
        return Path(os.devnull).open("w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream
