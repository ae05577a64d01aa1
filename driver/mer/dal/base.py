"""What every store can do: the contract that memory, Postgres and SurrealDB keep (tests/contract/test_store.py).

Errors are mer's own: DatabaseUnreachable, AuthenticationFailed, NotMigrated, ConcurrentChange (a retry helps), AlreadyExists
and the NotFound of each noun. Every call has a deadline of its own from the store's settings, so none can hang.
Lists are paged by key, never by offset: a page does not shift while others write.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mer.core.chain import Head, Verifier
from mer.core.records import (
    PAGE,
    AccessFilter,
    AccessRecord,
    AliasMove,
    InvocationId,
    Lease,
    LeaseId,
    Model,
    ModelId,
    OpenInvocation,
    Page,
    Placement,
    Retirement,
    Server,
    ServerId,
    Version,
    Weights,
    WeightsId,
    WeightsVersion,
)
from mer.dal.description import Description
from mer.dal.filling import Filling

SCHEMA = 0
"""The number of the newest migration: the schema that this program needs. 00 counts."""


class Servers(Protocol):
    """Servers, by name. Names are unique, retired ones included."""

    async def add(self, server: Server) -> None:
        """Raises: AlreadyExists."""

    async def get(self, name: str) -> Server:
        """Return it, retired or not. Raises: ServerNotFound."""

    async def replace(self, server: Server) -> None:
        """Store the record of that id anew. Raises: ServerNotFound, AlreadyExists (another has the name)."""

    async def page(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[Server]:
        """List by name; `after` is the last name of the page before. With `retired`, those too."""


class Models(Protocol):
    """Models with their versions and aliases."""

    async def add(self, model: Model) -> None:
        """Raises: AlreadyExists."""

    async def get(self, name: str) -> Model:
        """Return it, retired or not. Raises: ModelNotFound."""

    async def replace(self, model: Model) -> None:
        """Store the record of that id anew. Raises: ModelNotFound, AlreadyExists."""

    async def page(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[Model]:
        """List by name."""

    async def add_version(self, version: Version) -> None:
        """Store a version under its number. It can never be changed or removed. Raises: ConcurrentChange (number taken)."""

    async def version(self, model: ModelId, number: int) -> Version:
        """Raises: VersionNotFound."""

    async def latest_version(self, model: ModelId) -> int:
        """Return the highest number, retired ones included; 0 where there is none."""

    async def versions(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[Version]:
        """List newest first; `after` is a number as text."""

    async def retire_version(self, retirement: Retirement) -> None:
        """Raises: VersionNotFound. Retiring twice keeps the first."""

    async def retirements(self, model: ModelId) -> tuple[Retirement, ...]:
        """Return those of all its versions, by number."""

    async def move_alias(self, move: AliasMove) -> None:
        """Append a move. Raises: ConcurrentChange (that move is taken), VersionNotFound."""

    async def alias(self, model: ModelId, alias: str) -> AliasMove:
        """Return its newest move. Raises: AliasNotFound where it has none, or means nothing any more."""

    async def last_move(self, model: ModelId, alias: str) -> int:
        """Return the number of its newest move; 0 where it has none."""

    async def aliases(self, model: ModelId) -> tuple[AliasMove, ...]:
        """Return the newest move of every alias that means something, by name."""

    async def alias_history(self, model: ModelId, *, after: str | None = None, limit: int = PAGE) -> Page[AliasMove]:
        """List the moves of all its aliases, newest first (by time, then alias, then move)."""


class WeightsRepository(Protocol):
    """Weights and their versions."""

    async def add(self, weights: Weights) -> None:
        """Raises: AlreadyExists."""

    async def get(self, name: str) -> Weights:
        """Return it, retired or not. Raises: WeightsNotFound."""

    async def replace(self, weights: Weights) -> None:
        """Store the record of that id anew. Raises: WeightsNotFound, AlreadyExists."""

    async def page(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[Weights]:
        """List by name."""

    async def add_version(self, version: WeightsVersion) -> None:
        """Raises: ConcurrentChange (number taken)."""

    async def version(self, weights: WeightsId, number: int) -> WeightsVersion:
        """Raises: VersionNotFound."""

    async def latest_version(self, weights: WeightsId) -> int:
        """Return the highest number; 0 where there is none."""

    async def versions(
        self, weights: WeightsId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[WeightsVersion]:
        """List newest first; `after` is a number as text."""


class Placements(Protocol):
    """Which model runs where. One placement for a model and a server."""

    async def put(self, placement: Placement) -> None:
        """Store it, in place of the one of the same model and server if there is one."""

    async def remove(self, model: ModelId, server: ServerId) -> None:
        """Raises: PlacementNotFound."""

    async def of_model(self, model: ModelId) -> tuple[tuple[Placement, Server], ...]:
        """Return its placements with their servers, retired ones too, by the server's name."""

    async def of_server(
        self, server: ServerId, *, after: str | None = None, limit: int = PAGE
    ) -> Page[tuple[Placement, Model]]:
        """List what is placed there, by the model's name."""


class AccessLog(Protocol):
    """The chain of access records. Nothing in it can be changed or removed.

    `append` derives the columns of core.chain.COLUMNS from each body and keeps the open invocations: a `started` opens
    one, a `finished` closes it. Appending the same (invocation, kind) again is no fault and appends nothing: a retry
    after a lost acknowledgement is safe. Its place says whether another body stands there (Head.other). `change`
    records have no invocation.
    """

    async def chain(self) -> str:
        """Return the chain's UUID, made by the first migration."""

    async def adopt_chain(self, chain: str) -> None:
        """Take over the name of another database's chain, whose records come next. Its own name again is no fault.

        No record may be there: its body would bear another name. Who has asked for the name before does not learn of it.

        Raises:
            NotAllowed: the log is not empty.
        """

    async def append(self, bodies: Sequence[str]) -> tuple[Head, ...]:
        """Append canonical bodies in this order, durable when it returns; return the place of each.

        One group, all or nothing, except that a body which the database refuses for what it holds does not
        take its neighbours with it: the others are appended, then the error is raised.

        Raises:
            BeingFilled: a copy or a restore fills the database, and not this store's (Store.begin_filling).
        """

    async def head(self) -> Head:
        """Return the last record's place; core.chain.EMPTY in an empty log."""

    async def get(self, seq: int) -> AccessRecord:
        """Raises: RecordNotFound."""

    async def of_invocation(self, invocation: InvocationId) -> tuple[AccessRecord, ...]:
        """Return its records, oldest first."""

    async def page(self, where: AccessFilter, *, after: str | None = None, limit: int = PAGE) -> Page[AccessRecord]:
        """List newest first, by seq; `after` is a seq as text.

        By seq where a time is asked for too: writers' clocks differ, so that their times are in no order.
        """

    def scan(self, *, after: int = 0, until: int | None = None) -> AsyncIterator[list[AccessRecord]]:
        """Read all records after that seq, oldest first, some at a time; memory stays bounded however long the log is."""

    async def feed(
        self, verifier: Verifier, *, until: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """Show a verifier all records behind its head up to that seq, oldest first, as fast as this store can.

        `progress` is called now and then with how many records the verifier has seen.
        """

    async def unfinished(self, lease: LeaseId | None = None) -> tuple[OpenInvocation, ...]:
        """Return the open invocations of that lease, or of all, oldest first."""

    async def unfinished_by_server(self, model: str) -> dict[str, int]:
        """Return how many open invocations of that model (by name) each server (by name) has; those with none are left out."""


class Leases(Protocol):
    """Living drivers."""

    async def acquire(self, lease: Lease) -> None:
        """Store it; the store sets both times by its own clock. Raises: AlreadyExists."""

    async def renew(self, lease: LeaseId) -> bool:
        """Set `last_seen` to now. False: somebody has freed it meanwhile."""

    async def release(self, lease: LeaseId) -> None:
        """Remove it; removing it twice is no fault."""

    async def all(self) -> tuple[Lease, ...]:
        """Return every lease, oldest first."""

    async def now(self) -> dt.datetime:
        """Return the time of the clock that `last_seen` is set by."""


class Repositories(Protocol):
    """The nouns of the database."""

    @property
    def servers(self) -> Servers: ...
    @property
    def models(self) -> Models: ...
    @property
    def weights(self) -> WeightsRepository: ...
    @property
    def placements(self) -> Placements: ...
    @property
    def access_log(self) -> AccessLog: ...
    @property
    def leases(self) -> Leases: ...


class Store(Repositories, Protocol):
    """One database. Each call outside `transaction()` is a transaction of its own."""

    @property
    def name(self) -> str:
        """Which database this is, for people, without secrets: `postgresql (embedded)`, `surrealkv:///var/lib/mer/registry`."""

    async def open(self) -> None:
        """Connect, and check the schema's number.

        Raises:
            DatabaseUnreachable, AuthenticationFailed, DatabaseLocked, NotMigrated.
        """

    async def close(self) -> None:
        """Close every connection. Closing twice is no fault."""

    async def schema(self) -> int | None:
        """Return the number of the last migration that was applied; None where there was none."""

    @property
    def elsewhere(self) -> bytes | None:
        """What another process of this user opens the same database with (dal.open.reopened), secrets and all.

        None where only one process at a time can, or where it is not worth while.
        """

    async def describe(self) -> Description:
        """Tell what the database says of itself. It need not be open or migrated: then it is connected to, and no more.

        Raises:
            DatabaseUnreachable, AuthenticationFailed, DatabaseLocked.
        """

    async def filling(self) -> Filling | None:
        """Return what fills the database, by a copy or a restore that has not ended; None where nothing does."""

    async def begin_filling(self, source: str) -> None:
        """Mark the database as being filled from there, and what was marked before as being filled by this store.

        From now on this store alone appends to the log; any other's append is refused with BeingFilled, until
        `end_filling`. Where another store has said that, this one's are refused with NotAllowed: its filling was given
        up. What was being appended is in the log when this returns.
        """

    async def end_filling(self) -> None:
        """Take the mark away; where there is none, that is no fault."""

    def transaction(self) -> AbstractAsyncContextManager[Repositories]:
        """Give repositories that read and write in one transaction, committed when the block ends without an error.

        They see their own writes. What others changed meanwhile ends in ConcurrentChange, at a call or at the commit;
        the caller runs the block again. A write that was refused may end the block, in whole and with the same error,
        though its caller passed over it. `access_log.append` comes last in the block: on Postgres it takes a lock that
        every writer waits for. No block spans a model call.
        """
