"""One attempt to get into a machine: which step it is at, whether its key is the right one, and what it is offered.

asyncssh calls it from within the handshake. All keys are judged here, none by asyncssh: it would also trust a key because it
stands under the machine's address, where ssh asks for its name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import TypeAlias

import asyncssh
from asyncssh.public_key import SSHKeyPair

from mer.core.errors import HostKeyRefused, MerError
from mer.meal.secrets import Secrets
from mer.meal.ssh.address import Address
from mer.meal.ssh.identities import Identities
from mer.meal.ssh.known_hosts import Known, KnownKey, Policy, Verdict, entry_name


class Step(StrEnum):
    """The steps on the way in, in order."""

    RESOLVE = "resolve"
    JUMP = "jump"
    """Onto the machines on the way, where there are some."""
    CONNECT = "connect"
    HOST_KEY = "host key"
    AUTHENTICATE = "authenticate"


SECONDS = {Step.RESOLVE: 10.0, Step.JUMP: 60.0, Step.CONNECT: 15.0, Step.HOST_KEY: 15.0, Step.AUTHENTICATE: 20.0}
"""What each step may take. A server that looks its client's name up takes seconds to greet, one with PAM to let him in."""

Told: TypeAlias = "Callable[[Step, str | None], None]"
"""Is called when a step begins, with None, and when it has succeeded, with what was found."""


class Knock(asyncssh.SSHClient):
    """The attempt."""

    def __init__(
        self,
        server: str,
        address: Address,
        known: Known,
        secrets: Secrets,
        *,
        told: Told | None = None,
        only_key: bool = False,
    ) -> None:
        """Knock at `address`; with `only_key` it goes no further than to the key, which is refused without a word."""
        self.step = Step.CONNECT
        self.key: asyncssh.SSHKey | None = None
        self.verdict: Verdict | None = None
        self.by: tuple[KnownKey, ...] = ()
        self.error: MerError | None = None
        """What went wrong in a question of asyncssh, which has no way to tell."""
        self.identities = Identities(address, secrets, patience=self._patience)
        self.closed: Callable[[], None] = lambda: None
        self.methods = ""
        """By which the server would let somebody in, as far as it was asked."""
        self.how = "without a question"
        self.timer: asyncio.Timeout | None = None
        self._server = server
        self._address = address
        self.known = known
        self._secrets = secrets
        self._told = told
        self.only_key = only_key
        self.password_given = False
        self._let_ask = False
        self._connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._connection = conn
        peer = conn.get_extra_info("peername")
        known = isinstance(peer, tuple) and peer[0]  # of a channel through another machine asyncssh says "" and 0
        self._done(Step.CONNECT, f"{peer[0]} port {peer[1]}" if known else "", then=Step.HOST_KEY)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whoever waits for it is told
        self.identities.close()
        self.closed()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        self.key = key
        self.verdict, self.by = self.known.judge(key)
        if self.only_key:
            return False
        if self.verdict == "unknown" and self._address.policy.value is Policy.ACCEPT_NEW:
            try:
                self._address.known_hosts.pin(self._address.key_name.value, self._address.port.value, key)
            except MerError as error:
                self.error = error
                return False
            self._done(Step.HOST_KEY, f"{described(key)}, new: kept", then=Step.AUTHENTICATE)
            return True
        if self.verdict != "trusted":
            self.error = self.refusal()
            return False
        self._done(Step.HOST_KEY, f"{described(key)}, as in {self.by[0].where}", then=Step.AUTHENTICATE)
        return True

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        found = next((known for known in self.known.authorities if known.key == key), None)
        if found is None or self.only_key:
            return False
        self._done(Step.HOST_KEY, f"certified by {described(key)}, as in {found.where}", then=Step.AUTHENTICATE)
        return True

    def refusal(self) -> HostKeyRefused:
        """Return why the key is refused."""
        assert self.key is not None
        presented = described(self.key)
        name = entry_name(self._address.key_name.value, self._address.port.value)
        trust = f"mer -a server trust {self._server}"
        if self.verdict == "revoked":
            return HostKeyRefused(f"the key of {name}, {presented}, was revoked in {self.by[0].where}")
        if self.verdict == "changed":
            former = "; ".join(f"{described(known.key)} in {known.where}" for known in self.by)
            return HostKeyRefused(
                f"the key of {name} has changed: it shows {presented}, and is known by {former}",
                hint=f"Another machine may answer in its place. If you know why it changed: {trust}",
            )
        return HostKeyRefused(
            f"the key of {name} is not known: {presented}",
            hint=f"Compare it with what the machine itself says (ssh-keygen -lf /etc/ssh/ssh_host_*.pub), then: {trust}",
        )

    def auth_completed(self) -> None:
        if self.step is Step.HOST_KEY:  # by a certificate, of which nothing was asked
            self._done(Step.HOST_KEY, "certified", then=Step.AUTHENTICATE)
        self._done(Step.AUTHENTICATE, f"{self._address.user.value}, {self.how}", then=Step.AUTHENTICATE)

    async def public_key_auth_requested(self) -> Sequence[SSHKeyPair] | None:
        self.how = "by a key"
        self._note_methods()
        try:
            return await self.identities.more() or None
        except MerError as error:
            self.error = error
            return None

    async def password_auth_requested(self) -> str | None:
        return await self._password("by a password")

    async def kbdint_auth_requested(self) -> str | None:
        self._note_methods()
        if self._address.password_from.value is None or self.password_given or self._let_ask:
            return None
        # once: a server may offer to ask and then ask nothing (sshd without PAM), or what nobody here can answer, and
        # asyncssh would come back to it until the tries were used up, a password never tried
        self._let_ask = True
        return ""

    async def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        """Answer the one question that is not shown while it is typed: whatever its language, that is the password."""
        del name, instructions, lang
        if not prompts:
            return []
        if len(prompts) != 1 or prompts[0][1]:
            return None
        password = await self._password("by a password")
        return None if password is None else [password]

    async def _password(self, how: str) -> str | None:
        self._note_methods()
        reference = self._address.password_from.value
        if reference is None or self.password_given:
            return None
        self.password_given, self.how = True, how
        try:
            with self._patience():  # a keyring may ask its owner
                return await self._secrets.password(reference)
        except MerError as error:
            self.error = error
            return None

    def _note_methods(self) -> None:
        if not self.methods and self._connection is not None:  # later on, those that failed are gone
            self.methods = ", ".join(self._connection.get_server_auth_methods())

    def _done(self, step: Step, found: str, *, then: Step) -> None:
        if self._told is not None:
            self._told(step, found)
            if then is not step:
                self._told(then, None)
        self.step = then
        self._more_time()

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        """While a person is asked, no step's time runs out."""
        if self.timer is not None:
            self.timer.reschedule(None)
        try:
            yield
        finally:
            self._more_time()

    def _more_time(self) -> None:
        if self.timer is not None:
            self.timer.reschedule(asyncio.get_running_loop().time() + SECONDS[self.step])


def described(key: asyncssh.SSHKey) -> str:
    """Return a key's kind and fingerprint, as ssh-keygen -l shows them."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
