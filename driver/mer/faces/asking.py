"""Questions at the terminal: those that a command asks, and a secret's. Imports prompt-toolkit, for who is asked."""

from __future__ import annotations

from prompt_toolkit import PromptSession
from prompt_toolkit.output import create_output

from mer.core.errors import Interrupted


async def ask(question: str, *, secret: bool = False) -> str:
    """Ask on the terminal and return the answer; Ctrl-D is an empty one. A secret is not shown while it is typed.

    Raises:
        Interrupted: by Ctrl-C.
    """
    session: PromptSession[str] = PromptSession(output=create_output(always_prefer_tty=True))
    try:
        return await session.prompt_async(question, is_password=secret, handle_sigint=False)
    except EOFError:
        return ""
    except KeyboardInterrupt:
        raise Interrupted from None  # a task that ends in KeyboardInterrupt would end the event loop
