"""A connection for migrations: waits long for locks, and a statement takes as long as it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import psycopg

from mer.dal.postgres.connecting import STARTING_SECONDS
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.errors import StillStarting, translate
from mer.dal.postgres.refusal_state import state_of, unread
from mer.dal.postgres.refusals import translate_connecting
from mer.dal.postgres.service import no_service

LOCK_SECONDS = 60.0
"""How long to wait while another program migrates, and for tables that others use."""

GONE_CHECK = "2s"
"""How often a server looks whether the client of a waiting statement is still there: a migration whose program was killed
must not go on holding the lock while it waits for a table."""

PAUSE_SECONDS = 0.1

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def connected(login: ConnectionSettings) -> Iterator[Connection]:
    """Give a connection where each statement is a transaction of its own.

    Raises:
        DatabaseUnreachable, AuthenticationFailed, and what errors.translate says of a statement.
    """
    connection = _connect(login)
    try:
        yield connection
    except psycopg.Error as error:
        raise translate(error, login.shown, {}) from error
    finally:
        connection.close()


def _connect(login: ConnectionSettings) -> Connection:
    until = time.monotonic() + STARTING_SECONDS
    # nothing of ours needs a search_path, and what somebody left in one can stand in for what we mean
    asked = conninfo(login, statement_timeout="0", timezone="UTC", search_path="pg_catalog")
    while True:
        try:
            with no_service(hermetic=login.hermetic):
                connection = psycopg.connect(asked, autocommit=True)
            with suppress(psycopg.Error):  # from PostgreSQL 14 on, and not on every system
                connection.execute("SELECT set_config('client_connection_check_interval', %s, false)", (GONE_CHECK,))
            return connection
        except (psycopg.OperationalError, UnicodeError) as error:
            translated = translate_connecting(error, login.shown, state=state_of(asked) if unread(error) else None)
            if not isinstance(translated, StillStarting) or time.monotonic() > until:
                raise translated from error
            time.sleep(PAUSE_SECONDS)
