"""Empty databases for tests of migrations, the variables that lead to one as if it were a server's, and all it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from mer.dal.postgres.cluster import AUDITOR, DRIVER, OWNER
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support.postgres import PostgresServer

HELD = """
SELECT 'schema', nspname::text, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
UNION ALL SELECT 'relation', c.oid::regclass::text, c.relacl::text
    FROM pg_class c WHERE c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)'
UNION ALL SELECT 'column', a.attrelid::regclass || '.' || a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL SELECT 'routine', p.oid::regprocedure::text, p.proacl::text
    FROM pg_proc p WHERE p.pronamespace::regnamespace::text !~ '^(pg_|information_schema)'
UNION ALL SELECT 'trigger', t.tgrelid::regclass || '.' || t.tgname, t.tgenabled::text FROM pg_trigger t WHERE NOT tgisinternal
UNION ALL SELECT 'constraint', c.conrelid::regclass || '.' || c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c
    WHERE c.connamespace::regnamespace::text !~ '^(pg_|information_schema)'"""


@contextmanager
def empty_database(server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    """Give a database of the owner's with nothing in it."""
    name = f"empty_{os.urandom(8).hex()}"
    server.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0")
    try:
        yield server.database(name)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def variables_of(database: EmbeddedPostgres) -> dict[str, str]:
    """Return the variables that lead to a database as if it were a server's."""
    owner = database.owner().parameters
    return {
        "DB_CONNECTION_URL": f"postgresql:///{owner['dbname']}?host={owner['host']}",
        "MIGRATIONS_DB_USERNAME": OWNER,
        "MIGRATIONS_DB_PASSWORD": owner["password"],
        "DRIVER_DB_USERNAME": DRIVER,
        "DRIVER_DB_PASSWORD": database.driver().parameters["password"],
        "AUDITOR_DB_USERNAME": AUDITOR,
        "AUDITOR_DB_PASSWORD": database.auditor().parameters["password"],
    }


def superuser(database: EmbeddedPostgres) -> psycopg.Connection:
    """Log in as the owner of the machine could."""
    return psycopg.connect(conninfo(database.superuser()), autocommit=True)


def held(database: EmbeddedPostgres) -> set[tuple[str, ...]]:
    """Return everything that is in a database and not PostgreSQL's own: objects, columns, rights, what was migrated."""
    with superuser(database) as connection:
        found = {tuple(map(str, row)) for row in connection.execute(HELD)}
        for table in ("migration", "alembic_version"):
            if connection.execute(f"SELECT to_regclass('mer.{table}')").fetchone() != (None,):
                found |= {(table, *map(str, row)) for row in connection.execute(f"SELECT * FROM mer.{table}")}
    return found
