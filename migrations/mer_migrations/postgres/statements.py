"""Migrations' SQL in files: a folder of numbered .sql files a migration, statements parted by blank lines.

PostgreSQL takes one statement at a time with its parameters, and no splitter that knows less than its own grammar can
be trusted with semicolons: so a blank line ends a statement, and within one there is none.
"""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy
from alembic import op

VERSIONS = Path(__file__).parent / "versions"


def statements(folder: Path, *, driver: str) -> list[str]:
    """Return the statements of a migration's files, in order, for that driver's role."""
    quoted = '"' + driver.replace('"', '""') + '"'
    texts = [file.read_text() for file in sorted(folder.glob("*.sql"))]
    parts = [part.strip() for text in texts for part in text.split("\n\n")]
    return [part.replace("{driver}", quoted) for part in parts if not _only_comment(part)]


def run(folder: str) -> None:
    """Execute a migration's statements, in its transaction."""
    config = op.get_context().config
    assert config is not None
    for statement in statements(VERSIONS / folder, driver=config.attributes["driver"]):
        # a colon before a word would be a parameter to SQLAlchemy
        op.execute(sqlalchemy.text(re.sub(r":(?=\w)", r"\\:", statement)))


def _only_comment(part: str) -> bool:
    return all(line.startswith("--") or not line.strip() for line in part.splitlines())
