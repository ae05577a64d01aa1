"""The connection string of a login, as libpq reads it."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from mer.core.errors import ConfigurationError
from mer.dal.postgres.connection_settings import ConnectionSettings

CONNECT_SECONDS = 10
"""How long to wait for a server to take a new connection, where the URL does not say; a closed port answers at once."""

PRIVATE_SOCKET = {
    # in a folder that is ours there is nothing to encrypt, and no certificate to look for in the user's home
    "sslmode": "disable",
    "sslcertmode": "disable",
    "gssencmode": "disable",
    "require_auth": "scram-sha-256",  # our password goes to nobody in the clear
    # libpq does not take an empty value for these
    "min_protocol_version": "3.0",
    "max_protocol_version": "latest",
}


def conninfo(settings: ConnectionSettings, **session: str) -> str:
    """Return the connection string; `session` are the server's settings for the session.

    Raises:
        ConfigurationError: the URL is none of PostgreSQL's.
    """
    try:
        given = conninfo_to_dict(settings.url)
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            f"{settings.shown} is no PostgreSQL URL: postgresql://HOST:PORT/DATABASE"
        ) from None  # its text holds the URL
    flags = [f"-c {name}={value}" for name, value in session.items()]
    options = " ".join([*flags, *([str(given["options"])] if given.get("options") else [])])
    defaults = {"connect_timeout": str(CONNECT_SECONDS), "application_name": "mer"}
    known = {**defaults, **given, **settings.parameters, "options": options}
    return make_conninfo("", **({**_compiled_in(), **known} if settings.hermetic else known))


def _compiled_in() -> dict[str, str]:
    # every keyword that has an environment variable, set to what it is without one: an empty value is a value to libpq
    known = {
        option.keyword.decode(): (option.compiled or b"").decode()
        for option in Conninfo.get_defaults()
        if option.envvar
    }
    # an empty service is one that nobody defined: service.py
    return {keyword: PRIVATE_SOCKET.get(keyword, value) for keyword, value in known.items() if keyword != "service"}
