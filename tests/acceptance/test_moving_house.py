"""`mer db` as an operator has it: moved by hand, killed in the middle, refused where it must be, and told how things stand."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import psycopg
import pytest

from mer.core.identifiers import uuid7
from mer.core.records import LeaseId
from mer.dal.base import Store
from mer.dal.postgres.cluster import AUDITOR, DRIVER, OWNER
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.store import PostgresStore
from mer.execution.process import this_process
from mer_migrations.postgres.runner import Migrations
from tests.support import records
from tests.support.houses import append, furnish, sound, whole
from tests.support.installation import MER, Installation, installation
from tests.support.postgres import ROLES

LONG = 20_000
"""Records: a copy of them takes a second or more, so that it can be killed in between."""


@pytest.fixture(scope="module")
def home() -> Iterator[Installation]:
    """An installation of these tests' own."""
    with installation() as made:
        yield made


class Other:
    """Another database of the embedded server, to which a URL leads as to any server."""

    def __init__(self, home: Installation) -> None:
        self.name = f"other_{uuid7().replace('-', '')}"
        self.embedded = EmbeddedPostgres(home.folder, database=self.name)
        self.socket = home.folder / "postgres" / "socket"
        with self._superuser(EmbeddedPostgres(home.folder, database="postgres")) as connection:
            connection.execute(f"CREATE DATABASE {self.name} OWNER {OWNER}")
            connection.execute(f"GRANT CONNECT ON DATABASE {self.name} TO {DRIVER}, {AUDITOR}")
        self.password = self.embedded.driver().parameters["password"]

    @property
    def url(self) -> str:
        return f"postgresql://{DRIVER}@/{self.name}?host={self.socket}"

    def migrate(self) -> None:
        Migrations(self.embedded.owner(), ROLES).upgrade()

    def count(self) -> int:
        with self._superuser(self.embedded) as connection:
            return int(connection.execute("SELECT coalesce(max(seq), 0) FROM mer.access").fetchone()[0])  # type: ignore[index]

    def _superuser(self, embedded: EmbeddedPostgres) -> psycopg.Connection:
        return psycopg.connect(conninfo(embedded.superuser()), autocommit=True)


@pytest.fixture
def other(home: Installation) -> Iterator[Other]:
    with made(home) as database:
        yield database


@contextmanager
def made(home: Installation) -> Iterator[Other]:
    database = Other(home)
    try:
        yield database
    finally:
        with database._superuser(EmbeddedPostgres(home.folder, database="postgres")) as connection:
            connection.execute(f"DROP DATABASE {database.name} WITH (FORCE)")


def within(embedded: EmbeddedPostgres, work: Any) -> Any:
    async def whole_of_it() -> Any:
        store = PostgresStore(embedded.driver())
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(whole_of_it())


async def lengthen(store: Store) -> None:
    await furnish(store)
    await append(store, LONG)
    # one that nobody will finish
    chain = await store.access_log.chain()
    await store.access_log.append([records.started(chain, records.invocation(), lease=LeaseId(uuid7()))])


def test_a_copy_that_is_killed_goes_on_and_loses_nothing(home: Installation, other: Other) -> None:
    other.migrate()
    with made(home) as source:
        source.migrate()
        within(source.embedded, lengthen)
        command = ["-a", "db", "copy", source.url, other.url]
        passwords = {"FROM_DB_PASSWORD": source.password, "TO_DB_PASSWORD": other.password}
        killed = 0
        for _ in range(3):
            before = other.count()
            process = subprocess.Popen(
                [str(MER), *command],
                env={**home.variables, **passwords},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and other.count() < before + 1000:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        assert killed
        assert other.count()
        half = {"DB_CONNECTION_URL": other.url, "PGPASSWORD": other.password}
        for command_line in (
            ["model", "list"],
            ["-a", "model", "edit", "digits", "--description", "x"],
            ["log", "list"],
        ):
            assert "is being filled from postgresql://" in home.mer(*command_line, environment=half, code=78).stderr
        assert home.json("db", "status", environment=half)["contents"]["filling"]["source"].startswith("postgresql://")
        assert "db copy --abandon" in home.mer("db", "status", environment=half).stdout
        told = home.json(*command, environment=passwords)
        assert told["records"] < LONG
        assert told["complete"] is True
        assert told["lost"] >= 1
        there, here = within(other.embedded, whole), within(source.embedded, whole)
    assert there["records"][: LONG + 1] == here["records"]
    assert (there["chain"], there["nouns"]) == (here["chain"], here["nouns"])
    assert len(there["records"]) == len(here["records"]) + told["lost"]
    assert within(other.embedded, sound)


def test_a_copy_that_was_cut_can_be_given_up(home: Installation, other: Other, tmp_path: Path) -> None:
    other.migrate()
    away = home.with_database(f"surrealkv://{tmp_path}/away")
    home.mer("-a", "db", "copy", "embedded", f"surrealkv://{tmp_path}/away", "--ahead")
    assert "is being filled" in away.mer("-a", "model", "edit", "digits", "--description", "x", code=78).stderr
    assert (
        "is being filled"
        in home.mer("db", "backup", str(tmp_path / "b.gz"), environment=away.environment, code=78).stderr
    )
    away.mer("db", "copy", "--abandon", f"surrealkv://{tmp_path}/away", code=77)
    left = home.json("-a", "db", "copy", "--abandon", f"surrealkv://{tmp_path}/away")
    assert left["filling"]["source"] == "postgresql (embedded)"
    assert left["head"]["seq"] >= 1
    away.mer("model", "show", "digits")
    away.mer("log", "verify")
    assert "nothing fills" in home.mer("-a", "db", "copy", "--abandon", f"surrealkv://{tmp_path}/away", code=66).stderr
    for wrong in (["embedded"], ["--abandon", "embedded", other.url], ["--abandon", "embedded", "--ahead"]):
        home.mer("-a", "db", "copy", *wrong, code=2)


def test_a_destination_that_was_not_migrated_is_told_how(home: Installation, other: Other) -> None:
    refused = home.mer(
        "-a", "db", "copy", "embedded", other.url, code=78, environment={"TO_DB_PASSWORD": other.password}
    )
    assert "mer-migrate upgrade" in refused.stderr


def test_a_password_on_the_command_line_is_refused_and_not_repeated(home: Installation) -> None:
    for url in ("postgresql://me:secret1@h/mer", "postgresql://h/mer?password=secret1", "wss://me:secret1@h:8000/a/b"):
        refused = home.mer("-a", "db", "copy", "embedded", url, code=2)
        assert "secret1" not in refused.stdout + refused.stderr
        assert "TO_DB_PASSWORD" in refused.stderr


@pytest.mark.parametrize("name", ["nonsense", "http", "x y"])
def test_a_name_that_is_no_database_is_a_usage_error(home: Installation, name: str) -> None:
    home.mer("-a", "db", "copy", "embedded", name, code=2)


def test_a_copy_and_a_restore_need_that_changes_are_allowed(home: Installation, tmp_path: Path) -> None:
    home.mer("db", "copy", "embedded", f"surrealkv://{tmp_path}/s", code=77)
    home.mer("db", "restore", str(tmp_path / "b"), code=77)
    assert not (tmp_path / "s").exists()


def test_a_database_is_not_copied_onto_itself(home: Installation) -> None:
    assert "the same" in home.mer("-a", "db", "copy", "embedded", "", code=2).stderr


def test_a_living_driver_stops_a_copy_unless_it_is_ahead(home: Installation, tmp_path: Path) -> None:
    here = this_process()
    lease = records.lease(
        id=LeaseId(uuid7()),
        host=here.host,
        boot_id=here.boot_id,
        pid_namespace=here.pid_namespace,
        pid=here.pid,
        process_started=here.process_started,
    )
    of = records.invocation()

    async def begin(store: Store) -> None:
        await store.leases.acquire(lease)
        await store.access_log.append([records.started(await store.access_log.chain(), of, lease=lease.id)])

    async def end(store: Store) -> None:
        await store.leases.release(lease.id)

    source = EmbeddedPostgres(home.folder)
    small = home.with_database(f"surrealkv://{tmp_path}/s")
    home.mer("db", "status")
    within(source, begin)
    refused = home.mer("-a", "db", "copy", "embedded", f"surrealkv://{tmp_path}/s", code=75)
    assert f"pid {here.pid}" in refused.stderr
    assert "--ahead" in refused.stderr
    ahead = home.json("-a", "db", "copy", "embedded", f"surrealkv://{tmp_path}/s", "--ahead")
    assert (ahead["complete"], ahead["lost"]) == (False, 0)
    within(source, end)
    last = home.json("-a", "db", "copy", "embedded", f"surrealkv://{tmp_path}/s")
    assert last["lost"] >= 1
    assert small.json("log", "show", of)["records"][-1]["record"]["outcome"] == "lost"
    small.mer("log", "verify")


def test_a_backup_goes_out_and_comes_back(home: Installation, tmp_path: Path) -> None:
    file = tmp_path / "backup.gz"
    written = home.mer("db", "backup", str(file))
    assert "content store" in written.stderr
    home.mer("db", "backup", str(file), code=2)
    away = home.with_database(f"surrealkv://{tmp_path}/away")
    told = away.json("-a", "db", "restore", str(file))
    assert told["restored"]["chain"] == told["backup"]["chain"]
    assert away.json("model", "list")["items"] == home.json("model", "list")["items"]
    away.mer("log", "verify")
    file.write_bytes(file.read_bytes()[:-20])
    home.with_database(f"surrealkv://{tmp_path}/none").mer("-a", "db", "restore", str(file), code=74)
    assert not (tmp_path / "none").exists()


def test_a_backup_goes_through_a_pipe(home: Installation, tmp_path: Path) -> None:
    file = tmp_path / "piped.gz"
    with file.open("wb") as out:
        done = subprocess.run(
            [str(MER), "db", "backup", "-"], env=home.variables, stdout=out, stderr=subprocess.PIPE, check=True
        )
    assert b"content store" in done.stderr
    home.with_database(f"surrealkv://{tmp_path}/away").mer("-a", "db", "restore", str(file))
    home.mer("db", "backup", "-", "--json", code=2)
    home.mer("db", "backup", "./-", cwd=tmp_path)
    assert (tmp_path / "-").read_bytes()[:2] == b"\x1f\x8b"
    assert "is there already" in home.mer("db", "backup", "./-", cwd=tmp_path, code=2).stderr


def test_a_terminal_gets_no_backup(home: Installation, tmp_path: Path) -> None:
    told, code = pexpect.run(f"{MER} db backup -", env=home.variables, cwd=str(tmp_path), withexitstatus=True)
    assert (code, b"no text for a terminal" in told) == (2, True), told
    assert list(tmp_path.iterdir()) == []


def test_the_status_tells_what_there_is_and_starts_nothing(home: Installation, tmp_path: Path) -> None:
    found = home.json("db", "status")
    assert found["running"] is True
    assert found["current"] is True
    assert found["description"]["login"] == DRIVER
    assert found["description"]["owner"] == OWNER
    assert found["description"]["drivers"] == [DRIVER]
    assert found["description"]["auditors"] == [AUDITOR]
    assert 0 < found["description"]["connections"] < found["description"]["connection_limit"]
    assert found["contents"]["records"] == found["contents"]["head"]["seq"]
    assert found["contents"]["oldest"].endswith("Z")
    never = Installation(tmp_path / "never")
    assert never.json("db", "status")["running"] is False
    assert "made" in home.with_database(f"surrealkv://{tmp_path}/s").mer("db", "status").stdout
    assert list(tmp_path.iterdir()) == []


def test_the_status_of_a_server_that_does_not_answer_says_so(home: Installation) -> None:
    away = home.with_database("postgresql://me:secret1@127.0.0.1:1/mer")
    gone = away.mer("db", "status", "--json", code=69)
    assert json.loads(gone.stdout)["fault"]["code"] == "database-unreachable"
    assert "secret1" not in gone.stdout + gone.stderr


def test_the_status_of_a_database_that_was_not_migrated_says_so(home: Installation, other: Other) -> None:
    environment = {"DB_CONNECTION_URL": other.url, "PGPASSWORD": other.password}
    found = home.json("db", "status", environment=environment)
    assert (found["schema"], found["current"], found["contents"]) == (None, False, None)
    assert "mer-migrate upgrade" in home.mer("db", "status", environment=environment).stdout
