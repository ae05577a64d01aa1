"""The connection string of a login, as libpq reads it."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from mer.core.errors import ConfigurationError
from mer.dal.postgres.connection_settings import ConnectionSettings

CONNECT_SECONDS = 10
"""How long to wait for a server to take a new connection, where nothing else says; a closed port answers at once."""

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

    What neither the URL nor `settings` says, libpq takes from PG* variables, a service and ~/.pgpass, as psql does.

    Raises:
        ConfigurationError: the URL is none of PostgreSQL's.
    """
    try:
        given = conninfo_to_dict(settings.url)
    except (psycopg.ProgrammingError, UnicodeDecodeError):  # the second: %FF is half a letter
        raise ConfigurationError(
            f"{settings.shown} is no PostgreSQL URL: postgresql://HOST:PORT/DATABASE"
        ) from None  # its text holds the URL
    surroundings = {} if settings.hermetic else _from_surroundings()
    flags = [f"-c {name}={value}" for name, value in session.items()]
    # what is given by name takes the place of PGOPTIONS, so that those are said again; the last of two holds
    theirs = given.get("options") or surroundings.get("options")
    options = " ".join([*flags, *([str(theirs)] if theirs else [])])
    known = {
        "fallback_application_name": "mer",
        "connect_timeout": surroundings.get("connect_timeout", str(CONNECT_SECONDS)),
        **given,
        **settings.parameters,
        "options": options,
        "client_encoding": "UTF8",  # a record's digest is of these bytes, whatever PGCLIENTENCODING says
    }
    return make_conninfo("", **({**_compiled_in(), **known} if settings.hermetic else known))


def _from_surroundings() -> dict[str, str]:
    """Return what PG* variables and the service of PGSERVICE say; one that is not defined is libpq's to refuse."""
    return {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.get_defaults()
        if option.val and option.val != option.compiled
    }


def _compiled_in() -> dict[str, str]:
    # every keyword that has an environment variable, set to what it is without one: an empty value is a value to libpq
    known = {
        option.keyword.decode(): (option.compiled or b"").decode()
        for option in Conninfo.get_defaults()
        if option.envvar
    }
    # an empty service is one that nobody defined: service.py
    return {keyword: PRIVATE_SOCKET.get(keyword, value) for keyword, value in known.items() if keyword != "service"}
