"""What the driver's and the auditor's own logins may do on a SurrealDB server, tried with statements of any kind."""

from __future__ import annotations

import pytest

from mer.core.chain import GENESIS, Verifier
from mer.core.errors import AuthenticationFailed, NotAllowed, NotMigrated
from mer.core.records import LeaseId
from mer.dal.surreal import SurrealStore
from mer.dal.surreal.login import Login, Role
from tests.support import records
from tests.support.surreal_servers import AUDITOR, DRIVER, OWNER, SurrealServer, by_hand

LEASE = LeaseId("a lease")


@pytest.fixture
async def url(surreal_server: SurrealServer) -> str:
    """A database with something of everything in it."""
    made = await surreal_server.migrated()
    store = SurrealStore(made, login=DRIVER)
    await store.open()
    model, gpu, weights = records.model(), records.server(), records.weights()
    await store.servers.add(gpu)
    await store.models.add(model)
    await store.models.add_version(records.version(model))
    await store.models.move_alias(records.move(model))
    await store.models.retire_version(records.retirement(model))
    await store.weights.add(weights)
    await store.weights.add_version(records.weights_version(weights))
    await store.placements.put(records.placement(model, gpu))
    await store.leases.acquire(records.lease())
    chain = await store.access_log.chain()
    await store.access_log.append([records.started(chain, records.invocation(), lease=LEASE), records.change(chain)])
    await store.close()
    return made


async def everything(url: str) -> object:
    """All rows of all tables, as the owner sees them."""
    (told,) = await by_hand(url, "INFO FOR DB", login=OWNER)
    tables = sorted(told["result"]["tables"])
    rows = await by_hand(url, *(f"SELECT * FROM {table} ORDER BY id" for table in tables), login=OWNER)
    return told["result"], [each["result"] for each in rows]


async def got_through(url: str, statements: list[str], login: Login) -> list[str]:
    """Return those of the statements that changed anything."""
    through = []
    before = await everything(url)
    for statement in statements:
        await by_hand(url, statement, login=login)
        after = await everything(url)
        if after != before:
            through.append(statement)
        before = after
    return through


READ_ONLY = ("access_record", "access_head", "open_invocation", "migrations", "login")
CREATED_ONLY = ("version", "weights_version", "alias_move", "retirement")

OF_THE_DRIVER = [
    *(f"UPDATE {table} SET digest = 'x', name = 'x'" for table in (*READ_ONLY, *CREATED_ONLY)),
    *(f"UPDATE {table} MERGE {{ number: 7 }}" for table in (*READ_ONLY, *CREATED_ONLY)),
    *(f"DELETE {table}" for table in (*READ_ONLY, *CREATED_ONLY, "server", "model", "weights", "registry_turn")),
    *(f"REMOVE TABLE {table}" for table in (*READ_ONLY, "version")),
    "UPSERT access_record:1 SET body = '{}'",
    "UPSERT access_record:9 SET body = '{}'",
    "CREATE access_record:3 SET body = '{}'",
    "INSERT INTO access_record (SELECT * OMIT id, invocation FROM access_record:2).map(|$r| $r + { id: 3 })",
    "INSERT INTO access_record (SELECT * FROM access_record) ON DUPLICATE KEY UPDATE body = '{}'",
    "CREATE access_head:2 SET seq = 9, digest = '', chain = ''",
    "CREATE open_invocation SET lease = ''",
    "CREATE migrations:1 SET number = 1, name = 'x', checksum = 'x', applied_at = time::now()",
    "CREATE login:['driver', 'eve'] SET password = crypto::argon2::generate('x')",
    "REMOVE EVENT access_record_is_immutable ON access_record",
    "REMOVE EVENT append ON append_request",
    "DEFINE EVENT OVERWRITE append ON append_request WHEN true THEN {}",
    "DEFINE TABLE OVERWRITE access_record PERMISSIONS FULL",
    "DEFINE FIELD OVERWRITE body ON access_record TYPE any PERMISSIONS FULL",
    "DEFINE FUNCTION OVERWRITE fn::denied() { true }",
    "DEFINE USER eve ON DATABASE PASSWORD 'x' ROLES OWNER",
    "DEFINE ACCESS OVERWRITE driver ON DATABASE TYPE RECORD",
    "REMOVE ACCESS auditor ON DATABASE",
    "REMOVE DATABASE mer",
    "REMOVE NAMESPACE mer",
    "RELATE access_record:1->access_record->access_record:2",
    "BEGIN; UPDATE access_record:1 SET body = '{}'; COMMIT",
    "{ DELETE access_record }",
    "FOR $each IN (SELECT VALUE id FROM access_record) { DELETE $each }",
    "INSERT RELATION INTO access_record { in: version:1, out: version:1, id: 3 }",
]

STAMPED = "CREATE migrations:1 SET number = 1, name = 'x', checksum = 'x', applied_at = time::now()"

OF_THE_AUDITOR = [
    "CREATE append_request SET bodies = ['{}']",
    "CREATE filling_request SET source = 'x'",
    "CREATE server:new SET name = 'new', kind = 'ssh', description = '', labels = {}, parameters = {}, created_at = time::now()",
    *(
        f"UPDATE {table} SET name = 'x'"
        for table in ("server", "model", "weights", "placement", "lease", "registry_turn")
    ),
    "DELETE placement",
    "DELETE lease",
]


async def test_the_driver_changes_nothing_that_is_not_its_own(url: str) -> None:
    assert await got_through(url, OF_THE_DRIVER, DRIVER) == []


async def test_the_auditor_changes_nothing(url: str) -> None:
    assert await got_through(url, [*OF_THE_DRIVER, *OF_THE_AUDITOR], AUDITOR) == []


async def test_the_owner_would_have_changed_some_of_it(url: str) -> None:
    assert "DELETE registry_turn" in await got_through(url, OF_THE_DRIVER, OWNER)


async def test_a_write_that_is_refused_is_no_silence(url: str) -> None:
    for statement in ("UPDATE access_record:1 SET body = ''", "DELETE version", STAMPED):
        (result,) = await by_hand(url, statement, login=DRIVER)
        assert (result["status"], "mer:denied" in result["result"]) == ("ERR", True)


@pytest.mark.parametrize("lacking", ["invocation", "lease", "model", "server"])
async def test_a_start_that_nobody_could_tell_is_refused_by_the_database(url: str, lacking: str) -> None:
    fields = {"invocation": records.invocation(), "lease": LEASE, "model": "digits", "server": "local"}
    body = records.body("the chain", "started", **{**fields, lacking: None})
    (result,) = await by_hand(url, "CREATE append_request SET bodies = $bodies", login=DRIVER, bodies=[body])
    assert "mer:unfit" in result["result"]


@pytest.mark.parametrize("login", [DRIVER, AUDITOR], ids=["driver", "auditor"])
@pytest.mark.parametrize(
    "what", ["SELECT * FROM login", "SELECT VALUE password FROM login:['driver', 'mer_driver']", "INFO FOR DB"]
)
async def test_nobody_reads_a_password(url: str, login: Login, what: str) -> None:
    (result,) = await by_hand(url, what, login=login)
    assert "argon2" not in str(result["result"])


async def test_the_auditor_reads_and_verifies_the_whole_log(url: str) -> None:
    store = SurrealStore(url, login=AUDITOR)
    await store.open()
    verifier = Verifier(chain=await store.access_log.chain())
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    assert verifier.finish() == []
    assert (await store.access_log.head()).seq == 2
    assert len(await store.access_log.unfinished(LEASE)) == 1
    assert [model.name for model in (await store.models.page()).items] == ["digits"]
    assert await store.schema() == 0
    await store.close()


async def test_a_change_of_the_auditors_is_not_allowed(url: str) -> None:
    store = SurrealStore(url, login=AUDITOR)
    await store.open()
    chain = await store.access_log.chain()
    with pytest.raises(NotAllowed):
        await store.models.add(records.model("other"))
    with pytest.raises(NotAllowed):
        await store.access_log.append([records.change(chain)])
    with pytest.raises(NotAllowed):
        await store.leases.acquire(records.lease())

    async def block() -> None:
        async with store.transaction() as inside:
            await inside.servers.add(records.server("other"))

    with pytest.raises(NotAllowed):
        await block()
    await store.close()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{'kind':'change'}", "no JSON"),
        ('{"at":"2026-11-21T12:00:00.000000Z","chain":"CHAIN","kind":"invented"}', "an unknown kind"),
        ('{"at":"yesterday","chain":"CHAIN","kind":"change"}', "no time"),
        ('{"at":"2026-11-21T12:00:00.000000Z","chain":"CHAIN","kind":"change"},"seq":9,"x":{}', "more than a body"),
    ],
    ids=lambda value: None if value.startswith("{") else value,
)
async def test_what_is_no_record_is_not_appended(url: str, body: str, why: str) -> None:
    store = SurrealStore(url, login=DRIVER)
    await store.open()
    body = body.replace("CHAIN", await store.access_log.chain())
    await by_hand(url, "CREATE append_request SET bodies = $bodies", login=DRIVER, bodies=[body])
    head = await store.access_log.head()
    verifier = Verifier(chain=await store.access_log.chain())
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    await store.close()
    assert verifier.finish() == []
    assert head.seq == 2


async def test_what_the_driver_appended_under_another_chain_is_found(url: str) -> None:
    body = records.change("another")
    await by_hand(url, "CREATE append_request SET bodies = $bodies", login=DRIVER, bodies=[body])
    store = SurrealStore(url, login=AUDITOR)
    await store.open()
    verifier = Verifier(chain=await store.access_log.chain())
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    await store.close()
    assert [fault.seq for fault in verifier.finish()] == [3]


async def test_a_record_comes_in_only_after_the_last(url: str) -> None:
    store = SurrealStore(url, login=DRIVER)
    await store.open()
    body = records.change(await store.access_log.chain())
    for extra in ("seq = 9", "previous = $digest", "head = { seq: 0 }"):
        await by_hand(
            url, f"CREATE append_request SET bodies = $bodies, {extra}", login=DRIVER, bodies=[body], digest=GENESIS
        )
    verifier = Verifier(chain=await store.access_log.chain())
    async for chunk in store.access_log.scan():
        verifier.feed(chunk)
    assert verifier.finish() == []
    await store.close()


@pytest.mark.parametrize("login", [DRIVER, AUDITOR, OWNER], ids=lambda login: login.role)
async def test_a_wrong_password_is_told_as_such(url: str, login: Login) -> None:
    wrong = Login(role=login.role, name=login.name, password="wrong")
    with pytest.raises(AuthenticationFailed, match=login.name):
        await by_hand(url, "RETURN 1", login=wrong)


async def test_the_drivers_password_does_not_make_an_auditor(url: str) -> None:
    with pytest.raises(AuthenticationFailed):
        await by_hand(url, "RETURN 1", login=Login(role=Role.AUDITOR, name=DRIVER.name, password=DRIVER.password))


async def test_a_database_that_nobody_made_is_not_migrated(surreal_server: SurrealServer) -> None:
    store = SurrealStore(surreal_server.url("nobody_made_it"), login=DRIVER)
    with pytest.raises(NotMigrated, match="is not migrated"):
        await store.open()
    await store.close()
