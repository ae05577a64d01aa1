"""Which of several servers is chosen, and how long one that failed is passed over."""

from __future__ import annotations

import datetime as dt

import pytest

from mer.core.records import ModelId, Server, ServerId, ServerKind, Version
from mer.core.specs import VersionSpec
from mer.dal.memory import MemoryStore
from mer.execution.choice import LONGEST_SECONDS, SET_ASIDE_SECONDS, SPREAD, Choice
from mer.registry.resolve import Candidate

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MOST = 1 + SPREAD


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def candidate(name: str, **parameters: object) -> Candidate:
    server = Server(id=ServerId(name), name=name, kind=ServerKind.SSH, parameters=parameters, created_at=NOW)
    version = Version(model=ModelId("m"), number=1, spec=VersionSpec(runner="python"), created_at=NOW)
    return Candidate(server=server, version=version, placement=None)


A, B = candidate("a"), candidate("b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def choice(clock: Clock) -> Choice:
    return Choice(MemoryStore().access_log, monotonic=clock)


async def names(choice: Choice, *candidates: Candidate) -> set[str]:
    return {(await choice.among("m", candidates or (A, B))).server.name for _ in range(20)}


async def test_one_that_failed_is_passed_over_for_a_while(choice: Choice, clock: Clock) -> None:
    choice.failed(A.server)
    clock.now += SET_ASIDE_SECONDS * (1 - SPREAD) - 0.1
    assert await names(choice) == {"b"}
    clock.now = 1000.0 + SET_ASIDE_SECONDS * MOST + 0.1
    assert await names(choice) == {"a", "b"}


async def test_one_whose_time_is_over_is_tried_by_one_call_alone(choice: Choice, clock: Clock) -> None:
    choice.failed(A.server)
    clock.now += SET_ASIDE_SECONDS * MOST + 0.1
    choice.taken(A.server)
    assert await names(choice) == {"b"}
    choice.served(A.server)
    assert await names(choice) == {"a", "b"}


async def test_the_time_is_doubled_up_to_a_bound(choice: Choice, clock: Clock) -> None:
    for _ in range(12):
        choice.failed(A.server)
        clock.now = choice._until(A.server) + 0.1
    began = clock.now
    choice.failed(A.server)
    assert LONGEST_SECONDS * (1 - SPREAD) <= choice._until(A.server) - began <= LONGEST_SECONDS * MOST


async def test_calls_that_were_under_way_together_count_as_one_failure(choice: Choice, clock: Clock) -> None:
    for _ in range(8):
        choice.failed(A.server)
    assert choice._until(A.server) - clock.now <= SET_ASIDE_SECONDS * MOST


async def test_a_trial_that_fails_counts(choice: Choice, clock: Clock) -> None:
    choice.failed(A.server)
    clock.now += SET_ASIDE_SECONDS * MOST + 0.1
    choice.taken(A.server)
    choice.failed(A.server)
    assert choice._until(A.server) - clock.now >= 2 * SET_ASIDE_SECONDS * (1 - SPREAD)


async def test_where_all_are_set_aside_the_one_that_is_due_first_is_tried(choice: Choice, clock: Clock) -> None:
    choice.failed(B.server)
    clock.now += SET_ASIDE_SECONDS / 2 + SET_ASIDE_SECONDS * SPREAD
    choice.failed(A.server)
    assert await names(choice) == {"b"}


async def test_one_that_was_edited_is_tried_again(choice: Choice) -> None:
    choice.failed(A.server)
    assert await names(choice, candidate("a", address="elsewhere"), B) == {"a", "b"}
