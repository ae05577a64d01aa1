"""Whole databases: copied, backed up, restored, described. What `mer db` and a Python program call.

Unlike `Mer` it works on settings, not on what is open: two databases at once, or one that cannot be opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from mer.audit.log import AuditLog
from mer.audit.recorder import Recorder
from mer.core.actor import Actor
from mer.core.chain import Checkpoint, Head
from mer.core.errors import Busy, ChangesNotAllowed, LogNotVerified, NotFound, NotMigrated, UsageError
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.filling import Filling
from mer.dal.open import open_store
from mer.execution.claims import claimed
from mer.execution.drivers import Driver, Drivers
from mer.execution.finishes import Finishes
from mer.execution.journal import Journal
from mer.execution.leases import DEAD_AFTER_SECONDS
from mer.moving.backup_lines import End, Heading
from mer.moving.backup_reading import opened_backup
from mer.moving.backup_writing import stream_backup, write_backup
from mer.moving.log import Progress
from mer.moving.lost import record_lost
from mer.moving.nouns import nouns_of
from mer.moving.source import Source, StoreSource
from mer.moving.transfer import transfer
from mer.registry.changes import ALLOW
from mer.setting_kinds import without_password
from mer.settings import Settings


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved, and that the whole log was read again where it is now and verified."""

    records: int
    """Moved by this one; fewer than the log has where an earlier one was cut."""
    registered: int
    """Things in the registry: servers, models, versions, and so on."""
    lost: int
    """Invocations that were open and are recorded as lost now: nobody will finish them here."""
    gone_on: bool
    """Whether all of it was there already, and more behind it: then nothing was changed."""
    complete: bool
    """Whether the source is out of use; False where it was copied while drivers live on it."""
    chain: str
    head: Head


async def copy(
    source: Settings,
    destination: Settings,
    *,
    actor: Actor,
    ahead: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Copy a database into an empty one, or go on with a copy that was cut.

    With `ahead` drivers may live on the source: what is there is copied, and the same call without it, once they have
    ended, brings the rest.

    Raises:
        Busy: drivers live on one of the two. DatabaseNotEmpty: the destination holds something else.
        LogNotVerified: a record does not hold, in either. NotMigrated, ChangesNotAllowed, Unreachable.
    """
    _require_allowed(destination)
    if source.database_url == destination.database_url:
        raise UsageError("both are the same database")
    async with _opened(source) as old, _destined(destination, actor) as new:
        if not ahead:
            await _require_unused(
                old, "It would go on writing there. --ahead copies what is there now, the rest later."
            )
        told = await _bring(StoreSource(old), new, destination, actor=None if ahead else actor, progress=progress)
        if not ahead:
            # whoever began meanwhile was not asked to leave
            await _require_unused(old, "It began during the copy. Run it again once it has ended.")
            await new.end_filling()
        return told


class Abandoned(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy or a restore that was given up has left; its log was read and verified."""

    database: str
    filling: Filling
    chain: str
    head: Head
    registered: int


async def abandon(destination: Settings, *, actor: Actor, progress: Progress | None = None) -> Abandoned:
    """Give up the copy or the restore into a database that was cut: whoever comes next uses what is there.

    Invocations that were open where it came from are recorded as lost.

    Raises:
        NotFound: nothing fills it. Busy: somebody brings something there now, or drivers live there.
        LogNotVerified: what has come does not hold; the mark stays. NotMigrated, ChangesNotAllowed, Unreachable.
    """
    _require_allowed(destination)
    async with _destined(destination, actor) as store:
        found = await store.filling()
        if found is None:
            raise NotFound(f"nothing fills {store.name}: no copy into it was cut", hint="mer db status")
        chain, at = await store.access_log.chain(), await store.access_log.head()
        await _verified(store, Checkpoint(chain=chain, seq=at.seq, digest=at.digest), progress)
        await store.begin_filling(found.source)
        await record_lost(store, actor=actor, clock=_now, why=f"the copy from {found.source} was given up")
        registered = len([noun async for noun in nouns_of(store)])
        await store.end_filling()
        head = await store.access_log.head()
        return Abandoned(database=store.name, filling=found, chain=chain, head=head, registered=registered)


async def backup(
    source: Settings, file: Path, *, force: bool = False, progress: Progress | None = None
) -> tuple[Heading, End]:
    """Write a database into one file, as it is at one moment; drivers may live on it meanwhile.

    Raises:
        AlreadyExists, ContentUnwritable, LogNotVerified, NotMigrated, Unreachable
    """
    async with _opened(source) as store:
        return await write_backup(StoreSource(store), file, clock=_now, force=force, progress=progress)


async def backup_stream(
    source: Settings, write: Callable[[bytes], None], *, progress: Progress | None = None
) -> tuple[Heading, End]:
    """Give a backup to `write`, piece by piece. One that failed has no end, and a restore refuses it.

    Raises:
        ContentUnwritable, LogNotVerified, NotMigrated, Unreachable; what `write` raises.
    """
    async with _opened(source) as store:
        return await stream_backup(StoreSource(store), write, clock=_now, progress=progress)


async def restore(
    file: Path, destination: Settings, *, actor: Actor, progress: Progress | None = None
) -> tuple[Heading, Moved]:
    """Check a backup whole, then bring it into an empty database, or go on with a restore that was cut.

    Raises:
        BackupInvalid, LogNotVerified, UsageError: nothing was written. DatabaseNotEmpty, Busy, ChangesNotAllowed, Unreachable.
    """
    _require_allowed(destination)
    read = (lambda done, total: progress("checked", done, total)) if progress else None
    async with contextlib.AsyncExitStack() as closing:
        checked = await asyncio.to_thread(closing.enter_context, opened_backup(file, progress=read))
        store = await closing.enter_async_context(_destined(destination, actor))
        told = await _bring(checked, store, destination, actor=actor, progress=progress)
        await store.end_filling()
        return checked.heading, told


async def _bring(
    source: Source, store: Store, settings: Settings, *, actor: Actor | None, progress: Progress | None
) -> Moved:
    """Bring the source, settle what was open in it (unless nobody is the `actor`), and verify the log where it is now.

    The destination is still marked as being filled then.
    """
    transferred = await transfer(source, store, progress=progress)
    lost = 0
    if actor:
        recorder = Recorder(store.access_log, clock=_now)
        # a finish that waits on this machine belongs to this log: after it, its invocation is none that was lost
        await Finishes(recorder, Journal(settings.state_folder / "journal")).take_up()
        lost = await record_lost(
            store, actor=actor, clock=_now, why="its driver did not come along when the database was moved"
        )
        await recorder.drain()
    head = await _verified(store, transferred.checkpoint, progress)
    return Moved(
        records=transferred.records,
        registered=transferred.registered,
        lost=lost,
        gone_on=transferred.gone_on,
        complete=actor is not None,
        chain=transferred.checkpoint.chain,
        head=head,
    )


async def _verified(store: Store, checkpoint: Checkpoint, progress: Progress | None) -> Head:
    total = (await store.access_log.head()).seq
    told = (lambda done: progress("verified", done, total)) if progress else None
    found = await AuditLog(store).verify(since=checkpoint, progress=told)
    if not found.sound:
        fault = found.faults[0]
        raise LogNotVerified(
            f"the log that has come to {store.name} does not verify: record {fault.seq}: {fault.what}",
            hint="Use the old one on. What is wrong with the new one, `mer log verify` tells there.",
        )
    return found.head


@contextlib.asynccontextmanager
async def _opened(settings: Settings, *, fills: bool = False) -> AsyncIterator[Store]:
    try:
        store = await open_store(settings, fills=fills)
    except NotMigrated as error:
        shown = without_password(settings.database_url)
        raise NotMigrated(error.message, hint=f"DB_CONNECTION_URL={shown} mer-migrate upgrade") from error
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _destined(settings: Settings, actor: Actor) -> AsyncIterator[Store]:
    """Open a database to bring something to it, and claim it first, so that of two copies at once none begins unseen."""
    async with _opened(settings, fills=True) as store, claimed(store, actor=actor, clock=_now) as claim:
        await _require_unused(
            store,
            "It would go on under the chain that it knows, or brings something there itself.",
            but=claim,
        )
        yield store


async def _require_unused(store: Store, why: str, *, but: LeaseId | None = None) -> None:
    living = [driver for driver in await Drivers(store).living() if _lives(driver) and driver.lease.id != but]
    if living:
        who = ", ".join(f"pid {each.lease.pid} of {each.lease.actor} on {each.lease.host}" for each in living[:5])
        raise Busy(
            f"{'a driver lives' if len(living) == 1 else f'{len(living)} drivers live'} on {store.name}: {who}. {why}",
            hint="`mer driver stop` asks your own drivers to finish; `mer driver list` shows them all.",
        )


def _lives(driver: Driver) -> bool:
    return not driver.dead and (driver.here or driver.silent_seconds <= DEAD_AFTER_SECONDS)


def _require_allowed(settings: Settings) -> None:
    if not settings.allow_changes:
        raise ChangesNotAllowed(hint=ALLOW)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
