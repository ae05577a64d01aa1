"""An embedded Postgres in a folder of its own, migrated, for as long as a benchmark lasts."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mer.audit.bodies import Bodies, Subject, TensorDigest, Timings
from mer.core.actor import Actor, Via
from mer.core.identifiers import uuid7
from mer.core.records import Digest, InvocationId, LeaseId, Outcome
from mer.dal.postgres.cluster import DRIVER
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
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


@contextmanager
def embedded() -> Iterator[EmbeddedPostgres]:
    """Give a running, migrated server; stop it and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="mer-bench-") as folder:
        Path(folder).chmod(0o711 if os.geteuid() == 0 else 0o700)
        server = EmbeddedPostgres(Path(folder))
        server.ensure_running()
        try:
            Migrations(server.owner(), Roles(driver=Role(name=DRIVER))).upgrade()
            yield server
        finally:
            server.stop()


def run(bodies: Bodies) -> tuple[str, str]:
    """Return the two records of one run, as long as those of a small model are."""
    of, now = InvocationId(uuid7()), dt.datetime.now(dt.UTC)
    return (
        bodies.started(at=now, actor=ACTOR, lease=LEASE, invocation=of, subject=SUBJECT),
        bodies.finished(
            at=now,
            actor=ACTOR,
            lease=LEASE,
            invocation=of,
            subject=SUBJECT,
            outcome=Outcome.SUCCEEDED,
            timings=Timings(queue_us=3, run_us=210, transfer_us=140),
            inputs=(IMAGE,),
            outputs=(DIGIT,),
        ),
    )


async def fill(store: PostgresStore, records: int) -> None:
    """Append that many records (rounded up to whole runs), two a run."""
    bodies = Bodies(chain=await store.access_log.chain())
    left = records
    while left > 0:
        group = [record for _ in range(min(500, (left + 1) // 2)) for record in run(bodies)]
        await store.access_log.append(group)
        left -= len(group)
        await asyncio.sleep(0)
