"""Folders of migrations that a test writes, and the migrations program run over one of them, here or as a process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from mer_migrations.__main__ import run
from mer_migrations.postgres.scripts import VERSIONS
from mer_migrations.postgres.target import PostgresTarget

PYTHON = '''\
"""A migration of a test."""

from mer_migrations.postgres.revisions import run

revision = "{number:02}"
down_revision = {before}
upgrade = downgrade = run
'''


def write(
    folder: Path,
    number: int,
    name: str,
    up: Iterable[str],
    *,
    down: Iterable[str] = (),
    driver: Iterable[str] = (),
    auditor: Iterable[str] = (),
) -> Path:
    """Write one migration into a folder of versions, and return its own folder."""
    own = folder / f"{number:02}_{name}"
    (own / "rights").mkdir(parents=True)
    before = f'"{number - 1:02}"' if number else "None"
    own.with_name(f"{own.name}.py").write_text(PYTHON.format(number=number, before=before))
    (own / "1-all.sql").write_text("\n\n".join(up))
    for path, statements in (("down", down), ("rights/driver", driver), ("rights/auditor", auditor)):
        if statements:
            (own / f"{path}.sql").write_text("\n\n".join(statements))
    return own


def started(folder: Path, *arguments: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start the migrations program over that folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.versions", str(folder), *arguments],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def migrate(folder: Path, *arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the migrations program over that folder in this process: a Python of its own would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, environ, clear=True), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(folder, arguments)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def migrate_own(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run it over its own migrations."""
    return migrate(VERSIONS, *arguments, environ=environ)


def _run(folder: Path, arguments: Sequence[str]) -> int:
    lock_seconds = float(os.environ.get("LOCK_SECONDS", "60"))
    return run(
        arguments, open_target=lambda settings: PostgresTarget(settings, versions=folder, lock_seconds=lock_seconds)
    )


if __name__ == "__main__":
    sys.exit(_run(Path(sys.argv[1]), sys.argv[2:]))
