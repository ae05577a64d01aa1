"""Who asked: it stands in every record, and comes in as an argument, never from the surroundings."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mer.core.errors import UsageError

MAX_GUEST = 100
"""Characters of a guest's name: it stands in every record of his."""


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


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has no account here, but a key that is lent models (mer.faces.serve_ssh)."""

    name: str
    """Who is put on record in place of the account that runs the process."""
    models: frozenset[str] | None = None
    """Names of the models that he may run; None: any."""

    def may(self, name: str) -> bool:
        """Tell whether he may run and see the model of that name."""
        return self.models is None or name in self.models


def check_guest(name: str) -> str:
    """Return `name` if a guest may be put on record under it: letters and digits of any script, and `.` `_` `-` `+` `@`.

    Raises:
        UsageError: it is empty, too long, or has other characters.
    """
    if not 0 < len(name) <= MAX_GUEST or not all(c.isalnum() or c in "._-+@" for c in name) or name.startswith("-"):
        raise UsageError(f"{name[:MAX_GUEST]!r} is no actor: letters, digits and . _ - + @, at most {MAX_GUEST}")
    return name
