"""The hosts of a driver: one for each server, made when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from mer.core.errors import ConfigurationError
from mer.core.records import Server, ServerKind
from mer.meal.host import Host

MAX_HANDSHAKES = 8
"""At once, to whichever servers: a stock sshd begins to drop connections when 10 are waiting to be let in."""

Maker = Callable[[Server], Host]
"""Makes the host of a server of its kind; connects to nothing yet."""


class Hosts:
    """Finds the host of a server; the same for as long as its parameters are."""

    def __init__(self, makers: dict[ServerKind, Maker]) -> None:
        self._makers = makers
        self._hosts: dict[str, tuple[bytes, Host]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def of(self, server: Server) -> Host:
        """Return the host of a server.

        Raises:
            ConfigurationError: this program does not reach servers of its kind.
        """
        told = msgspec.json.encode((server.name, server.kind, server.parameters))
        found = self._hosts.get(server.id)
        if found is not None and found[0] == told:
            return found[1]
        maker = self._makers.get(server.kind)
        if maker is None:
            raise ConfigurationError(
                f"the server {server.name} is of kind {server.kind.value}, which cannot be reached from here"
            )
        if found is not None:  # it was edited: what still runs there ends by itself, nothing new begins
            leaving = asyncio.get_running_loop().create_task(found[1].aclose(), name="leaving a host")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        host = maker(server)
        self._hosts[server.id] = told, host
        return host

    async def aclose(self) -> None:
        """Free what the hosts hold; their workers have ended before."""
        hosts = [host for _, host in self._hosts.values()]
        self._hosts.clear()
        await asyncio.gather(*(host.aclose() for host in hosts), *self._leaving, return_exceptions=True)
