"""docker-compose.yaml, as Debian's docker-compose reads it. No container is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from mer.core.identifiers import uuid7
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from tests.support.documents import ROOT
from tests.support.postgres_server import TeamServer, programs

SCRIPT = ROOT / "start_stop_scripts" / "postgres_owner.sql"

CREDENTIALS = {
    "MIGRATIONS_DB_USERNAME": "mer_owner",
    "MIGRATIONS_DB_PASSWORD": "owner's secret",
    "DRIVER_DB_USERNAME": "mer_driver",
    "DRIVER_DB_PASSWORD": "driver's secret",
}


def config(credentials: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: apt-get install docker-compose")
    none = folder / "none.env"  # a developer's own .env must not fill in what is missing
    none.touch()
    command = [program, "--env-file", str(none), "--profile", "*"]
    environment = {"PATH": os.environ["PATH"], **credentials}
    return subprocess.run(
        [*command, "-f", "docker-compose.yaml", "config"], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file as it is understood, with every credential there."""
    told = config(CREDENTIALS, tmp_path_factory.mktemp("compose"))
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout


def test_the_file_is_valid(whole: str) -> None:
    assert "services:" in whole


@pytest.mark.parametrize("missing", CREDENTIALS)
def test_a_credential_that_is_missing_is_told_by_its_name(missing: str, tmp_path: Path) -> None:
    told = config({name: value for name, value in CREDENTIALS.items() if name != missing}, tmp_path)
    assert told.returncode != 0
    assert missing in told.stderr


def test_what_is_listened_on_is_this_machine_alone(whole: str) -> None:
    ports = re.findall(r"^ +- (\S+)/tcp$", whole, re.MULTILINE)
    assert sorted(ports) == ["127.0.0.1:5432:5432", "127.0.0.1:8000:8000"]


def test_every_image_is_of_a_version(whole: str) -> None:
    images = re.findall(r"^ +image: (\S+)$", whole, re.MULTILINE)
    assert len(images) == 4
    assert all(re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image) for image in images), images


def test_databases_tell_whether_they_are_well_and_migrations_wait_for_that(whole: str) -> None:
    assert whole.count("healthcheck:") == 2
    assert whole.count("condition: service_healthy") == 2


def test_every_credential_is_a_setting_of_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yaml").read_text()))
    settings = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used == set(CREDENTIALS)
    assert used <= settings


def test_the_owner_that_the_image_makes_is_no_superuser_and_migrates(team_server: TeamServer) -> None:
    team = team_server
    own = f"image_{uuid7().replace('-', '')}"  # POSTGRES_USER of the image: what is done to it is not done to the fixture's
    owner = f"{own}_owner"
    psql = str(programs() / "psql")  # type: ignore[operator] - the fixture skips where there is none
    with team.connect() as administrator:
        administrator.execute(f"CREATE ROLE {own} SUPERUSER LOGIN PASSWORD 'secret'")
        administrator.execute(f"CREATE DATABASE {own} OWNER {own}")
        try:
            done = subprocess.run(
                [psql, "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-d", team.url(own), "-f", str(SCRIPT)],
                env={
                    "PATH": os.environ["PATH"],
                    "PGUSER": own,
                    "PGPASSWORD": "secret",
                    "MIGRATIONS_DB_USERNAME": owner,
                    "MIGRATIONS_DB_PASSWORD": 'it\'s \\ "quoted"',
                },
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            found = administrator.execute(
                "SELECT rolname, rolsuper, rolpassword IS NULL FROM pg_authid WHERE rolname LIKE %s ORDER BY 1",
                [own + "%"],
            ).fetchall()
            assert found == [(own, True, True), (owner, False, False)]
            login = ConnectionSettings.from_url(team.url(own), username=owner, password='it\'s \\ "quoted"')
            with psycopg.connect(conninfo(login)) as connection:
                connection.execute("CREATE SCHEMA mer")
        finally:
            administrator.execute(f"DROP DATABASE {own} WITH (FORCE)")
            administrator.execute(f"DROP ROLE {own}, {owner}")
