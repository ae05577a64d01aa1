"""The migration scripts as files: `NN-Name.surql`, numbered from 00 without a gap."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path

from mer.core.errors import ConfigurationError
from mer.dal.surreal.statements import ScriptUnreadable, split

_DEFINED = re.compile(
    r"(?P<verb>DEFINE|REMOVE)\s+(?P<kind>TABLE|FUNCTION)\s+(?:(?:IF (?:NOT )?EXISTS|OVERWRITE)\s+)?(?P<name>[\w:]+)",
    re.IGNORECASE,
)

_NAME = re.compile(r"(?P<number>\d\d)-(?P<name>[A-Za-z0-9_]+)(?P<down>\.down)?\.surql")


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """One script: what it is called, what it says, and the sha256 of its bytes."""

    number: int
    name: str
    path: Path
    source: str
    statements: tuple[str, ...]
    checksum: str
    down: Script | None = None
    """The one that takes it back, where there is one."""


def scripts_folder() -> Path:
    """Return where mer_migrations keeps the scripts, without importing it.

    Raises:
        ConfigurationError: it is not installed.
    """
    found = importlib.util.find_spec("mer_migrations")
    for place in (found and found.submodule_search_locations) or ():
        folder = Path(place) / "surreal"
        if folder.is_dir():
            return folder
    raise ConfigurationError("the migrations program is not installed: mer_migrations was not found")


def read_scripts(folder: Path) -> tuple[Script, ...]:
    """Read every script of a folder, by number, each with the one that takes it back (`NN-Name.down.surql`).

    Raises:
        ConfigurationError: a file's name is no script's, a number is missing or stands twice, or a file cannot be read.
    """
    found: dict[int, Script] = {}
    downs: dict[int, Script] = {}
    for path in sorted(folder.glob("*.surql")):
        name = _NAME.fullmatch(path.name)
        if not name:
            raise ConfigurationError(f"{path}: a migration is named NN-Name.surql, letters, digits and _ only")
        script = _read(path, int(name["number"]), name["name"])
        if name["down"]:
            downs[script.number] = script
            continue
        if script.number in found:
            raise ConfigurationError(f"{path}: {found[script.number].path.name} has the number {script.number:02} too")
        if script.number != len(found):
            raise ConfigurationError(f"{path}: number {len(found):02} is missing before it")
        found[script.number] = script
    if not found:
        raise ConfigurationError(f"{folder} has no migrations")
    for number, down in downs.items():
        if number not in found or found[number].name != down.name:
            raise ConfigurationError(f"{down.path} takes nothing back: there is no {number:02}-{down.name}.surql")
    return tuple(replace(script, down=downs.get(script.number)) for script in found.values())


def defined_by(script: Script) -> set[tuple[str, str]]:
    """Return the tables and functions that a script defines and does not remove, as a kind and a name."""
    found: set[tuple[str, str]] = set()
    for statement in script.statements:
        if match := _DEFINED.match(statement):
            thing = match["kind"].lower(), match["name"].removeprefix("fn::")
            if match["verb"].upper() == "DEFINE":
                found.add(thing)
            else:
                found.discard(thing)
    return found


def _read(path: Path, number: int, name: str) -> Script:
    try:
        content = path.read_bytes()
        source = content.decode()
        statements = split(source)
    except (OSError, UnicodeDecodeError, ScriptUnreadable) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not statements:
        raise ConfigurationError(f"{path} has no statements")
    return Script(
        number=number,
        name=name,
        path=path,
        source=source,
        statements=tuple(statements),
        checksum=hashlib.sha256(content).hexdigest(),
    )
