"""MER as its users have it: a state folder with its own embedded database, and the `mer` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.documents import ROOT
from tests.support.postgres import state_folder

MER = Path(sys.executable).parent / "mer"
DIGITS = ROOT / "examples" / "digits"
THREE = f"image=@{DIGITS / 'three.npy'}"
COMMAND_SECONDS = 120


@dataclass
class Installation:
    """One state folder, and the environment under which commands see it."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment of a command."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        path = f"{MER.parent}:{kept.get('PATH', '/usr/bin:/bin')}"
        return {**kept, "PATH": path, "MER_STATE_FOLDER": str(self.folder), **self.environment}

    def mer(self, *arguments: str, code: int | None = 0, **given: Any) -> subprocess.CompletedProcess[str]:
        """Run `mer`, and hold its exit code to `code` (None: whatever it is)."""
        environment = {**self.variables, **given.pop("environment", {})}
        done = subprocess.run(
            [str(MER), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            **{"stdin": subprocess.DEVNULL} | given,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *arguments: str, **given: Any) -> Any:
        """Run `mer … --json` and return the document."""
        return json.loads(self.mer(*arguments, "--json", **given).stdout)

    def records(self, *arguments: str) -> list[dict[str, Any]]:
        """The newest records' bodies, oldest first."""
        items = self.json("log", "list", "--limit", "1000", *arguments)["items"]
        return [item["record"] for item in reversed(items)]

    def with_database(self, url: str) -> Installation:
        """The same state folder with another database."""
        return Installation(self.folder, {**self.environment, "DB_CONNECTION_URL": url})

    def register_digits(self) -> None:
        """Register the demo as start_mer.sh does."""
        subprocess.run(
            [str(DIGITS / "register.sh"), str(MER)], env=self.variables, check=True, capture_output=True, timeout=120
        )


@contextmanager
def installation() -> Iterator[Installation]:
    """Give an installation with the demo registered, and remove all of it."""
    with state_folder() as folder:
        made = Installation(folder)
        made.register_digits()
        yield made


def workers_of(marker: str) -> list[int]:
    """Return the processes whose environment holds that text: what a killed driver may have left behind."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
