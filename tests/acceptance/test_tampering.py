"""What somebody with the database's files can do to the log, and that `mer log verify` names the record (79)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mer.dal.postgres.embedded import EmbeddedPostgres
from tests.support.installation import THREE, Installation, installation
from tests.support.postgres import tampering


@pytest.fixture(scope="module")
def clean() -> Iterator[Installation]:
    """A log of six records: two changes and two runs."""
    with installation() as made:
        for _ in range(2):
            made.mer("run", "digits", "--input", THREE)
        yield made


@pytest.fixture
def tampered(clean: Installation) -> Iterator[Installation]:
    """The same log, mended after the test."""
    database = EmbeddedPostgres(clean.folder)
    with tampering(database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM mer.access")
    yield clean
    with tampering(database) as connection:
        connection.execute("DELETE FROM mer.access")
        connection.execute("INSERT INTO mer.access SELECT * FROM kept")
        connection.execute("DROP TABLE kept")
    clean.mer("log", "verify")


def by_hand(tampered: Installation, *statements: str) -> None:
    with tampering(EmbeddedPostgres(tampered.folder)) as connection:
        for statement in statements:
            connection.execute(statement)


SWAP = (
    "UPDATE mer.access SET seq = -3 WHERE seq = 3",
    "UPDATE mer.access SET seq = 3 WHERE seq = 4",
    "UPDATE mer.access SET seq = 4 WHERE seq = -3",
)
INSERT = (
    "UPDATE mer.access SET seq = -seq - 1 WHERE seq > 3",
    "UPDATE mer.access SET seq = -seq WHERE seq < 0",
    """INSERT INTO mer.access
       SELECT (jsonb_populate_record(a, jsonb_build_object('seq', 4, 'invocation', gen_random_uuid()))).*
       FROM mer.access a WHERE seq = 3""",
)


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (("UPDATE mer.access SET body = replace(body, 'digits', 'dogits') WHERE seq = 3",), "record 3"),
        (("UPDATE mer.access SET actor = 'nobody' WHERE seq = 3",), "record 3"),
        (("UPDATE mer.access SET at = at + interval '1 microsecond' WHERE seq = 5",), "record 5"),
        (("DELETE FROM mer.access WHERE seq = 3",), "record 3"),
        (SWAP, "record 3"),
        (INSERT, "record 4"),
    ],
    ids=["changed", "column changed", "time changed", "removed", "swapped", "inserted"],
)
def test_a_row_that_was_touched_by_hand_is_named(
    tampered: Installation, statements: tuple[str, ...], named: str
) -> None:
    by_hand(tampered, *statements)
    done = tampered.mer("log", "verify", code=79)
    assert named in done.stdout


@pytest.mark.parametrize(
    "statements",
    [
        ("DELETE FROM mer.access WHERE seq > 4",),
        ("CREATE EXTENSION IF NOT EXISTS plpgsql",),
    ],
    ids=["cut", "not cut"],
)
def test_a_cut_tail_is_found_with_a_checkpoint_that_was_printed_before(
    tampered: Installation, statements: tuple[str, ...]
) -> None:
    checkpoint = tampered.mer("log", "checkpoint").stdout.strip()
    by_hand(tampered, *statements)
    tampered.mer("log", "verify")
    cut = "DELETE" in statements[0]
    done = tampered.mer("log", "verify", "--since", checkpoint, code=79 if cut else 0)
    assert ("its tail was cut" in done.stdout) == cut


def test_a_tail_that_was_rewritten_with_all_its_digests_is_found_with_a_checkpoint(tampered: Installation) -> None:
    checkpoint = tampered.mer("log", "checkpoint").stdout.strip()
    by_hand(
        tampered,
        "UPDATE mer.access SET body = replace(body, 'root', 'ada'), actor = replace(actor, 'root', 'ada') WHERE seq = 6",
        "UPDATE mer.access SET body = replace(body, '\"version\":1', '\"version\":2'), version = 2 WHERE seq = 6",
        """UPDATE mer.access SET digest = encode(sha256(convert_to(
            '{"previous":"' || previous || '","record":' || body || ',"seq":' || seq || '}', 'UTF8')), 'hex') WHERE seq = 6""",
    )
    tampered.mer("log", "verify")
    done = tampered.mer("log", "verify", "--since", checkpoint, code=79)
    assert "record 6" in done.stdout


def test_an_exported_file_verifies_offline_and_a_changed_line_does_not(clean: Installation, tmp_path: Path) -> None:
    clean.mer("log", "export", str(tmp_path / "log.jsonl"))
    offline = Installation(tmp_path, {"DB_CONNECTION_URL": "postgresql://nowhere.invalid/none"})
    assert offline.json("log", "verify", str(tmp_path / "log.jsonl"))["records"] >= 6
    lines = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(lines.replace("succeeded", "cancelled", 1))
    done = offline.mer("log", "verify", str(tmp_path / "log.jsonl"), code=79)
    assert "record 4" in done.stdout


def test_the_driver_itself_cannot_touch_the_log(clean: Installation) -> None:
    import psycopg

    from mer.dal.postgres.conninfo import conninfo

    with psycopg.connect(conninfo(EmbeddedPostgres(clean.folder).driver()), autocommit=True) as connection:
        for statement in (
            "UPDATE mer.access SET actor = 'nobody'",
            "DELETE FROM mer.access",
            "TRUNCATE mer.access",
            "INSERT INTO mer.access SELECT * FROM mer.access",
            "UPDATE mer.version SET number = 7",
            "DELETE FROM mer.migration",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
