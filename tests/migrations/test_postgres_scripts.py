"""Migrations of PostgreSQL as files: what a folder of versions may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer.core.errors import ConfigurationError
from mer_migrations.postgres.scripts import read_scripts
from tests.support import versions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        versions.write(tmp_path, number, f"n{number}", ["SELECT 1;", "-- only words", "-- why\nSELECT '\n--';"])
    return tmp_path


def test_a_blank_line_parts_statements_and_words_alone_are_none(folder: Path) -> None:
    (first, second) = read_scripts(folder)
    assert [statement.text for statement in first.up] == ["SELECT 1;", "-- why\nSELECT '\n--';"]
    assert (second.number, second.name, second.down) == (1, "n1", ())


def test_parts_run_in_the_order_of_their_numbers(folder: Path) -> None:
    for number in (10, 9, 2):
        (folder / "01_n1" / f"{number}-more.sql").write_text(f"SELECT {number};")
    assert [statement.text for statement in read_scripts(folder)[1].up[2:]] == ["SELECT 2;", "SELECT 9;", "SELECT 10;"]


def test_what_editors_and_python_leave_is_passed_over(folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    (folder / ".00_n0.py.swp").touch()
    assert len(read_scripts(folder)) == 2


def test_a_checksum_is_of_what_runs_upwards_and_of_nothing_else(folder: Path) -> None:
    before = [script.checksum for script in read_scripts(folder)]
    (folder / "00_n0" / "down.sql").write_text("SELECT 2;")
    (folder / "00_n0" / "rights" / "driver.sql").write_text("SELECT 2;")
    assert [script.checksum for script in read_scripts(folder)] == before
    (folder / "00_n0" / "1-all.sql").write_text("SELECT 2;")
    assert [script.checksum == old for script, old in zip(read_scripts(folder), before, strict=True)] == [False, True]


BAD_NAMES = (
    "2_x.py",
    "02-x.py",
    "02_X.py",
    "02_x.py.orig",
    "02_x.sql",
    "notes.txt",
    "002_x.py",
    "०२_x.py",
    "02_x y.py",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_file_that_is_no_migration_is_named(folder: Path, name: str) -> None:
    (folder / name).touch()
    with pytest.raises(ConfigurationError, match="is no migration"):
        read_scripts(folder)


def test_a_folder_in_place_of_a_file_is_named(folder: Path) -> None:
    (folder / "02_x.py").mkdir()
    with pytest.raises(ConfigurationError, match="is no migration"):
        read_scripts(folder)


def test_a_number_that_is_missing_is_named(folder: Path) -> None:
    versions.write(folder, 3, "n3", ["SELECT 1;"])
    with pytest.raises(ConfigurationError, match="number 02 is missing before 03_n3"):
        read_scripts(folder)


def test_a_number_that_stands_twice_is_named(folder: Path) -> None:
    versions.write(folder, 1, "other", ["SELECT 1;"])
    with pytest.raises(ConfigurationError, match="has the number 01 too"):
        read_scripts(folder)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no migrations"):
        read_scripts(tmp_path)


@pytest.mark.parametrize("missing", ["00_n0.py", "00_n0"])
def test_half_a_migration_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder / ".gone")
    with pytest.raises(ConfigurationError, match="00_n0"):
        read_scripts(folder)


@pytest.mark.parametrize("name", ["all.sql", "1-all.txt", "2_all.sql"])
def test_a_part_of_another_name_is_named(folder: Path, name: str) -> None:
    (folder / "00_n0" / name).touch()
    with pytest.raises(ConfigurationError, match="is no part of a migration"):
        read_scripts(folder)


def test_a_migration_without_statements_is_named(folder: Path) -> None:
    (folder / "00_n0" / "1-all.sql").write_text("-- nothing\n")
    with pytest.raises(ConfigurationError, match="has no statements"):
        read_scripts(folder)


def test_bytes_that_are_no_utf_8_are_named(folder: Path) -> None:
    (folder / "00_n0" / "1-all.sql").write_bytes(b"SELECT '\xff';")
    with pytest.raises(ConfigurationError, match="00_n0 cannot be read"):
        read_scripts(folder)


@pytest.mark.parametrize(
    "statement", ["COMMIT;", "begin", "ROLLBACK", "SAVEPOINT x", "prepare transaction 'x'", "END;"]
)
def test_what_ends_the_transaction_is_refused(folder: Path, statement: str) -> None:
    (folder / "00_n0" / "1-all.sql").write_text(f"SELECT 1;\n\n-- so\n{statement}")
    with pytest.raises(ConfigurationError, match=r"statement 2 .*a migration is one transaction"):
        read_scripts(folder)


def test_python_beside_the_sql_would_be_under_no_checksum(folder: Path) -> None:
    with (folder / "01_n1.py").open("a") as file:
        file.write("print('hello')\n")
    with pytest.raises(ConfigurationError, match=r"01_n1\.py must be"):
        read_scripts(folder)
