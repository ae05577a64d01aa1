"""The error of a far host that was reached and cannot run a worker, and which step of its start says so."""

from __future__ import annotations

from mer.core.errors import ServerUnreachable


class Unready(ServerUnreachable):
    """The machine was reached, but cannot run a worker."""

    def __init__(self, message: str, *, step: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        """What failed: `interpreter`, `cache` …"""

    @property
    def code(self) -> str:
        """That of its kind."""
        return "server-unreachable"
