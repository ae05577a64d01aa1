"""Machines as an operator writes them for SSH, `[user@]host[:port]`, and references to passwords, which are never written.

What is refused here as part of a name is what a shell gives a meaning to: a ProxyCommand of the operator's own ssh_config is
run by one, with the host and the user put in (ssh itself refuses the same since CVE-2023-51385).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mer.core.errors import ConfigurationError

MAX_HOPS = 8
"""On the way to a server; a configuration in which two machines jump by way of each other would not end."""

_OF_SHELLS = frozenset("'`\"$\\;&<>|(){}*?!#~")
_OF_SHELLS_IN_USERS = frozenset("'`\";&<>|(){}")

MAX_LENGTH = 255
"""Characters of a host name or a user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hop:
    """A machine on the way."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}" + ("" if self.port is None else f":{self.port}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PasswordReference:
    """Where a password stands."""

    kind: Literal["env", "keyring"]
    name: str
    """Of the variable, or of the keyring's service."""
    user: str = ""
    """In the keyring."""


def check_host(text: str, *, what: str = "address") -> str:
    """Return a host name, an address or a Host of an ssh_config as it is.

    Raises:
        ConfigurationError: it holds a user, or what a shell gives a meaning to, or looks like an option.
    """
    if "@" in text:
        # `ada:secret@host` would put a password into the registry and its record
        raise ConfigurationError(f"the {what} holds an @: the user is a parameter of its own", hint="--user NAME")
    if not _plain(text, _OF_SHELLS | {" "}):
        raise ConfigurationError(f"{text[:MAX_LENGTH]!r} is no {what}")
    return text


def check_user(text: str) -> str:
    """Return a user's name on another machine as it is.

    Raises:
        ConfigurationError: it holds what a shell gives a meaning to, or looks like an option.
    """
    # in the words of a directory service a user may be `LAB\Ada Lovelace`
    if not _plain(text, _OF_SHELLS_IN_USERS) or text.endswith(("\\", " ")) or " -" in text:
        raise ConfigurationError(f"{text[:MAX_LENGTH]!r} is no user")
    return text


def check_port(port: int) -> int:
    """Return a port. Raises: ConfigurationError."""
    if not 0 < port < 65536:
        raise ConfigurationError(f"port {port} is none: 1 to 65535")
    return port


def parse_hop(text: str) -> Hop:
    """Read `[user@]host[:port]`, also with `ssh://` before it; an IPv6 address with a port stands in brackets.

    Raises:
        ConfigurationError
    """
    user, at, place = text.removeprefix("ssh://").rpartition("@")
    found = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]{1,5}))?|([^:\[\]]+)(?::([0-9]{1,5}))?|([0-9a-fA-F:.%]+)", place)
    if found is None:
        raise ConfigurationError(f"{place[:MAX_LENGTH]!r} is no machine to jump by: [USER@]HOST[:PORT] is meant")
    port = found[2] or found[4]
    return Hop(
        host=check_host(found[1] or found[3] or found[5], what="machine to jump by"),
        user=check_user(user) if at else None,
        port=check_port(int(port)) if port else None,
    )


def parse_password_reference(text: str) -> PasswordReference:
    """Read `env:NAME` or `keyring:SERVICE/USER`.

    Raises:
        ConfigurationError: it is neither; the text is not told, since it may be the password itself.
    """
    if found := re.fullmatch(r"env:([A-Za-z_][A-Za-z0-9_]{0,199})", text, re.ASCII):
        return PasswordReference(kind="env", name=found[1])
    if (found := re.fullmatch(r"keyring:([^/]{1,200})/(.{1,200})", text)) and text.isprintable():
        return PasswordReference(kind="keyring", name=found[1], user=found[2])
    raise ConfigurationError(
        "a password is never kept, only where it stands: env:NAME or keyring:SERVICE/USER is meant",
        hint="If what you gave is the password itself, it now stands in your shell's history.",
    )


def _plain(text: str, refused: frozenset[str]) -> bool:
    # one that begins with a dash would be read as an option by any ssh program it ever reaches
    return 0 < len(text) <= MAX_LENGTH and text[0] not in "- " and text.isprintable() and not refused & set(text)
