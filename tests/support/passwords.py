"""An SSH server that takes one password: the system's own would need a user who has one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh

from tests.support import sshd

PASSWORD = "hunter2 'ß"


class ByPassword(asyncssh.SSHServer):
    """Asks for it as SSH itself does."""

    questions = False
    tries: list[str]

    def __init__(self) -> None:
        type(self).tries = []

    def begin_auth(self, username: str) -> bool:
        del username
        return True

    def password_auth_supported(self) -> bool:
        return not self.questions

    def validate_password(self, username: str, password: str) -> bool:
        del username
        self.tries.append(password)
        return password == PASSWORD

    def kbdint_auth_supported(self) -> bool:
        return self.questions

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        del username, lang, submethods
        return "", "Grüß Gott", "", [("Losung: ", False)]

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        del username
        self.tries += responses
        return list(responses) == [PASSWORD]


class ByQuestions(ByPassword):
    """Asks for it in a question of its own, in a language of its own."""

    questions = True


class ByNoQuestion(ByPassword):
    """Offers to ask, asks nothing and says no, as OpenSSH does where it has no PAM; then takes the password as such."""

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        del username, lang, submethods
        return False


@contextlib.asynccontextmanager
async def listening(kind: type[ByPassword], host_key: Path) -> AsyncIterator[int]:
    """Give the port of such a server."""
    key = asyncssh.read_private_key(host_key)
    server = await asyncssh.create_server(kind, sshd.HOST, 0, server_host_keys=[key])
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
