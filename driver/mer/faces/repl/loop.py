"""The loop: a line is read, run and told; an error is told, and the next line is read."""

from __future__ import annotations

import contextlib
import shlex
import textwrap
from collections.abc import AsyncGenerator, Iterator, Sequence
from importlib.metadata import version

from mer.core.errors import Interrupted, UsageError
from mer.faces.commands.tree import CONTEXT_SETTINGS, ENTRIES, REPL_ENTRIES, Root
from mer.faces.face import Face
from mer.faces.repl.completion import Completion
from mer.faces.repl.lines import read_lines
from mer.faces.repl.names import NameCache
from mer.faces.repl.prompt import Prompt
from mer.faces.repl.signals import Interrupts
from mer.faces.runner import start, told

HELP = "Type a command as you would behind `mer`. Tab completes, Ctrl-C cancels what runs, Ctrl-D leaves."

MOST_JOINED = 100
"""Lines that make one command; without a bound, an open quote would have each line of a long paste read again and again."""

PROGRAM = "mer"
"""May stand before a command here too: people paste what they typed in a shell."""


def tree() -> Root:
    """Return the commands of the REPL."""
    return Root(
        PROGRAM,
        entries={**ENTRIES, **REPL_ENTRIES},
        help=HELP,
        context_settings=CONTEXT_SETTINGS,
    )


async def converse(face: Face) -> int:
    """Read and run commands until the input ends; return 0, or without a terminal the code of the first that failed."""
    face.access.repl = True
    mer = await face.mer()  # here: it must be closed by the task that opened it
    root = tree()
    with Interrupts() as interrupts:
        if not face.stdin_terminal:
            return await _script(root, face, interrupts) if face.stdin is not None else 0
        async with NameCache(mer).kept_fresh() as names:
            face.access.changed = names.outdated
            _welcome(face, mer.database, names)
            prompt = Prompt(face, Completion(root, names), names, database=mer.database)
            while not face.leave:
                line = await prompt.line()
                if line is None:
                    break
                await _entered(root, line, face, interrupts)
    return 0


async def _entered(root: Root, text: str, face: Face, interrupts: Interrupts) -> None:
    """Run what was entered: one line, or the lines that were pasted, until one of them is interrupted."""
    for line in commands(text):
        if await perform(root, line, face, interrupts) == Interrupted.exit_code or face.leave:
            return


async def perform(root: Root, line: str, face: Face, interrupts: Interrupts) -> int:
    """Run one line and tell what came of it; return its exit code."""
    face_of_line = face.for_line()
    words: list[str] = []
    with told(face_of_line, words) as ending:
        words.extend(split(line))
        if words:
            awaited = start(root, words, face_of_line, name=PROGRAM)
            if awaited is not None and await interrupts.run(awaited):
                raise Interrupted
    face.leave = face.leave or face_of_line.leave
    return ending.code


def split(line: str) -> list[str]:
    """Return the words of a line, quoted as in a shell; `#` begins a remark.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"the line ends too early: {str(error).lower()}") from error
    return words[1:] if words[:1] == [PROGRAM] else words


def commands(text: str) -> Iterator[str]:
    """Give the commands of a text, one a line, but for what a shell joins: behind a backslash, and within quotes.

    A quote that nothing closes is a mistake of its own line and leaves the others alone.
    """
    lines = text.split("\n")
    while lines:
        taken = next((count for count in range(1, min(len(lines), MOST_JOINED) + 1) if _whole(lines[:count])), 1)
        yield joined(lines[:taken])
        del lines[:taken]


def joined(lines: Sequence[str]) -> str:
    """Return lines as one; a backslash at the end of one goes with that end."""
    text = ""
    for line in lines[:-1]:
        text += line[:-1] if continued(line) else line + "\n"
    return text + lines[-1]


def continued(line: str) -> bool:
    """Tell whether a line ends in a backslash that is not itself behind one."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _whole(lines: Sequence[str]) -> bool:
    try:
        shlex.split(joined(lines), comments=True)
    except ValueError:
        return False
    return True


async def _script(root: Root, face: Face, interrupts: Interrupts) -> int:
    first_failure = 0
    assert face.stdin is not None, "a script comes from stdin"
    async with contextlib.aclosing(_until_left(face)) as lines:
        async for line in lines:
            code = await perform(root, line, face, interrupts)
            first_failure = first_failure or code
            if code == Interrupted.exit_code:
                break
    return first_failure


async def _until_left(face: Face) -> AsyncGenerator[str, None]:
    assert face.stdin is not None
    kept: list[str] = []
    async for line in read_lines(face.stdin.fileno()):
        kept.append(line)
        if continued(line) and len(kept) < MOST_JOINED:
            continue
        yield joined(kept)
        kept.clear()
        if face.leave:
            return
    if kept:
        yield joined(kept)  # its end was cut off: that is told


def _welcome(face: Face, database: str, names: NameCache) -> None:
    console = face.console
    allowed = "allowed" if face.access.settings.allow_changes else "not allowed (start with -a)"
    for line in (
        f"MER {version('mer')} · {database} · {names.models_told()}",
        f"Changes are {allowed}. `help` lists the commands, Tab completes.",
        "`run MODEL` runs one, `log list` shows what was run.",
    ):
        console.note(textwrap.fill(line, console.width))
