"""Tests leave no memory of a killed server behind: fixtures remove it with the server's folder."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support.postgres import state_folder
from tests.support.shared_memory import SEGMENTS


@pytest.mark.skipif(not SEGMENTS.exists(), reason="the system does not list its shared memory")
def test_a_killed_server_leaves_no_memory_once_its_folder_is_gone() -> None:
    before = keys()
    with state_folder() as folder:
        embedded = EmbeddedPostgres(folder)
        embedded.ensure_running()
        with psycopg.connect(conninfo(embedded.superuser()), autocommit=True) as connection:
            # a parallel query makes a segment of its own in a child, and keeps it for as long as it runs
            connection.execute("SET max_parallel_workers_per_gather = 2; SET debug_parallel_query = on")
            connection.execute("BEGIN")
            connection.execute("DECLARE held CURSOR FOR SELECT count(*) FROM pg_class a, pg_class b")
            connection.execute("FETCH 1 FROM held")
            server = embedded.status().pid
            assert server
            made = keys() - before
            assert made
            os.kill(server, signal.SIGKILL)
    assert keys() & made == set()


def keys() -> set[tuple[str, str]]:
    """Return the key and the id of each segment of this system."""
    rows = [line.split() for line in SEGMENTS.read_text().splitlines()[1:]]
    return {(row[0], row[1]) for row in rows}
