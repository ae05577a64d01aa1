"""Every test of a store's contract runs over every store, every one of a session's over every worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mer.dal.base import Store
from tests.support.peers import NODE, PEERS, Peer
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


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    if request.param.runner == "javascript" and NODE is None:
        pytest.skip("there is no node (on Debian: apt-get install nodejs)")
    found: Peer = request.param
    return found
