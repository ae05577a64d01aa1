"""Who asked: it stands in every record, and comes in as an argument, never from the surroundings."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Via(StrEnum):
    """By which face an actor came."""

    REPL = "repl"
    ONE_SHOT = "one-shot"
    CRON = "cron"
    SSH = "ssh"
    LIBRARY = "library"


class Actor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person or a program, as the operating system knows them."""

    user: str
    uid: int
    via: Via
    host: str
    pid: int
    sudo_user: str | None = None
    ssh_client: str | None = None
    """Address and ports as SSH_CONNECTION has them, where the session came in by SSH."""

    def body(self) -> dict[str, str | int]:
        """Return what stands under `actor` in a record: only what is known."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
