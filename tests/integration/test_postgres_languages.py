"""A server that speaks another language than English refuses with the same exit codes."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mer.core.errors import AuthenticationFailed, Busy, ConfigurationError, DatabaseUnreachable, MerError
from mer.dal.postgres.connecting import Connector
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.store import PostgresStore
from tests.support.postgres_server import DRIVER, TeamServer, team_server

GERMAN = "de_DE.UTF-8"

WORDS = "Passwort-Authentifizierung für Benutzer »ada« fehlgeschlagen"

_SSL_REQUEST = 80877103


def _refusal(state: str, words: str) -> bytes:
    """Return an ErrorResponse (https://www.postgresql.org/docs/18/protocol-error-fields.html)."""
    fields = {"S": "SCHWERWIEGEND", "V": "FATAL", "C": state, "M": words, "F": "auth.c", "L": "1", "R": "auth_failed"}
    body = b"".join(name.encode() + text.encode() + b"\0" for name, text in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


@asynccontextmanager
async def refusing(state: str, words: str = WORDS) -> AsyncIterator[tuple[ConnectionSettings, list[int]]]:
    """Give a login to a server that refuses everybody in that way, and a list that gets an entry for each who asked."""
    asked: list[int] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                request = await reader.readexactly(length - 4)
                if struct.unpack("!I", request[:4]) != (_SSL_REQUEST,):
                    break
                writer.write(b"N")
            asked.append(1)
            writer.write(_refusal(state, words))
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield ConnectionSettings.from_url(f"postgresql://ada:wrong@127.0.0.1:{port}/mer?sslmode=prefer"), asked


@pytest.mark.parametrize(
    ("state", "kind", "code"),
    [
        ("28P01", AuthenticationFailed, 77),
        ("28000", AuthenticationFailed, 77),
        ("42501", AuthenticationFailed, 77),
        ("3D000", ConfigurationError, 78),
        ("53300", Busy, 75),
        ("XX000", DatabaseUnreachable, 69),
    ],
)
async def test_the_state_says_what_the_words_do_not(state: str, kind: type[MerError], code: int) -> None:
    async with refusing(state) as (login, _):
        with pytest.raises(kind) as refused:
            await Connector(login).connect(patient=False)
        assert refused.value.exit_code == code
        assert WORDS in refused.value.message
        assert "wrong" not in f"{refused.value.message} {refused.value.hint}"


async def test_words_that_are_known_are_not_asked_about() -> None:
    async with refusing("28P01", 'password authentication failed for user "ada"') as (login, asked):
        with pytest.raises(AuthenticationFailed):
            await Connector(login).connect(patient=False)
        assert len(asked) == 1


async def test_no_descriptor_is_left() -> None:
    async with refusing("28P01") as (login, _):
        for _ in range(2):
            with pytest.raises(AuthenticationFailed):
                await Connector(login).connect(patient=False)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(AuthenticationFailed):
            await Connector(login).connect(patient=False)
        await asyncio.sleep(0.05)  # the server's own end
        assert len(os.listdir("/proc/self/fd")) <= before


def test_mer_migrate_knows_it_too() -> None:
    async def asked() -> int:
        async with refusing("28P01") as (login, _):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mer_migrations", "check"),
                env={"PATH": os.environ["PATH"], "DB_CONNECTION_URL": login.url, "DRIVER_DB_USERNAME": "x"},
                stderr=subprocess.DEVNULL,
            )
            return await process.wait()

    assert asyncio.run(asked()) == 77


@pytest.fixture(scope="module")
def german() -> Iterator[TeamServer]:
    """A server that speaks German, by a locale that is made for it; where none can be, its test is skipped."""
    with tempfile.TemporaryDirectory(prefix="mer-locale-") as folder:
        made = shutil.which("localedef") and subprocess.run(
            ["localedef", "-i", "de_DE", "-f", "UTF-8", f"{folder}/{GERMAN}"], capture_output=True, check=False
        )
        if not made or not Path(folder, GERMAN, "LC_MESSAGES").exists():
            pytest.skip(f"no locale {GERMAN} can be made here")
        for path in [Path(folder), *Path(folder).rglob("*")]:  # the server's user reads it
            path.chmod(0o755 if path.is_dir() else 0o644)
        with team_server(environ={"LOCPATH": folder}, lc_messages=f"'{GERMAN}'") as server:
            yield server


@pytest.mark.parametrize(("database", "code"), [("mer", 77), ("none", 78)])
async def test_a_server_that_speaks_german(german: TeamServer, database: str, code: int) -> None:
    right = german.login(DRIVER, database)
    login = ConnectionSettings.from_url(right.url, username=DRIVER, password="wrong") if database == "mer" else right
    with pytest.raises(MerError) as refused:
        await PostgresStore(login).open()
    assert refused.value.exit_code == code
    assert "authentication failed" not in refused.value.message
    assert "does not exist" not in refused.value.message
