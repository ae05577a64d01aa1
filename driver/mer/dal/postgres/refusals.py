"""Why no connection came about: libpq tells it in words alone, so that here, and here only, words are looked at.

A server whose words are not English is asked for the state besides (refusal_state.py).

docs/decisions/07-reconnecting.md says which exit code each has, and why.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from mer.core.errors import AuthenticationFailed, Busy, ConfigurationError, DatabaseUnreachable, MerError
from mer.dal.postgres.errors import StillStarting, translate

MAX_TOLD = 600
"""Characters of why no connection came about: with several hosts, libpq tells of each."""


CHOICES = (
    *("sslmode", "sslcertmode", "sslnegotiation", "gssencmode", "require_auth", "channel_binding"),
    *("target_session_attrs", "load_balance_hosts", "min_protocol_version", "max_protocol_version"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
)
"""libpq's keywords that take one of a few words."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One reason for which there is no connection, by the words of libpq's or of the server's that tell it.

    `states` are those of the server, or their classes.
    """

    words: tuple[str, ...]
    states: tuple[str, ...] = ()
    kind: type[MerError]
    meaning: str
    hint: str | None = None


REFUSALS = (
    # first what names a cause within what is also said of others
    Refusal(
        words=("certificate verify failed", "does not match host name", "could not get server's host name"),
        kind=AuthenticationFailed,
        meaning="did not prove that it is the one that is meant",
        hint=(
            "Its certificate is for another host, has expired, or is signed by none of `sslrootcert`. "
            "`openssl s_client -starttls postgres -showcerts -connect HOST:PORT` shows it."
        ),
    ),
    Refusal(
        words=("root certificate", "certificate file", "private key file", "certificate revocation list"),
        kind=ConfigurationError,
        meaning="cannot be verified, for a file is missing or cannot be used",
        hint="`sslrootcert` in the URL or PGSSLROOTCERT names the file of the authority that signed the server's certificate.",
    ),
    Refusal(
        words=("server does not support SSL",),
        kind=ConfigurationError,
        meaning="offers no TLS, which the URL or PGSSLMODE asks for",
        hint="Turn `ssl` on in that server's configuration; sslmode=disable only where nobody can listen.",
    ),
    Refusal(
        words=("no encryption",),
        kind=AuthenticationFailed,
        meaning="takes this login with TLS only",
        hint="Give sslmode=verify-full and sslrootcert=FILE in the URL.",
    ),
    Refusal(
        words=(
            "authentication failed",
            "no password supplied",
            "no pg_hba.conf entry",
            "pg_hba.conf rejects",
            "is not permitted to log in",
            "permission denied for database",
            "authentication method requirement",
        ),
        states=("28", "42501"),
        kind=AuthenticationFailed,
        meaning="did not accept the login",
        hint=(
            "DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD say who `mer` is, MIGRATIONS_DB_… who `mer-migrate` is; "
            "what they leave out is taken from the URL, PG* variables and ~/.pgpass."
        ),
    ),
    Refusal(
        words=("is starting up", "shutting down", "not yet accepting connections", "in recovery mode"),
        states=("57P",),
        kind=StillStarting,
        meaning="is starting or stopping",
    ),
    Refusal(
        words=("too many clients already", "connection slots are reserved", "too many connections for"),
        states=("53300",),
        kind=Busy,
        meaning="takes no more connections",
        hint="Try later; `max_connections` of the server, or the limit of the role or the database, says how many.",
    ),
    Refusal(
        words=('" does not exist',),
        states=("3D000",),
        kind=ConfigurationError,
        meaning="is not there",
        hint="Its name stands at the end of the URL. CREATE DATABASE makes one, `mer-migrate upgrade` fills it.",
    ),
    Refusal(
        words=("definition of service", "service file"),
        kind=ConfigurationError,
        meaning="is named by a service that cannot be read",
        hint="PGSERVICE, or service= in the URL, means an entry of ~/.pg_service.conf.",
    ),
    Refusal(
        words=(
            *(f"invalid {word} value" for keyword in CHOICES for word in (keyword, f'"{keyword}"')),
            "invalid integer value",
            "invalid port number",
            "Servname not supported",  # a port that is no number, where the host is a name
            "port numbers to",  # several hosts, and fewer ports
            "invalid connection option",
            "could not parse network address",
            "Unix-domain socket path",  # too long
            "weak sslmode",
        ),
        kind=ConfigurationError,
        meaning="is named with a value that is none",
    ),
)
"""The first that fits."""


def told(error: psycopg.OperationalError) -> str:
    """Return libpq's words, on one line."""
    return " ".join(str(error).split()).removeprefix("connection failed: ")


def translate_connecting(
    error: psycopg.OperationalError | UnicodeError, shown: str, *, state: str | None = None
) -> MerError:
    """Return what it means that no connection came about; `state` is the server's, where its words are not known."""
    if isinstance(error, UnicodeError):  # psycopg looks hosts up itself, and passes on what Python says of `a..b`
        return ConfigurationError(f"{shown} is named with a host that is none: {error}")
    if error.sqlstate:
        return translate(error, shown, {})
    words = told(error)
    for refusal in REFUSALS:
        if any(each in words for each in refusal.words) or (state and state.startswith(refusal.states)):
            return refusal.kind(f"{shown} {refusal.meaning}: {_shortened(words)}", hint=refusal.hint)
    return DatabaseUnreachable(
        f"{shown} cannot be reached: {_shortened(words)}", hint="Is it running, and do host and port stand in the URL?"
    )


def _shortened(told: str) -> str:
    return told if len(told) <= MAX_TOLD else f"{told[:MAX_TOLD]}…"
