"""`mer db status` on SurrealDB, in a folder and on a server, as an operator asks it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mer.core.identifiers import uuid7
from tests.support.installation import MER, Installation
from tests.support.surreal_servers import DRIVER, SurrealServer


@pytest.fixture
def home(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "home")


def test_a_folder(home: Installation, tmp_path: Path) -> None:
    inside = home.with_database(f"surrealkv://{tmp_path}/registry")
    assert inside.json("db", "status")["description"] is None
    assert not (tmp_path / "registry").exists()  # nothing is made by asking
    inside.mer("-a", "server", "register", "gpu", "--address", "gpu.example.org")
    found = inside.json("db", "status")
    assert found["current"] is True
    assert found["contents"]["records"] == found["contents"]["head"]["seq"] == 1
    assert found["contents"]["oldest"].endswith("Z")
    assert found["description"]["server"].startswith("SurrealDB 3.")
    assert found["description"]["size"] > 0
    assert found["description"]["login"] is None
    assert "in this process" in inside.mer("db", "status").stdout


def test_a_server(home: Installation, surreal_server: SurrealServer) -> None:
    url = surreal_server.url(f"s{uuid7().replace('-', '')}")
    team = home.with_database(url)
    environment = surreal_server.environment(url)
    missing = team.mer("db", "status", environment=environment, code=None)
    assert "mer-migrate upgrade" in missing.stdout + missing.stderr
    migrate = [str(MER.parent / "mer-migrate"), "upgrade"]
    subprocess.run(migrate, env={**team.variables, **environment}, check=True, capture_output=True, timeout=60)
    found = team.json("db", "status", environment=environment)
    assert found["current"] is True
    assert found["contents"]["records"] == 0
    assert DRIVER.name in found["description"]["login"]
    assert found["description"]["encrypted"] == "no"
    told = team.mer("db", "status", environment=environment)
    assert DRIVER.name in told.stdout
    assert DRIVER.password not in told.stdout + told.stderr
    wrong = {**environment, "DRIVER_DB_PASSWORD": "somebody's"}
    refused = team.mer("db", "status", environment=wrong, code=77)
    assert DRIVER.name in refused.stdout + refused.stderr
