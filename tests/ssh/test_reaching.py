"""The way to a real sshd: keys judged, machines jumped by, and every step that can fail told with its name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from mer.core.errors import AuthenticationFailed, ConfigurationError, HostKeyRefused, ServerUnreachable
from mer.meal.ssh import knock
from mer.meal.ssh.address import Operator, Target
from mer.meal.ssh.knock import Step
from mer.meal.ssh.known_hosts import Policy
from mer.meal.ssh.reaching import Dropped, reach, shown_key
from tests.support import sshd
from tests.support.dropping import dropping

SOON = 0.4
"""Seconds for a step that never comes."""


@pytest.fixture
def server() -> sshd.Sshd:
    return sshd.of_process()


@contextlib.asynccontextmanager
async def reached(target: Target, **given: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
    connection = await reach(target, **given)
    try:
        yield connection
    finally:
        connection.close()
        await connection.wait_closed()


async def answers(target: Target) -> str:
    async with reached(target) as connection:
        done = await connection.run("echo here", check=True)
        return str(done.stdout).strip()


def stranger(server: sshd.Sshd, folder: Path, **given: Any) -> Operator:
    """Return an operator who has the server's key and knows no host."""
    nobody = "UserKnownHostsFile /dev/null"
    return sshd.operator(server, more=nobody, own_known_hosts=folder / "known_hosts", **given)


def a_key(folder: Path, *, name: str = "other", passphrase: str = "") -> Path:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)
    return path


def certify(authority: Path, host_key: Path) -> None:
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "box", "-h", "-n", sshd.HOST, str(host_key)]
    subprocess.run(sign, check=True)


def without_its_key(server: sshd.Sshd, more: str) -> Operator:
    """Return an operator who has other keys than the server's."""
    operator = sshd.operator(server, more=more)
    config = Path(operator.config)
    config.write_text(config.read_text().replace(f"  IdentityFile {server.key}\n", ""))
    return operator


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind((sshd.HOST, 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def closed() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as bound:
        bound.bind((sshd.HOST, 0))
        yield bound.getsockname()[1]


# keys of hosts


async def test_a_known_host_lets_its_user_in(server):
    told: list[tuple[Step, str | None]] = []
    async with reached(sshd.target_of(server), told=lambda *step: told.append(step)):
        pass
    done = [step for step, found in told if found is not None]
    assert done == [Step.RESOLVE, Step.CONNECT, Step.HOST_KEY, Step.AUTHENTICATE]


async def test_an_unknown_host_is_refused_with_its_fingerprint_and_the_command(server, tmp_path):
    with pytest.raises(HostKeyRefused) as refused:
        await reach(sshd.target_of(server, operator=stranger(server, tmp_path)))
    assert asyncssh.read_public_key(server.host_key).get_fingerprint() in refused.value.message
    assert "mer -a server trust far" in str(refused.value.hint)
    assert not (tmp_path / "known_hosts").exists()


async def test_accept_new_keeps_the_key_once_and_never_another(server, tmp_path):
    target = sshd.target_of(server, operator=stranger(server, tmp_path, policy=Policy.ACCEPT_NEW))
    assert await answers(target) == "here"
    own = tmp_path / "known_hosts"
    assert own.read_text() == server.known_hosts_line
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    own.write_text(f"[{sshd.HOST}]:{server.port} {other}")
    with pytest.raises(HostKeyRefused, match="has changed"):
        await reach(target)


async def test_a_changed_key_is_refused_with_both_fingerprints_and_the_place(server, tmp_path):
    old = asyncssh.generate_private_key("ecdsa-sha2-nistp256")  # of another kind, too
    known = tmp_path / "users"
    known.write_text(f"\n[{sshd.HOST}]:{server.port} {old.export_public_key().decode()}")
    operator = sshd.operator(server, more=f"UserKnownHostsFile {known}", own_known_hosts=tmp_path / "known_hosts")
    with pytest.raises(HostKeyRefused) as refused:
        await reach(sshd.target_of(server, operator=operator))
    for told in (
        old.get_fingerprint(),
        asyncssh.read_public_key(server.host_key).get_fingerprint(),
        f"{known}:2",
    ):
        assert told in refused.value.message
    assert refused.value.exit_code == 77


async def test_a_revoked_key_is_refused(server, tmp_path):
    known = tmp_path / "users"
    known.write_text(f"{server.known_hosts_line}@revoked * {server.host_key.read_text()}")
    operator = sshd.operator(server, more=f"UserKnownHostsFile {known}")
    target = sshd.target_of(server, operator=operator)
    with pytest.raises(HostKeyRefused, match=f"was revoked in {known}:2"):
        await reach(target)
    assert (await shown_key(target)).knock.verdict == "revoked"


async def test_the_key_is_looked_up_under_its_alias(server, tmp_path):
    known = tmp_path / "users"
    known.write_text(server.known_hosts_line.replace(f"[{sshd.HOST}]:{server.port}", f"[the-box]:{server.port}"))
    lines = f"HostKeyAlias the-box\nUserKnownHostsFile {known}"
    assert await answers(sshd.target_of(server, operator=sshd.operator(server, more=lines))) == "here"


async def test_a_key_that_stands_under_the_machines_address_does_not_trust_its_name(server, tmp_path):
    target = sshd.target_of(server, address="localhost", operator=sshd.operator(server, more="AddressFamily inet"))
    with pytest.raises(HostKeyRefused, match="not known"):
        await reach(target)


async def test_a_certificate_of_a_known_authority_is_trusted(tmp_path):
    if not sshd.available():
        pytest.skip("no sshd here")
    authority = a_key(tmp_path, name="authority")
    made = sshd.Sshd(tmp_path / "sshd")
    made.prepare()
    certify(authority, made.host_key)
    made.more = f"HostCertificate {made.folder}/host_key-cert.pub"
    known = tmp_path / "users"
    made.start()
    try:
        known.write_text(f"@cert-authority {sshd.HOST},[{sshd.HOST}]:* {authority.with_suffix('.pub').read_text()}")
        operator = sshd.operator(made, more=f"UserKnownHostsFile {known}")
        assert await answers(sshd.target_of(made, operator=operator)) == "here"
        known.write_text("")  # its plain key is then one that nobody knows
        with pytest.raises(HostKeyRefused, match="not known"):
            await reach(sshd.target_of(made, operator=operator))
        assert await answers(sshd.target_of(made)) == "here"  # who knows the plain key needs no authority
    finally:
        made.stop()


async def test_a_key_is_shown_without_logging_in(server, tmp_path):
    operator = stranger(server, tmp_path, agent=None)
    target = sshd.target_of(server, user="nobody-at-all", operator=operator)
    seen = (await shown_key(target)).knock
    assert (seen.verdict, seen.key) == ("unknown", asyncssh.read_public_key(server.host_key))


# who does not get in


async def test_another_user_is_not_let_in(server):
    with pytest.raises(AuthenticationFailed, match="does not let nobody-at-all in"):
        await reach(sshd.target_of(server, user="nobody-at-all"))


async def test_another_key_is_not_taken_and_what_was_offered_is_told(server, tmp_path):
    more = f"IdentityFile {a_key(tmp_path)}\nIdentityFile {tmp_path}/missing\nIdentityFile /dev/null"
    operator = without_its_key(server, more)
    with pytest.raises(AuthenticationFailed) as refused:
        await reach(sshd.target_of(server, operator=operator))
    assert "1 key offered" in refused.value.message
    assert "publickey" in str(refused.value.hint)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".invalid"])
async def test_a_name_that_does_not_resolve_is_told(server, host):
    with pytest.raises(ServerUnreachable, match=r"does not resolve|is no host name"):
        await reach(sshd.target_of(server, address=host))


async def test_a_port_at_which_nobody_listens_is_told(server, closed):
    with pytest.raises(ServerUnreachable, match=r"far, connect: .*(refused|failed)"):
        await reach(sshd.target_of(server, port=closed))


async def test_one_that_takes_no_connection_is_told(server, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.CONNECT, SOON)
    with contextlib.ExitStack() as waiting, socket.socket() as full:
        full.bind((sshd.HOST, 0))
        full.listen(0)
        for _ in range(4):  # more than wait at its door
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        with pytest.raises(ServerUnreachable, match="did not answer within"):
            await reach(sshd.target_of(server, port=full.getsockname()[1]))


@pytest.mark.parametrize("most", [1, 60, 1500, 3400])
async def test_one_that_is_cut_off_on_the_way_in_is_told(server, most):
    async with dropping(server.port, most) as port:
        with pytest.raises(ServerUnreachable, match=r"far, (host key|authenticate)") as told:
            await reach(sshd.target_of(server, port=port, operator=sshd.operator(server, port=port)))
    before_the_login = "host key" in told.value.message
    assert isinstance(told.value, Dropped) is before_the_login


async def test_one_that_takes_the_connection_and_says_nothing_is_told(server, silent, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.HOST_KEY, SOON)
    with pytest.raises(ServerUnreachable, match="showed no host key"):
        await reach(sshd.target_of(server, port=silent))


async def test_one_that_is_no_ssh_server_is_told(server):
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2000)
        writer.close()

    serving = await asyncio.start_server(answer, sshd.HOST, 0)
    async with serving:
        port = serving.sockets[0].getsockname()[1]
        with pytest.raises(ServerUnreachable, match="far, host key"):
            await reach(sshd.target_of(server, port=port))


async def test_one_that_hangs_up_may_be_asked_again(server):
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    serving = await asyncio.start_server(answer, sshd.HOST, 0)
    async with serving:
        with pytest.raises(Dropped):
            await reach(sshd.target_of(server, port=serving.sockets[0].getsockname()[1]))


async def test_one_that_never_says_whether_it_lets_us_in_is_told(server, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.AUTHENTICATE, SOON)

    class Slow(asyncssh.SSHServer):
        async def begin_auth(self, username: str) -> bool:  # type: ignore[override]
            del username
            await asyncio.sleep(600)
            return True

    key = asyncssh.read_private_key(server.folder / "host_key")
    slow = await asyncssh.create_server(Slow, sshd.HOST, 0, server_host_keys=[key])
    port = slow.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ServerUnreachable, match="did not say within"):
            await reach(sshd.target_of(server, port=port, operator=sshd.operator(server, port=port)))
    finally:
        slow.close()


# the way


async def test_by_way_of_another_machine(server):
    hop = f"{server.user}@{sshd.HOST}:{server.port}"
    assert await answers(sshd.target_of(server, jump=(hop,))) == "here"
    assert await answers(sshd.target_of(server, jump=(hop, hop))) == "here"
    operator = sshd.operator(server, more=f"Match host inner\n  ProxyJump {hop}\n  HostName {sshd.HOST}\nMatch all")
    assert await answers(sshd.target_of(server, address="inner", operator=operator)) == "here"


async def test_the_steps_by_way_of_another_machine_say_nothing_that_is_not_known(server):
    told: list[tuple[Step, str | None]] = []
    hop = f"{server.user}@{sshd.HOST}:{server.port}"
    async with reached(sshd.target_of(server, jump=(hop,)), told=lambda *step: told.append(step)):
        pass
    found = {step: what for step, what in told if what is not None}
    assert (found[Step.JUMP], found[Step.CONNECT]) == (hop, "")


async def test_the_key_of_a_machine_on_the_way_is_judged_too(server, tmp_path):
    operator = stranger(server, tmp_path)
    known = f"Match host inner\n  HostName {sshd.HOST}\n  HostKeyAlias inner\nMatch all\n"
    operator = sshd.operator(server, more=known, own_known_hosts=tmp_path / "own")
    (tmp_path / "own").write_text(f"[inner]:{server.port} {server.host_key.read_text()}")
    hop = f"{server.user}@localhost:{server.port}"
    target = sshd.target_of(server, address="inner", jump=(hop,), operator=operator)
    with pytest.raises(HostKeyRefused, match=rf"\[localhost\]:{server.port} is not known"):
        await reach(target)
    address, seen = await shown_key(target)
    assert (address.key_name.value, seen.verdict) == ("localhost", "unknown")


async def test_a_machine_on_the_way_that_fails_is_named(server, closed):
    hop = f"{server.user}@{sshd.HOST}:{closed}"
    with pytest.raises(ServerUnreachable, match=f"far, by way of {hop}"):
        await reach(sshd.target_of(server, jump=(hop,)))
    hop = f"{server.user}@{sshd.HOST}:{server.port}"
    with pytest.raises(ServerUnreachable, match="cannot be reached from there"):
        await reach(sshd.target_of(server, jump=(hop,), port=closed))


async def test_machines_that_jump_in_a_ring_are_told(server):
    operator = sshd.operator(server, more="Host a\n  ProxyJump b\nHost b\n  ProxyJump a\nHost *")
    with pytest.raises(ConfigurationError, match="ring"):
        await reach(sshd.target_of(server, address="a", operator=operator))


def relay(folder: Path, *, words: str = "") -> str:
    """Return a ProxyCommand that carries bytes, as nc does, and says something to its standard error before."""
    program = folder / "re lay's.py"
    program.write_text(
        "import os, select, socket, sys\n"
        f"sys.stderr.write({words!r}); sys.stderr.flush()\n"
        "far = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    for one in select.select([0, far], [], [])[0]:\n"
        "        data = os.read(0, 65536) if one == 0 else far.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        far.sendall(data) if one == 0 else os.write(1, data)\n"
    )
    return f'{sys.executable} "{program}" %h %p'


async def test_by_a_proxy_command_that_talks(server, tmp_path):
    operator = sshd.operator(server, more=f"ProxyCommand {relay(tmp_path, words='a warning')} 2>&2")
    async with reached(sshd.target_of(server, operator=operator)) as connection:
        done = await connection.run("echo here", check=True)
        assert str(done.stdout).strip() == "here"
    await none_left(str(tmp_path))


async def test_asyncssh_jumps_nowhere_by_itself(server, tmp_path):
    more = f"ProxyCommand {relay(tmp_path)}\nProxyJump no-such-host.invalid"
    assert await answers(sshd.target_of(server, operator=sshd.operator(server, more=more))) == "here"


async def test_by_ssh_itself(server):
    known = server.folder / "known_hosts.of_ssh"
    known.write_text(server.known_hosts_line)
    through = (
        f"ssh -F none -i {server.key} -p {server.port} -o BatchMode=yes -o UserKnownHostsFile={known} "
        f"-W %h:%p {server.user}@{sshd.HOST}"
    )
    operator = sshd.operator(server, more=f"ProxyCommand {through}")
    assert await answers(sshd.target_of(server, operator=operator)) == "here"


async def test_a_proxy_command_that_fails_is_quoted(server):
    operator = sshd.operator(server, more="ProxyCommand sh -c 'echo no way there >&2; exit 7'")
    with pytest.raises(ServerUnreachable, match="ended with status 7: no way there"):
        await reach(sshd.target_of(server, operator=operator))


async def test_a_proxy_command_that_hangs_is_ended(server, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.HOST_KEY, SOON)
    operator = sshd.operator(server, more="ProxyCommand sleep 654.25")
    with pytest.raises(ServerUnreachable, match="showed no host key"):
        await reach(sshd.target_of(server, operator=operator))
    await none_left("654.25")


async def test_what_a_proxy_command_puts_into_the_background_is_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.HOST_KEY, SOON)
    stays = tmp_path / "stays"  # as the process of ssh's ControlPersist, it keeps the standard error
    stays.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 60 </dev/null >/dev/null\n")
    stays.chmod(0o700)
    failing = (
        f"setsid {stays} & while ! [ -s {tmp_path}/pid ]; do sleep 0.05; done; trap : TERM; while :; do sleep 1; done"
    )
    operator = sshd.operator(server, more=f"ProxyCommand sh -c '{failing}'")
    try:
        async with asyncio.timeout(20):
            with pytest.raises(ServerUnreachable, match="showed no host key"):
                await reach(sshd.target_of(server, operator=operator))
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def none_left(words: str) -> None:
    for _ in range(100):
        if not running(words):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(running(words))


def running(words: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if words in line and process.parent.name != str(os.getpid()) and "pytest" not in line:
                found.append(line)
    return found


async def test_nothing_of_an_address_reaches_a_shell(server, tmp_path):
    operator = sshd.operator(server, more="ProxyCommand sh -c 'exec false %h %r'")
    mark = tmp_path / "run"
    for words in (f"x;touch${{IFS}}{mark}", f"$(touch>{mark})", "-oProxyCommand=x", f"x|tee>{mark}"):
        for given in ({"address": words}, {"user": words}):
            with pytest.raises(ConfigurationError):
                await reach(sshd.target_of(server, operator=operator, **given))
    assert not mark.exists()
