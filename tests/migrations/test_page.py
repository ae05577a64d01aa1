"""docs/migrations.md: the migration that it shows, written as it says and applied to both databases."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import psycopg

from mer.dal.postgres.conninfo import conninfo
from mer.dal.surreal.migrations import open_migrations
from mer.dal.surreal.scripts import scripts_folder
from mer_migrations.postgres.runner import Migrations
from mer_migrations.postgres.scripts import VERSIONS
from tests.support.databases import empty_database
from tests.support.documents import blocks
from tests.support.postgres import ROLES, PostgresServer

PAGE = "docs/migrations.md"


def written(folder: Path, language: str) -> None:
    """Write each block of that language to the file that its first line names."""
    for text in blocks(PAGE, language):
        found = re.match(r"-- (\S+)\n", text)
        assert found, text
        path = folder / found[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_migration_of_the_page_runs_on_postgresql(postgres_server: PostgresServer, tmp_path: Path) -> None:
    shutil.copytree(VERSIONS, tmp_path, dirs_exist_ok=True)
    written(tmp_path, "sql")
    (python,) = blocks(PAGE, "python")
    (tmp_path / "01_notes.py").write_text(python)
    with empty_database(postgres_server) as database:
        migrations = Migrations(database.owner(), ROLES, versions=tmp_path)
        assert [script.number for script in migrations.upgrade()] == [0, 1]
        for login in (database.driver(), database.auditor()):
            with psycopg.connect(conninfo(login)) as connection:
                assert connection.execute("SELECT * FROM mer.note").fetchall() == []
        assert [script.name for script in migrations.downgrade(0)] == ["notes"]


async def test_the_migration_of_the_page_runs_on_surrealdb(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(scripts_folder(), scripts, ignore=shutil.ignore_patterns("*.py*", "__*"))
    written(scripts, "surql")
    async with open_migrations(f"surrealkv://{tmp_path / 'registry'}", lock_seconds=10, folder=scripts) as migrations:
        assert [script.number for script in await migrations.upgrade()] == [0, 1]
        assert [script.name for script in await migrations.downgrade(0)] == ["Notes"]
