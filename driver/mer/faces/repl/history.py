"""The history of the prompt: a file of the state folder that only its owner reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit.history import History

MOST_LINES = 10_000
"""Kept of the history; the file is cut to this many when the REPL starts."""


class PrivateHistory(History):
    """Lines typed at the prompt, one a line; a line that begins with a space is not kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Give the lines, newest first."""
        lines: list[str] = []
        with contextlib.suppress(OSError), self._opened(os.O_RDWR) as descriptor:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                lines = file.read().decode("utf-8", "replace").splitlines()
            if len(lines) > MOST_LINES:
                lines = lines[-MOST_LINES:]
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, "".join(f"{line}\n" for line in lines).encode(), 0)
        return reversed(lines)

    def store_string(self, string: str) -> None:
        """Keep a line, or each of those that were pasted; where that cannot be done, no prompt fails for its history."""
        lines = "".join(f"{line}\n" for line in string.split("\n") if not line.startswith(" "))
        if not lines:
            return
        with contextlib.suppress(OSError), self._opened(os.O_WRONLY | os.O_APPEND) as descriptor:
            os.write(descriptor, lines.encode("utf-8", "replace"))

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        # O_NOFOLLOW: a link in its place would have lines of ours written into somebody's file
        descriptor = os.open(self._path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            yield descriptor
        finally:
            os.close(descriptor)
