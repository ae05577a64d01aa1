"""What the roles may do in PostgreSQL, each tried with its own login: in the embedded server, and in a team's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from mer.core.errors import ConfigurationError
from mer.core.identifiers import uuid7
from mer.dal.open import open_store
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.settings import load
from tests.support import postgres_server as team
from tests.support import records
from tests.support.databases import variables_of
from tests.support.installation import MER

IMMUTABLE = ("access", "chain", "version", "retirement", "alias_move", "weights_version")
CHANGES = ("UPDATE mer.{0} SET {1} = {1}", "DELETE FROM mer.{0}", "TRUNCATE mer.{0} CASCADE")
COLUMN = {"access": "seq", "chain": "id", "alias_move": "move"}

RECORDED = """INSERT INTO mer.access (seq, previous, digest, body, kind, at)
    VALUES (1, repeat('0', 64), repeat('0', 64), '{}', 'change', now())"""

NOBODYS = (
    RECORDED,
    RECORDED + " ON CONFLICT (seq) DO UPDATE SET body = '{}'",
    "MERGE INTO mer.access a USING (VALUES (1)) v(n) ON a.seq = v.n WHEN MATCHED THEN DELETE",
    "SELECT FROM mer.access FOR UPDATE",
    "COPY mer.access TO PROGRAM 'cat'",
    "COPY mer.access TO '/tmp/access'",
    "INSERT INTO mer.open_invocation VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'm', 's')",
    "DELETE FROM mer.open_invocation",
    "INSERT INTO mer.chain DEFAULT VALUES",
    "INSERT INTO mer.migration VALUES (1, 'x', 'x')",
    "UPDATE mer.migration SET number = 1",
    "DELETE FROM mer.migration",
    "TRUNCATE mer.migration",
    "UPDATE mer.alembic_version SET version_num = '01'",
    "DELETE FROM mer.alembic_version",
    "DELETE FROM mer.model",
    "TRUNCATE mer.server CASCADE",
    "SELECT mer.insert_records(ARRAY['{}'], ARRAY['', ''], 7)",
    "SELECT mer.digest('', '{}', 1)",
    "SELECT mer.last_place()",
    "SELECT mer.derived('{}')",
    "SELECT mer.refuse()",
    "INSERT INTO mer.filling (source) VALUES ('')",
    "DELETE FROM mer.filling",
    "LOCK TABLE mer.access_lock IN EXCLUSIVE MODE",
    "LOCK TABLE mer.access_lock IN ROW EXCLUSIVE MODE",
    "LOCK TABLE mer.access IN SHARE MODE",
    "LOCK TABLE mer.access IN ACCESS EXCLUSIVE MODE",
    "ALTER TABLE mer.access DISABLE TRIGGER ALL",
    "ALTER TABLE mer.access DISABLE TRIGGER never_changed",
    "ALTER TABLE mer.access RENAME TO gone",
    "ALTER TABLE mer.access ADD COLUMN mine text",
    "ALTER TABLE mer.access OWNER TO CURRENT_USER",
    "ALTER FUNCTION mer.append(text[]) SECURITY INVOKER",
    "ALTER FUNCTION mer.append_one(text) SECURITY INVOKER",
    "CREATE OR REPLACE FUNCTION mer.digest(previous text, body text, seq bigint) RETURNS text LANGUAGE sql AS 'SELECT 1'",
    "CREATE TRIGGER mine BEFORE INSERT ON mer.access FOR EACH ROW EXECUTE FUNCTION mer.refuse()",
    "CREATE RULE mine AS ON INSERT TO mer.access DO INSTEAD NOTHING",
    "DROP TRIGGER never_changed ON mer.access",
    "DROP FUNCTION mer.append(text[])",
    "DROP TABLE mer.access",
    "DROP SCHEMA mer CASCADE",
    "CREATE TABLE mer.mine ()",
    "CREATE TABLE public.mine ()",
    "CREATE SCHEMA mine",
    "CREATE TEMP TABLE mine ()",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE ROLE mine",
    "SET session_replication_role = replica",
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "ALTER DATABASE {database} SET search_path = mine",
    "SELECT pg_read_file('PG_VERSION')",
)
"""What neither the driver nor the auditor may do."""

WRITES = (
    "INSERT INTO mer.server VALUES (gen_random_uuid(), 'x', 'ssh', '', '{}', '{}', now(), NULL)",
    "UPDATE mer.server SET description = 'x'",
    "INSERT INTO mer.lease VALUES (gen_random_uuid(), '', '', '', 1, '', '', now(), now())",
    "DELETE FROM mer.lease",
    "DELETE FROM mer.placement",
    "SELECT FROM mer.server FOR SHARE",
    "SELECT mer.adopt_chain(gen_random_uuid())",
    "SELECT mer.begin_filling('')",
    "SELECT mer.end_filling()",
    "SELECT * FROM mer.append(ARRAY['{}'])",
    "SELECT * FROM mer.append_one('{}')",
    "SELECT * FROM mer.fill(ARRAY['{}'])",
)
"""What the driver may do and the auditor may not."""


@dataclass(frozen=True, kw_only=True)
class Database:
    """An empty, migrated database, and every login to it."""

    name: str
    owners_name: str
    driver: ConnectionSettings
    auditor: ConnectionSettings
    owner: ConnectionSettings
    administrator: ConnectionSettings
    environment: dict[str, str]

    def said(self, statement: str) -> str:
        return statement.replace("{owner}", self.owners_name).replace("{database}", self.name)


def _embedded(request: pytest.FixtureRequest) -> Database:
    database = request.getfixturevalue("postgres_server").wiped()
    return Database(
        name="wiped",
        owners_name="mer_owner",
        driver=database.driver(),
        auditor=database.auditor(),
        owner=database.owner(),
        administrator=database.superuser(),
        environment=variables_of(database),
    )


def _team(request: pytest.FixtureRequest) -> Database:
    server: team.TeamServer = request.getfixturevalue("team_server")
    return Database(
        name=team.WIPED,
        owners_name=team.OWNER,
        driver=server.wiped(),
        auditor=server.login(team.AUDITOR, team.WIPED),
        owner=server.login(team.OWNER, team.WIPED),
        administrator=server.login(team.ADMINISTRATOR, team.WIPED),
        environment=server.environment(team.WIPED),
    )


@pytest.fixture(params=[_embedded, _team], ids=["embedded", "team"])
def database(request: pytest.FixtureRequest) -> Database:
    make: Callable[[pytest.FixtureRequest], Database] = request.param
    return make(request)


@pytest.fixture
def driver(database: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo(database.driver), autocommit=True) as connection:
        yield connection


@pytest.fixture
def auditor(database: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo(database.auditor), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")  # its right, and no protection
        yield connection


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection]:
    with psycopg.connect(conninfo(database.owner), autocommit=True) as connection:
        yield connection


def allowed(connection: psycopg.Connection, statements: list[str]) -> list[str]:
    """Return those of the statements that were not refused for want of a right."""
    found = []
    for statement in statements:
        try:
            with connection.transaction():
                connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            continue
        except psycopg.Error as error:
            found.append(f"{statement}: {error}")
        else:
            found.append(statement)
    return found


def test_the_driver_cannot_change_what_is_immutable(driver: psycopg.Connection) -> None:
    changes = [change.format(table, COLUMN.get(table, "number")) for table in IMMUTABLE for change in CHANGES]
    assert allowed(driver, changes) == []


@pytest.mark.parametrize("table", IMMUTABLE)
def test_not_even_the_owner_changes_what_is_immutable(
    driver: psycopg.Connection, owner: psycopg.Connection, table: str
) -> None:
    driver.execute("SELECT * FROM mer.append(%s)", ([records.change(uuid7())],))  # a chain that is used keeps its name
    for change in CHANGES:
        with pytest.raises(psycopg.errors.RestrictViolation):
            owner.execute(change.format(table, COLUMN.get(table, "number")))


def test_the_driver_can_do_nothing_else(database: Database, driver: psycopg.Connection) -> None:
    assert allowed(driver, [database.said(statement) for statement in NOBODYS]) == []


def test_who_grants_himself_a_right_has_not_got_it(driver: psycopg.Connection) -> None:
    driver.execute("GRANT ALL ON mer.access TO CURRENT_USER")  # a warning, no error
    assert allowed(driver, [RECORDED]) == []


def test_the_driver_cannot_end_the_owners_session(driver: psycopg.Connection, owner: psycopg.Connection) -> None:
    assert allowed(driver, [f"SELECT pg_terminate_backend({owner.info.backend_pid})"]) == []


def test_the_driver_may_do_what_it_is_there_for(driver: psycopg.Connection) -> None:
    appended = f"SELECT * FROM mer.append(ARRAY['{records.change(uuid7())}'])"
    one = f"SELECT * FROM mer.append_one('{records.change(uuid7())}')"
    filled = f"SELECT mer.begin_filling(''); SELECT * FROM mer.fill(ARRAY['{records.change(uuid7())}'])"
    may = [*WRITES[:-3], appended, one, filled]
    assert allowed(driver, may) == may


def test_the_auditor_cannot_change_anything(database: Database, auditor: psycopg.Connection) -> None:
    changes = [change.format(table, COLUMN.get(table, "number")) for table in IMMUTABLE for change in CHANGES]
    assert allowed(auditor, [*changes, *map(database.said, NOBODYS), *WRITES]) == []


def test_the_auditor_may_read_every_table(auditor: psycopg.Connection) -> None:
    tables = [name for (name,) in auditor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'mer'")]
    reading = [f"SELECT * FROM mer.{table}" for table in tables]
    assert len(tables) > 10
    assert allowed(auditor, reading) == reading


def test_an_auditor_reads_verifies_and_exports_the_log(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(conninfo(database.driver), autocommit=True) as connection:
        (chain,) = connection.execute("SELECT id::text FROM mer.chain").fetchone() or ("",)
        connection.execute("SELECT * FROM mer.append(%s)", ([records.change(chain) for _ in range(3)],))
    state = tmp_path / "state"
    state.mkdir(mode=0o700)

    def audit(*words: str | Path) -> subprocess.CompletedProcess[str]:
        without_driver = {name: value for name, value in database.environment.items() if "DRIVER" not in name}
        return subprocess.run(
            [MER, "--auditor", *words],
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MER_STATE_FOLDER": str(state), **without_driver},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    exported = tmp_path / "log.jsonl"
    listed = audit("log", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(json.loads(listed.stdout)["items"]) == 3
    for words in (("verify",), ("checkpoint",), ("export", exported), ("show", "1")):
        told = audit("log", *words)
        assert (told.returncode, told.stderr.replace(str(exported), "").count("error")) == (0, 0), (words, told.stderr)
    assert len(exported.read_text().splitlines()) >= 3
    refused = audit("-a", "server", "register", "gpu", "--address", "gpu.example.org")
    assert (refused.returncode, "only reads" in refused.stderr) == (2, True)


async def test_an_auditor_without_a_name_is_not_the_user_of_the_url(database: Database) -> None:
    environ = {**database.environment, "AUDITOR_DB_USERNAME": "", "MER_AUDITOR": "true"}
    with pytest.raises(ConfigurationError, match="whom an auditor logs in as"):
        await open_store(load(environ=environ))


@pytest.mark.parametrize("role", ["driver", "auditor"])
def test_the_roles_may_not_log_in_to_other_databases(database: Database, role: str) -> None:
    login: ConnectionSettings = getattr(database, role)
    with psycopg.connect(conninfo(database.administrator), autocommit=True) as administrator:
        administrator.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(conninfo(login), dbname="postgres")


def test_nothing_in_a_search_path_stands_in_for_what_appending_means(database: Database) -> None:
    name = database.said("{database}")
    body = records.change(uuid7())
    with psycopg.connect(conninfo(database.administrator), autocommit=True) as administrator:
        administrator.execute("CREATE SCHEMA evil")
        try:
            # as somebody could who was given a schema, or TEMP on the database
            administrator.execute(f'GRANT CREATE, USAGE ON SCHEMA evil TO "{database.driver.parameters["user"]}"')
            administrator.execute(f'GRANT TEMP ON DATABASE {name} TO "{database.driver.parameters["user"]}"')
            with psycopg.connect(conninfo(database.driver), autocommit=True) as driver:
                for function in (
                    "encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT repeat('e', 64) $$",
                    "sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT '\\x00'::bytea $$",
                    "upper(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$",
                    "set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$",
                ):
                    driver.execute(f"CREATE FUNCTION evil.{function}")
                    driver.execute(f"CREATE FUNCTION pg_temp.{function}")
                driver.execute("CREATE TEMP TABLE access_lock ()")
                driver.execute("CREATE TEMP TABLE access (LIKE mer.access)")
                driver.execute("SET search_path = evil, pg_temp, mer, pg_catalog")
                (row,) = driver.execute("SELECT seq, digest FROM mer.append(%s)", ([body],)).fetchall()
                assert driver.execute("SELECT count(*) FROM pg_temp.access").fetchone() == (0,)
                assert driver.execute("SELECT seq, digest FROM mer.access").fetchall() == [row]
                assert row[1] != "e" * 64
        finally:
            administrator.execute("DROP SCHEMA evil CASCADE")
            administrator.execute(f'REVOKE TEMP ON DATABASE {name} FROM "{database.driver.parameters["user"]}"')


def test_appending_is_durable_whatever_the_session_says(driver: psycopg.Connection) -> None:
    driver.execute("SET synchronous_commit = off")
    with driver.transaction():
        driver.execute("SELECT * FROM mer.append(%s)", ([records.change(uuid7())],))
        assert driver.execute("SHOW synchronous_commit").fetchone() == ("on",)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_appending_with_an_old_snapshot_is_refused(driver: psycopg.Connection, level: str) -> None:
    driver.execute(f"SET default_transaction_isolation = '{level.lower()}'")
    with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
        driver.execute("SELECT * FROM mer.append(%s)", ([records.change(uuid7())],))


@pytest.mark.parametrize(
    ("role", "limits"),
    [
        ("driver", {"statement_timeout": "1min"}),
        ("auditor", {"default_transaction_read_only": "on"}),
    ],
)
def test_a_role_that_stops_holds_no_lock_for_ever(database: Database, role: str, limits: dict[str, str]) -> None:
    both = {"lock_timeout": "1min", "idle_in_transaction_session_timeout": "1min"}
    with psycopg.connect(conninfo(getattr(database, role))) as connection:  # as anybody with its password would
        for name, value in (both | limits).items():
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)
