"""Starts tests.support.surreal_server, and makes migrated databases with their users on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer.core.identifiers import uuid7
from mer.dal.surreal.address import parse_server_address
from mer.dal.surreal.login import Login, Role
from mer.dal.surreal.migrations import open_migrations
from mer.dal.surreal.server import ServerConnection
from tests.support.surreal_server import HOST, PASSWORD, ROOT

REPOSITORY = Path(__file__).parents[2]

OWNER = Login(role=Role.OWNER, name=ROOT, password=PASSWORD)
DRIVER = Login(role=Role.DRIVER, name="mer_driver", password="driver's own")
AUDITOR = Login(role=Role.AUDITOR, name="mer_auditor", password="auditor's own")

# as in surreal_server: with the least work, since every test logs in
DRIVER_HASHED = "$argon2id$v=19$m=8,t=1,p=1$6XgvToyJe+L3WCN3QN9MZQ$MAu6wJQ09vs9Kkf0dcH+YAz4JlhOgOYd3gKyH6QtCNU"
AUDITOR_HASHED = "$argon2id$v=19$m=8,t=1,p=1$8UNH66IQf1jw3tePUmiaAQ$Nzkqh/Z8e1YsrFAmUQ7pbYSBZpMKvhKgfPk4gf2taJw"


@dataclass
class SurrealServer:
    """A server of this machine; where `engine` is a folder, it can be stopped and started again."""

    engine: str = "mem://"
    scheme: str = "ws"
    certificate: tuple[Path, Path] | None = None
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it, on the port that it had before if it had one."""
        files = [str(file) for file in self.certificate or ()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.surreal_server", self.engine, str(self.port), *files],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        said = self._process.stdout.readline().split()
        assert said[:1] == [b"listening"], said
        self.port = int(said[1])

    def stop(self) -> None:
        """End it."""
        if self._process:
            self._process.communicate()
            self._process = None

    def kill(self) -> None:
        """End it as a power failure would."""
        assert self._process
        self._process.kill()
        self.stop()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process
        self._process.send_signal(number)

    def environment(self, url: str) -> dict[str, str]:
        """Return what an operator would set for `mer` and `mer-migrate`."""
        told = {"DB_CONNECTION_URL": url}
        for prefix, login in (("MIGRATIONS", OWNER), ("DRIVER", DRIVER), ("AUDITOR", AUDITOR)):
            told |= {f"{prefix}_DB_USERNAME": login.name, f"{prefix}_DB_PASSWORD": login.password}
        return told

    def url(self, database: str = "mer") -> str:
        """Return where a database of it is."""
        return f"{self.scheme}://{HOST}:{self.port}/mer/{database}"

    async def migrated(self) -> str:
        """Make a database with a driver and an auditor, and return its URL."""
        url = self.url(f"t{uuid7().replace('-', '')}")
        async with open_migrations(url, login=OWNER, lock_seconds=10) as migrations:
            await migrations.upgrade()
        made = "CREATE type::record('login', $id) SET password = $password;"
        for login, hashed in ((DRIVER, DRIVER_HASHED), (AUDITOR, AUDITOR_HASHED)):
            await by_hand(url, made, login=OWNER, id=[login.role.value, login.name], password=hashed)
        return url


async def by_hand(url: str, *statements: str, login: Login, **parameters: Any) -> list[Any]:
    """Run statements as somebody with that login and the client library can, and return their results."""
    connection = ServerConnection(parse_server_address(url), login, statement_seconds=10, lock_seconds=10)
    try:
        return [result for each in statements for result in await connection.run(each, parameters)]
    finally:
        await connection.close()


@contextmanager
def running(server: SurrealServer) -> Iterator[SurrealServer]:
    """Start a server, and stop it at the end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
