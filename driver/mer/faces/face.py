"""The face: all that a command is given. It has no other way to the terminal, the settings or an open Mer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from mer.core.errors import ConfirmationNeeded, Interrupted

if TYPE_CHECKING:
    from mer.api import Mer
    from mer.core.actor import Guest, Via
    from mer.faces.render.console import Console
    from mer.settings import Settings


class OpenMer(Protocol):
    """Opens the Mer of a process, for the user who runs it or for a guest of his."""

    def __call__(
        self, settings: Settings, via: Via, *, guest: Guest | None = None
    ) -> contextlib.AbstractAsyncContextManager[Mer]: ...


class Access:
    """The settings and the one Mer of a process: read and opened when first asked for, closed at its end."""

    def __init__(self, *, environ: Mapping[str, str], open_mer: OpenMer, repl: bool = False) -> None:
        self.environ = environ
        self.flags: dict[str, object] = {}
        self.env_file: Path | None = None
        self.repl = repl
        self.guest: Guest | None = None
        """In whose name all of it is asked for, where it is not the user who runs this process."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a command may have changed the registry: the REPL's completion wants to know."""
        self._open_mer = open_mer
        self._settings: Settings | None = None
        self._mer: Mer | None = None
        self._closing = contextlib.AsyncExitStack()

    @property
    def settings(self) -> Settings:
        """Return the settings.

        Raises:
            ConfigurationError
        """
        if self._settings is None:
            from mer.settings import load

            self._settings = load(environ=self.environ, flags=self.flags, env_file=self.env_file)
        return self._settings

    @property
    def loaded(self) -> Settings | None:
        """Return the settings if they have been read without a fault, so that an error can be cleaned of their secrets."""
        return self._settings

    async def mer(self) -> Mer:
        """Return the open Mer. It is opened and closed by one task, which in the REPL is not the command's."""
        if self._mer is None:
            from mer.core.actor import Via

            via = Via.REPL if self.repl else Via.ONE_SHOT
            opening = (
                self._open_mer(self.settings, via)
                if self.guest is None
                else self._open_mer(self.settings, via, guest=self.guest)
            )
            self._mer = await self._closing.enter_async_context(opening)
        return self._mer

    async def aclose(self) -> None:
        """Close what was opened."""
        self._mer = None
        await self._closing.aclose()


class Face:
    """What one command line works with."""

    def __init__(self, *, console: Console, access: Access, stdin: BinaryIO | None, stdin_terminal: bool) -> None:
        self.console = console
        self.access = access
        self.stdin = stdin
        """None: it is the script that commands come from."""
        self.stdin_terminal = stdin_terminal
        self.leave = False
        """Set by the REPL's `exit`."""

    def for_line(self) -> Face:
        """Return a face for one line of the REPL."""
        return Face(console=self.console.for_line(), access=self.access, stdin=None, stdin_terminal=self.stdin_terminal)

    async def mer(self) -> Mer:
        """Return the open Mer.

        Raises:
            ConfigurationError, NotMigrated, DatabaseUnreachable, AuthenticationFailed, DatabaseLocked
        """
        mer = await self.access.mer()
        if self.stdin_terminal and self.console.error_terminal:
            mer.secrets.ask = self._ask_secret
        return mer

    async def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the operator agrees, by `yes` or at the terminal.

        Raises:
            ConfirmationNeeded: there is nobody to ask. Interrupted: he does not agree.
        """
        # a refusal that is sure to come needs no question before it
        if yes or not self.access.settings.allow_changes:
            return
        if not (self.stdin_terminal and self.console.error_terminal):
            raise ConfirmationNeeded
        from mer.faces.asking import ask

        if (await ask(f"{question} [y/N] ")).strip().lower() not in ("y", "yes"):
            raise Interrupted("nothing was changed")

    def show(self, document: Any, text: Callable[[], str]) -> None:
        """Write a result: as JSON, or as the text that `text` makes of it."""
        if self.console.json:
            self.console.document(document)
        else:
            self.console.result(text(), end="")

    async def _ask_secret(self, question: str) -> str:
        from mer.faces.asking import ask  # prompt-toolkit is for who is asked

        with self.console.asking():
            return await ask(question, secret=True)
