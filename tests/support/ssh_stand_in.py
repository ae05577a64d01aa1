"""asyncssh's own server in the place of OpenSSH's, where that cannot be had: a process of its own, exec through /bin/sh.

It stands in for the contract of hosts alone. What OpenSSH does at its limits, with signals or with a login shell is not its.

python -m tests.support.ssh_stand_in FOLDER PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncssh

from tests.support.sshd import HOST, Sshd, free_port, until_it_listens


class StandIn(Sshd):
    """The server, as `Sshd` is one."""

    def prepare(self) -> None:
        """Make its keys, without ssh-keygen."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("host_key", "user_key"):
            key = asyncssh.generate_private_key("ssh-ed25519", comment=name)
            key.write_private_key(self.folder / name)
            (self.folder / name).chmod(0o600)
            key.write_public_key(self.folder / f"{name}.pub")
        (self.folder / "authorized_keys").write_bytes((self.folder / "user_key.pub").read_bytes())

    def start(self) -> None:
        """Start it."""
        self.prepare()
        self.port = self.port or free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ssh_stand_in", str(self.folder), str(self.port)],
            env={**os.environ, **self.environment},
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
        until_it_listens(self.process, self.port)

    def connections(self) -> list[int]:
        """Return nobody: one process serves them all."""
        return []


async def exec_by_shell(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run what was asked for by /bin/sh, as sshd does by a login shell; it ends with its input."""
    running = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", process.command or "exit 0",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    feeding = asyncio.ensure_future(carry(process.stdin, running.stdin))
    feeding.add_done_callback(lambda _: running.stdin.close())
    try:
        await asyncio.gather(carry(running.stdout, process.stdout), carry(running.stderr, process.stderr))
        status = await running.wait()
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            process.exit(status)
    finally:
        feeding.cancel()


async def carry(reader: Any, writer: Any) -> None:
    """Carry bytes until one of the two has ended."""
    with contextlib.suppress(OSError, asyncssh.Error):
        while some := await reader.read(1 << 18):
            writer.write(some)
            await writer.drain()


async def serve(folder: Path, port: int) -> None:
    """Serve until killed."""
    await asyncssh.listen(
        HOST,
        port,
        server_host_keys=[folder / "host_key"],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=exec_by_shell,
        encoding=None,
        line_editor=False,
        encryption_algs=["aes128-gcm@openssh.com"],
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
