"""The keys that are offered to a server: those of the agent, then the files, and last those whose passphrase must be asked for.

asyncssh's own loading fails where ssh goes on: for a file that is missing, or one that is encrypted and not needed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import asyncssh
from asyncssh.public_key import SSHKeyPair

from mer.meal.secrets import Secrets
from mer.meal.ssh.address import Address

AGENT_SECONDS = 10.0
"""What an agent may take to list its keys; one whose owner is asked to confirm each signature takes as long as he does."""


class Identities:
    """The keys for one attempt."""

    def __init__(
        self, address: Address, secrets: Secrets, *, patience: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Offer the keys of `address`; `patience` is entered while somebody is asked for a passphrase."""
        self._patience = patience
        self._address = address
        self._secrets = secrets
        self._agent: asyncssh.SSHAgentClient | None = None
        self._given = 0
        self._to_ask: list[str] = []
        self.offered = 0
        self.locked: list[str] = []
        """Files whose passphrase nobody gave."""
        self.unusable: list[str] = []
        """Files that cannot be read, and why."""

    async def more(self) -> Sequence[SSHKeyPair]:
        """Return the next keys to offer; none: there are no more."""
        self._given += 1
        if self._given == 1:
            keys = [*await self._of_agent(), *await self._of_files()]
            self.offered += len(keys)
            if keys:
                return keys
        while self._to_ask:
            keys = await self._unlocked(self._to_ask.pop(0))
            self.offered += len(keys)
            if keys:
                return keys
        return []

    def close(self) -> None:
        """Let the agent go."""
        if self._agent is not None:
            self._agent.close()

    async def _of_agent(self) -> list[SSHKeyPair]:
        if self._address.agent.value is None:
            return []
        only = await asyncio.to_thread(self._public_parts)
        if self._address.identities_only and not only:
            return []
        try:
            async with asyncio.timeout(AGENT_SECONDS):
                self._agent = await asyncssh.connect_agent(self._address.agent.value)
                found = list(await self._agent.get_keys(only if self._address.identities_only else None))
        except (OSError, ValueError, asyncssh.Error, TimeoutError) as error:
            self.unusable.append(f"the agent ({str(error) or 'no answer'})")
            return []
        return sorted(found, key=lambda key: key.public_data not in only)  # those that are meant first

    async def _of_files(self) -> list[SSHKeyPair]:
        keys: list[SSHKeyPair] = []
        for file in self._address.identity_files.value:
            try:
                keys += await asyncio.to_thread(self._load, file, None)
            except FileNotFoundError:
                continue  # as ssh: a configuration names keys that not every machine has
            except asyncssh.KeyImportError as error:
                if not str(error).startswith("Passphrase"):
                    self.unusable.append(f"{file} ({error})")
                elif self._secrets.ask is None:
                    self.locked.append(file)
                else:
                    keys += await self._lazily(file)
            except (OSError, ValueError) as error:
                self.unusable.append(f"{file} ({getattr(error, 'strerror', None) or error})")
        return keys

    async def _lazily(self, file: str) -> list[SSHKeyPair]:
        """Return a key that is decrypted once the server has said that it would take it."""
        loop = asyncio.get_running_loop()

        async def asked(name: str) -> str:
            with self._patience():
                found = await self._secrets.passphrase(name, lambda answer: self._fits(name, answer))
            if found is None:
                self.locked.append(name)
            return found or ""

        load = asyncssh.load_keypairs
        with contextlib.suppress(OSError, ValueError):
            await asyncio.to_thread(asyncssh.read_public_key, f"{file}.pub")
            return list(await asyncio.to_thread(load, file, asked, self._certificates(), loop=loop))  # type: ignore[arg-type]
        self._to_ask.append(file)  # it has no .pub
        return []

    async def _unlocked(self, file: str) -> list[SSHKeyPair]:
        with self._patience():
            answer = await self._secrets.passphrase(file, lambda given: self._fits(file, given))
        if answer is None:
            self.locked.append(file)
            return []
        try:
            return await asyncio.to_thread(self._load, file, answer)
        except (OSError, ValueError) as error:  # it was replaced meanwhile
            self.unusable.append(f"{file} ({error})")
            return []

    def _load(self, file: str, passphrase: str | None) -> list[SSHKeyPair]:
        return list(asyncssh.load_keypairs(file, passphrase, self._certificates()))

    def _certificates(self) -> list[str]:
        return [file for file in self._address.certificate_files if Path(file).is_file()]

    def _fits(self, file: str, passphrase: str) -> bool:
        try:
            asyncssh.read_private_key(file, passphrase)
        except (OSError, ValueError):
            return False
        return True

    def _public_parts(self) -> list[bytes]:
        found = []
        for file in self._address.identity_files.value:
            for name in (f"{file}.pub", file):
                try:
                    found.append(asyncssh.read_public_key(name).public_data)
                except (OSError, ValueError):
                    continue
                break
        return found
