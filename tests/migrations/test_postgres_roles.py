"""The roles of a PostgreSQL server: made where the owner may, asked for where not, refused where they are too strong."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer_migrations.postgres.connect import connected
from mer_migrations.postgres.roles import Role, Roles, ensure
from tests.support.databases import empty_database, held, superuser, variables_of
from tests.support.postgres import PostgresServer
from tests.support.versions import migrate_own


@pytest.fixture
def empty(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    with empty_database(postgres_server) as database:
        yield database


@pytest.fixture
def named(postgres_server: PostgresServer, empty: EmbeddedPostgres) -> Iterator[str]:
    """A name of which there is no role yet; whatever gets it is gone afterwards."""
    name = f"test_{os.urandom(6).hex()}"
    yield name
    with superuser(empty) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")


@pytest.fixture
def maker(postgres_server: PostgresServer, empty: EmbeddedPostgres) -> Iterator[dict[str, str]]:
    """What leads to the database as an owner who may make roles."""
    name = f"maker_{os.urandom(6).hex()}"
    with superuser(empty) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'secret'")
        connection.execute(f"ALTER DATABASE {empty.owner().parameters['dbname']} OWNER TO {name}")
    yield {**variables_of(empty), "MIGRATIONS_DB_USERNAME": name, "MIGRATIONS_DB_PASSWORD": "secret"}
    with superuser(empty) as connection:
        connection.execute(f"ALTER DATABASE {empty.owner().parameters['dbname']} OWNER TO mer_owner")
        connection.execute(f"DROP OWNED BY {name} CASCADE")
        connection.execute(f"DROP ROLE {name}")


def upgrade(environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return migrate_own(*(words or ("upgrade",)), environ=environ)


def as_(database: EmbeddedPostgres, name: str, password: str) -> psycopg.Connection:
    login = conninfo(database.driver())
    return psycopg.connect(login, user=name, password=password, autocommit=True)


def test_an_owner_who_may_makes_the_roles_with_their_limits(
    empty: EmbeddedPostgres, maker: dict[str, str], named: str
) -> None:
    told = upgrade({**maker, "DRIVER_DB_USERNAME": named, "DRIVER_DB_PASSWORD": "a'b\\c"})
    assert (told.returncode, told.stderr) == (0, "")
    with as_(empty, named, "a'b\\c") as driver:
        assert driver.execute("SHOW statement_timeout").fetchone() == ("1min",)
        driver.execute("SELECT FROM mer.access")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            driver.execute("DELETE FROM mer.access")


def test_a_password_reaches_no_log_of_the_server(empty: EmbeddedPostgres, maker: dict[str, str], named: str) -> None:
    with superuser(empty) as connection:
        connection.execute(f"ALTER DATABASE {empty.owner().parameters['dbname']} SET log_statement = 'all'")
    assert upgrade({**maker, "DRIVER_DB_USERNAME": named, "DRIVER_DB_PASSWORD": "hunter2hunter2"}).returncode == 0
    log = empty.status().log.read_text()
    assert f'CREATE ROLE "{named}" LOGIN PASSWORD' in log
    assert "hunter2" not in log


@pytest.mark.parametrize("purpose", ["DRIVER", "AUDITOR"])
def test_an_owner_who_may_not_is_told_what_an_administrator_says(
    empty: EmbeddedPostgres, named: str, purpose: str
) -> None:
    environ = {**variables_of(empty), f"{purpose}_DB_USERNAME": named, f"{purpose}_DB_PASSWORD": "hunter2"}
    before = held(empty)
    told = upgrade(environ)
    assert (told.returncode, "may not make it" in told.stderr, "hunter2" in told.stderr) == (78, True, False)
    assert held(empty) == before
    said = told.stderr.partition("As an administrator: ")[2].strip().replace("…", "hunter2")
    with superuser(empty) as connection:
        connection.execute(said)
    again = upgrade(environ)
    assert (again.returncode, again.stderr) == (0, "")
    with as_(empty, named, "hunter2") as role:
        assert role.execute("SHOW lock_timeout").fetchone() == ("1min",)
        role.execute("SELECT FROM mer.access")


def test_an_owner_who_may_make_no_schema_is_told_what_an_administrator_says(empty: EmbeddedPostgres) -> None:
    with superuser(empty) as connection:
        name = empty.owner().parameters["dbname"]
        connection.execute(f"ALTER DATABASE {name} OWNER TO mer_superuser")
        connection.execute(f"GRANT CONNECT ON DATABASE {name} TO mer_owner, mer_driver, mer_auditor")
        connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        told = upgrade(variables_of(empty))
        assert (told.returncode, "may not make the schema" in told.stderr) == (78, True)
        connection.execute(told.stderr.partition("on that database: ")[2])
    again = upgrade(variables_of(empty))
    assert (again.returncode, again.stderr) == (0, "")


def test_a_role_without_a_password_to_make_it_with_is_asked_for(maker: dict[str, str], named: str) -> None:
    told = upgrade({**maker, "AUDITOR_DB_USERNAME": named, "AUDITOR_DB_PASSWORD": ""})
    assert (told.returncode, "AUDITOR_DB_PASSWORD" in told.stderr, "CREATE ROLE" in told.stderr) == (78, True, True)


def test_limits_that_the_owner_may_not_set_are_told_and_do_not_stop_him(empty: EmbeddedPostgres, named: str) -> None:
    with superuser(empty) as connection:
        connection.execute(f"CREATE ROLE {named} LOGIN PASSWORD 'x'")
        connection.execute(f"ALTER ROLE {named} SET lock_timeout = '7s'")  # the administrator's own value
    environ = {**variables_of(empty), "DRIVER_DB_USERNAME": named, "DRIVER_DB_PASSWORD": "x"}
    told = upgrade(environ)
    said = [line.partition("for an administrator: ")[2] for line in told.stderr.splitlines()]
    assert (told.returncode, len(said), "lock_timeout = '60s'" in told.stderr) == (0, 2, False)
    with superuser(empty) as connection:
        for statement in said:
            connection.execute(statement)
    assert upgrade(environ, "check").stderr == ""


def test_a_role_that_is_added_later_gets_its_rights_and_a_right_by_hand_is_gone(
    empty: EmbeddedPostgres, maker: dict[str, str], named: str
) -> None:
    assert upgrade({**maker, "AUDITOR_DB_USERNAME": "", "AUDITOR_DB_PASSWORD": ""}).returncode == 0
    with superuser(empty) as connection:
        connection.execute("GRANT INSERT ON mer.access TO mer_driver, PUBLIC")
    assert upgrade({**maker, "AUDITOR_DB_USERNAME": named, "AUDITOR_DB_PASSWORD": "x"}).returncode == 0
    with as_(empty, named, "x") as auditor:
        auditor.execute("SELECT FROM mer.access")
    with superuser(empty) as connection:
        for role in ("mer_driver", named):
            asked = connection.execute("SELECT has_table_privilege(%s, 'mer.access', 'INSERT')", (role,))
            assert asked.fetchone() == (False,)


def test_a_role_that_was_the_drivers_before_is_told_until_its_rights_are_gone(
    empty: EmbeddedPostgres, maker: dict[str, str], named: str
) -> None:
    upgrade({**maker, "DRIVER_DB_USERNAME": named, "DRIVER_DB_PASSWORD": "x"})
    told = upgrade(maker)
    assert (told.returncode, told.stderr.count(f'FROM "{named}";')) == (0, 2)
    with superuser(empty) as connection:
        connection.execute(told.stderr.partition("for an administrator: ")[2])
    assert upgrade(maker, "check").stderr == ""


def test_nobody_else_gets_into_a_database_that_is_mers_alone(
    empty: EmbeddedPostgres, maker: dict[str, str], named: str
) -> None:
    with superuser(empty) as connection:
        connection.execute(f"CREATE ROLE {named} LOGIN PASSWORD 'x'")
    as_(empty, named, "x").close()
    assert upgrade(maker).returncode == 0
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        as_(empty, named, "x")


def test_a_database_that_others_use_stays_open_to_them_and_mers_schema_shut(
    empty: EmbeddedPostgres, maker: dict[str, str], named: str
) -> None:
    with superuser(empty) as connection:
        connection.execute(f"CREATE ROLE {named} LOGIN PASSWORD 'x'")
        connection.execute("CREATE TABLE public.orders (id integer)")
    told = upgrade(maker)
    assert (told.returncode, told.stderr) == (0, "")
    with as_(empty, named, "x") as other, pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.execute("SELECT FROM mer.access")


TOO_STRONG = {
    "a superuser": ("ALTER ROLE {0} SUPERUSER", "is a superuser"),
    "who may make roles": ("ALTER ROLE {0} CREATEROLE", "may make roles"),
    "a member of the owner": ("GRANT mer_owner TO {0}", "is a member of mer_owner"),
    "a member of the owner by another": ("CREATE ROLE {0}_group ROLE {0}; GRANT mer_owner TO {0}_group", "mer_owner"),
    "a member of a superuser": ("GRANT mer_superuser TO {0}", "is a member of mer_superuser"),
    "a member of one who makes roles": ("CREATE ROLE {0}_group CREATEROLE ROLE {0}", "is a member of test_"),
    "who may write everything": ("GRANT pg_write_all_data TO {0}", "is a member of pg_write_all_data"),
    "who runs programs": ("GRANT pg_execute_server_program TO {0}", "is a member of pg_execute_server_program"),
}


@pytest.mark.parametrize(("grant", "why"), TOO_STRONG.values(), ids=TOO_STRONG)
@pytest.mark.parametrize("purpose", ["DRIVER", "AUDITOR"])
def test_a_role_that_is_too_strong_is_refused(
    empty: EmbeddedPostgres, named: str, purpose: str, grant: str, why: str
) -> None:
    with superuser(empty) as connection:
        connection.execute(f"CREATE ROLE {named} LOGIN PASSWORD 'x'")
        for statement in grant.format(named).split(";"):
            connection.execute(statement)
    before = held(empty)
    try:
        told = upgrade({**variables_of(empty), f"{purpose}_DB_USERNAME": named, f"{purpose}_DB_PASSWORD": "x"})
        assert (told.returncode, why in told.stderr, f"{purpose}_DB_USERNAME" in told.stderr) == (78, True, True)
        assert held(empty) == before
    finally:
        with superuser(empty) as connection:
            connection.execute(f"DROP ROLE IF EXISTS {named}_group")


@pytest.mark.parametrize("purpose", ["DRIVER", "AUDITOR"])
def test_the_owner_is_no_driver_and_no_auditor(empty: EmbeddedPostgres, purpose: str) -> None:
    told = upgrade({**variables_of(empty), f"{purpose}_DB_USERNAME": "mer_owner"})
    assert (told.returncode, "is the owner itself" in told.stderr) == (78, True)


def test_without_a_driver_of_its_own_the_urls_user_is_it_and_the_owner_is_refused(empty: EmbeddedPostgres) -> None:
    owner = empty.owner().parameters
    url = f"postgresql://mer_owner:{owner['password']}@/{owner['dbname']}?host={owner['host']}"
    told = upgrade({"DB_CONNECTION_URL": url})
    assert (told.returncode, "DRIVER_DB_USERNAME" in told.stderr, owner["password"] in told.stderr) == (78, True, False)


def test_an_auditor_who_is_the_driver_is_refused(empty: EmbeddedPostgres) -> None:
    told = upgrade({**variables_of(empty), "AUDITOR_DB_USERNAME": "mer_driver"})
    assert (told.returncode, "should only read" in told.stderr) == (78, True)


def test_a_right_that_comes_by_another_role_is_told(empty: EmbeddedPostgres, named: str) -> None:
    upgrade(variables_of(empty))
    with superuser(empty) as connection:
        connection.execute(f"CREATE ROLE {named} ROLE mer_driver")
        connection.execute(f"GRANT DELETE ON mer.access TO {named}")
    told = upgrade(variables_of(empty), "check")
    assert (told.returncode, "mer_driver may change mer.access" in told.stderr) == (0, True)


def test_two_databases_of_one_server_may_make_the_same_roles_at_once(
    postgres_server: PostgresServer, empty: EmbeddedPostgres
) -> None:
    def make(database: EmbeddedPostgres, together: threading.Barrier, roles: Roles) -> None:
        with connected(database.superuser()) as connection:
            together.wait(timeout=60)
            ensure(connection, roles)

    with empty_database(postgres_server) as other, ThreadPoolExecutor() as threads:
        for _ in range(5):
            name, together = f"test_{os.urandom(6).hex()}", threading.Barrier(2)
            roles = Roles(driver=Role(name=name, password="x"), auditor=Role(name=f"{name}_auditor", password="x"))
            try:
                done = [threads.submit(make, database, together, roles) for database in (empty, other)]
                for each in done:
                    each.result(timeout=60)
            finally:
                for database in (empty, other):
                    with superuser(database) as connection:
                        connection.execute(f"DROP OWNED BY {name}, {name}_auditor")
                with superuser(empty) as connection:
                    connection.execute(f"DROP ROLE {name}, {name}_auditor")


def test_a_name_that_postgresql_keeps_for_itself_is_refused(empty: EmbeddedPostgres) -> None:
    owner = {
        "MIGRATIONS_DB_USERNAME": "mer_superuser",
        "MIGRATIONS_DB_PASSWORD": empty.superuser().parameters["password"],
    }
    told = upgrade(variables_of(empty) | owner | {"DRIVER_DB_USERNAME": "public", "DRIVER_DB_PASSWORD": "x"})
    assert (told.returncode, "DRIVER_DB_USERNAME" in told.stderr) == (78, True)


def test_a_role_may_be_called_as_the_files_of_rights_call_another(
    empty: EmbeddedPostgres, maker: dict[str, str]
) -> None:
    names = {"DRIVER": "{auditor}", "AUDITOR": 'the "auditor"'}
    try:
        told = upgrade(
            maker
            | {f"{each}_DB_USERNAME": name for each, name in names.items()}
            | {f"{each}_DB_PASSWORD": "x" for each in names}
        )
        assert (told.returncode, told.stderr) == (0, "")
        with as_(empty, names["DRIVER"], "x") as driver:
            driver.execute("SELECT mer.append('{}')")
        with as_(empty, names["AUDITOR"], "x") as auditor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            auditor.execute("SELECT mer.append('{}')")
    finally:
        with superuser(empty) as connection:
            for name in names.values():
                if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone():
                    connection.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(name)))
                    connection.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(name)))
