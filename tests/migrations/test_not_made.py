"""`mer-migrate` where there is no database yet: what only looks makes none, and starts none that must not be started."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support.postgres import state_folder


@pytest.fixture(params=["", "surrealkv"])
def nothing(request: pytest.FixtureRequest) -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty state folder, and what names the database that would be in it."""
    with state_folder() as folder:
        shutil.rmtree(folder / "cache")  # what workers import, compiled: none is started here
        url = request.param and f"{request.param}://{folder}/registry"
        yield folder, {"MER_STATE_FOLDER": str(folder), "DB_CONNECTION_URL": url}


def migrate(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "mer_migrations", *arguments]
    return subprocess.run(program, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["current"], 0),
        (["history"], 0),
        (["check"], 78),
        (["plan"], 78),
        (["stamp", "00", "--yes"], 78),
        (["downgrade", "--to", "base", "--yes"], 78),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else str(given),
)
def test_it_says_so_and_makes_nothing(nothing: tuple[Path, dict[str, str]], command: list[str], code: int) -> None:
    folder, environ = nothing
    told = migrate(*command, environ=environ)
    assert (told.returncode, "is not there yet" in told.stderr or "not there yet" in told.stdout) == (code, True), told
    assert list(folder.iterdir()) == []


def test_programs_learn_it_too(nothing: tuple[Path, dict[str, str]]) -> None:
    folder, environ = nothing
    told = migrate("check", "--json", environ=environ)
    document = json.loads(told.stdout)
    assert (told.returncode, document["current"], document["pending"][0]["number"]) == (78, None, 0)
    assert json.loads(migrate("current", "--json", environ=environ).stdout)["current"] is None
    assert list(folder.iterdir()) == []


def test_what_must_not_be_started_is_not_started() -> None:
    with state_folder() as folder:
        embedded = EmbeddedPostgres(folder)
        embedded.ensure_running()
        embedded.leave()
        embedded.stop()
        environ = {"MER_STATE_FOLDER": str(folder), "MER_START_DATABASE": "false"}
        told = migrate("check", environ=environ)
        assert (told.returncode, "MER_START_DATABASE" in told.stderr) == (69, True)
        assert not embedded.status().running
        told = migrate("check", environ={"MER_STATE_FOLDER": str(folder)})
        assert (told.returncode, "lacks 00" in told.stderr) == (78, True)
