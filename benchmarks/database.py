"""Migrated databases for as long as a benchmark lasts, and what fills their logs."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from mer.audit.bodies import Bodies, Subject, TensorDigest, Timings, timestamp
from mer.core.actor import Actor, Via
from mer.core.identifiers import uuid7
from mer.core.records import Digest, InvocationId, LeaseId, Outcome
from mer.dal.base import Store
from mer.dal.open import open_store
from mer.dal.postgres.cluster import DRIVER
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.surreal.migrations import open_migrations
from mer.settings import Settings, load
from mer_migrations.postgres.roles import Role, Roles
from mer_migrations.postgres.runner import Migrations

LEASE = LeaseId(uuid7())
ACTOR = Actor(user="bench", uid=0, via=Via.LIBRARY, host="bench", pid=1)
SUBJECT = Subject(
    reference="digits@prod",
    model="digits",
    version=1,
    package=Digest("ab" * 32),
    weights=Digest("cd" * 32),
    server="local",
)
IMAGE = TensorDigest(name="image", dtype="float32", shape=(8, 8), bytes=256, sha256=Digest("ef" * 32))
DIGIT = TensorDigest(name="digit", dtype="int64", shape=(), bytes=8, sha256=Digest("01" * 32))


RUNS_AT_ONCE = 500
"""That `fill` appends at once."""

NO_TIME, NO_RUN = "2000-01-01T00:00:00.000000Z", "00000000-0000-7000-8000-000000000000"
"""What stands in a form for the time and the invocation."""

SURREALKV = "surrealkv"
"""The `--database` that is a SurrealDB in a folder of its own."""


@contextmanager
def state_folder() -> Iterator[Path]:
    """Give a short folder, whose server's socket fits and whose server's user can pass; remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="mer-bench-") as folder:
        Path(folder).chmod(0o711 if os.geteuid() == 0 else 0o700)
        yield Path(folder)


@contextmanager
def embedded(folder: Path) -> Iterator[EmbeddedPostgres]:
    """Give the running, migrated server of that state folder; stop it at the end."""
    server = EmbeddedPostgres(folder)
    server.ensure_running()
    try:
        Migrations(server.owner(), Roles(driver=Role(name=DRIVER))).upgrade()
        yield server
    finally:
        server.stop()


def chosen(database: str, folder: Path) -> Settings:
    """Return the settings of a `--database`: the embedded Postgres of that folder, a new SURREALKV in it, or a URL's.

    A URL's login comes from the environment (DRIVER_DB_USERNAME and so on); it is migrated already, and keeps what is
    appended to it.
    """
    if not database:
        return Settings(state_folder=folder)
    if database == SURREALKV:
        url = f"surrealkv://{folder}/registry"
        asyncio.run(_migrate(url))
        return Settings(state_folder=folder, database_url=url)
    return load(environ=os.environ, flags={"database_url": database, "state_folder": folder})


def shared(settings: Settings) -> bool:
    """Tell whether several processes may have the database open."""
    return not settings.database_url.startswith(("surrealkv:", "mem:"))


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Store]:
    """Give the store, as any program opens it."""
    store = await open_store(settings)
    try:
        yield store
    finally:
        await store.close()


def run(bodies: Bodies, *, subject: Subject = SUBJECT) -> tuple[str, str]:
    """Return the two records of one run, as long as those of a small model are."""
    return _records(bodies, subject, dt.datetime.now(dt.UTC), InvocationId(uuid7()))


def _records(bodies: Bodies, subject: Subject, at: dt.datetime, of: InvocationId) -> tuple[str, str]:
    return (
        bodies.started(at=at, actor=ACTOR, lease=LEASE, invocation=of, subject=subject),
        bodies.finished(
            at=at,
            actor=ACTOR,
            lease=LEASE,
            invocation=of,
            subject=subject,
            outcome=Outcome.SUCCEEDED,
            timings=Timings(queue_us=3, run_us=210, transfer_us=140),
            inputs=(IMAGE,),
            outputs=(DIGIT,),
        ),
    )


async def fill(store: Store, records: int, *, models: int = 1, days: int = 0) -> None:
    """Append that many records (rounded up to whole runs), of so many models in turn, over so many days up to now.

    The models are SUBJECT's and others named after it: digits, digits-1, digits-2 …
    """
    runs = (records + 1) // 2
    begun, apart = dt.datetime.now(dt.UTC) - dt.timedelta(days=days), dt.timedelta(days=days) / runs
    forms = [_form(await store.access_log.chain(), number) for number in range(models)]

    def made(number: int) -> tuple[str, str]:
        at, of = timestamp(begun + number * apart), uuid7()
        started, finished = forms[number % models]
        return started.replace(NO_TIME, at).replace(NO_RUN, of), finished.replace(NO_TIME, at).replace(NO_RUN, of)

    appending: asyncio.Task[object] | None = None
    for first in range(0, runs, RUNS_AT_ONCE):
        group = [record for number in range(first, min(first + RUNS_AT_ONCE, runs)) for record in made(number)]
        if appending:
            await appending
        appending = asyncio.create_task(store.access_log.append(group))
        await asyncio.sleep(0.001)  # it is sent: the database works on it while the next ones are made
    if appending:
        await appending


def _form(chain: str, number: int) -> tuple[str, str]:
    """Return the records of one of several models' runs, in which NO_TIME and NO_RUN are to be replaced.

    To make each as a driver does would take longer than to append it.
    """
    model = f"{SUBJECT.model}-{number}" if number else SUBJECT.model
    subject = msgspec.structs.replace(SUBJECT, reference=f"{model}@prod", model=model)
    return _records(Bodies(chain=chain), subject, dt.datetime.fromisoformat(NO_TIME), InvocationId(NO_RUN))


async def _migrate(url: str) -> None:
    async with open_migrations(url, lock_seconds=10) as migrations:
        await migrations.upgrade()
