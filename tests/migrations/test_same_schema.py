"""The same number means the same schema: what PostgreSQL's tables can hold and what SurrealDB's can, field by field.

Both are asked, after their own migrations ran. Where they differ on purpose, it stands here with the reason; whatever else
one of them has and the other lacks is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from mer.dal.postgres.conninfo import conninfo
from mer.dal.surreal.scripts import read_scripts as read_surreal_scripts
from mer.dal.surreal.scripts import scripts_folder
from mer_migrations.postgres.scripts import read_scripts
from tests.support.postgres import PostgresServer
from tests.support.surreal import by_hand, migrated


class Field(NamedTuple):
    """What a field can hold."""

    kind: str
    optional: bool


Schema = dict[str, dict[str, Field]]

POSTGRES_KINDS = {
    "uuid": "text",  # SurrealDB keeps ours as text: it has a type of its own only for those that it makes
    "text": "text",
    "integer": "whole",
    "bigint": "whole",  # SurrealDB has one kind of 64 bits; what must stay in 32 has an ASSERT there
    "boolean": "truth",
    "jsonb": "object",
    "timestamp with time zone": "time",
}
SURREAL_KINDS = {
    "string": "text",
    "int": "whole",
    "bool": "truth",
    "object": "object",
    "datetime": "time",
}

SAME_TABLE = {"access": "access_record", "migration": "migrations"}
"""PostgreSQL's name, and SurrealDB's: `access` is a word of its language."""

SAME_FIELD = {
    # a record of SurrealDB is found by its id alone: no other index gives it in its order
    ("access", "seq"): "id",
    ("open_invocation", "lease"): "id",
}

POSTGRES_ALONE = {
    "access_lock": "what appending locks; SurrealDB's appends contend for access_head",
    "alembic_version": "Alembic's own record beside mer.migration",
    "filling": "SurrealDB has that in access_head, too",
    "chain": "SurrealDB has the chain's name in access_head, which every append reads anyhow",
}
SURREAL_ALONE = {
    "access_head": "the chain's name and its last record: SurrealDB would scan the log for it, PostgreSQL has an index",
    "registry_turn": "makes changes of the registry contend, as PostgreSQL's row locks do",
    "login": "names and passwords of driver and auditor, which PostgreSQL has as roles",
    "append_request": "a call of the append function, which PostgreSQL has as a function with rights of its own",
    "chain_request": "the same for the chain's name",
    "filling_request": "the same for the mark of a copy or a restore",
}
POSTGRES_FIELDS_ALONE = {
    ("open_invocation", name): "within `open` in SurrealDB: a row for each invocation costs it too much to take away"
    for name in ("invocation", "started_seq", "model", "server")
}
SURREAL_FIELDS_ALONE = {
    ("open_invocation", "open"): "all that is open under a lease, by its id",
    ("access_record", "newest"): "seq downwards: SurrealDB reads an index only upwards without a scan",
    ("migrations", "id"): "the number again: who applies a script at the same moment fails on it",
}
OTHER_KIND = {
    ("access", "at"): ("time", "text"),  # the body's own text, whose fixed form sorts as time does
}

_TYPE = re.compile(r" TYPE (?P<type>.+?)(?: (?:DEFAULT|READONLY|VALUE|ASSERT|COMMENT|PERMISSIONS|FLEXIBLE)\b|$)")


@pytest.fixture(scope="module")
def postgres(postgres_server: PostgresServer) -> Schema:
    """What the tables of mer hold, by their own names."""
    found: Schema = {}
    with psycopg.connect(conninfo(postgres_server.database("wiped").owner())) as connection:
        rows = connection.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, NULL), NOT a.attnotnull"
            " FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE c.relnamespace = 'mer'::regnamespace AND c.relkind = 'r'"
        )
        for table, field, kind, optional in rows:
            fields = found.setdefault(table, {})
            if field:
                fields[field] = Field(POSTGRES_KINDS.get(kind, kind), optional)
    return found


@pytest.fixture
async def surreal(tmp_path: Path) -> Schema:
    """What the tables of SurrealDB hold, by their own names."""
    url = await migrated(tmp_path / "registry")
    (of_database,) = await by_hand(url, "INFO FOR DB")
    tables = list(of_database["result"]["tables"])
    answers = await by_hand(url, *(f"INFO FOR TABLE {table}" for table in tables))
    return {
        table: {field: _field(text) for field, text in answer["result"]["fields"].items() if "." not in field}
        for table, answer in zip(tables, answers, strict=True)
    }


def _field(definition: str) -> Field:
    found = _TYPE.search(definition)
    assert found, definition
    kinds = found["type"].split(" | ")
    kind = " | ".join(kind for kind in kinds if kind != "none")
    if kind.startswith("["):
        kind = "key"
    elif kind.startswith("'"):  # one of some words, which PostgreSQL has as a CHECK, or leaves to the program
        kind = "string"
    return Field(SURREAL_KINDS.get(kind, kind), "none" in kinds)


def differences(postgres: Schema, surreal: Schema) -> Iterator[str]:
    """Tell every difference that has no reason above."""
    for table in postgres.keys() - POSTGRES_ALONE.keys():
        if SAME_TABLE.get(table, table) not in surreal:
            yield f"SurrealDB has no table {table}"
    there = {ours: table for table in postgres for ours in [SAME_TABLE.get(table, table)]}
    for ours, fields in surreal.items():
        if ours in SURREAL_ALONE:
            continue
        if ours not in there:
            yield f"PostgreSQL has no table {ours}"
            continue
        table = there[ours]
        wanted = {
            SAME_FIELD.get((table, name), name): (name, field)
            for name, field in postgres[table].items()
            if (table, name) not in POSTGRES_FIELDS_ALONE
        }
        for name, field in fields.items():
            # a record's id is made of fields that stand beside it, as PostgreSQL's primary key is
            if name not in wanted and (ours, name) not in SURREAL_FIELDS_ALONE and field.kind != "key":
                yield f"PostgreSQL has no field {table}.{name}"
        for name, (column, field) in wanted.items():
            if name not in fields:
                yield f"SurrealDB has no field {ours}.{name}"
                continue
            kinds = OTHER_KIND.get((table, column), (field.kind, field.kind))
            if (field.kind, fields[name].kind) != kinds:
                yield f"{table}.{column} is {field.kind} in PostgreSQL, and {fields[name].kind} in SurrealDB"
            if field.optional != fields[name].optional:
                yield f"{table}.{column} may be left out of {'PostgreSQL' if field.optional else 'SurrealDB'} alone"


def test_both_have_the_same_numbers() -> None:
    names = [(script.number, script.name) for script in read_scripts()]
    ours = [(script.number, script.name.lower()) for script in read_surreal_scripts(scripts_folder())]
    assert names == ours


async def test_both_can_hold_the_same(postgres: Schema, surreal: Schema) -> None:
    assert sorted(differences(postgres, surreal)) == []


async def test_every_difference_on_purpose_is_there(postgres: Schema, surreal: Schema) -> None:
    assert POSTGRES_ALONE.keys() <= postgres.keys()
    assert SURREAL_ALONE.keys() <= surreal.keys()
    assert [key for key in SURREAL_FIELDS_ALONE if key[1] not in surreal[key[0]]] == []
    assert [key for key in [*SAME_FIELD, *OTHER_KIND, *POSTGRES_FIELDS_ALONE] if key[1] not in postgres[key[0]]] == []
    assert SURREAL_ALONE.keys() & postgres.keys() == set()
    assert POSTGRES_ALONE.keys() & surreal.keys() == set()


@pytest.mark.parametrize("lacking", ["postgres", "surreal"])
async def test_what_one_of_them_lacks_is_told(postgres: Schema, surreal: Schema, lacking: str) -> None:
    added = {"placement": {"cost": Field("whole", optional=True)}, "bill": {"id": Field("text", optional=False)}}
    richer = surreal if lacking == "postgres" else postgres
    more = {**richer, "bill": added["bill"], "placement": {**richer["placement"], **added["placement"]}}
    found = sorted(differences(postgres, more) if lacking == "postgres" else differences(more, surreal))
    name = "PostgreSQL" if lacking == "postgres" else "SurrealDB"
    assert found == [f"{name} has no field placement.cost", f"{name} has no table bill"]


async def test_another_kind_or_what_may_be_left_out_is_told(postgres: Schema, surreal: Schema) -> None:
    other = {**surreal, "lease": {**surreal["lease"], "pid": Field("text", optional=True)}}
    assert sorted(differences(postgres, other)) == [
        "lease.pid is whole in PostgreSQL, and text in SurrealDB",
        "lease.pid may be left out of SurrealDB alone",
    ]
