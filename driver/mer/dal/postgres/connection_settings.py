"""Where a PostgreSQL is and how to log in. Pure: no psycopg, so that the migrations program can read it for its own driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STATEMENT_SECONDS = 10.0
"""How long one statement may take where the settings do not say."""


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

    @classmethod
    def from_url(
        cls, url: str, *, username: str = "", password: str = "", statement_seconds: float = STATEMENT_SECONDS
    ) -> ConnectionSettings:
        """Take a `postgresql://` URL; a user name and password that are given replace those in it."""
        given = {"user": username, "password": password}
        return cls(
            shown=without_secrets(url),
            url=url,
            parameters={keyword: value for keyword, value in given.items() if value},
            statement_seconds=statement_seconds,
        )


def without_secrets(url: str) -> str:
    """Return a URL without its user, password and query, all of which can hold a secret."""
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"
