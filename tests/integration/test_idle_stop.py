"""The embedded PostgreSQL stops when nobody has used it for a while, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from mer.dal.migrate import upgrade_embedded
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.settings import load
from tests.support.postgres import state_folder

IDLE_SECONDS = 1.0
SOON_SECONDS = 20.0
USER = """
import pathlib, sys, time
from mer.dal.postgres.embedded import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), idle_seconds=float(sys.argv[2]))
server.ensure_running()
print("there", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with state_folder() as made:
        yield made


def server(folder: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(folder, idle_seconds=IDLE_SECONDS)


def soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + SOON_SECONDS
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
    return true()


def stays_up(folder: Path) -> bool:
    time.sleep(2 * IDLE_SECONDS)
    return EmbeddedPostgres(folder).status().running


def watchers(folder: Path) -> list[int]:
    """Return the pids of the processes that watch the server of that folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mer.dal.postgres.watcher" in arguments and os.fsencode(folder / "postgres") in arguments:
                found.append(int(entry.name))
    return found


def test_it_stops_when_its_last_user_has_been_gone_for_the_idle_time(folder: Path) -> None:
    used = server(folder)
    used.ensure_running()
    assert stays_up(folder)
    used.leave()
    assert soon(lambda: not used.status().running)
    assert soon(lambda: not watchers(folder))


def test_a_user_who_is_killed_has_left_too(folder: Path) -> None:
    user = subprocess.Popen([sys.executable, "-c", USER, folder, str(IDLE_SECONDS)], stdout=subprocess.PIPE, text=True)
    assert user.stdout
    assert user.stdout.readline() == "there\n"
    assert stays_up(folder)
    user.kill()
    user.wait()
    user.stdout.close()
    assert soon(lambda: not EmbeddedPostgres(folder).status().running)


def test_one_who_stays_keeps_it_though_another_leaves(folder: Path) -> None:
    staying, leaving = server(folder), server(folder)
    staying.ensure_running()
    leaving.ensure_running()
    leaving.leave()
    assert stays_up(folder)
    staying.leave()


def test_a_plain_client_is_not_cut_off(folder: Path) -> None:
    used = server(folder)
    login = used.ensure_running()
    with psycopg.connect(conninfo(login)) as client:
        used.leave()
        assert stays_up(folder)
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert soon(lambda: not used.status().running)


def test_who_comes_while_it_stops_waits_and_finds_it_running(folder: Path) -> None:
    server(folder).ensure_running()
    answers = []

    def come_and_go() -> None:
        for _ in range(6):
            used = server(folder)
            login = used.ensure_running()
            with psycopg.connect(conninfo(login)) as client:
                answers.append(client.execute("SELECT 1").fetchone())
            used.leave()
            time.sleep(IDLE_SECONDS)  # so that arrivals fall on stops

    visitors = [threading.Thread(target=come_and_go) for _ in range(2)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert answers == [(1,)] * 12


def test_a_watcher_ends_with_its_server(folder: Path) -> None:
    used = server(folder)
    used.ensure_running()
    assert soon(lambda: len(watchers(folder)) == 1)
    used.stop()
    assert soon(lambda: not watchers(folder))


def test_a_server_that_lost_its_watcher_gets_another(folder: Path) -> None:
    used = server(folder)
    used.ensure_running()
    assert soon(lambda: len(watchers(folder)) == 1)
    os.kill(watchers(folder)[0], signal.SIGKILL)
    assert soon(lambda: not watchers(folder))
    used.ensure_running()
    assert soon(lambda: len(watchers(folder)) == 1)
    used.leave()
    assert soon(lambda: not used.status().running)


def test_the_child_that_migrates_leaves_it_to_stop_by_the_setting_too(folder: Path) -> None:
    settings = load(environ={"MER_STATE_FOLDER": str(folder), "MER_DATABASE_IDLE_SECONDS": str(IDLE_SECONDS)})
    asyncio.run(upgrade_embedded(settings))
    assert soon(lambda: not EmbeddedPostgres(folder).status().running)


def test_a_one_shot_leaves_it_to_stop_by_the_setting(folder: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "MER_STATE_FOLDER": str(folder),
        "MER_DATABASE_IDLE_SECONDS": str(IDLE_SECONDS),
    }
    done = subprocess.run(
        [sys.executable, "-m", "mer", "log", "list"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert soon(lambda: not EmbeddedPostgres(folder).status().running)
    assert soon(lambda: not watchers(folder))
