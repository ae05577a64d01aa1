"""Command lines as an operator types them, over a real Mer in memory, with streams that a test can read."""

import contextlib
import io
import shlex
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mer.api import Mer
from mer.core.actor import Via
from mer.faces.cli import root
from mer.faces.face import Access, Face
from mer.faces.render.console import Console
from mer.faces.runner import start, told
from mer.settings import Settings


class Typed(NamedTuple):
    """What came of one command line."""

    code: int
    out: str
    err: str


class Stream(io.TextIOWrapper):
    """A stream in memory that says it is a terminal if a test wants one."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()


class Terminal:
    """A place to type at. Commands are given as one would type them in a shell, without `mer`."""

    def __init__(self, mer: Mer | None, environ: Mapping[str, str], *, terminal: bool = False) -> None:
        self.mer = mer
        self.environ = dict(environ)
        self.terminal = terminal
        self.opened: list[tuple[Settings, Via]] = []

    async def type(self, line: str, *, stdin: bytes = b"") -> Typed:
        """Run one line and return what was written and its exit code."""
        words = shlex.split(line)
        out, err = Stream(terminal=self.terminal), Stream(terminal=self.terminal)
        face = Face(
            console=Console(stdout=out, stderr=err, environ=self.environ),
            access=Access(environ=self.environ, open_mer=self._open),
            stdin=io.BytesIO(stdin),
            stdin_terminal=False,
        )
        with told(face, words) as ending:
            awaited = start(root(), words, face, name="mer")
            if awaited is not None:
                ending.code = await awaited or 0
        return Typed(ending.code, out.text, err.text)

    @contextlib.asynccontextmanager
    async def _open(self, settings: Settings, via: Via) -> AsyncIterator[Mer]:
        assert self.mer is not None, "this command must not open anything"
        self.opened.append((settings, via))
        yield self.mer


def environ_of(folder: Path) -> dict[str, str]:
    """An environment that keeps everything in `folder`."""
    return {"MER_STATE_FOLDER": str(folder / "state"), "COLUMNS": "100"}
