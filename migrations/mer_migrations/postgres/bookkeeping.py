"""What a database has on record of its migrations, and whether that is ours.

`mer.migration` says what was applied, by which bytes, when and how long it took; Alembic's own table beside it holds the
number that it goes on from. Both are written in the transaction of the migration itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import class_row

from mer.core.errors import ConfigurationError, NotMigrated
from mer_migrations.postgres.connect import Connection
from mer_migrations.postgres.scripts import Script

SCHEMA = "mer"
TABLE = "migration"
VERSIONS_TABLE = "alembic_version"

COLUMNS = ("number", "name", "checksum", "applied_at", "microseconds")

MAKE_SCHEMA = "CREATE SCHEMA mer;"

MAKE_TABLE = """\
CREATE TABLE mer.migration (
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    microseconds bigint
);"""

MAKE_VERSIONS_TABLE = """\
CREATE TABLE mer.alembic_version (
    version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY
);"""

MAX_SHOWN = 5
"""Tables of somebody else's that a message names."""

# From the catalogs, which anybody may read: what is asked by name fails where the schema is closed to this login.
_RELATIONS = """
SELECT c.relname AS name, c.relkind = 'r' AS is_table, pg_get_userbyid(c.relowner) AS owner,
    pg_has_role(c.relowner, 'USAGE') AS is_own, ARRAY(
        SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'mer' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
ORDER BY c.relname"""


@dataclass(frozen=True, kw_only=True)
class Noted:
    """A migration that was applied."""

    number: int
    name: str
    checksum: str
    applied_at: dt.datetime
    microseconds: int | None


@dataclass(frozen=True, kw_only=True)
class _Relation:
    name: str
    is_table: bool
    owner: str
    is_own: bool
    columns: list[str]


def noted(connection: Connection, shown: str) -> tuple[Noted, ...]:
    """Return what was applied, by number; nothing in a database where MER has never been.

    Raises:
        ConfigurationError: the schema is somebody else's, or its tables belong to another login than this one.
    """
    relations = {each.name: each for each in _relations(connection)}
    others = [name for name in relations if name not in (TABLE, VERSIONS_TABLE)]
    if not _is_ours(relations.get(TABLE)):
        if relations:
            raise _foreign(shown, list(relations))
        return ()
    strangers = [each for each in relations.values() if not each.is_own]
    if strangers:
        raise ConfigurationError(
            f"{strangers[0].name} in the schema mer of {shown} belongs to {strangers[0].owner}, not to this login",
            hint="MIGRATIONS_DB_USERNAME is whoever migrated it before.",
        )
    with connection.cursor(row_factory=class_row(Noted)) as cursor:
        found = cursor.execute(
            "SELECT number, name, checksum, applied_at, microseconds FROM mer.migration ORDER BY number"
        ).fetchall()
    if others and not found:
        raise _foreign(shown, others)
    _check_alembic(connection, shown, found, is_there=VERSIONS_TABLE in relations)
    return tuple(found)


def compare(found: Sequence[Noted], scripts: Sequence[Script], shown: str) -> None:
    """Make sure that what was applied is what this program would have applied.

    Raises:
        ConfigurationError: a number is missing, or a script was edited after it was applied.
        NotMigrated: the database is newer than this program.
    """
    for place, row in enumerate(found):
        if row.number != place:
            raise ConfigurationError(
                f"{shown} has migration {row.number:02} {row.name}, and {place:02} was never applied to it"
            )
    if len(found) > len(scripts):
        raise NotMigrated(
            f"{shown} has schema {found[-1].number:02}, which is newer than this program's {scripts[-1].number:02}",
            hint="Update mer.",
        )
    for row, script in zip(found, scripts, strict=False):
        if (row.name, row.checksum) != (script.name, script.checksum):
            raise ConfigurationError(
                f"{script} was edited after it was applied to {shown} as {row.number:02} {row.name}"
                f" at {row.applied_at:%Y-%m-%d %H:%M:%S} UTC",
                hint="Put it back as it was, and the change into a migration of its own."
                f" An edit that was meant: mer-migrate stamp {found[-1].number:02}",
            )


def missing_tables(connection: Connection) -> tuple[str, ...]:
    """Return the statements that make what is missing of the bookkeeping."""
    there = {each.name for each in _relations(connection)}
    made = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'mer'").fetchone()
    return (
        *(() if made else (MAKE_SCHEMA,)),
        *(() if TABLE in there else (MAKE_TABLE,)),
        *(() if VERSIONS_TABLE in there else (MAKE_VERSIONS_TABLE,)),
    )


def make(connection: Connection, shown: str) -> None:
    """Make what is missing of the bookkeeping, in the caller's transaction.

    Raises:
        ConfigurationError: this login may not, and what an administrator says for it to.
    """
    try:
        for statement in missing_tables(connection):
            connection.execute(statement.encode())
    except InsufficientPrivilege as error:
        owner = sql.Identifier(connection.info.user).as_string()
        raise ConfigurationError(
            f"{connection.info.user} may not make the schema mer in {shown}, or a table in it",
            hint=f"As an administrator, on that database: CREATE SCHEMA mer AUTHORIZATION {owner};",
        ) from error


def check_own(connection: Connection, shown: str) -> None:
    """Make sure that mer.migration is a table of this module's. Raises: ConfigurationError."""
    if not _is_ours(next((each for each in _relations(connection) if each.name == TABLE), None)):
        raise _foreign(shown, [TABLE])


def note(connection: Connection, script: Script, microseconds: int | None) -> None:
    """Put a migration on record. Alembic keeps its own table."""
    connection.execute(
        "INSERT INTO mer.migration (number, name, checksum, microseconds) VALUES (%s, %s, %s, %s)",
        (script.number, script.name, script.checksum, microseconds),
    )


def forget(connection: Connection, script: Script) -> None:
    """Take a migration from the record; with the last one goes the record, and the schema where nothing else is in it."""
    connection.execute("DELETE FROM mer.migration WHERE number = %s", (script.number,))
    if script.number:
        return
    connection.execute("DROP TABLE mer.migration, mer.alembic_version")
    # whoever may not make a schema here was given this one, and would be without it at the next upgrade
    dropped = connection.execute(
        """SELECT 1 FROM pg_namespace n WHERE n.nspname = 'mer' AND pg_has_role(n.nspowner, 'USAGE')
            AND has_database_privilege(current_database(), 'CREATE')
            AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid)
            AND NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid)
            AND NOT EXISTS (SELECT FROM pg_type WHERE typnamespace = n.oid)"""
    ).fetchone()
    if dropped:
        connection.execute("DROP SCHEMA mer")


def stamp(connection: Connection, scripts: Sequence[Script]) -> None:
    """Put exactly these on record, in Alembic's table too. The caller's transaction holds the bookkeeping's tables."""
    connection.execute("DELETE FROM mer.migration")
    for script in scripts:
        note(connection, script, None)
    connection.execute("DELETE FROM mer.alembic_version")
    if scripts:
        connection.execute("INSERT INTO mer.alembic_version VALUES (%s)", (scripts[-1].revision,))


def _relations(connection: Connection) -> list[_Relation]:
    with connection.cursor(row_factory=class_row(_Relation)) as cursor:
        return cursor.execute(_RELATIONS).fetchall()


def _is_ours(table: _Relation | None) -> bool:
    return table is not None and table.is_table and sorted(table.columns) == sorted(COLUMNS)


def _check_alembic(connection: Connection, shown: str, found: Sequence[Noted], *, is_there: bool) -> None:
    rows = connection.execute("SELECT version_num FROM mer.alembic_version").fetchall() if is_there else []
    ours = [f"{found[-1].number:02}"] if found else []
    if [number for (number,) in rows] != ours:
        raise ConfigurationError(
            f"{shown} has {', '.join(ours) or 'nothing'} in mer.migration and"
            f" {', '.join(number for (number,) in rows) or 'nothing'} in mer.alembic_version",
            hint="Somebody edited one of them. Where you know which is right: mer-migrate stamp NN",
        )


def _foreign(shown: str, names: Sequence[str]) -> ConfigurationError:
    told = ", ".join(names[:MAX_SHOWN]) + (" …" if len(names) > MAX_SHOWN else "")
    return ConfigurationError(
        f"the schema mer of {shown} is somebody else's: it holds {told}, and mer-migrate has never been there",
        hint="Give another database. If the schema is MER's and was made by other means: mer-migrate stamp NN",
    )
