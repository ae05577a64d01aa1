"""What the database itself does for records that may never change, and what shows where it was made not to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mer.core.chain import Checkpoint, Fault, Verifier
from mer.core.errors import LogNotVerified
from mer.core.records import LeaseId
from mer.dal.surreal import SurrealStore
from tests.support import records
from tests.support.surreal import by_hand, migrated

UNGUARDED = (
    "REMOVE EVENT access_record_is_immutable ON access_record",
    "REMOVE EVENT access_head_only_advances ON access_head",
)


@pytest.fixture
async def url(tmp_path: Path) -> str:
    """A registry with one of everything, and five records in its log."""
    url = await migrated(tmp_path / "registry")
    store = SurrealStore(url)
    await store.open()
    model, weights = records.model("digits"), records.weights("digits")
    await store.models.add(model)
    await store.models.add_version(records.version(model))
    await store.models.retire_version(records.retirement(model))
    await store.models.move_alias(records.move(model))
    await store.weights.add(weights)
    await store.weights.add_version(records.weights_version(weights))
    chain = await store.access_log.chain()
    of = records.invocation()
    lease = LeaseId("l")
    await store.access_log.append([records.started(chain, of, lease=lease), records.finished(chain, of, lease=lease)])
    await store.access_log.append([records.change(chain, number=number) for number in range(3)])
    await store.close()
    return url


async def faults(url: str, *, checkpoint: Checkpoint | None = None) -> list[Fault]:
    store = SurrealStore(url)
    await store.open()
    verifier = Verifier(chain=await store.access_log.chain(), checkpoint=checkpoint)
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    await store.close()
    return verifier.finish()


IMMUTABLE = {
    "access_record": "body = '{}'",
    "version": "package = 'another'",
    "weights_version": "size = 1",
    "alias_move": "actor = 'eve'",
    "retirement": "at = time::now()",
}


@pytest.mark.parametrize(("table", "change"), IMMUTABLE.items(), ids=IMMUTABLE)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET {change}",
        "UPSERT {table} SET {change} WHERE id IS NOT NONE",
        "DELETE {table}",
        "INSERT INTO {table} (SELECT * FROM {table}) ON DUPLICATE KEY UPDATE {change}",
    ],
    ids=["update", "upsert", "delete", "insert"],
)
async def test_what_is_immutable_refuses_a_change(url: str, table: str, change: str, statement: str) -> None:
    before, result, after = await by_hand(
        url, f"SELECT * FROM {table}", statement.format(table=table, change=change), f"SELECT * FROM {table}"
    )
    assert "can never be changed or removed" in result["result"]
    assert after["result"] == before["result"]


async def test_the_head_only_advances(url: str) -> None:
    for statement in ("UPDATE access_head:1 SET seq = 1", "UPDATE access_head:1 SET chain = 'x'", "DELETE access_head"):
        (result,) = await by_hand(url, statement)
        assert "only advance" in result["result"]


async def test_an_untouched_log_verifies(url: str) -> None:
    assert await faults(url) == []


async def test_a_changed_body_is_found(url: str) -> None:
    body = "body = string::replace(body, 'ada', 'eve')"
    await by_hand(url, *UNGUARDED, f"UPDATE access_record:2 SET {body}, actor = 'eve'")
    assert [fault.seq for fault in await faults(url)] == [2]


async def test_a_changed_column_is_found(url: str) -> None:
    await by_hand(url, *UNGUARDED, "UPDATE access_record:2 SET outcome = 'failed'")
    (fault,) = await faults(url)
    assert (fault.seq, "outcome" in fault.what) == (2, True)


async def test_a_removed_record_is_found(url: str) -> None:
    await by_hand(url, *UNGUARDED, "DELETE access_record:3")
    (fault,) = await faults(url)
    assert (fault.seq, "missing" in fault.what) == (3, True)


async def test_two_swapped_records_are_found(url: str) -> None:
    await by_hand(
        url,
        *UNGUARDED,
        "BEGIN; LET $third = (SELECT * OMIT id FROM ONLY access_record:3);"
        " LET $fourth = (SELECT * OMIT id FROM ONLY access_record:4);"
        " UPDATE access_record:3 CONTENT $fourth; UPDATE access_record:4 CONTENT $third; COMMIT",
    )
    assert {fault.seq for fault in await faults(url)} >= {3, 4}


@pytest.mark.parametrize("seq", [0, -7, 6])
async def test_an_inserted_record_is_found(url: str, seq: int) -> None:
    (result,) = await by_hand(
        url,
        f"INSERT INTO access_record (SELECT * OMIT id, invocation FROM access_record:4).map(|$r| $r + {{ id: {seq} }})",
    )
    assert result["status"] == "OK"
    assert seq in [fault.seq for fault in await faults(url)]


async def test_a_record_with_an_id_that_is_no_number_cannot_be_inserted(url: str) -> None:
    (result,) = await by_hand(url, "CREATE access_record:abc SET body = ''")
    assert result["status"] == "ERR"


async def test_a_cut_tail_is_found_with_a_checkpoint(url: str) -> None:
    store = SurrealStore(url)
    await store.open()
    head, chain = await store.access_log.head(), await store.access_log.chain()
    before = await store.access_log.get(4)
    await store.close()
    cut = f"UPDATE access_head:1 SET seq = 4, digest = '{before.digest}'"
    await by_hand(url, *UNGUARDED, "DELETE access_record:5", cut)
    assert await faults(url) == []
    checkpoint = Checkpoint(chain=chain, seq=head.seq, digest=head.digest)
    assert [fault.seq for fault in await faults(url, checkpoint=checkpoint)] == [5]


async def test_a_tail_that_was_cut_but_for_the_head_shows_with_the_next_record(url: str) -> None:
    await by_hand(url, *UNGUARDED, "DELETE access_record:5")
    store = SurrealStore(url)
    await store.open()
    await store.access_log.append([records.change(await store.access_log.chain())])
    await store.close()
    assert [fault.seq for fault in await faults(url)] == [5]


async def test_nothing_is_appended_over_a_record_that_was_inserted(url: str) -> None:
    copied = "(SELECT * OMIT id, invocation FROM access_record:4).map(|$r| $r + { id: 6 })"
    await by_hand(url, f"INSERT INTO access_record {copied}")
    store = SurrealStore(url)
    await store.open()
    with pytest.raises(LogNotVerified, match="taken"):
        await store.access_log.append([records.change(await store.access_log.chain())])
    await store.close()


async def test_a_caller_who_gives_up_does_not_cut_off_the_group(url: str) -> None:
    store = SurrealStore(url)
    await store.open()
    chain = await store.access_log.chain()
    appending = [asyncio.create_task(store.access_log.append([records.change(chain, n=n)])) for n in range(4)]
    await asyncio.sleep(0)
    appending[1].cancel()
    done = await asyncio.gather(*appending, return_exceptions=True)
    assert [isinstance(each, BaseException) for each in done] == [False, True, False, False]
    await store.close()
    assert await faults(url) == []


async def test_what_was_open_leaves_nothing_behind_once_its_lease_is_gone(tmp_path: Path) -> None:
    url = await migrated(tmp_path / "registry")
    store = SurrealStore(url)
    await store.open()
    chain, lease = await store.access_log.chain(), records.lease()
    await store.leases.acquire(lease)
    for under in (lease.id, LeaseId("of nobody")):
        of = records.invocation()
        await store.access_log.append([records.started(chain, of, lease=under)])
        await store.access_log.append([records.finished(chain, of, lease=under)])
    await store.leases.release(lease.id)
    await store.close()
    assert await _open(url) == []


async def test_what_is_open_stays_known_when_its_lease_goes(tmp_path: Path) -> None:
    url = await migrated(tmp_path / "registry")
    store = SurrealStore(url)
    await store.open()
    chain, lease, of = await store.access_log.chain(), records.lease(), records.invocation()
    await store.leases.acquire(lease)
    await store.access_log.append([records.started(chain, of, lease=lease.id)])
    await store.leases.release(lease.id)
    assert [each.invocation for each in await store.access_log.unfinished(lease.id)] == [of]
    await store.access_log.append([records.finished(chain, of, lease=lease.id)])
    assert await store.access_log.unfinished() == ()
    await store.close()
    assert await _open(url) == []


async def _open(url: str) -> list[str]:
    head, rows = await by_hand(
        url, "SELECT VALUE open FROM ONLY access_head:1", "SELECT VALUE record::id(id) FROM open_invocation"
    )
    return [*head["result"], *rows["result"]]
