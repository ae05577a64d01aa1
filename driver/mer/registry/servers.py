"""Servers: the places that run workers."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from mer.core.actor import Actor
from mer.core.canonical import Json
from mer.core.errors import AlreadyExists, ConfigurationError, ServerNotFound, UsageError
from mer.core.hops import MAX_HOPS, check_host, check_port, check_user, parse_hop, parse_password_reference
from mer.core.identifiers import uuid7
from mer.core.records import LOCAL, PAGE, Page, Server, ServerId, ServerKind
from mer.core.references import check_name
from mer.dal.base import Repositories, Store
from mer.registry.changes import Changes
from mer.registry.describing import changed_labels, check_description, check_labels


class SshParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a server is reached by SSH. No credentials: those are the operator's own, and no proxy commands."""

    address: str
    user: str | None = None
    port: int | None = None
    python: str | None = None
    """Absolute path of the interpreter there."""
    jump: list[str] = []
    """Machines on the way, `[user@]host[:port]` each, the first one first."""
    password_from: str | None = None
    """Where the password stands: `env:NAME` or `keyring:SERVICE/USER`. Never the password."""
    via: Literal["serve-ssh"] | None = None
    """What answers there in place of a shell: the owner's `mer serve-ssh`, which lends what it has."""


class LocalParameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """This machine needs none."""


_PARAMETERS: dict[ServerKind, type[SshParameters | LocalParameters]] = {
    ServerKind.SSH: SshParameters,
    ServerKind.LOCAL: LocalParameters,
}


def check_parameters(kind: ServerKind, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as they are stored.

    Raises:
        ConfigurationError: one is unknown to this kind, missing, or of the wrong type.
    """
    if kind is ServerKind.SSH and parameters.get("address") is None:
        raise ConfigurationError(
            "a server that is reached by SSH needs an address",
            hint="--address HOST: a host name, an address, or a Host of your ssh_config",
        )
    try:
        checked = msgspec.convert(dict(parameters), _PARAMETERS[kind])
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"parameters of a server of kind {kind.value}: {error}") from error
    if isinstance(checked, SshParameters):
        _check_ssh(checked)
    builtin: dict[str, Any] = msgspec.to_builtins(checked)
    return builtin


def _check_ssh(parameters: SshParameters) -> None:
    if parameters.python is not None and not parameters.python.startswith("/"):
        raise ConfigurationError(f"python is {parameters.python!r}: it must be an absolute path on that server")
    if parameters.port is not None:
        check_port(parameters.port)
    check_host(parameters.address)
    if parameters.user is not None:
        check_user(parameters.user)
    if len(parameters.jump) > MAX_HOPS:
        raise ConfigurationError(f"more than {MAX_HOPS} machines on the way")
    for hop in parameters.jump:
        parse_hop(hop)
    if parameters.password_from is not None:
        parse_password_reference(parameters.password_from)


async def ensure_local(store: Store, *, clock: Callable[[], dt.datetime]) -> None:
    """See to it that the server `local` is there: placements and records name it as any other."""
    try:
        await store.servers.get(LOCAL)
    except ServerNotFound:
        local = Server(id=ServerId(uuid7()), name=LOCAL, kind=ServerKind.LOCAL, created_at=clock())
        with contextlib.suppress(AlreadyExists):  # another first start was quicker
            await store.servers.add(local)


def _merged(parameters: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**parameters, **changes}.items() if value is not None}


class ServerRegistry:
    """List, show, register, edit and retire servers."""

    def __init__(self, store: Store, changes: Changes, *, clock: Callable[[], dt.datetime]) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def list(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[Server]:
        """Return a page of servers by name."""
        return await self._store.servers.page(after=after, limit=limit, retired=retired)

    async def show(self, name: str) -> Server:
        """Return the server of that name, retired or not.

        Raises:
            ServerNotFound
        """
        return await self._store.servers.get(name)

    async def register(
        self,
        actor: Actor,
        name: str,
        *,
        kind: ServerKind = ServerKind.SSH,
        parameters: Mapping[str, Any],
        description: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Server:
        """Register a server.

        Raises:
            AlreadyExists, ConfigurationError, ChangesNotAllowed
        """
        await self._changes.require_allowed(actor, "server.register")
        if kind is ServerKind.LOCAL:
            raise UsageError(f"there is one server of kind local, and it is there already: {LOCAL}")
        server = Server(
            id=ServerId(uuid7()),
            name=check_name(name),
            kind=kind,
            description=check_description(description),
            labels=check_labels(labels or {}),
            parameters=check_parameters(kind, parameters),
            created_at=self._clock(),
        )

        async def add(within: Repositories) -> tuple[Server, Mapping[str, Json]]:
            await within.servers.add(server)
            return server, {"server": server.name, "kind_of_server": kind.value, "parameters": server.parameters}

        try:
            return await self._changes.apply(actor, "server.register", add)
        except AlreadyExists:
            retired_at = (await self._store.servers.get(server.name)).retired_at
            if retired_at is None:
                raise
            raise AlreadyExists(
                f"the server {server.name} was retired on {retired_at:%Y-%m-%d}; its name stays taken"
            ) from None

    async def edit(
        self,
        actor: Actor,
        name: str,
        *,
        description: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Server:
        """Change what is given; a label or a parameter of None is taken away, those not named stay.

        Raises:
            ServerNotFound, ConfigurationError, ChangesNotAllowed
        """

        async def change(within: Repositories) -> tuple[Server, Mapping[str, Json]]:
            server = await within.servers.get(name)
            changed: dict[str, Any] = {}
            if description is not None:
                changed["description"] = check_description(description)
            if labels is not None:
                changed["labels"] = changed_labels(server.labels, labels)
            if parameters is not None:
                changed["parameters"] = check_parameters(server.kind, _merged(server.parameters, parameters))
            server = msgspec.structs.replace(server, **changed)
            await within.servers.replace(server)
            return server, {"server": server.name, "changed": changed}

        return await self._changes.apply(actor, "server.edit", change)

    async def require_allowed(self, actor: Actor, action: str) -> None:
        """Refuse before any work is done for a change that is not allowed. Raises: ChangesNotAllowed."""
        await self._changes.require_allowed(actor, action)

    async def trusted(
        self, actor: Actor, name: str, *, host: str, fingerprint: str, former: Sequence[str] = ()
    ) -> None:
        """Put on record that this machine trusts a host key, on the way to a server; nothing of the registry changes.

        Raises:
            ServerNotFound, ChangesNotAllowed
        """

        async def tell(within: Repositories) -> tuple[None, Mapping[str, Json]]:
            server = await within.servers.get(name)
            detail: dict[str, Json] = {"server": server.name, "host": host, "host_key": fingerprint}
            return None, {**detail, "former_host_keys": list(former)} if former else detail

        await self._changes.apply(actor, "server.trust", tell)

    async def retire(self, actor: Actor, name: str) -> Server:
        """Take a server out of use. Its name stays taken, its records stay readable.

        Raises:
            ServerNotFound, ChangesNotAllowed, UsageError: it is the local one.
        """

        async def change(within: Repositories) -> tuple[Server, Mapping[str, Json]]:
            server = await within.servers.get(name)
            if server.kind is ServerKind.LOCAL:
                raise UsageError("the local server is always there: it cannot be retired")
            server = msgspec.structs.replace(server, retired_at=server.retired_at or self._clock())
            await within.servers.replace(server)
            return server, {"server": server.name}

        return await self._changes.apply(actor, "server.retire", change)
