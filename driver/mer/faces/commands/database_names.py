"""A database as FROM and TO name it: `embedded`, or a URL whose password comes from anywhere but the command line."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import msgspec

from mer.core.errors import UsageError
from mer.setting_kinds import Kind, read, without_password
from mer.settings import Settings

EMBEDDED = "embedded"


def named(text: str, settings: Settings, *, side: str, environ: Mapping[str, str]) -> Settings:
    """Return the settings under which that database is opened; `side` is FROM or TO.

    The login is the settings' own (DRIVER_DB_USERNAME, DRIVER_DB_PASSWORD), unless the URL names a user, or SIDE_DB_USERNAME
    does. Another user's password is SIDE_DB_PASSWORD, or is left to libpq (PGPASSWORD, ~/.pgpass).

    Raises:
        UsageError: the text is none, or holds a password.
    """
    if text in ("", EMBEDDED):
        return msgspec.structs.replace(settings, database_url="")
    try:
        url: str = read(Kind.URL, text)
    except ValueError as error:
        raise UsageError(f"{side} {text[:80]!r}: {EMBEDDED} or {error} is meant") from error
    if without_password(url) != url:
        raise UsageError(
            f"{side} holds a password, which everybody on this machine can see in the list of processes",
            hint=f"Give it as {side}_DB_PASSWORD in the environment, as DRIVER_DB_PASSWORD, or in ~/.pgpass.",
        )
    parts = urlsplit(url)
    own = settings.driver_username, settings.driver_password
    user = unquote(parts.username or "") or environ.get(f"{side}_DB_USERNAME") or own[0]
    password = environ.get(f"{side}_DB_PASSWORD") or (own[1] if user == own[0] else "")
    # not put together again by urlunsplit, which drops the // before an empty host: that is a socket's
    without_user = url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1) if parts.username else url
    return msgspec.structs.replace(
        settings, database_url=without_user, driver_username=user, driver_password=password, auditor=False
    )
