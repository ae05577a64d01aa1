"""docs/databases.md, every block in its order: on the embedded database, a PostgreSQL server with TLS, and SurrealDB."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks
from tests.support.installation import MER, Installation, installation
from tests.support.postgres_server import TeamServer
from tests.support.surreal_server import PASSWORD
from tests.support.surreal_servers import SurrealServer

PAGE = "docs/databases.md"
ROLES = ("mer_owner", "mer_driver", "mer_auditor")
DATABASE = "house"

pytestmark = pytest.mark.slow


@pytest.fixture
def home() -> Iterator[Installation]:
    with installation() as made:
        yield made


@pytest.fixture
def team(team_server: TeamServer) -> Iterator[TeamServer]:
    yield team_server
    team_server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    for role in reversed(ROLES):
        team_server.execute(f"DROP ROLE IF EXISTS {role}")


def test_the_tour_moves_the_demo_and_every_block_does_what_it_says(
    home: Installation, team: TeamServer, surreal_server: SurrealServer, tmp_path: Path
) -> None:
    (statements,) = blocks(PAGE, "sql")
    for statement in statements.replace("DATABASE mer ", f"DATABASE {DATABASE} ").split("\n"):
        if statement:
            team.execute(statement)
    stands_for = {
        "postgresql://db.example.org:5432/mer?sslmode=verify-full&sslrootcert=/etc/mer/ca.pem": team.url(DATABASE),
        "wss://surreal.example.org:8000/mer/mer": surreal_server.url("house"),
        "the root's password": PASSWORD,
    }
    script = "\n".join(blocks(PAGE, "sh"))
    for shown, real in stands_for.items():
        assert shown in script
        script = script.replace(shown, real)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=home.variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    heads = re.findall(r"^sound: (\d+) records, head \1 ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    counts = [int(count) for count, _ in heads]
    # nothing, the copy and its verification, once more after a run on the server, once more after one on SurrealDB
    assert counts[1] == counts[2] == counts[0] + counts[1]
    assert counts[3] == counts[4] == counts[2] + 2
    assert counts[5] == counts[6] == counts[4] + 2
    assert (tmp_path / "another" / "content").is_dir()


def test_the_line_of_cron_backs_up(home: Installation, tmp_path: Path) -> None:
    (line,) = blocks(PAGE, "cron")
    command = (
        line.split(maxsplit=5)[5].replace("\\%", "%").replace("$HOME/mer/start_stop_scripts/start_mer.sh", str(MER))
    )
    subprocess.run(["sh", "-c", command], env={**home.variables, "HOME": str(tmp_path)}, check=True, timeout=60)
    (written,) = tmp_path.glob("mer-*.gz")
    assert written.stat().st_size
