"""A database that is down, not migrated, or goes away in the middle of a run: said so, and nothing is lost."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import mer
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support.installation import MER, Installation
from tests.support.postgres import state_folder
from tests.support.running import folder_with, python_spec

WAITS = """
    import time
    from pathlib import Path

    def load(go):
        def handle(tensors):
            print("running", flush=True)
            while not Path(go).exists():
                time.sleep(0.01)
            return {"answer": 42}
        return handle
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Installation]:
    """A server that MER does not start by itself: the embedded one's own, reached by a URL."""
    with state_folder() as folder:
        embedded = EmbeddedPostgres(folder)
        embedded.ensure_running()
        Installation(folder).mer("model", "list")
        login = embedded.driver().parameters
        yield Installation(
            folder,
            {
                "DB_CONNECTION_URL": f"postgresql:///mer?host={login['host']}",
                "DRIVER_DB_USERNAME": login["user"],
                "DRIVER_DB_PASSWORD": login["password"],
                "MER_DATABASE_SECONDS": "2",
                "MER_DATABASE_RECONNECT_SECONDS": "600",  # no result waits for that
            },
        )


@pytest.fixture
def running_server(server: Installation) -> Installation:
    EmbeddedPostgres(server.folder).ensure_running()
    return server


async def register_waiting(server: Installation, folder: Path, go: Path) -> None:
    async with mer.open(state_folder=server.folder, allow_changes=True) as m:
        spec = python_spec(arrays="buffer", options={"go": str(go)})
        await m.register_model("waits", folder_with(folder, WAITS), spec=spec)


def test_a_run_goes_on_and_its_finish_waits_for_the_next_start(running_server: Installation, tmp_path: Path) -> None:
    go = tmp_path / "go"
    asyncio.run(register_waiting(running_server, tmp_path / "waits", go))
    with subprocess.Popen(
        [str(MER), "run", "waits", "--json"],
        env=running_server.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        EmbeddedPostgres(running_server.folder).stop()
        go.touch()
        answer, told = process.communicate(timeout=60)
    assert '"value":42' in answer
    assert '"recorded":false' in answer
    assert process.returncode == 69
    assert "journal" in told
    assert [path.suffix for path in (running_server.folder / "journal").glob("*/*")] == [".json"]

    EmbeddedPostgres(running_server.folder).ensure_running()
    started, finished = running_server.records("--model", "waits")[-2:]
    assert (started["kind"], finished["kind"], finished["outcome"]) == ("started", "finished", "succeeded")
    assert list((running_server.folder / "journal").glob("*/*")) == []
    running_server.mer("log", "verify")


def test_a_database_that_is_down_is_told(running_server: Installation) -> None:
    EmbeddedPostgres(running_server.folder).stop()
    done = running_server.mer("run", "waits", code=69)
    assert "postgresql" in done.stderr
    assert done.stdout == ""


def test_no_password_is_told_when_it_is_wrong(running_server: Installation) -> None:
    wrong = {"DRIVER_DB_PASSWORD": "hunter2-hunter2"}
    done = running_server.mer("model", "list", code=77, environment=wrong)
    assert "hunter2" not in done.stderr


def test_a_server_that_is_not_migrated_is_told_with_the_command_that_does_it(running_server: Installation) -> None:
    superuser = EmbeddedPostgres(running_server.folder, database="postgres").superuser()
    with psycopg.connect(conninfo(superuser), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    url = running_server.environment["DB_CONNECTION_URL"].replace("/mer?", "/empty?")
    done = running_server.mer("model", "list", code=78, environment={"DB_CONNECTION_URL": url})
    assert "mer-migrate upgrade" in done.stderr


def test_an_embedded_database_that_was_killed_starts_again_by_itself(running_server: Installation) -> None:
    status = EmbeddedPostgres(running_server.folder).status()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    time.sleep(0.1)
    Installation(running_server.folder).mer("log", "verify")


def test_without_leave_to_start_it_a_stopped_embedded_database_is_told(running_server: Installation) -> None:
    EmbeddedPostgres(running_server.folder).stop()
    alone = Installation(running_server.folder, {"MER_START_DATABASE": "false"})
    done = alone.mer("model", "list", code=69)
    assert "MER_START_DATABASE" in done.stderr
    assert not EmbeddedPostgres(running_server.folder).status().running
