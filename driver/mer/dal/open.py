"""Opens the store that the settings name: the one place that knows which driver a URL means.

An embedded database that is behind is migrated here, by a child `mer-migrate` under the owner's login; a server is
migrated by whoever runs it, and this says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from mer.core.errors import ConfigurationError, DatabaseUnreachable, NotMigrated
from mer.dal.base import Store
from mer.dal.filling import being_filled
from mer.dal.migrate import upgrade_embedded

if TYPE_CHECKING:
    from mer.dal.postgres.connection_settings import ConnectionSettings
    from mer.dal.postgres.embedded import EmbeddedPostgres
    from mer.settings import Settings


async def open_store(settings: Settings, *, fills: bool = False) -> Store:
    """Return the settings' store, opened and migrated; one that is being filled only to who `fills` it, and to an auditor.

    Raises:
        BeingFilled: a copy or a restore into it has not ended.
        ConfigurationError: the URL is none of a database, or a folder cannot be used.
        NotMigrated: a server is behind, or a database is newer than this program.
        DatabaseUnreachable, AuthenticationFailed, DatabaseLocked.
    """
    make, embedded = await _driver(settings)
    store = await make()
    try:
        await store.open()
    except NotMigrated:
        if not embedded:
            raise
        await upgrade_embedded(settings)
        store = await make()
        await store.open()
    if not (fills or settings.auditor):
        await _require_whole(store)
    return store


async def _require_whole(store: Store) -> None:
    try:
        if found := await store.filling():
            raise being_filled(store.name, found)
    except BaseException:
        await store.close()
        raise


async def reach_store(settings: Settings) -> Store:
    """Return the settings' store as it is: not opened yet, and neither started nor migrated.

    Raises:
        ConfigurationError: the URL is none of a database. DatabaseUnreachable: the embedded one does not run.
    """
    make, _ = await _driver(msgspec.structs.replace(settings, start_database=False))
    return await make()


async def _driver(settings: Settings) -> tuple[Callable[[], Awaitable[Store]], bool]:
    """Return how to make the store, and whether its database is this user's own. Drivers are imported when they are needed."""
    scheme = settings.database_url.partition(":")[0]
    match scheme:
        case "":
            from mer.dal.postgres.embedded import EmbeddedPostgres

            server = EmbeddedPostgres(
                settings.state_folder, settings.socket_folder, idle_seconds=settings.database_idle_seconds
            )
            return lambda: _embedded(server, settings), settings.start_database
        case "postgresql" | "postgres":
            from mer.dal.postgres.connection_settings import ConnectionSettings
            from mer.dal.postgres.store import PostgresStore

            if settings.auditor and not settings.auditor_username:
                # whoever stands in the URL is the driver, most likely: that would be no auditor's login
                raise ConfigurationError(
                    "nothing says whom an auditor logs in as",
                    hint="Give AUDITOR_DB_USERNAME and AUDITOR_DB_PASSWORD.",
                )
            login = ConnectionSettings.from_url(
                settings.database_url,
                username=settings.auditor_username if settings.auditor else settings.driver_username,
                password=settings.auditor_password if settings.auditor else settings.driver_password,
                statement_seconds=settings.database_seconds,
                reconnect_seconds=settings.database_reconnect_seconds,
                most_pooled=settings.database_connections,
            )
            return _made(lambda: PostgresStore(login)), False
        case "ws" | "wss" | "http" | "https":
            from mer.dal.surreal.login import Login, Role
            from mer.dal.surreal.store import SurrealStore

            record = Login(
                role=Role.AUDITOR if settings.auditor else Role.DRIVER,
                name=settings.auditor_username if settings.auditor else settings.driver_username,
                password=settings.auditor_password if settings.auditor else settings.driver_password,
            )
            return (
                _made(
                    lambda: SurrealStore(
                        settings.database_url,
                        login=record,
                        statement_seconds=settings.database_seconds,
                        lock_seconds=settings.lock_seconds,
                        reconnect_seconds=settings.database_reconnect_seconds,
                    )
                ),
                False,
            )
        case "surrealkv" | "mem":
            from mer.dal.surreal.store import SurrealStore

            if settings.auditor:
                raise ConfigurationError("SurrealDB inside a process has no users, and so no auditor")
            return (
                _made(
                    lambda: SurrealStore(
                        settings.database_url,
                        statement_seconds=settings.database_seconds,
                        lock_seconds=settings.lock_seconds,
                    )
                ),
                scheme == "surrealkv",
            )
    raise ConfigurationError(
        f"{scheme}: is no database that this program knows",
        hint="DB_CONNECTION_URL is empty, postgresql://…, surrealkv://PATH, mem:// or ws://HOST.",
    )


def _made(make: Callable[[], Store]) -> Callable[[], Awaitable[Store]]:
    async def made() -> Store:
        return make()

    return made


async def _embedded(server: EmbeddedPostgres, settings: Settings) -> Store:
    """Return a store on the embedded server, which runs until the store is closed."""
    from mer.dal.postgres.store import PostgresStore

    if settings.start_database:
        await asyncio.to_thread(server.ensure_running)
        return PostgresStore(_login(server, settings), start=server.ensure_running, closed=server.leave)
    if not await asyncio.to_thread(server.enter):
        raise DatabaseUnreachable(
            "the embedded PostgreSQL does not run, and MER_START_DATABASE forbids to start it",
            hint="start_mer.sh starts it",
        )
    return PostgresStore(_login(server, settings), closed=server.leave)


def _login(server: EmbeddedPostgres, settings: Settings) -> ConnectionSettings:
    login = server.auditor if settings.auditor else server.driver
    return login(statement_seconds=settings.database_seconds)
