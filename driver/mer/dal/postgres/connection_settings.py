"""Where a PostgreSQL is and how to log in. Pure: no psycopg, so that the migrations program can read it for its own driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mer.core.errors import ConfigurationError

STATEMENT_SECONDS = 10.0
"""How long one statement may take where the settings do not say."""

RECONNECT_SECONDS = 15.0
"""How long to go on asking a server that was there and is gone: a restart may take ten, and the result of a run waits as long."""

MOST_POOLED = 4
"""Connections beside the first, where the settings do not say: transactions, and what is read while an append is under way."""


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """A database, a login, and how long to wait for it."""

    shown: str
    """The database for people, without secrets."""
    url: str = field(default="", repr=False)
    """As the operator wrote it; empty where `parameters` say everything."""
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    """libpq's keywords, in place of what the URL says."""
    hermetic: bool = False
    """Whether the user's own PG* variables are ignored: the embedded server is none of theirs."""
    statement_seconds: float = STATEMENT_SECONDS
    reconnect_seconds: float = RECONNECT_SECONDS
    most_pooled: int = MOST_POOLED

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        username: str = "",
        password: str = "",
        statement_seconds: float = STATEMENT_SECONDS,
        reconnect_seconds: float = RECONNECT_SECONDS,
        most_pooled: int = MOST_POOLED,
    ) -> ConnectionSettings:
        """Take a `postgresql://` URL; a user name and password that are given replace those in it.

        Raises:
            ConfigurationError: its user or password has a character that divides a URL. Read as one, a piece of
                the password would become a host, and stand in messages.
        """
        if _FORM.fullmatch(url) is None:
            raise ConfigurationError(
                "the database's URL cannot be read: postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
                hint="Within a user, a password or a value write @ as %40, / as %2F, ? as %3F, % as %25 and a space as %20.",
            )
        given = {"user": username, "password": password}
        return cls(
            shown=without_secrets(url),
            url=url,
            parameters={keyword: value for keyword, value in given.items() if value},
            statement_seconds=statement_seconds,
            reconnect_seconds=reconnect_seconds,
            most_pooled=most_pooled,
        )


_FORM = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)(?:[^@/?\s]*@)?(?P<place>[^@/?\s]*(?:/[^@/?\s]*)?)(?:\?[^@\s]*)?", re.IGNORECASE
)
"""One @ at most, before the host: with a second nobody can tell where a password ends."""


def without_secrets(url: str) -> str:
    """Return a URL without its user, password and query, all of which can hold a secret."""
    found = _FORM.fullmatch(url)
    return f"{found['scheme']}{found['place']}" if found else f"{url.partition('://')[0]}://…"
