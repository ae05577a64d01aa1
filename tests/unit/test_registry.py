"""The registry's use-cases: what they keep, what they refuse, and that each is on record."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mer.core.errors import (
    AliasNotFound,
    AlreadyExists,
    ChangesNotAllowed,
    ConfigurationError,
    DatabaseUnreachable,
    ModelNotFound,
    PlacementNotFound,
    Retired,
    ServerNotFound,
    UsageError,
    VersionNotFound,
    WeightsNotFound,
)
from mer.core.records import Digest, ModelId, ServerKind
from mer.core.specs import Command, VersionSpec
from mer.dal.memory import MemoryStore
from mer.dal.memory.store import MemoryRepositories
from mer.registry.models import Parts
from mer.registry.servers import ensure_local
from tests.support.registry import ADA, Registry, parts, registry

GPU1 = {"address": "gpu1.lab"}


@pytest.fixture
async def r() -> Registry:
    store = MemoryStore()
    await ensure_local(store, clock=lambda: dt.datetime.now(dt.UTC))
    return registry(store)


async def test_the_first_version_is_the_default(r: Registry) -> None:
    made = await r.models.register(ADA, "digits", parts("a"))
    assert (made.version.number, made.created) == (1, True)
    assert [(move.alias, move.version) for move in (await r.models.show("digits")).aliases] == [("default", 1)]


async def test_a_later_version_does_not_move_the_default(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.register(ADA, "digits", parts("b"))
    assert (await r.resolver.resolve("digits")).version.number == 1


async def test_registering_the_same_again_makes_no_version_and_no_record(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    again = await r.models.register(ADA, "digits", parts("a"))
    assert (again.version.number, again.created) == (1, False)
    assert await r.actions() == ["model.register"]


async def test_an_alias_moves_and_keeps_its_history(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.register(ADA, "digits", parts("b"))
    await r.models.alias(ADA, "digits", "prod", 2)
    await r.models.alias(ADA, "digits", "prod", 1)
    assert (await r.resolver.resolve("digits@prod")).version.number == 1
    history = (await r.models.history("digits")).items
    assert [(m.alias, m.move, m.version, m.actor) for m in history if m.alias == "prod"] == [
        ("prod", 2, 1, "ada"),
        ("prod", 1, 2, "ada"),
    ]


async def test_an_alias_that_was_taken_away_means_nothing(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.alias(ADA, "digits", "prod", 1)
    await r.models.alias(ADA, "digits", "prod", None)
    with pytest.raises(AliasNotFound):
        await r.resolver.resolve("digits@prod")


async def test_an_alias_to_a_version_that_is_not_there_is_refused(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    with pytest.raises(VersionNotFound, match=r"^digits has no version 7$"):
        await r.models.alias(ADA, "digits", "prod", 7)
    with pytest.raises(VersionNotFound, match=r"^digits has no version 8$"):
        await r.models.retire(ADA, "digits:8")


async def test_a_placement_that_is_not_there_is_told_with_whose_it_would_be(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    with pytest.raises(PlacementNotFound, match=r"^digits has no placement on local$"):
        await r.placements.remove(ADA, "digits", "local")


async def test_a_retired_version_is_not_run(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.retire(ADA, "digits:1")
    with pytest.raises(Retired, match="digits:1 was retired"):
        await r.resolver.resolve("digits")


async def test_a_retired_model_is_not_run_and_keeps_its_name(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.retire(ADA, "digits")
    with pytest.raises(Retired):
        await r.resolver.resolve("digits:1")
    with pytest.raises(Retired, match="its name stays taken"):
        await r.models.register(ADA, "digits", parts("b"))
    assert (await r.models.list()).items == ()


async def test_retiring_an_alias_is_refused(r: Registry) -> None:
    with pytest.raises(UsageError):
        await r.models.retire(ADA, "digits@prod")


async def test_editing_changes_only_what_is_given(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"), description="first", labels={"team": "x"})
    model = await r.models.edit(ADA, "digits", description="second")
    assert (model.description, model.labels) == ("second", {"team": "x"})


@pytest.mark.parametrize(
    ("reference", "error"), [("nosuch", ModelNotFound), ("digits:9", VersionNotFound), ("digits@prod", AliasNotFound)]
)
async def test_what_is_not_there_is_told_apart(r: Registry, reference: str, error: type[Exception]) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    with pytest.raises(error, match=reference.partition(":")[0].partition("@")[0]):
        await r.resolver.resolve(reference)


async def test_without_a_placement_a_model_runs_on_local(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    assert [c.server.name for c in (await r.resolver.resolve("digits")).candidates] == ["local"]


async def test_a_server_without_a_placement_is_refused_with_the_command_that_would_place_it(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    with pytest.raises(PlacementNotFound) as caught:
        await r.resolver.resolve("digits", on="gpu1")
    assert caught.value.hint == "mer -a model place digits gpu1"


async def test_an_unknown_server_is_told(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    with pytest.raises(ServerNotFound):
        await r.resolver.resolve("digits", on="nosuch")


async def test_a_placed_model_runs_where_it_is_placed(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    for name in ("gpu2", "gpu1"):
        await r.servers.register(ADA, name, parameters=GPU1)
        await r.placements.place(ADA, "digits", name)
    assert [c.server.name for c in (await r.resolver.resolve("digits")).candidates] == ["gpu1", "gpu2"]
    with pytest.raises(PlacementNotFound):
        await r.resolver.resolve("digits", on="local")


async def test_a_bare_name_follows_a_pin_and_a_version_that_was_asked_for_does_not(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.register(ADA, "digits", parts("b"))
    await r.placements.place(ADA, "digits:2", "local")
    assert [c.version.number for c in (await r.resolver.resolve("digits")).candidates] == [2]
    with pytest.raises(PlacementNotFound):
        await r.resolver.resolve("digits:1")


async def test_a_placement_pinned_to_a_retired_version_leaves_the_work_to_the_others(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.models.register(ADA, "digits", parts("b"))
    for name, reference in (("gpu1", "digits:2"), ("gpu2", "digits")):
        await r.servers.register(ADA, name, parameters=GPU1)
        await r.placements.place(ADA, reference, name)
    await r.models.retire(ADA, "digits:2")
    assert [c.server.name for c in (await r.resolver.resolve("digits")).candidates] == ["gpu2"]
    with pytest.raises(Retired):
        await r.resolver.resolve("digits", on="gpu1")


@pytest.mark.parametrize("text", ["\x00", "\udcff", "x" * 5000])
async def test_what_no_database_or_record_holds_is_refused_in_words(r: Registry, text: str) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    with pytest.raises(UsageError):
        await r.placements.place(ADA, "digits", "local", device=text)


@pytest.mark.parametrize("text", ["\x00", "\udcff"])
async def test_a_command_that_no_record_holds_is_refused_in_words(r: Registry, text: str) -> None:
    with pytest.raises(UsageError):
        await r.models.register(
            ADA, "chat", Parts(spec=VersionSpec(runner="command", command=Command(argv=("/bin/cat", text))))
        )


async def test_what_was_being_resolved_during_a_change_is_not_remembered(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    asked, answer = asyncio.Event(), asyncio.Event()
    of_model = r.store.placements.of_model

    async def slow(model: ModelId) -> Any:
        placements = await of_model(model)
        asked.set()
        await answer.wait()
        return placements

    r.store.placements.of_model = slow  # type: ignore[method-assign] # a database far away
    resolving = asyncio.create_task(r.resolver.resolve("digits"))
    await asked.wait()
    await r.models.retire(ADA, "digits")
    answer.set()
    await resolving
    with pytest.raises(Retired):
        await r.resolver.resolve("digits")


async def test_a_change_whose_acknowledgement_was_lost_is_seen_at_once() -> None:
    class Unanswered(MemoryStore):
        lost = False

        @contextlib.asynccontextmanager
        async def transaction(self) -> AsyncIterator[MemoryRepositories]:
            async with super().transaction() as repositories:
                yield repositories
            if self.lost:
                raise DatabaseUnreachable

    store = Unanswered()
    await ensure_local(store, clock=lambda: dt.datetime.now(dt.UTC))
    r = registry(store)
    await r.models.register(ADA, "digits", parts("a"))
    await r.resolver.resolve("digits")
    store.lost = True
    with pytest.raises(DatabaseUnreachable):
        await r.models.retire(ADA, "digits")
    with pytest.raises(Retired):
        await r.resolver.resolve("digits")


async def test_a_placement_can_be_taken_away(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    await r.placements.place(ADA, "digits", "gpu1")
    await r.placements.remove(ADA, "digits", "gpu1")
    assert [c.server.name for c in (await r.resolver.resolve("digits")).candidates] == ["local"]


async def test_a_retired_server_is_no_candidate(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    await r.placements.place(ADA, "digits", "gpu1")
    await r.servers.retire(ADA, "gpu1")
    with pytest.raises(Retired):
        await r.resolver.resolve("digits", on="gpu1")


async def test_local_is_always_there(r: Registry) -> None:
    assert [(s.name, s.kind) for s in (await r.servers.list()).items] == [("local", ServerKind.LOCAL)]
    with pytest.raises(UsageError):
        await r.servers.retire(ADA, "local")


async def test_a_server_name_is_taken_once(r: Registry) -> None:
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    with pytest.raises(AlreadyExists, match="already"):
        await r.servers.register(ADA, "gpu1", parameters=GPU1)
    await r.servers.retire(ADA, "gpu1")
    with pytest.raises(AlreadyExists, match=r"gpu1 was retired on .*; its name stays taken"):
        await r.servers.register(ADA, "gpu1", parameters=GPU1)


async def test_a_server_without_an_address_is_told_what_is_missing(r: Registry) -> None:
    with pytest.raises(ConfigurationError, match="needs an address") as refused:
        await r.servers.register(ADA, "gpu1", parameters={})
    assert "--address" in (refused.value.hint or "")
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    with pytest.raises(ConfigurationError, match="needs an address"):
        await r.servers.edit(ADA, "gpu1", parameters={"address": None})


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"address": ""},
        {"address": "-oProxyCommand=x"},
        {"address": "ada:secret@gpu1"},
        {"address": "a b"},
        {"address": "a", "user": "-oProxyCommand=x"},
        {"address": "a", "password": "x"},
        {"address": "a", "proxy_command": "x"},
        {"address": "a", "python": "python3"},
        {"address": "a", "port": 0},
        {"address": "a", "port": 65536},
        {"address": "a", "port": "22"},
    ],
)
async def test_bad_parameters_of_a_server_are_refused(r: Registry, parameters: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        await r.servers.register(ADA, "gpu1", parameters=parameters)


async def test_weights_are_numbered_and_the_newest_is_meant(r: Registry) -> None:
    for digit in "abb":
        await r.weights.register(ADA, "net", digest=Digest(digit * 64), tensors=2, size=8)
    assert (await r.weights.resolve("net")).number == 2
    assert (await r.weights.resolve("net:1")).digest == "a" * 64
    with pytest.raises(VersionNotFound, match=r"^the weights net have no version 3$"):
        await r.weights.resolve("net:3")
    with pytest.raises(WeightsNotFound):
        await r.weights.resolve("nosuch")


async def test_retired_weights_are_not_used(r: Registry) -> None:
    await r.weights.register(ADA, "net", digest=Digest("a" * 64), tensors=2, size=8)
    await r.weights.retire(ADA, "net")
    with pytest.raises(Retired):
        await r.weights.resolve("net")


async def test_every_change_is_on_record_with_who_and_what(r: Registry) -> None:
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    await r.models.register(ADA, "digits", parts("a"))
    await r.placements.place(ADA, "digits", "gpu1")
    assert await r.actions() == ["server.register", "model.register", "model.place"]
    [record] = await r.log.show("3")
    assert (record.columns["actor"], record.columns["model"], record.columns["server"]) == ("ada", "digits", "gpu1")
    assert (await r.log.verify()).sound


async def test_a_change_that_is_not_allowed_is_refused_and_on_record() -> None:
    r = registry(MemoryStore(), allowed=False)
    with pytest.raises(ChangesNotAllowed) as caught:
        await r.models.register(ADA, "digits", parts("a"))
    assert caught.value.exit_code == 77
    [record] = await r.log.show("1")
    assert (record.columns["kind"], record.columns["action"]) == ("refused", "model.register")
    with pytest.raises(ModelNotFound):
        await r.models.show("digits")


async def test_a_change_that_fails_leaves_no_record(r: Registry) -> None:
    with pytest.raises(ModelNotFound):
        await r.models.edit(ADA, "nosuch", description="x")
    assert await r.actions() == []


async def test_versions_that_are_registered_at_once_get_each_a_number(r: Registry) -> None:
    made = await asyncio.gather(*(r.models.register(ADA, "digits", parts(tag)) for tag in "abcdef"))
    assert sorted(m.version.number for m in made) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("labels", [{"": "x"}, {"k": "v" * 300}, {str(n): "" for n in range(65)}, {"k": "\x00"}])
async def test_labels_are_bounded(r: Registry, labels: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        await r.models.register(ADA, "digits", parts("a"), labels=labels)


@pytest.mark.parametrize(("length", "fits"), [(100_000, True), (100_001, False)])
async def test_a_description_is_bounded(r: Registry, length: int, fits: bool) -> None:
    if fits:
        await r.models.register(ADA, "digits", parts("a"), description="x" * length)
    else:
        with pytest.raises(UsageError):
            await r.models.register(ADA, "digits", parts("a"), description="x" * length)


async def test_labels_that_are_edited_at_once_are_all_kept(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"), labels={"old": "1"})
    await asyncio.gather(*(r.models.edit(ADA, "digits", labels={f"k{n}": str(n)}) for n in range(5)))
    model = await r.models.edit(ADA, "digits", labels={"old": None})
    assert model.labels == {f"k{n}": str(n) for n in range(5)}


async def test_a_label_that_is_not_there_cannot_be_taken_away(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    with pytest.raises(UsageError, match="no label 'team'"):
        await r.models.edit(ADA, "digits", labels={"team": None})


async def test_a_servers_parameters_are_changed_one_by_one(r: Registry) -> None:
    await r.servers.register(ADA, "gpu1", parameters={"address": "gpu1.lab", "user": "ada", "port": 22})
    server = await r.servers.edit(ADA, "gpu1", parameters={"port": 2222, "user": None})
    assert server.parameters == {"address": "gpu1.lab", "port": 2222}


async def test_a_model_whose_servers_are_all_retired_does_not_run_on_local_unasked(r: Registry) -> None:
    await r.models.register(ADA, "digits", parts("a"))
    await r.servers.register(ADA, "gpu1", parameters=GPU1)
    await r.placements.place(ADA, "digits", "gpu1")
    await r.servers.retire(ADA, "gpu1")
    with pytest.raises(Retired, match="every server"):
        await r.resolver.resolve("digits")
    await r.placements.place(ADA, "digits", "local")
    assert [c.server.name for c in (await r.resolver.resolve("digits")).candidates] == ["local"]


@pytest.mark.parametrize(("length", "fits"), [(32_000, True), (32_001, False)])
async def test_a_command_is_bounded(r: Registry, length: int, fits: bool) -> None:
    command = Parts(spec=VersionSpec(runner="command", command=Command(argv=("x" * length,))))
    if fits:
        await r.models.register(ADA, "chat", command)
    else:
        with pytest.raises(UsageError, match="characters"):
            await r.models.register(ADA, "chat", command)


async def test_the_same_registered_by_several_at_once_is_one_version(postgres_server):
    from mer.dal.postgres.store import PostgresStore

    store = PostgresStore(postgres_server.wiped().driver())
    await store.open()
    try:
        use = registry(store)
        registered = await asyncio.gather(*(use.models.register(ADA, "m", parts("a")) for _ in range(6)))
        assert {each.version.number for each in registered} == {1}
        assert sum(each.created for each in registered) == 1
        assert (await use.actions()).count("model.register") == 1
    finally:
        await store.close()
