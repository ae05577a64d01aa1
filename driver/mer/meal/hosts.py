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

    def __init__(self, makers: dict[ServerKind, Maker], *, leaving: Callable[[Host], None]) -> None:
        """Make hosts by `makers`; `leaving` is told of one on which nothing new is to begin."""
        self._makers = makers
        self._told_leaving = leaving
        self._hosts: dict[str, tuple[bytes, Host]] = {}
        self._leaving: dict[asyncio.Task[None], Host] = {}

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
        host = maker(server)
        if found is not None and found[1] is not host:  # it was edited
            self._leave(found[1])
        self._hosts[server.id] = told, host
        return host

    async def aclose(self) -> None:
        """Free what the hosts hold; their workers have ended before."""
        hosts = [*(host for _, host in self._hosts.values()), *self._leaving.values()]
        self._hosts.clear()
        leaving = [*self._leaving]
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.gather(*(host.aclose() for host in hosts), return_exceptions=True)

    def _leave(self, host: Host) -> None:
        """Begin nothing new there, and free what it holds once all that runs there has ended."""
        self._told_leaving(host)
        leaving = asyncio.get_running_loop().create_task(_left(host), name=f"leaving {host.name}")
        self._leaving[leaving] = host
        leaving.add_done_callback(lambda task: self._leaving.pop(task, None))


async def _left(host: Host) -> None:
    await host.idle()
    await host.aclose()
