"""Every test of the contract runs over every store."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mer.dal.base import Store
from tests.support.stores import STORES, Database


@pytest.fixture(params=list(STORES))
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with STORES[request.param](request) as made:
        yield made


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    opened = database.connect()
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()
