"""`mer-migrate seed` on PostgreSQL and SurrealDB: a registry file, through mer's own use-cases, under the driver's login."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mer.dal.postgres.cluster import DRIVER, OWNER
from tests.support.postgres import PostgresServer
from tests.support.surreal import migrated
from tests.support.surreal_servers import SurrealServer

FILE = """\
format = 1

[servers.gpu]
address = "gpu.example.org"

[models.cat]
description = "says what it hears"

[[models.cat.versions]]
command = ["/bin/cat"]
aliases = ["default", "prod"]

[[models.cat.placements]]
server = "gpu"
"""


@pytest.fixture(params=["postgres", "surrealkv", "surreal-ws"])
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """What leads to an empty, migrated database as if it were a server's."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return {"PATH": os.environ["PATH"], "MER_STATE_FOLDER": str(state), **_database(request, tmp_path)}


def _database(request: pytest.FixtureRequest, folder: Path) -> dict[str, str]:
    match request.param:
        case "surrealkv":
            return {"DB_CONNECTION_URL": asyncio.run(migrated(folder / "registry"))}
        case "surreal-ws":
            surreal: SurrealServer = request.getfixturevalue("surreal_server")
            return surreal.environment(asyncio.run(surreal.migrated()))
    server: PostgresServer = request.getfixturevalue("postgres_server")
    database = server.wiped()
    owner, driver = database.owner().parameters, database.driver().parameters
    return {
        "DB_CONNECTION_URL": f"postgresql:///{owner['dbname']}?host={owner['host']}",
        "MIGRATIONS_DB_USERNAME": OWNER,
        "MIGRATIONS_DB_PASSWORD": owner["password"],
        "DRIVER_DB_USERNAME": DRIVER,
        "DRIVER_DB_PASSWORD": driver["password"],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "registry.toml"
    path.write_text(FILE)
    return path


def program(module: str, *arguments: str | Path, environ: dict[str, str], code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def test_seed_plans_applies_and_then_has_nothing_to_do(environ: dict[str, str], file: Path) -> None:
    planned = json.loads(program("mer_migrations", "seed", file, "--plan", "--json", environ=environ))
    assert planned["applied"] is False
    applied = json.loads(program("mer_migrations", "seed", "-a", file, "--json", environ=environ))
    assert applied == {**planned, "applied": True}
    assert [change["what"] for change in applied["changes"]] == [
        *("server gpu", "version cat:1", "cat@prod", "cat on gpu")
    ]
    assert program("mer_migrations", "seed", "-a", file, environ=environ) == "nothing to change\n"
    assert program("mer", "registry", "apply", file, "--plan", environ=environ) == "nothing to change\n"
    records = json.loads(program("mer", "log", "list", "--json", environ=environ))["items"]
    assert len(records) == 4


def test_an_export_comes_back_from_the_database(environ: dict[str, str], file: Path, tmp_path: Path) -> None:
    program("mer_migrations", "seed", "-a", file, environ=environ)
    exported = tmp_path / "exported.toml"
    program("mer", "registry", "export", exported, environ=environ)
    assert program("mer_migrations", "seed", exported, "--prune", "--plan", environ=environ) == "nothing to change\n"


def test_seed_needs_leave_to_change_and_a_word_before_it_takes_away(environ: dict[str, str], file: Path) -> None:
    assert "read-only" in program("mer_migrations", "seed", file, environ=environ, code=77)
    program("mer_migrations", "seed", "-a", file, environ=environ)
    file.write_text("format = 1\n")
    program("mer_migrations", "seed", "-a", file, "--prune", environ=environ, code=2)
    pruned = program("mer_migrations", "seed", "-a", file, "--prune", "--yes", environ=environ)
    assert pruned == "retire model cat\nretire server gpu\n"


def test_a_bad_file_is_refused_with_its_lines(environ: dict[str, str], file: Path) -> None:
    file.write_text("format = 1\nx = 1\n")
    assert "line 2: x is not known" in program("mer_migrations", "seed", "-a", file, environ=environ, code=78)
