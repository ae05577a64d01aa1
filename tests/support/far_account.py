"""An account on a far machine, for whole programs: a real sshd on this one, and a home folder that holds all that is left there.

`mer` as a program keeps its far cache out of /tmp, where tests have their folders; so the home is a folder beside the user's own.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import sshd
from tests.support.installation import workers_of

MARKER = "MER_WORKER="
"""What stands in the environment of a worker, and of all that it forks."""


@dataclass
class FarAccount:
    """The machine, and what somebody has here who knows the way to it."""

    server: sshd.Sshd
    home: Path
    config: Path
    """His ssh_config: the machine is `gpu1`."""
    programs: Path
    """A folder for his PATH, whose `ssh` reads that configuration."""

    @property
    def cache(self) -> Path:
        """What MER leaves there."""
        return self.home / ".cache" / "mer-worker"

    def processes(self) -> list[int]:
        """The workers there, and what they forked, whoever has started them."""
        own = set(workers_of(MARKER))
        return sorted(own & set(workers_of(str(self.cache))))

    def scratch(self) -> list[str]:
        """The scratch folders of workers there."""
        folder = self.cache / "scratch"
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []

    def forget(self) -> None:
        """Remove all that MER has left there."""
        _remove(self.cache)

    def trust(self) -> None:
        """Have its key in the known hosts that the configuration names."""
        (self.config.parent / "known_hosts").write_text(self.server.known_hosts_line)


@contextmanager
def far_account(
    folder: Path, *, name: str = "far", environment: Mapping[str, str] | None = None
) -> Iterator[FarAccount]:
    """Give an account whose home ends in `name`. Skips the test where there is no sshd, or no home folder that can be used.

    `environment` is set in its sessions.
    """
    if not sshd.available():
        pytest.skip("no sshd here (on Debian: apt-get install openssh-server)")
    try:
        above = Path(tempfile.mkdtemp(prefix=".mer-far-", dir=Path.home()))
    except OSError as error:
        pytest.skip(f"no folder can be made in the home folder: {error}")
    try:
        if above.resolve().is_relative_to("/tmp"):
            pytest.skip("the home folder lies below /tmp, where workers keep nothing")
        home = above / name
        home.mkdir(mode=0o700)
        with sshd.running(folder / "sshd", environment={"HOME": str(home), **(environment or {})}) as server:
            yield FarAccount(server, home, *_known_to(server, folder))
    finally:
        _remove(above)


def _remove(folder: Path) -> None:
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)  # unpacked packages are read-only
    shutil.rmtree(folder, ignore_errors=True)


def _known_to(server: sshd.Sshd, folder: Path) -> tuple[Path, Path]:
    """Write an ssh_config, and an `ssh` that reads it."""
    known = folder / "known_hosts"
    known.touch()
    config = folder / "ssh_config"
    config.write_text(
        f"Host gpu1\n  HostName {sshd.HOST}\n  Port {server.port}\n\n"
        f"Host *\n  IdentityFile {server.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  BatchMode yes\n"
    )
    config.chmod(0o600)
    programs = folder / "programs"
    programs.mkdir()
    ssh = programs / "ssh"
    options = server.options()  # which write a file of known hosts, for `ssh` alone
    ssh.write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{config}" -o UserKnownHostsFile="{options["known_hosts"]}" "$@"\n'
    )
    ssh.chmod(stat.S_IRWXU)
    return config, programs
