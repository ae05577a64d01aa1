"""A private OpenSSH server on a free loopback port, with a host key and a user key of its own.

Its users are those of the system: the one that runs the tests logs in as himself. Where there is no sshd, `available()` is
False and the tests that need one say so.
"""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mer.meal.secrets import Secrets
from mer.meal.ssh.address import Operator, Target
from mer.meal.ssh.connection import Connection
from mer.meal.ssh.host import SshHost
from tests.support import compiled

HOST = "127.0.0.1"

CONFIG = """
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
PrintMotd no
LogLevel VERBOSE
Subsystem sftp internal-sftp
AcceptEnv MER_TEST_*
{more}
"""


def program() -> str | None:
    """Return the path of an OpenSSH server; None where there is none."""
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def available() -> bool:
    return program() is not None


def free_port() -> int:
    """Return a port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    return port


def until_it_listens(process: subprocess.Popen[bytes], port: int, *, log: Path | None = None) -> None:
    """Wait until somebody can connect to the server that this process is."""
    for _ in range(200):
        with socket.socket() as trying:
            if trying.connect_ex((HOST, port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{'' if log is None else log.read_text()}")


@dataclass
class Sshd:
    """The server. `environment` is what the far sessions get set (by `SetEnv`)."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    """Further lines of its configuration."""
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def user(self) -> str:
        return getpass.getuser()

    @property
    def key(self) -> Path:
        return self.folder / "user_key"

    @property
    def host_key(self) -> Path:
        return self.folder / "host_key.pub"

    @property
    def known_hosts_line(self) -> str:
        return f"[{HOST}]:{self.port} {' '.join(self.host_key.read_text().split()[:2])}\n"

    def prepare(self) -> None:
        """Make its keys."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("host_key", "user_key"):
            if not (self.folder / name).exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)],
                    check=True,
                )
        if not (self.folder / "authorized_keys").exists():
            shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")

    def start(self) -> None:
        """Start it, on the port that it had before."""
        self.prepare()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation wants it
        self.port = self.port or free_port()
        lines = self.more
        if self.environment:
            lines += "\nSetEnv " + " ".join(f'{name}="{value}"' for name, value in self.environment.items())
        config = self.folder / "sshd_config"
        config.write_text(CONFIG.format(port=self.port, host=HOST, folder=self.folder, more=lines))
        found = program()
        assert found is not None
        self.process = subprocess.Popen(
            [found, "-D", "-f", str(config), "-E", str(self.folder / "log")], start_new_session=True
        )
        until_it_listens(self.process, self.port, log=self.folder / "log")

    def stop(self) -> None:
        """Stop listening, and cut every connection: each one is a process of its own, in the server's session."""
        if self.process is not None:
            for pid in self.connections():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.process.kill()
            self.process.wait()
            self.process = None

    def connections(self) -> list[int]:
        """Return the processes that serve connections."""
        assert self.process is not None
        found, left = [], [self.process.pid]
        while left:
            children = subprocess.run(
                ["pgrep", "-P", ",".join(map(str, left)), "-x", "sshd.*"], capture_output=True, text=True
            ).stdout
            left = [int(pid) for pid in children.split()]
            found += left
        return found

    def options(self) -> dict[str, Any]:
        """Return what asyncssh.connect needs beside address, port and user, for who trusts the server already."""
        known = self.folder / "known_hosts"
        known.write_text(self.known_hosts_line)
        return {"client_keys": [str(self.key)], "known_hosts": str(known), "config": None, "agent_path": None}


def of_process() -> Sshd:
    """Return a server that lasts as long as this process of tests, whose far sessions have a cache of their own.

    Skips the test where there is no sshd.
    """
    if not available():
        pytest.skip("no sshd here (on Debian: apt-get install openssh-server)")
    return _lasting(Sshd)


def of_process_or_stand_in() -> Sshd:
    """Return such a server, or asyncssh's own where there is no sshd: what holds for any server holds for that one."""
    from tests.support.ssh_stand_in import StandIn

    return _lasting(Sshd if available() else StandIn)


def _lasting(kind: type[Sshd]) -> Sshd:
    if kind not in _OF_PROCESS:
        folder = Path(tempfile.mkdtemp(prefix="mer-sshd-"))
        cache = folder / "cache"
        cache.mkdir(mode=0o700)
        compiled.put_into(cache / "mer-worker")
        server = kind(folder / "sshd", environment={"XDG_CACHE_HOME": str(cache)})
        server.start()
        _OF_PROCESS[kind] = server

        def end() -> None:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

        atexit.register(end)
    return _OF_PROCESS[kind]


def host(server: Sshd, *, name: str = "far", python: str | None = sys.executable, **target: Any) -> SshHost:
    """Return a host over a new connection to the server, by this very interpreter."""
    return SshHost(name, connection(server, name=name, **target), python=python, shared_cache=True)


def connection(server: Sshd, *, name: str = "far", **target: Any) -> Connection:
    """Return a connection that trusts the server, and is not made yet."""
    return Connection(target_of(server, name=name, **target))


def target_of(server: Sshd, *, name: str = "far", **given: Any) -> Target:
    """Return the server as a record would have it, for an operator who trusts it and has its user's key."""
    told = {"address": HOST, "port": server.port, "user": server.user, "operator": operator(server)} | given
    return Target(name=name, **told)


def operator(server: Sshd, *, port: int | None = None, more: str = "", **given: Any) -> Operator:
    """Return an operator whose ssh_config has the server's key and its user's, for `port` where something stands before it.

    `more` are lines before these.
    """
    home = server.folder / "home"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    line = server.known_hosts_line
    known = server.folder / f"known_hosts.{port or server.port}"
    known.write_text(line if port is None else line.replace(f":{server.port} ", f":{port} "))
    config = server.folder / f"ssh_config.{abs(hash((more, port)))}"
    config.write_text(
        f"{more}\nHost *\n  IdentityFile {server.key}\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n"
    )
    config.chmod(0o600)
    return Operator(**{"home": home, "secrets": Secrets({}), "config": str(config)} | given)


_OF_PROCESS: dict[type[Sshd], Sshd] = {}


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Sshd]:
    """Give a server that runs."""
    server = Sshd(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
