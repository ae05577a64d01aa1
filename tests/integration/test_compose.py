"""docker-compose.yaml, as Debian's docker-compose reads it. No container is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.documents import ROOT

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
    command = [program, "--env-file", str(none), "--profile", "migrate", "--profile", "surrealdb"]
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
    assert len(images) == 3
    assert all(re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image) for image in images), images


def test_databases_tell_whether_they_are_well_and_migrations_wait_for_that(whole: str) -> None:
    assert whole.count("healthcheck:") == 2
    assert "condition: service_healthy" in whole


def test_every_credential_is_a_setting_of_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yaml").read_text()))
    settings = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used == set(CREDENTIALS)
    assert used <= settings
