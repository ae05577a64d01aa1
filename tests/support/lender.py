"""A machine whose owner lends models: an installation of its own, and an sshd whose keys start `mer serve-ssh`."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.support import sshd
from tests.support.installation import DIGITS, MER, Installation, installation
from tests.support.running import folder_with

SHOUT = """
import os
import time


def load():
    def handler(inputs, context):
        text = inputs["text"]
        if text.startswith("count "):
            return ({"number": number} for number in range(int(text.split()[1])))
        if text == "double":
            return ({"text": 2 * part["text"]} for part in context.parts())
        if text == "die":
            os._exit(3)
        if text == "fail":
            raise ValueError("no such word")
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        print("reading", text)
        return {"text": text.upper(), "bytes": text.encode(), "facts": {"length": len(text)}}

    return handler
"""

COMMAND_SECONDS = 60


@dataclass
class Key:
    """A key, and the line of authorized_keys that says what it may do."""

    path: Path
    line: str


@dataclass
class Answer:
    """What came of one command line."""

    code: int | None
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Lender:
    """The machine. `installed` is its owner's console."""

    installed: Installation
    server: sshd.Sshd
    home: Path
    """With the .env from which the lent Mer has its settings: sshd gives it a bare environment."""
    keys: dict[str, Key] = field(default_factory=dict)

    def lend(self, name: str, *options: str) -> Key:
        """Make a key that runs `mer serve-ssh --actor NAME OPTIONS`."""
        path = self.server.folder / f"key_{name}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        command = shlex.join([str(MER), "--env-file", str(self.home / ".env"), "serve-ssh", "--actor", name, *options])
        line = f'restrict,command="{command}" {path.with_suffix(".pub").read_text().strip()}'
        self.keys[name] = key = Key(path, line)
        with (self.server.folder / "authorized_keys").open("a") as file:
            file.write(line + "\n")
        return key

    @contextlib.asynccontextmanager
    async def connected(self, name: str, **options: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Give a connection by that key."""
        given = self.server.options() | {"client_keys": [str(self.keys[name].path)], **options}
        async with asyncssh.connect(sshd.HOST, self.server.port, username=self.server.user, **given) as connection:
            yield connection

    async def ask(self, name: str, line: str | None, stdin: bytes = b"", **options: Any) -> Answer:
        """Ask for one command line by that key."""
        async with self.connected(name) as connection:
            return await asked(connection, line, stdin, **options)

    async def left_alone(self) -> None:
        """Wait until nothing runs for a guest any more: neither `mer serve-ssh`, nor a worker."""
        for _ in range(60):
            if not (left := self._serving()):
                return
            await asyncio.sleep(0.5)
        raise AssertionError(left)

    def _serving(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    in_scratch = os.readlink(entry / "cwd").startswith(str(self.installed.folder / "scratch"))
                    if in_scratch or (str(self.home) in line and "serve-ssh" in line):
                        found.append(line)
        return found

    def records(self) -> list[dict[str, Any]]:
        """The bodies of the log, oldest first."""
        return self.installed.records()


async def asked(
    connection: asyncssh.SSHClientConnection, line: str | None, stdin: bytes = b"", **options: Any
) -> Answer:
    """Ask for one command line over a connection."""
    given = {"input": stdin} if stdin else {"stdin": asyncssh.DEVNULL}  # asyncssh sends no end after an empty input
    done = await connection.run(line, encoding=None, timeout=COMMAND_SECONDS, **given, **options)
    assert isinstance(done.stdout, bytes)
    assert isinstance(done.stderr, bytes)
    return Answer(done.exit_status, done.stdout, done.stderr.decode())


@contextmanager
def lending() -> Iterator[Lender]:
    """Give a lender with the demo and `shout` registered; alice may run `shout` and `digits`, bob whatever there is.

    Skips the test where there is no sshd.
    """
    if not sshd.available():
        pytest.skip("no sshd here (on Debian: apt-get install openssh-server)")
    with installation() as installed:
        home = installed.folder / "home"
        home.mkdir(mode=0o700)
        (home / ".env").write_text(f"MER_STATE_FOLDER={installed.folder}\n")
        (home / ".env").chmod(0o600)
        package = folder_with(home / "shout", SHOUT)
        for name in ("shout", "secret"):
            installed.mer(
                "-a", "model", "register", name, str(package), "--entry", "handler:load", "--input", "text:string[]"
            )
        (installed.folder / "sshd").mkdir(mode=0o700)
        # as wide as an owner may have made it who wanted settings to travel
        with sshd.running(installed.folder / "sshd", more="AcceptEnv MER_* DB_* ALLOW_*") as server:
            lender = Lender(installed, server, home)
            lender.lend("alice", "--allow", "digits,shout,none-yet")
            lender.lend("bob")
            yield lender


def of_process() -> Lender:
    """Return a lender that lasts as long as this process of tests. Skips the test where there is no sshd."""
    if not _OF_PROCESS:
        stack = contextlib.ExitStack()
        _OF_PROCESS.append(stack.enter_context(lending()))
        atexit.register(stack.close)
    return _OF_PROCESS[0]


_OF_PROCESS: list[Lender] = []


def three() -> bytes:
    """The demo's picture of a 3 as a guest sends it."""
    import numpy

    return json.dumps({"image": numpy.load(DIGITS / "three.npy").tolist()}).encode()
