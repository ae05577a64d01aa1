"""Migrations as files: `NN_name/` with SQL, and `NN_name.py`, by which Alembic finds its place in the order.

In a folder `1-what.sql`, `2-what.sql` … are run upwards in their order, `down.sql` downwards, and `rights/driver.sql` and
`rights/auditor.sql` say what the two roles may do: they are no part of what was applied, and run again at every upgrade.

PostgreSQL takes one statement at a time, and no splitter that knows less than its own grammar can be trusted with
semicolons: so a blank line ends a statement, and within one there is none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import ConfigurationError

VERSIONS = Path(__file__).parent / "versions"

RIGHTS = ("driver", "auditor")

_NAME = re.compile(r"(?P<number>[0-9]{2})_(?P<name>[a-z0-9_]+)(?P<python>\.py)?")
_ROLE = re.compile(r"\{(driver|auditor)\}")
_PART = re.compile(r"[0-9]+-[a-z0-9-]+\.sql")

# What a transaction is begun or ended with: a migration is one, and what it ended half-way could not be taken back.
_CONTROL = re.compile(
    r"(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION)\b", re.IGNORECASE
)

_PYTHON = """\
from mer_migrations.postgres.revisions import run

revision = "{number:02}"
down_revision = {before}
upgrade = downgrade = run
"""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement, and where it stands."""

    file: str
    """From the folder of versions on."""
    number: int
    """In its file, from 1."""
    text: str

    def for_roles(self, names: Mapping[str, str]) -> Statement:
        """Return it with `{driver}` and `{auditor}` replaced by those names, which are quoted already."""
        # in one pass: a role may be called {auditor}
        text = _ROLE.sub(lambda found: names.get(found[1], found[0]), self.text)
        return Statement(file=self.file, number=self.number, text=text)


@dataclass(frozen=True, kw_only=True)
class Script:
    """One migration that this program has."""

    number: int
    name: str
    checksum: str
    """The sha256 of the names and bytes of what runs upwards."""
    up: tuple[Statement, ...]
    down: tuple[Statement, ...]
    """Empty where there is no way down."""
    rights: Mapping[str, tuple[Statement, ...]]
    """By role: what it is granted."""

    @property
    def revision(self) -> str:
        """Its name in Alembic's version table."""
        return f"{self.number:02}"

    def __str__(self) -> str:
        return f"{self.revision} {self.name}"


def read_scripts(folder: Path = VERSIONS) -> tuple[Script, ...]:
    """Return the migrations of a folder, by number.

    Raises:
        ConfigurationError: a file's name is none of a migration's, a number is missing or stands twice, a file cannot be
            read or says what it must not.
    """
    names: dict[int, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")):  # what editors and Python leave
            continue
        found = _NAME.fullmatch(path.name)
        if not found or path.is_dir() is bool(found["python"]):
            raise ConfigurationError(
                f"{path} is no migration", hint="A migration is NN_name.py and a folder NN_name; a-z, 0-9 and _ only."
            )
        number, name = int(found["number"]), found["name"]
        if names.setdefault(number, name) != name:
            raise ConfigurationError(f"{path}: {number:02}_{names[number]} has the number {number:02} too")
    for expected, number in enumerate(names):
        if number != expected:
            raise ConfigurationError(
                f"{folder}: number {expected:02} is missing before {number:02}_{names[number]}",
                hint="Migrations are numbered from 00 without a gap.",
            )
    if not names:
        raise ConfigurationError(f"{folder} has no migrations")
    return tuple(_read(folder, number, name) for number, name in names.items())


def _read(folder: Path, number: int, name: str) -> Script:
    whole = f"{number:02}_{name}"
    own = folder / whole
    try:
        _check_python(own.with_name(f"{whole}.py"), number)
        parts = sorted(path for path in own.iterdir() if path.name not in ("down.sql", "rights"))
        for path in parts:
            if not _PART.fullmatch(path.name):
                raise ConfigurationError(f"{path} is no part of a migration", hint="1-what.sql, down.sql, rights/.")
        contents = [(path, path.read_bytes()) for path in sorted(parts, key=lambda path: int(path.name.split("-")[0]))]
        up = [each for path, content in contents for each in _statements(folder, path, content)]
        if not up:
            raise ConfigurationError(f"{own} has no statements")
        return Script(
            number=number,
            name=name,
            checksum=_checksum(contents),
            up=tuple(up),
            down=tuple(_optional(folder, own / "down.sql")),
            rights={role: tuple(_optional(folder, own / "rights" / f"{role}.sql")) for role in RIGHTS},
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the migration {own} cannot be read: {error}") from error


def _check_python(path: Path, number: int) -> None:
    # what runs is SQL, and under the checksum; a line of Python here would be neither
    before = f'"{number - 1:02}"' if number else "None"
    _, quote, body = path.read_text(encoding="utf-8").rpartition('"""\n\n')
    if not quote or body != _PYTHON.format(number=number, before=before):
        raise ConfigurationError(
            f"{path} must be a docstring, a blank line, and:\n{_PYTHON.format(number=number, before=before)}"
        )


def _checksum(contents: Sequence[tuple[Path, bytes]]) -> str:
    hashed = hashlib.sha256()
    for path, content in contents:
        hashed.update(b"%s\0%d\0%s" % (path.name.encode(), len(content), content))
    return hashed.hexdigest()


def _optional(folder: Path, path: Path) -> list[Statement]:
    return _statements(folder, path, path.read_bytes()) if path.exists() else []


def _statements(folder: Path, path: Path, content: bytes) -> list[Statement]:
    parts = [part.strip() for part in content.decode().replace("\r\n", "\n").split("\n\n")]
    file = str(path.relative_to(folder))
    found = [part for part in parts if not _only_comment(part)]
    for number, part in enumerate(found, 1):
        if _CONTROL.match(_uncommented(part)):
            raise ConfigurationError(
                f"{path}, statement {number} ({' '.join(part.split())[:80]}): a migration is one transaction"
            )
    return [Statement(file=file, number=number, text=part) for number, part in enumerate(found, 1)]


def _only_comment(part: str) -> bool:
    return not _uncommented(part)


def _uncommented(part: str) -> str:
    lines = part.splitlines()
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith("--")):
        lines.pop(0)
    return "\n".join(lines).lstrip()
