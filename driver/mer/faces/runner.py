"""Runs one command line: click's errors, MER's and bugs all end as words on stderr and an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import click

from mer.core.errors import Interrupted, MerError, UsageError
from mer.core.progress import CURRENT, WAITS
from mer.faces.face import Face
from mer.faces.render.console import OutputClosed
from mer.faces.render.progress import Waiting


class Ending:
    """How a command line ended."""

    code = 0


def start(root: click.Group, words: Sequence[str], face: Face, *, name: str) -> Awaitable[int | None] | None:
    """Parse and call a command; return what is still to be awaited of it."""
    with root.make_context(name, list(words), obj=face) as context:
        waiting = Waiting(face.console)
        CURRENT.set(waiting)  # for whatever the command waits for: its tasks inherit it
        WAITS.set(waiting.waits)
        result: Any = root.invoke(context)
    if not isinstance(result, Awaitable):
        return None
    from mer.faces.suggestions import suggesting

    return _shown(suggesting(result, face, words), waiting)


async def _shown(awaited: Awaitable[int | None], waiting: Waiting) -> int | None:
    """Await a command; what it waited for is seen no longer than that."""
    with waiting:
        return await awaited


@contextlib.contextmanager
def told(face: Face, words: Sequence[str]) -> Iterator[Ending]:
    """Run the block; whatever it raises is told, and ends in the code of the Ending."""
    ending = Ending()
    console = face.console
    try:
        try:
            try:
                yield ending
            except click.exceptions.Exit as error:
                ending.code = error.exit_code
            console.flush()
        except click.ClickException as error:
            # the options after the word that was not understood have not been looked at yet
            console.json = console.json or "--json" in _options(words)
            ending.code = error.exit_code if isinstance(error, click.UsageError) else UsageError.exit_code
            _tell_usage(face, error)
        except (KeyboardInterrupt, click.Abort):
            ending.code = Interrupted.exit_code
            console.error(Interrupted())
        except MerError as error:
            ending.code = error.exit_code
            with contextlib.suppress(OutputClosed, MerError):
                console.flush()  # what came before the error, before the error
            console.error(error)
    except Exception as error:  # noqa: BLE001 - the outermost loop: a bug must not end a REPL, nor show its insides
        ending.code = _tell_unexpected(face, error)


def _options(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _tell_usage(face: Face, error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        face.console.note(error.format_message())
        return
    hint = None
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        hint = f"{context.command_path} --help says what it takes"
    face.console.error(UsageError(error.format_message(), hint=hint))


def _tell_unexpected(face: Face, error: Exception) -> int:
    if isinstance(error, OutputClosed):
        face.console.discard()
        return 0
    from mer.faces.reports import told_of_bug

    with contextlib.suppress(Exception):  # stderr itself may be what is broken
        face.console.error(told_of_bug(error, access=face.access, console=face.console))
    return MerError.exit_code
