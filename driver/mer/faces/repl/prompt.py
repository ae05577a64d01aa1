"""The prompt of the REPL: lines from the terminal, with history, completion and the toolbar."""

from __future__ import annotations

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import Completer
from prompt_toolkit.output import ColorDepth, create_output

from mer.core.errors import MerError
from mer.faces.face import Face
from mer.faces.repl.history import PrivateHistory
from mer.faces.repl.names import NameCache
from mer.faces.repl.toolbar import toolbar
from mer.folders import own_folder

PROMPT = "mer> "


class Prompt:
    """Reads lines from the terminal."""

    def __init__(self, face: Face, completer: Completer, names: NameCache, *, database: str) -> None:
        self._session: PromptSession[str] = PromptSession(
            completer=completer,
            complete_while_typing=False,
            history=_history(face),
            auto_suggest=AutoSuggestFromHistory(),
            enable_suspend=True,
            bottom_toolbar=toolbar(face, database, names),
            output=create_output(always_prefer_tty=True),
            color_depth=None if face.console.color else ColorDepth.DEPTH_1_BIT,
        )

    async def line(self) -> str | None:
        """Return the next line, or None when Ctrl-D ended the input. Ctrl-C clears what was typed."""
        while True:
            try:
                # its own handler would take SIGINT away from the command that runs next
                return await self._session.prompt_async(PROMPT, handle_sigint=False)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None


def _history(face: Face) -> PrivateHistory:
    folder = face.access.settings.state_folder
    try:
        own_folder(folder, mode=0o711)
    except MerError as error:
        face.console.warn(f"no history is kept: {error.message}")
    return PrivateHistory(folder / "history")
