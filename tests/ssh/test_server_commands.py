"""`mer server` as an operator types it, over a real sshd: import, show, trust, ping; and a passphrase at a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pexpect
import pytest

from mer.api import Mer
from mer.core.records import ServerKind
from mer.faces.render import progress
from mer.meal.ssh import knock
from mer.meal.ssh.knock import Step
from tests.support import sshd
from tests.support.passwords import PASSWORD, ByPassword, listening
from tests.support.registry import ADA
from tests.support.running import ROOT, register, running
from tests.support.typing_in import Terminal, environ_of

STEPS = ["resolve", "connect", "host key", "authenticate", "interpreter", "cache", "disk", "memory", "GPUs"]
LAST_STEPS = ["worker", "clock", "round trip"]


@pytest.fixture
def server() -> sshd.Sshd:
    return sshd.of_process()


def ssh_config(server: sshd.Sshd, folder: Path, *, known: str = "", more: str = "") -> Path:
    """Write a configuration that names the server gpu1, and its known hosts."""
    (folder / "known").write_text(known)
    path = folder / "ssh config"
    path.write_text(
        f"Host gpu1\n  HostName {sshd.HOST}\n  Port {server.port}\n  IdentityFile {server.key}\n{more}"
        f"Host *\n  IdentityAgent none\n  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
    )
    path.chmod(0o600)
    return path


@contextlib.asynccontextmanager
async def console(config: Path, folder: Path, *, terminal: bool = False, **given: Any) -> AsyncIterator[Terminal]:
    """Give a terminal over a Mer whose operator has this configuration."""
    async with running(folder, ssh_config=str(config), **given) as m:
        environ = {**environ_of(folder), "ALLOW_MODEL_SERVER_RUNTIME_CHANGES": "1", "NO_COLOR": "1"}
        yield Terminal(m, environ, terminal=terminal)


async def registered(m: Mer, name: str = "gpu1", **parameters: Any) -> None:
    """Register a server whose cache may lie below /tmp, as it does in tests."""
    made = await m.servers.register(ADA, name, kind=ServerKind.SSH, parameters={"address": name} | parameters)
    m._ping._hosts.of(made)._shared_cache = True  # type: ignore[attr-defined]


async def test_a_ping_tells_every_step(server, tmp_path):
    async with console(ssh_config(server, tmp_path, known=server.known_hosts_line), tmp_path) as terminal:
        await registered(terminal.mer)
        typed = await terminal.type("server ping gpu1 --json")
        steps = json.loads(typed.out)["steps"]
        assert [step["name"] for step in steps] == STEPS + LAST_STEPS
        assert all(step["ok"] for step in steps), steps
        told = {step["name"]: step["detail"] for step in steps}
        assert server.user in told["authenticate"]
        assert "Python 3." in told["interpreter"]
        assert told["clock"] == "as here"
        assert typed.code == 0


async def test_a_ping_fits_into_forty_columns(server, tmp_path):
    config = ssh_config(server, tmp_path, known=server.known_hosts_line)
    async with console(config, tmp_path, terminal=True) as terminal:
        await registered(terminal.mer)
        terminal.environ["COLUMNS"] = "40"
        for line in ("server ping gpu1", "server ping --all"):
            typed = await terminal.type(line)
            assert max(map(len, typed.out.splitlines())) <= 40, typed.out
            assert "ok" in typed.out


async def test_why_a_ping_failed_is_read_whole_on_a_narrow_terminal_with_colours(server, tmp_path):
    async with console(ssh_config(server, tmp_path), tmp_path, terminal=True) as terminal:
        await registered(terminal.mer, "shut", address=sshd.HOST, port=sshd.free_port())
        terminal.environ = {**terminal.environ, "COLUMNS": "40", "NO_COLOR": "", "TERM": "xterm"}
        for line, where in (("server ping shut", "connect: "), ("server ping --all", "shut, connect: ")):
            typed = await terminal.type(line)
            told, hint = typed.err.rpartition("\x1b[J")[2].splitlines()[:2]  # after the live picture
            assert told.startswith(f"\x1b[31mfailed:\x1b[0m {where}{sshd.HOST} port "), typed.err
            assert told.endswith(": Connection refused"), typed.err
            assert hint.startswith("\x1b[36mhint:\x1b[0m mer server show shut"), typed.err
            assert "shut, connect" not in typed.out, typed.out


async def test_a_ping_ends_at_the_step_that_failed(server, tmp_path, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.HOST_KEY, 0.4)
    with socket.socket() as silent:
        silent.bind((sshd.HOST, 0))
        silent.listen()
        async with console(ssh_config(server, tmp_path, known=server.known_hosts_line), tmp_path) as terminal:
            for name, given, step, code in (
                ("lost", {"address": "no-such-host.invalid"}, "resolve", 69),
                ("deaf", {"address": sshd.HOST, "port": silent.getsockname()[1]}, "host key", 69),
                ("stranger", {"address": "gpu1", "user": "nobody-at-all"}, "authenticate", 77),
                ("bare", {"address": "gpu1", "python": "/no/python's here ß"}, "interpreter", 69),
                ("true", {"address": "gpu1", "python": "/bin/true"}, "interpreter", 69),
                ("hop", {"address": "gpu1", "jump": ["no-such-host.invalid"]}, "jump", 69),
            ):
                await registered(terminal.mer, name, **given)
                typed = await terminal.type(f"server ping {name} --json")
                last = json.loads(typed.out)["steps"][-1]
                assert (last["name"], last["ok"], typed.code) == (step, False, code), typed.out
                assert "python" not in given or f"mer -a server edit {name} --python" in last["hint"], last


async def test_who_waits_for_a_server_sees_what_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "WAIT_SECONDS", 0.1)
    monkeypatch.setitem(knock.SECONDS, Step.HOST_KEY, 1.0)
    with socket.socket() as silent:
        silent.bind((sshd.HOST, 0))
        silent.listen()
        config = ssh_config(server, tmp_path, known=server.known_hosts_line)
        async with console(config, tmp_path, terminal=True) as terminal:
            await registered(terminal.mer, "deaf", address=sshd.HOST, port=silent.getsockname()[1])
            await register(terminal.mer, tmp_path, "def load():\n    return lambda inputs: inputs\n")
            await terminal.mer.placements.place(ADA, "model", "deaf")
            run = await terminal.type("run model -i x=1")
            assert "waiting for deaf: host key" in run.err
            assert run.err.rpartition("\x1b[K")[2].startswith("error: deaf, host key: ")  # the line has gone
            assert "waiting" not in (await terminal.type("run model -i x=1 --json")).err
            pinged = await terminal.type("server ping deaf")
            assert "\rdeaf  host key …\x1b[K" in pinged.err
            pinged = await terminal.type("server ping --all")
            assert "\rdeaf  host key …\x1b[K\n\rlocal  ok\x1b[K" in pinged.err
            terminal.terminal = False
            assert "waiting" not in (await terminal.type("run model -i x=1")).err


async def test_an_interpreter_with_a_strange_path_is_found(server, tmp_path):
    strange = tmp_path / "my python's ß $HOME"
    strange.mkdir()
    (strange / "python3").symlink_to(sys.executable)
    async with console(ssh_config(server, tmp_path, known=server.known_hosts_line), tmp_path) as terminal:
        await registered(terminal.mer, python=str(strange / "python3"))
        typed = await terminal.type("server ping gpu1 --json")
        told = {step["name"]: step["detail"] for step in json.loads(typed.out)["steps"]}
        assert told["interpreter"].startswith(str(strange))


async def test_all_servers_are_tried_and_one_that_fails_hinders_no_other(server, tmp_path):
    async with console(ssh_config(server, tmp_path, known=server.known_hosts_line), tmp_path) as terminal:
        await registered(terminal.mer)
        await registered(terminal.mer, "lost", address="no-such-host.invalid")
        typed = await terminal.type("server ping --all --json")
        found = json.loads(typed.out)
        assert {name: told["ok"] for name, told in found["servers"].items()} == {
            "gpu1": True,
            "local": True,
            "lost": False,
        }
        assert (found["ok"], typed.code) == (False, 69)
        lines = (await terminal.type("server ping --all")).out.splitlines()
        assert [line.split()[:2] for line in lines[1:]] == [["gpu1", "ok"], ["local", "ok"], ["lost", "failed"]]


async def test_either_a_server_or_all_are_meant(server, tmp_path):
    async with console(ssh_config(server, tmp_path), tmp_path) as terminal:
        assert (await terminal.type("server ping")).code == 2
        assert (await terminal.type("server ping local --all")).code == 2


async def test_a_model_on_a_far_server_is_pinged_by_the_same_steps(server, tmp_path):
    async with console(ssh_config(server, tmp_path, known=server.known_hosts_line), tmp_path) as terminal:
        await registered(terminal.mer)
        await register(terminal.mer, tmp_path, "def load():\n    return lambda inputs: inputs\n")
        await terminal.mer.placements.place(ADA, "model", "gpu1")
        typed = await terminal.type("model ping model --on gpu1 --json")
        steps = json.loads(typed.out)["steps"]
        assert [step["name"] for step in steps] == [*STEPS, *LAST_STEPS, "content", "worker"]
        assert all(step["ok"] for step in steps), steps
        lines = (await terminal.type("model ping model")).out.splitlines()[1:]
        assert [line.split()[0] for line in lines[:2]] == ["resolve", "connect"]
        assert [line.split()[:4] for line in lines if line.startswith("clock")] == [["clock", "ok", "at", "once"]]
        await terminal.mer.placements.place(ADA, "model", "local")
        lines = (await terminal.type("model ping model")).out.splitlines()[1:]
        assert lines[0].split()[:2] == ["gpu1", "resolve"]
        assert [line.split()[:2] for line in lines[-2:]] == [["local", "content"], ["local", "worker"]]


# trust


async def test_a_key_is_trusted_once_it_was_seen_and_that_is_on_record(server, tmp_path):
    fingerprint = asyncssh.read_public_key(server.host_key).get_fingerprint()
    async with console(ssh_config(server, tmp_path), tmp_path) as terminal:
        await registered(terminal.mer)
        refused = await terminal.type("server ping gpu1")
        assert refused.code == 77
        assert "mer -a server trust gpu1" in refused.err
        asked = await terminal.type("server trust gpu1")
        assert (asked.code, fingerprint in asked.err) == (2, True)
        assert not (tmp_path / "state" / "known_hosts").exists()
        typed = await terminal.type("server trust gpu1 --yes --json")
        assert json.loads(typed.out)["keys"][0]["fingerprint"] == fingerprint
        assert (await terminal.type("server ping gpu1")).code == 0
        body = json.loads((await terminal.mer.log.list(limit=1)).items[0].body)
        assert (body["action"], body["server"], body["host_key"]) == ("server.trust", "gpu1", fingerprint)


async def test_a_changed_key_is_shown_beside_the_old_one_and_replaces_it(server, tmp_path):
    old = asyncssh.generate_private_key("ssh-ed25519")
    known = f"[{sshd.HOST}]:{server.port} {old.export_public_key().decode()}"
    async with console(ssh_config(server, tmp_path, known=known), tmp_path) as terminal:
        await registered(terminal.mer)
        refused = await terminal.type("server ping gpu1")
        assert refused.code == 77
        assert f"{tmp_path}/known:1" in refused.out
        typed = await terminal.type("server trust gpu1 --yes")
        assert old.get_fingerprint() in typed.err
        assert (await terminal.type("server ping gpu1")).code == 0
        assert (tmp_path / "known").read_text() == known  # the user's own file is only read
        body = json.loads((await terminal.mer.log.list(limit=1)).items[0].body)
        assert body["former_host_keys"] == [old.get_fingerprint()]


async def test_machines_on_the_way_are_trusted_one_after_the_other(server, tmp_path):
    more = (
        f"Host inner\n  HostName {sshd.HOST}\n  Port {server.port}\n  HostKeyAlias inner\n  IdentityFile {server.key}\n"
    )
    async with console(ssh_config(server, tmp_path, more=more), tmp_path) as terminal:
        await registered(terminal.mer, "inner", jump=["gpu1"])
        typed = await terminal.type("server trust inner --yes --json")
        hosts = [key["host"] for key in json.loads(typed.out)["keys"]]
        assert hosts == [f"[{sshd.HOST}]:{server.port}", f"[inner]:{server.port}"]
        assert (await terminal.type("server ping inner")).code == 0


async def test_without_leave_nothing_is_trusted_nor_asked(server, tmp_path):
    async with console(ssh_config(server, tmp_path), tmp_path) as terminal:
        await registered(terminal.mer)
    async with console(ssh_config(server, tmp_path), tmp_path, allow_changes=False) as terminal:
        assert (await terminal.type("server trust gpu1 --yes")).code == 77
    assert not (tmp_path / "state" / "known_hosts").exists()


async def test_this_machine_shows_no_key(server, tmp_path):
    async with console(ssh_config(server, tmp_path), tmp_path) as terminal:
        assert (await terminal.type("server trust local --yes")).code == 2


async def test_new_hosts_are_accepted_where_that_is_set(server, tmp_path):
    async with console(ssh_config(server, tmp_path), tmp_path, ssh_host_keys="accept-new") as terminal:
        await registered(terminal.mer)
        assert (await terminal.type("server ping gpu1")).code == 0
        assert (tmp_path / "state" / "known_hosts").read_text() == server.known_hosts_line


# show and import


async def test_show_tells_what_takes_effect_and_from_where(server, tmp_path):
    config = ssh_config(server, tmp_path)
    async with console(config, tmp_path) as terminal:
        await registered(terminal.mer, user="ada")
        told = json.loads((await terminal.type("server show gpu1 --json")).out)["effective"]
        assert told["port"] == {"value": str(server.port), "origin": f"{config}:3"}
        assert told["user"] == {"value": "ada", "origin": "record"}
        text = (await terminal.type("server show gpu1")).out
        assert f"{server.port}  ({config}:3)" in text


async def test_a_server_is_shown_though_the_configuration_is_broken(server, tmp_path):
    config = ssh_config(server, tmp_path, more="Port many\n")
    async with console(config, tmp_path) as terminal:
        await registered(terminal.mer)
        typed = await terminal.type("server show gpu1")
        assert (typed.code, "gpu1" in typed.out, "Port" in typed.err) == (0, True, True)


async def test_an_import_registers_what_is_new_and_nothing_twice(server, tmp_path):
    more = "Host größe gpu2 _unfit taken\nHost *.lab\n"
    async with console(ssh_config(server, tmp_path, more=more), tmp_path) as terminal:
        await terminal.mer.servers.register(ADA, "taken", parameters={"address": "elsewhere"})
        planned = json.loads((await terminal.type("server import --ssh-config --plan --json")).out)
        assert planned["planned"]
        assert len((await terminal.mer.servers.list()).items) == 2
        typed = await terminal.type("server import --ssh-config --json")
        found = {host["name"]: host["standing"] for host in json.loads(typed.out)["hosts"]}
        assert found == {"gpu1": "new", "größe": "new", "gpu2": "new", "_unfit": "unfit", "taken": "other"}
        assert (await terminal.mer.servers.show("größe")).parameters == {"address": "größe"}
        again = json.loads((await terminal.type("server import --ssh-config 'g*' --json")).out)["hosts"]
        assert {host["standing"] for host in again} == {"there"}
        assert (await terminal.type("server import --ssh-config nothing")).code == 66


async def test_options_of_the_way_are_kept_changed_and_taken_away(server, tmp_path):
    async with console(ssh_config(server, tmp_path), tmp_path) as terminal:
        given = "--address gpu1 --jump ada@a:22,b --jump c --password-from env:GPU1"
        await terminal.type(f"server register one {given}")
        kept = (await terminal.mer.servers.show("one")).parameters
        assert kept == {"address": "gpu1", "jump": ["ada@a:22", "b", "c"], "password_from": "env:GPU1"}
        await terminal.type("server edit one --jump '' --password-from ''")
        assert (await terminal.mer.servers.show("one")).parameters == {"address": "gpu1"}


@pytest.mark.parametrize(
    "option",
    [
        "--jump '-oProxyCommand=touch x'",
        "--jump 'a;b'",
        "--password-from hunter2",
        "--address 'a$(b)'",
        "--user 'a`b`'",
    ],
)
async def test_what_would_be_dangerous_is_not_registered(server, tmp_path, option):
    async with console(ssh_config(server, tmp_path), tmp_path) as terminal:
        typed = await terminal.type(f"server register one --address gpu1 {option}")
        assert typed.code == 78
        assert "hunter2" not in typed.out + typed.err
        assert len((await terminal.mer.servers.list()).items) == 1


async def test_a_password_is_used_and_stands_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GPU1_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", "swordfish")
    seen = ""
    async with listening(ByPassword, server.folder / "host_key") as port:
        known = server.known_hosts_line.replace(f":{server.port} ", f":{port} ")
        async with console(ssh_config(server, tmp_path, known=known), tmp_path) as terminal:
            given = f"--address {sshd.HOST} --port {port} --password-from"
            for name, variable in (("right", "GPU1_PASSWORD"), ("wrong", "WRONG_PASSWORD")):
                seen += str(await terminal.type(f"server register {name} {given} env:{variable}"))
                ping = await terminal.type(f"server ping {name} --json")
                seen += str(ping)
                told = {step["name"]: step["ok"] for step in json.loads(ping.out)["steps"]}
                assert told["authenticate"] is (name == "right")
                seen += str(await terminal.type(f"server show {name}"))
            seen += str([record.body for record in (await terminal.mer.log.list(limit=100)).items])
    for place in (path for path in (tmp_path / "state").rglob("*") if path.is_file()):
        seen += place.read_bytes().decode("utf-8", "replace")
    assert "hunter2" not in seen
    assert "swordfish" not in seen


# a person at a terminal


def test_a_passphrase_is_asked_for_at_the_terminal_and_shown_nowhere(server, tmp_path):
    locked = tmp_path / "locked"
    locked.write_bytes(server.key.read_bytes())
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", "open sesame", "-f", str(locked)], check=True)
    config = ssh_config(server, tmp_path, known=server.known_hosts_line)
    config.write_text(config.read_text().replace(str(server.key), str(locked)))
    (tmp_path / "state").mkdir(mode=0o700)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MER_", "DB_", "ALLOW_"))},
        "MER_STATE_FOLDER": str(tmp_path / "state"),
        "MER_SSH_CONFIG": str(config),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "NO_COLOR": "1",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    arguments = ["-m", "tests.support.memory_console", "-a"]
    child = pexpect.spawn(
        sys.executable, arguments, env=environment, cwd=ROOT, encoding="utf-8", timeout=40, dimensions=(40, 160)
    )
    seen = []
    try:
        child.expect("mer>")
        for line in ("server register gpu1 --address gpu1", "server ping gpu1"):
            child.sendline(line)
        child.expect("Passphrase for .*locked:")
        child.sendline("wrong")
        child.expect("That does not open it.*locked:")
        child.sendline("open sesame")
        child.expect(r"authenticate +ok")
        seen += [child.before, child.after]
        child.sendline("exit")
        child.expect(pexpect.EOF)
        seen.append(child.before)
    finally:
        child.close(force=True)
    assert "sesame" not in "".join(map(str, seen))
    assert not any(b"sesame" in path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
