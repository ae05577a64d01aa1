"""What opens a server's door: keys, the agent, a passphrase that somebody is asked for, a password by reference."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import AuthenticationFailed, ConfigurationError, Interrupted
from mer.meal.secrets import Secrets
from mer.meal.ssh import knock
from mer.meal.ssh.address import Operator, Target
from mer.meal.ssh.knock import Step
from mer.meal.ssh.reaching import reach
from tests.support import sshd
from tests.support.passwords import PASSWORD, ByNoQuestion, ByPassword, ByQuestions, listening

PASSPHRASE = "open sesame ß"


@pytest.fixture
def server() -> sshd.Sshd:
    return sshd.of_process()


def locked(server: sshd.Sshd, folder: Path, *, public: bool = True) -> Path:
    """Return the user's key, locked by PASSPHRASE, in a place of its own."""
    path = folder / "locked"
    path.write_bytes(server.key.read_bytes())
    path.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", PASSPHRASE, "-f", str(path)], check=True)
    if public:
        path.with_suffix(".pub").write_text(server.key.with_suffix(".pub").read_text())
    return path


def with_key(server: sshd.Sshd, key: Path | None, *, secrets: Secrets | None = None, **given: Any) -> Target:
    """Return a target for whose operator no other key counts."""
    more = given.pop("more", "") + ("" if key is None else f"\nIdentityFile {key}")
    operator = sshd.operator(server, more=more, secrets=secrets or Secrets({}), **given)
    config = Path(operator.config)
    config.write_text(config.read_text().replace(f"  IdentityFile {server.key}\n", ""))
    return sshd.target_of(server, operator=operator)


def asked(*answers: str) -> tuple[Secrets, list[str]]:
    """Return secrets of somebody who gives these answers, and what he was asked."""
    secrets, questions, left = Secrets({}), list[str](), list(answers)

    async def ask(question: str) -> str:
        questions.append(question)
        return left.pop(0)

    secrets.ask = ask
    return secrets, questions


async def enters(target: Target) -> bool:
    connection = await reach(target)
    connection.close()
    await connection.wait_closed()
    return True


@pytest.mark.parametrize("public", [True, False])
async def test_a_passphrase_is_asked_for_until_it_fits_and_once_a_process(server, tmp_path, public):
    secrets, questions = asked("wrong", PASSPHRASE)
    target = with_key(server, locked(server, tmp_path, public=public), secrets=secrets)
    assert await enters(target)
    assert await enters(target)
    asked_for = f"Passphrase for {tmp_path}/locked: "
    assert questions == [asked_for, f"That does not open it. {asked_for}"]


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("answers", [("", ""), ("a", "b", "c", "d", "e", "f")])
async def test_who_does_not_know_it_is_not_let_in(server, tmp_path, public, answers):
    secrets, _ = asked(*answers)
    with pytest.raises(AuthenticationFailed, match="locked: "):
        await reach(with_key(server, locked(server, tmp_path, public=public), secrets=secrets))


async def test_without_a_terminal_a_locked_key_is_named_and_what_to_do(server, tmp_path):
    with pytest.raises(AuthenticationFailed) as refused:
        await reach(with_key(server, locked(server, tmp_path)))
    assert f"locked: {tmp_path}/locked" in refused.value.message
    assert "ssh-add" in str(refused.value.hint)
    assert refused.value.exit_code == 77


async def test_a_key_that_is_not_needed_is_not_asked_for(server, tmp_path):
    secrets, questions = asked()
    target = with_key(server, locked(server, tmp_path), secrets=secrets, more=f"IdentityFile {server.key}")
    assert await enters(target)
    assert questions == []


async def test_no_deadline_runs_while_somebody_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setitem(knock.SECONDS, Step.AUTHENTICATE, 2.0)
    secrets = Secrets({})

    async def ask(question: str) -> str:
        del question
        await asyncio.sleep(2.5)
        return PASSPHRASE

    secrets.ask = ask
    assert await enters(with_key(server, locked(server, tmp_path), secrets=secrets))


async def test_whoever_interrupts_the_question_is_obeyed(server, tmp_path):
    secrets = Secrets({})

    async def ask(question: str) -> str:
        del question
        raise Interrupted

    secrets.ask = ask
    for public in (True, False):
        with pytest.raises(Interrupted):
            await reach(with_key(server, locked(server, tmp_path, public=public), secrets=secrets))
        (tmp_path / "locked.pub").unlink(missing_ok=True)


@pytest.mark.parametrize("named", [True, False])
async def test_a_users_certificate_opens_too(tmp_path, named):
    if not sshd.available():
        pytest.skip("no sshd here")
    authority, mine = another_key(tmp_path, name="authority"), another_key(tmp_path, name="mine")
    made = sshd.Sshd(tmp_path / "sshd", more=f"TrustedUserCAKeys {authority}.pub")
    certify(authority, mine, made.user)
    certificate = tmp_path / "mine-cert.pub"
    more = ""
    if named:
        more = f"CertificateFile {certificate.rename(tmp_path / 'elsewhere.pub')}"
    with started(made):
        assert await enters(with_key(made, mine, more=more))


def certify(authority: Path, key: Path, user: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", user, f"{key}.pub"], check=True)


@contextlib.contextmanager
def started(server: sshd.Sshd) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    socket = tmp_path / "agent"
    running = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    while not socket.exists() and running.poll() is None:
        time.sleep(0.01)
    yield socket
    running.send_signal(signal.SIGTERM)
    running.wait()


def added(agent: Path, key: Path) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True, stdin=subprocess.DEVNULL)


def another_key(folder: Path, *, name: str = "another") -> Path:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


AGENT = "IdentityAgent SSH_AUTH_SOCK\n"


async def test_the_agents_keys_open_without_a_question(server, tmp_path, agent):
    added(agent, server.key)
    secrets, questions = asked()
    target = with_key(server, locked(server, tmp_path), secrets=secrets, more=AGENT, agent=str(agent))
    assert await enters(target)
    assert questions == []


async def test_identities_only_keeps_the_agents_others_back(server, tmp_path, agent):
    added(agent, server.key)
    only = AGENT + "IdentitiesOnly yes"
    with pytest.raises(AuthenticationFailed, match="1 key offered"):
        await reach(with_key(server, another_key(tmp_path), more=only, agent=str(agent)))
    public = tmp_path / "mine.pub"
    public.write_text(server.key.with_suffix(".pub").read_text())
    assert await enters(with_key(server, tmp_path / "mine", more=only, agent=str(agent)))


async def test_an_agent_that_is_gone_is_told_and_hinders_nobody(server, tmp_path):
    gone = {"more": AGENT, "agent": str(tmp_path / "gone")}
    assert await enters(with_key(server, server.key, **gone))
    with pytest.raises(AuthenticationFailed, match="not usable: the agent"):
        await reach(with_key(server, None, **gone))


# passwords


@pytest.fixture(params=[ByPassword, ByQuestions, ByNoQuestion])
async def by_password(
    request: pytest.FixtureRequest, server: sshd.Sshd
) -> AsyncIterator[tuple[type[ByPassword], Target]]:
    known = Secrets({"GPU1": PASSWORD, "WRONG": "wrong", "OURS": "x"}, own={"OURS"})
    async with listening(request.param, server.folder / "host_key") as port:
        operator = sshd.operator(server, port=port, secrets=known)
        yield request.param, sshd.target_of(server, port=port, operator=operator)


def by(target: Target, reference: str | None) -> Target:
    return replace(target, password_from=reference)


async def test_a_password_is_taken_from_where_the_record_says(by_password):
    assert await enters(by(by_password[1], "env:GPU1"))


async def test_a_wrong_password_is_tried_once_and_told_nowhere(by_password, caplog):
    kind, target = by_password
    with pytest.raises(AuthenticationFailed) as refused:
        await reach(by(target, "env:WRONG"))
    assert kind.tries == ["wrong"]
    assert "the password refused" in refused.value.message
    assert "wrong" not in f"{refused.value.message} {refused.value.hint}"
    assert PASSWORD not in caplog.text


async def test_without_a_reference_no_password_is_sent(by_password):
    kind, target = by_password
    with pytest.raises(AuthenticationFailed, match="does not let"):
        await reach(target)
    assert kind.tries == []


@pytest.mark.parametrize(
    ("reference", "error"),
    [("env:MISSING", AuthenticationFailed), ("env:OURS", ConfigurationError), ("keyring:mer/ada", ConfigurationError)],
)
async def test_a_reference_that_leads_nowhere_is_told(by_password, reference, error):
    if reference.startswith("keyring") and "keyring" in sys.modules:
        pytest.skip("there is a keyring here")
    with pytest.raises(error):
        await reach(by(by_password[1], reference))


def test_secrets_show_nothing_of_themselves():
    secrets = Secrets({"GPU1": PASSWORD})
    operator = Operator(home=Path("/"), secrets=secrets, environ={"GPU1": PASSWORD})
    assert PASSWORD not in repr(operator) + repr(secrets)
