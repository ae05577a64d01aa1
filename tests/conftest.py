"""Fixtures of every kind of test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer, state_folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One embedded PostgreSQL for the session, or for each of xdist's workers."""
    with state_folder() as folder:
        yield PostgresServer(folder)
