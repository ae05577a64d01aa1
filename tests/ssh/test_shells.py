"""Whatever shell a far user has, and whatever it prints, a worker starts there and its stream is clean."""

from __future__ import annotations

import shlex
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import ServerUnreachable
from mer.meal.bootstrap import command
from mer.meal.ssh import host as ssh_host
from mer.meal.ssh.host import SshHost
from mer.meal.starting import start
from tests.support import compiled, sshd
from tests.support.far import ECHO, plan

Running = Callable[[str], SshHost]


@pytest.fixture
async def as_if(tmp_path: Path) -> AsyncIterator[Running]:
    """Give a maker of hosts whose login shell is a script: what it is asked to run is in $SSH_ORIGINAL_COMMAND."""
    if not sshd.available():
        pytest.skip("no sshd here")
    servers, hosts = [], []

    def make(script: str) -> SshHost:
        shell = tmp_path / f"shell{len(servers)}"
        shell.write_text(script)
        shell.chmod(stat.S_IRWXU)
        cache = tmp_path / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        compiled.put_into(cache / "mer-worker")
        server = sshd.Sshd(
            tmp_path / f"sshd{len(servers)}",
            environment={"XDG_CACHE_HOME": str(cache)},
            more=f"ForceCommand {shell}",
        )
        server.start()
        servers.append(server)
        hosts.append(sshd.host(server))
        return hosts[-1]

    yield make
    for host in hosts:
        await host.aclose()
    for server in servers:
        server.stop()


async def answers(host: SshHost, folder: Path) -> list[tuple[str, bytes]]:
    """See that a worker starts and answers there, and return what was logged."""
    logged: list[tuple[str, bytes]] = []
    session = await start(host, plan(folder, ECHO), on_log=lambda stream, level, text: logged.append((stream, text)))
    try:
        reply = await session.infer_values({"x": np.arange(3)})
        assert reply["x"].tolist() == [0, 1, 2]
    finally:
        await session.close()
    return logged


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh"])
async def test_any_shell_starts_it(as_if: Running, tmp_path: Path, shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} here")
    await answers(as_if(f'#!/bin/sh\nexec {found} -c "$SSH_ORIGINAL_COMMAND"\n'), tmp_path)


async def test_what_the_shell_prints_is_log(as_if: Running, tmp_path: Path) -> None:
    host = as_if('#!/bin/sh\necho "Welcome!"\necho "mind the gap" >&2\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    logged = b"".join(text for _, text in await answers(host, tmp_path))
    assert b"Welcome!" in logged
    assert b"mind the gap" in logged


async def test_a_shell_that_prints_without_end_is_told(as_if: Running, tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="prints without end"):
        await answers(as_if("#!/bin/sh\nexec yes hello\n"), tmp_path)


async def test_a_shell_that_exits_is_told_with_its_words(as_if: Running, tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match=r"status 3 before a worker spoke; it said: closed for repairs"):
        await answers(as_if("#!/bin/sh\necho closed for repairs >&2\nexit 3\n"), tmp_path)


async def test_a_shell_that_asks_something_is_told(
    as_if: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_host, "START_SECONDS", 1.0)
    with pytest.raises(ServerUnreachable, match="no worker within 1 s; it said: Which project") as caught:
        await answers(as_if('#!/bin/sh\nprintf "Which project? "\nread answer\n'), tmp_path)
    assert "ask" in (caught.value.hint or "")


async def test_no_python_there_is_told(as_if: Running, tmp_path: Path) -> None:
    host = as_if('#!/bin/sh\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    host._python = "/no/such/python3"
    with pytest.raises(ServerUnreachable, match="cannot run /no/such/python3") as caught:
        await answers(host, tmp_path)
    assert "--python" in (caught.value.hint or "")


@pytest.mark.parametrize("version", ["2.7", "3.6"])
async def test_an_interpreter_that_is_too_old_is_told(as_if: Running, tmp_path: Path, version: str) -> None:
    """One that only says that it is old: stage 0 looks at nothing else."""
    old = tmp_path / "old python's"
    major, minor = version.split(".")
    old.write_text(
        f"#!{sys.executable}\nimport sys\nsys.version_info = ({major}, {minor}, 0)\n"
        "at = sys.argv.index('-c')\ncode, sys.argv[:] = sys.argv[at + 1], ['-c', *sys.argv[at + 2 :]]\nexec(code)\n"
    )
    old.chmod(stat.S_IRWXU)
    host = as_if('#!/bin/sh\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    host._python = str(old)
    with pytest.raises(ServerUnreachable, match=rf"is Python {version}: the worker needs 3\.9 or newer"):
        await answers(host, tmp_path)


def test_the_command_is_of_characters_that_no_shell_looks_at() -> None:
    line = command(None, {"digest": "0" * 64})
    quoted = line.split("'")
    assert len(quoted) == 3
    assert not set(quoted[1]) & set("\\!$`\n'")
    assert quoted[0] == "exec python3 -E -S -c "
    assert all(c.isalnum() or c in "+/= " for c in quoted[2])


@pytest.mark.parametrize(
    "path", ["/opt/my python/bin/python3", "/opt/o'brien/python3", "/opt/päth/py;reboot", "/opt/$HOME"]
)
def test_a_path_is_quoted(path: str) -> None:
    assert shlex.split(command(path, {}))[1] == path
