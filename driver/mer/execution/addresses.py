"""How servers are reached from this machine: their effective addresses, the keys they show, and what an ssh_config names."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import msgspec

from mer.core.actor import Actor
from mer.core.errors import HostKeyRefused, NotFound, ServerNotFound, UsageError
from mer.core.records import ServerKind
from mer.core.references import check_name
from mer.dal.base import Store
from mer.meal.host import AddressValue, HostKey
from mer.meal.hosts import Hosts
from mer.registry.servers import ServerRegistry


class Standing(StrEnum):
    """What an import does with a name of an ssh_config."""

    NEW = "new"
    """It is registered."""
    THERE = "there"
    """It is registered already, as the import would."""
    OTHER = "other"
    """Something else is registered under it: it stays as it is."""
    UNFIT = "unfit"
    """It cannot name a server."""


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """One name of an ssh_config."""

    name: str
    standing: Standing
    detail: str = ""


class Addresses:
    """Tells how servers are reached, and changes whom this machine trusts."""

    def __init__(
        self, *, store: Store, hosts: Hosts, servers: ServerRegistry, configured: Callable[[], Sequence[str]]
    ) -> None:
        """`configured` reads the names that the operator's ssh_config gives to hosts; it blocks."""
        self._store = store
        self._hosts = hosts
        self._servers = servers
        self._configured = configured

    async def of(self, name: str) -> Mapping[str, AddressValue]:
        """Return what takes effect for a server, and where each value came from; nothing for this machine.

        Raises:
            ServerNotFound, ConfigurationError
        """
        return await self._hosts.of(await self._store.servers.get(name)).address()

    async def key(self, name: str) -> HostKey:
        """Return the key that a server shows now; or that of the first machine on the way to it that is not trusted.

        Raises:
            ServerNotFound, ServerUnreachable, ConfigurationError, AuthenticationFailed
            UsageError: it is this machine.
        """
        return await self._hosts.of(await self._store.servers.get(name)).shown_key()

    async def trust(self, actor: Actor, name: str, key: HostKey) -> None:
        """Trust a key from now on, and no other of that machine. On record before it counts.

        Raises:
            ChangesNotAllowed, ServerNotFound
            HostKeyRefused: it was revoked.
            ConfigurationError: it cannot be kept.
        """
        if key.verdict == "revoked":
            raise HostKeyRefused(f"the key of {key.host} was revoked: {'; '.join(key.known)}")
        host = self._hosts.of(await self._store.servers.get(name))
        await self._servers.trusted(actor, name, host=key.host, fingerprint=key.fingerprint, former=key.former)
        await host.trust(key)

    async def planned(self, pattern: str) -> list[Import]:
        """Return what an import of the names that match would do.

        Raises:
            NotFound: the ssh_config names no such host.
            ConfigurationError: it cannot be read.
        """
        names = [name for name in await asyncio.to_thread(self._configured) if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise NotFound(f"your ssh_config names no host {pattern!r}")
        return [await self._standing(name) for name in names]

    async def take_in(self, actor: Actor, pattern: str) -> list[Import]:
        """Register what is new, each under its name: the ssh_config stays the source of all else.

        Raises:
            ChangesNotAllowed, and as `planned`.
        """
        await self._servers.require_allowed(actor, "server.register")
        planned = await self.planned(pattern)
        for found in planned:
            if found.standing is Standing.NEW:
                await self._servers.register(actor, found.name, parameters={"address": found.name})
        return planned

    async def _standing(self, name: str) -> Import:
        try:
            if check_name(name) != name:
                raise UsageError(f"{name!r} is not written in Unicode's composed form")
            server = await self._store.servers.get(name)
        except UsageError as error:
            return Import(name=name, standing=Standing.UNFIT, detail=error.message)
        except ServerNotFound:
            return Import(name=name, standing=Standing.NEW)
        if server.kind is ServerKind.SSH and server.parameters.get("address") == name and server.retired_at is None:
            return Import(name=name, standing=Standing.THERE)
        told = "it was retired" if server.retired_at else f"its address is {server.parameters.get('address', 'local')}"
        return Import(name=name, standing=Standing.OTHER, detail=told)
