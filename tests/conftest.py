"""Fixtures of every kind of test."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# before numpy comes: where others keep the processors busy, its threads wait for each other by spinning, and a training of
# two seconds takes forty
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from mer.meal.pool import Pool
from tests.support import postgres_server as team
from tests.support.postgres import PostgresServer, state_folder
from tests.support.surreal import migrated
from tests.support.surreal_servers import SurrealServer, running

for ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    # a shell's background job, or one of nohup's: what is started here would not hear of Ctrl-C or of a terminal that goes
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored == signal.SIGINT else signal.SIG_DFL)


HANGS_SECONDS = 300.0
"""What a test gets with all its fixtures: the longest takes a third of it on a machine that others use too."""

TERMINAL = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the standard error that people read: while this file is imported, and while tests run, pytest has its own."""
    config.stash[TERMINAL] = os.dup(2)


def _end_what_hangs(config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(HANGS_SECONDS, exit=True, file=config.stash[TERMINAL])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process of a test that hangs, after every thread's stack: xdist names the test and goes on with another.

    An exception, as pytest-timeout raises it, would leave the teardown hanging: an event loop joins its threads.
    """
    _end_what_hangs(item.config)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Set the alarm again, which pytest takes back for whoever debugs: the teardown of what failed may hang too."""
    _end_what_hangs(node.config)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--interpreters", action="store_true", help="run tests/interpreters, which fetch old Debians, too")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what is asked for by name: a plain run must not fetch 20 MB for each interpreter."""
    asked = config.getoption("--interpreters")
    return True if collection_path == Path(__file__).with_name("interpreters") and not asked else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of a minute each: as the last ones they would run while every other process has nothing to do."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/strength/"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One embedded PostgreSQL for the session, or for each of xdist's workers."""
    with state_folder() as folder:
        yield PostgresServer(folder)


@pytest.fixture(scope="session")
def team_server() -> Iterator[team.TeamServer]:
    """One PostgreSQL as a team runs it, with TLS, for the session, or for each of xdist's workers."""
    if team.programs() is None:
        pytest.skip(team.MISSING)
    with team.team_server() as server:
        yield server


@pytest.fixture(scope="session")
def surreal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SurrealServer]:
    """One SurrealDB server on files for the session, or for each of xdist's workers. (In memory it would lose appends.)"""
    with running(SurrealServer(engine=f"surrealkv://{tmp_path_factory.mktemp('surreal')}/data")) as server:
        yield server


@pytest.fixture(scope="session")
def surreal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated SurrealDB folder for the session, to be copied; all copies have the chain of the one."""
    folder = tmp_path_factory.mktemp("surreal") / "registry"
    with ThreadPoolExecutor(1) as elsewhere:  # whoever asks has an event loop of his own running
        elsewhere.submit(lambda: asyncio.run(migrated(folder))).result()
    return folder


@pytest.fixture
async def pools() -> AsyncIterator[list[Pool]]:
    """Pools that are closed after the test, with no worker left."""
    made: list[Pool] = []
    yield made
    for pool in made:
        await pool.close()
        assert pool.workers == 0
