"""The state of a database: whether it is there, what it says of itself, what is in it. Nothing is started or migrated."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import msgspec

from mer.core.chain import Head
from mer.core.errors import MerError, RecordNotFound
from mer.dal.base import SCHEMA, Store
from mer.dal.description import Description
from mer.dal.filling import Filling
from mer.dal.open import reach_store
from mer.dal.times import record_time
from mer.setting_kinds import without_password
from mer.settings import Settings


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """The embedded PostgreSQL's process and places."""

    running: bool
    pid: int | None
    data: Path
    socket: Path
    log: Path
    idle_seconds: float
    """It stops when nobody was connected to it for so long."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a database that is migrated."""

    chain: str
    records: int
    head: Head
    oldest: dt.datetime | None
    """When the first record was made."""
    filling: Filling | None
    """Where a copy or a restore into it has not ended."""
    open_invocations: int
    drivers: int
    """Leases: drivers that live, or have ended without a word."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One database. What is None could not be told, and `fault` says why."""

    database: str
    embedded: Embedded | None = None
    description: Description | None = None
    schema: int | None = None
    """The number of the newest migration that was applied to it."""
    schema_needed: int = SCHEMA
    contents: Contents | None = None
    content: Path
    """The content store of this machine: packages and weights. It is no part of the database, nor of a backup."""
    fault: MerError | None = None

    @property
    def current(self) -> bool:
        """Whether this program can work with it."""
        return self.schema == self.schema_needed


async def status(settings: Settings) -> Status:
    """Look at the settings' database as far as it lets itself be looked at. Raises: ConfigurationError."""
    content = settings.state_folder / "content"
    embedded = None
    if not settings.database_url:
        from mer.dal.postgres.embedded import SHOWN

        embedded = await asyncio.to_thread(_embedded, settings)
        if not embedded.running:
            return Status(database=SHOWN, embedded=embedded, content=content)
    elif (folder := _folder(settings.database_url)) and not folder.exists():
        return Status(database=settings.database_url, content=content)
    store: Store | None = None
    name, description, schema, contents = without_password(settings.database_url), None, None, None
    fault: MerError | None = None
    try:
        store = await reach_store(settings)
        name = store.name
        description = await store.describe()
        schema = await store.schema()
        if schema == SCHEMA:
            contents = await _contents(store)
    except MerError as error:
        fault = error
    finally:
        if store is not None:
            await store.close()
    return Status(
        database=name,
        embedded=embedded,
        description=description,
        schema=schema,
        contents=contents,
        content=content,
        fault=fault,
    )


async def _contents(store: Store) -> Contents:
    log = store.access_log
    head = await log.head()
    try:
        oldest = record_time(str((await log.get(1)).columns["at"]))
    except (RecordNotFound, ValueError):
        oldest = None
    return Contents(
        chain=await log.chain(),
        records=head.seq,
        head=head,
        oldest=oldest,
        filling=await store.filling(),
        open_invocations=len(await log.unfinished()),
        drivers=len(await store.leases.all()),
    )


def _embedded(settings: Settings) -> Embedded:
    from mer.dal.postgres.embedded import EmbeddedPostgres

    found = EmbeddedPostgres(settings.state_folder, settings.socket_folder).status()
    return Embedded(
        running=found.running,
        pid=found.pid,
        data=found.data,
        socket=found.socket,
        log=found.log,
        idle_seconds=settings.database_idle_seconds,
    )


def _folder(url: str) -> Path | None:
    """Return the folder of a SurrealDB in one; to look whether it is there must not make it."""
    scheme, _, rest = url.partition("://")
    return Path(rest) if scheme == "surrealkv" else None
