"""Makes connections: once, or for as long as a server that was there may take to come back."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo
from psycopg.rows import TupleRow

from mer.core.errors import ConfigurationError, DatabaseUnreachable, MerError
from mer.dal.postgres.backoff import Random, pauses
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.errors import StillStarting
from mer.dal.postgres.refusal_state import state_of, unread
from mer.dal.postgres.refusals import translate_connecting
from mer.dal.postgres.service import no_service
from mer.dal.postgres.session import GRACE_SECONDS, Connection

STARTING_SECONDS = 60.0
"""How long to go on asking a server that says it is starting: a recovery of 1.8 GB took 11 s."""

LOCK_SHARE = 0.8
"""Of the statement's deadline: waiting for a lock ends first, and says that it was a lock."""

Start = Callable[[], object]

# psycopg tells of every failed attempt; those that matter arrive as errors where somebody waits for them
logging.getLogger("psycopg").addHandler(logging.NullHandler())


class Connector:
    """Makes the connections of one login; `start` starts an embedded server that does not run (it blocks)."""

    def __init__(
        self, settings: ConnectionSettings, *, start: Start | None = None, random: Random = random.random
    ) -> None:
        self._settings = settings
        self._start = start
        self._random = random
        self._class = _HermeticConnection if settings.hermetic else psycopg.AsyncConnection[TupleRow]

    async def connect(self, *, patient: bool) -> Connection:
        """Return a new connection.

        A server that says it is starting is asked for STARTING_SECONDS; where `patient`, one that does not answer or
        takes no more connections is asked for the settings' `reconnect_seconds`.

        Raises:
            AuthenticationFailed: the login, or the server's certificate, is refused.
            ConfigurationError: no such database, no TLS, or a URL that is none.
            DatabaseUnreachable, Busy: as the last try says.
        """
        clock = asyncio.get_running_loop().time
        began, tries = clock(), 0
        for pause in self.pauses():
            try:
                return await self._once(clock() - began, patient=patient)
            except MerError as error:
                tries += 1
                if isinstance(error, DatabaseUnreachable) and self._start and tries == 1:
                    await asyncio.to_thread(self._start)
                    continue
                longest = self._settings.reconnect_seconds if patient and error.retryable else 0.0
                if isinstance(error, StillStarting):
                    longest = max(longest, STARTING_SECONDS)
                waited = clock() - began
                if waited + pause > longest:
                    if tries == 1:
                        raise
                    words = f"{error.message} (asked {tries} times in {waited:.0f} s)"
                    raise type(error)(words, hint=error.hint) from error
            await asyncio.sleep(pause)
        raise AssertionError("pauses have no end")

    def pauses(self) -> Iterator[float]:
        """Give the seconds to wait before each further try."""
        return pauses(self._random)

    async def _once(self, waited: float, *, patient: bool) -> Connection:
        asked = self._conninfo()
        seconds = self._longest_try(asked)
        if patient:
            seconds = min(seconds, max(self._settings.reconnect_seconds - waited, GRACE_SECONDS))
        try:
            async with asyncio.timeout(seconds):
                return await self._class.connect(asked, autocommit=True)
        except (psycopg.OperationalError, UnicodeError) as error:
            state = await asyncio.to_thread(state_of, asked) if unread(error) else None
            raise translate_connecting(error, self._settings.shown, state=state) from error
        except TimeoutError as error:
            raise DatabaseUnreachable(f"{self._settings.shown} took no connection within {seconds:.0f} s") from error

    def _longest_try(self, asked: str) -> float:
        """Return when to give up even where psycopg does not: it bounds each host, and not the look-up of its name."""
        known = conninfo_to_dict(asked)
        hosts = str(known.get("host") or known.get("hostaddr") or "").count(",") + 1
        try:
            return timeout_from_conninfo(known) * hosts + GRACE_SECONDS
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"{self._settings.shown} is named with a value that is none: {error}") from error

    def _conninfo(self) -> str:
        milliseconds = max(1, round(self._settings.statement_seconds * 1000))
        return conninfo(
            self._settings,
            statement_timeout=str(milliseconds),
            lock_timeout=str(max(1, round(milliseconds * LOCK_SHARE))),
            idle_in_transaction_session_timeout=str(milliseconds),  # who stops holding a lock would stop everybody
            default_transaction_isolation=r"read\ committed",  # the append function takes no other
            timezone="UTC",
        )


class _HermeticConnection(psycopg.AsyncConnection[TupleRow]):
    @classmethod
    async def connect(cls, conninfo: str = "", **rest: Any) -> Self:
        with no_service(hermetic=True):
            return await super().connect(conninfo, **rest)
