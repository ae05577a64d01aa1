"""However long the access log is, a question reads what it asks for: the plans of the very statements that are sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg.rows import dict_row

from mer.core.chain import Verifier
from mer.core.records import AccessFilter, InvocationId, Outcome, RecordKind
from mer.dal.postgres.access_log import COPIED_AT_ONCE, SCANNED_AT_ONCE, PostgresAccessLog
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.connections import Connections
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.errors import Meanings
from mer.dal.postgres.session import RowFactory
from tests.support.postgres import PostgresServer, tampering

RECORDS = 30_000
DAYS = 30
PAGE = 50

FILL = f"""
INSERT INTO mer.access
    (seq, previous, digest, body, kind, at, invocation, lease, actor, model, version, server, outcome, action)
SELECT n, repeat('a', 64), repeat('b', 64), repeat('body ', 140),
    CASE n % 2 WHEN 1 THEN 'started' ELSE 'finished' END,
    timestamptz '2026-01-01 00:00+00' + n * interval '{DAYS} days' / {RECORDS},
    ('00000000-0000-7000-8000-' || lpad(((n + 1) / 2)::text, 12, '0'))::uuid, '00000000-0000-7000-8000-000000000000',
    -- half of all is one model's; others, users and failures are rarer
    'user' || n % 7, CASE (n / 2) % 2 WHEN 0 THEN 'digits' ELSE 'model' || (n / 4) % 20 END, 1, 'server' || n % 3,
    CASE WHEN n % 2 = 0 THEN CASE n % 500 WHEN 0 THEN 'failed' ELSE 'succeeded' END END, NULL
FROM generate_series(1, {RECORDS}) AS n
"""
"""Records that no chain holds together, which is nothing to a plan: to make a true one would take ten times as long."""


@dataclass(frozen=True)
class Plan:
    """What the server did for a statement, or would do for any parameters of it."""

    indexes: frozenset[str]
    whole: bool
    """Whether it read the whole log, index or not."""
    rows: float
    """That were looked at, those that did not fit among them."""


class Explaining:
    """The store's own connections; each statement is explained before it is run."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.plans: list[Plan] = []

    @property
    def in_transaction(self) -> bool:
        return False

    async def ask(
        self,
        query: str,
        parameters: Mapping[str, object] | None = None,
        *,
        meanings: Meanings | None = None,
        repeatable: bool = False,
        prepare: bool | None = None,
        rows: RowFactory = dict_row,
    ) -> list[Any]:
        await self._explain(query, parameters)
        if prepare is not False:  # after some calls the server may plan it once for all parameters
            await self._explain(query, parameters, generic=True)
        return await self._connections.ask(
            query, parameters, meanings=meanings, repeatable=repeatable, prepare=prepare, rows=rows
        )

    async def copy(self, query: str) -> AsyncGenerator[memoryview, None]:
        await self._explain(query.removeprefix("COPY (").rpartition(") TO STDOUT")[0])
        async with aclosing(self._connections.copy(query)) as copied:
            async for row in copied:
                yield row

    async def _explain(
        self, query: str, parameters: Mapping[str, object] | None = None, *, generic: bool = False
    ) -> None:
        mode = "GENERIC_PLAN" if generic else "ANALYZE, TIMING OFF"
        (found,) = await self._connections.ask(f"EXPLAIN ({mode}, FORMAT JSON) {query}", parameters, prepare=False)
        scans = list(_scans(found["QUERY PLAN"][0]["Plan"]))
        self.plans.append(
            Plan(
                indexes=frozenset(scan["Index Name"] for scan in scans if "Index Name" in scan),
                whole=any("Index Name" not in scan for scan in scans),
                rows=sum(_looked_at(scan) for scan in scans),
            )
        )


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan"):
        yield node
    for inner in node.get("Plans", ()):
        yield from _scans(inner)


def _looked_at(scan: dict[str, Any]) -> float:
    each = scan.get("Actual Rows", 0) + scan.get("Rows Removed by Filter", 0)
    return float(each * scan.get("Actual Loops", 0))


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[EmbeddedPostgres]:
    with postgres_server.copy() as database:
        with tampering(database) as connection:
            connection.execute(FILL)
            connection.execute("VACUUM ANALYZE mer.access")
        yield database


@pytest.fixture
def login(database: EmbeddedPostgres) -> ConnectionSettings:
    return database.driver()


@pytest.fixture
def new(database: EmbeddedPostgres) -> Iterator[None]:
    """Let the server know nothing of the log, as when it was restored a moment ago."""
    with tampering(database) as connection:
        connection.execute("SELECT pg_clear_attribute_stats('mer', 'access', 'seq', false)")
        yield
        connection.execute("ANALYZE mer.access")


@pytest.fixture
def gap(database: EmbeddedPostgres) -> Iterator[int]:
    """Give the place of a record that stands far behind the others."""
    far = 10 * RECORDS
    with tampering(database) as connection:
        connection.execute(
            f"INSERT INTO mer.access SELECT {far}, repeat('a', 64), repeat('b', 64), '', 'change', now()"
        )
        yield far
        connection.execute(f"DELETE FROM mer.access WHERE seq = {far}")


@pytest.fixture
async def session(login: ConnectionSettings) -> AsyncIterator[Explaining]:
    connections = Connections(login)
    await connections.open()
    yield Explaining(connections)
    await connections.close()


@pytest.fixture
def log(session: Explaining) -> PostgresAccessLog:
    async def append(bodies: object) -> tuple[()]:
        raise AssertionError("nothing is appended here")

    return PostgresAccessLog(session, append=append, alone=True)


def day(number: int) -> dict[str, dt.datetime]:
    since = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)
    return {"since": since, "until": since + dt.timedelta(days=1)}


def read(session: Explaining, index: str, *, most: float) -> bool:
    """Tell whether every statement went by that index, or by it and the primary key, and looked at no more rows."""
    assert session.plans
    for plan in session.plans:
        assert not plan.whole, plan
        assert index in plan.indexes <= {index, "access_pkey"}, plan
        assert plan.rows <= most, plan
    return True


async def test_the_newest_page_is_read_from_the_end_of_the_log(session, log):
    page = await log.page(AccessFilter(), limit=PAGE)
    assert [record.seq for record in page.items] == list(range(RECORDS, RECORDS - PAGE, -1))
    assert read(session, "access_pkey", most=PAGE + 1)


async def test_a_later_page_begins_at_its_place(session, log):
    page = await log.page(AccessFilter(), after="1000", limit=PAGE)
    assert page.items[0].seq == 999
    assert read(session, "access_pkey", most=PAGE + 1)


@pytest.mark.parametrize("number", [0, 20, DAYS - 1])
@pytest.mark.parametrize("model", ["digits", "model3"])
async def test_a_models_day_is_found_by_its_index_however_long_ago(session, log, model, number):
    page = await log.page(AccessFilter(model=model, **day(number)), limit=20)
    assert len(page.items) == 20 if model == "digits" else page.items
    assert {record.columns["model"] for record in page.items} == {model}
    # three searches of a page each: the latest by time, those from their lowest place on, and their rows
    assert read(session, "access_model", most=3 * 21)


@pytest.mark.parametrize("number", [0, 20, DAYS - 1])
async def test_a_day_is_found_by_its_index_however_long_ago(session, log, number):
    page = await log.page(AccessFilter(**day(number)), limit=PAGE)
    assert len(page.items) == PAGE
    assert read(session, "access_at", most=3 * (PAGE + 1))


@pytest.mark.parametrize(
    ("where", "index", "most"),
    [
        (AccessFilter(model="model3"), "access_pkey", 60 * PAGE),
        (AccessFilter(model="nobody's"), "access_model", 0),
        (AccessFilter(actor="nobody"), "access_actor", 0),
        (AccessFilter(outcome=Outcome.FAILED), "access_failures", PAGE + 1),
        (AccessFilter(invocation=InvocationId("00000000-0000-7000-8000-000000000007")), "access_once", 2),
        (AccessFilter(kind=RecordKind.STARTED), "access_pkey", 2 * PAGE + 2),
        (AccessFilter(server="server1"), "access_pkey", 3 * PAGE + 3),
    ],
)
async def test_each_filter_that_may_be_rare_has_an_index(session, log, where, index, most):
    await log.page(where, limit=PAGE)
    assert read(session, index, most=most)


async def test_a_record_an_invocation_and_the_head_are_found_by_their_keys(session, log):
    await log.head()
    await log.get(7)
    assert read(session, "access_pkey", most=1)
    session.plans.clear()
    assert len(await log.of_invocation(InvocationId("00000000-0000-7000-8000-000000000007"))) == 2
    assert read(session, "access_once", most=2)


async def test_a_scan_reads_each_part_from_where_the_last_one_ended(session, log):
    assert sum([len(records) async for records in log.scan(after=RECORDS - 5000)]) == 5000
    assert read(session, "access_pkey", most=SCANNED_AT_ONCE)


async def test_a_verification_reads_each_part_from_where_the_last_one_ended(session, log):
    await log.feed(Verifier(chain=""), until=12_000)
    assert len(session.plans) >= 3
    assert read(session, "access_pkey", most=COPIED_AT_ONCE)


@pytest.mark.usefixtures("new")
async def test_a_log_that_was_restored_a_moment_ago_is_not_sorted_for_each_part(session, log):
    assert sum([len(records) async for records in log.scan(after=10_000, until=20_000)]) == 10_000
    assert read(session, "access_pkey", most=SCANNED_AT_ONCE)
    session.plans.clear()
    await log.feed(Verifier(chain=""), until=12_000)
    assert read(session, "access_pkey", most=COPIED_AT_ONCE)


async def test_what_stands_far_behind_the_others_is_seen(log, gap):
    found = [record.seq async for records in log.scan(after=RECORDS - 1) for record in records]
    assert found == [RECORDS, gap]
    verifier = Verifier(chain="")
    await log.feed(verifier)
    assert (verifier.head.seq, verifier.records) == (gap, RECORDS + 1)
