"""Servers: their parameters vary by kind."""

from __future__ import annotations

from mer.core.records import ServerKind
from mer.dal.base import Store
from tests.support import records


async def test_parameters_are_kept_as_json(store: Store) -> None:
    parameters = {"host": "gpu.example", "port": 22, "options": [1, 2.5, True, None, {"deep": []}], "empty": {}}
    made = records.server("gpu", parameters=parameters)
    await store.servers.add(made)
    assert (await store.servers.get("gpu")).parameters == parameters


async def test_the_kind_is_kept(store: Store) -> None:
    await store.servers.add(records.server("here", kind=ServerKind.LOCAL))
    assert (await store.servers.get("here")).kind is ServerKind.LOCAL
