"""What opens another machine's door and is kept nowhere: passwords by reference, passphrases by asking.

Nothing of it is ever part of an error, a log or a record. A passphrase is asked for once a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias

from mer.core.errors import AuthenticationFailed, ConfigurationError
from mer.core.hops import parse_password_reference
from mer.detached import detached

Asker: TypeAlias = "Callable[[str], Awaitable[str]]"
"""Asks a person something that is not shown while it is typed. Raises: Interrupted."""

KEYRING_SECONDS = 20.0
"""What a keyring may take: it may ask its owner to unlock it, and he may be away; nobody waits for its thread then."""


class Secrets:
    """The operator's secrets. `ask` is set by a face that has a terminal; None: there is nobody to ask."""

    def __init__(self, environ: Mapping[str, str], *, own: Collection[str] = ()) -> None:
        """Look references up in `environ`, but for MER's `own` secrets: no record may name those."""
        self.ask: Asker | None = None
        self._environ = environ
        self._own = frozenset(own)
        self._remembered: dict[str, str] = {}
        self._asking = asyncio.Lock()

    async def password(self, reference: str) -> str:
        """Return the password that a reference leads to.

        Raises:
            ConfigurationError: it is no reference, or there is no keyring here.
            AuthenticationFailed: there is no password there.
        """
        wanted = parse_password_reference(reference)
        if wanted.kind == "env":
            if wanted.name in self._own:
                raise ConfigurationError(f"{wanted.name} is MER's own, and is given to no server")
            found = self._environ.get(wanted.name)
        else:
            found = await self._of_keyring(wanted.name, wanted.user)
        if not found:
            raise AuthenticationFailed(f"there is no password under {reference}")
        return found

    async def passphrase(self, key_file: str, fits: Callable[[str], bool], *, tries: int = 3) -> str | None:
        """Return the passphrase of a key, asked for until it `fits`; None where nobody can be asked, or none fitted.

        Raises:
            Interrupted: by whoever was asked.
        """
        async with self._asking:  # one question at a time
            if (known := self._remembered.pop(key_file, None)) is not None and await asyncio.to_thread(fits, known):
                self._remembered[key_file] = known
                return known
            question = f"Passphrase for {key_file}: "
            for _ in range(tries if self.ask is not None else 0):
                assert self.ask is not None
                answer = await self.ask(question)
                question = f"That does not open it. Passphrase for {key_file}: "
                if not answer:
                    return None
                if await asyncio.to_thread(fits, answer):
                    self._remembered[key_file] = answer
                    return answer
        return None

    async def _of_keyring(self, service: str, user: str) -> str | None:
        try:
            import keyring  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise ConfigurationError(
                "the password is said to be in a keyring, and no keyring library is installed here",
                hint="Install `keyring` in the virtual environment of MER, or name a variable: --password-from env:NAME",
            ) from None
        try:
            async with asyncio.timeout(KEYRING_SECONDS):
                found: str | None = await detached(keyring.get_password, service, user)
        except TimeoutError:
            raise AuthenticationFailed(f"the keyring did not answer within {KEYRING_SECONDS:g} s") from None
        except Exception as error:  # noqa: BLE001 - backends raise what they like, and it may hold what was found
            raise AuthenticationFailed(f"the keyring failed: {type(error).__name__}") from None
        return found
