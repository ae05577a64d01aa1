"""Who logs in to a SurrealDB server, and how: the owner as a user of the database, the driver and the auditor as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from mer.core.errors import AuthenticationFailed, MerError, NotMigrated
from mer.dal.surreal.address import ServerAddress
from mer.dal.surreal.connection import Engine


class Role(StrEnum):
    """What a login may do. The accesses of the first two are made by migration 00, and bear these names."""

    DRIVER = "driver"
    AUDITOR = "auditor"
    OWNER = "owner"


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """A name and a password, and in which role they are meant."""

    role: Role
    name: str
    password: str = field(repr=False)


class ServerEngine(Engine, Protocol):
    """The client library's connection to a server."""

    async def signin(self, vars: Any) -> Any: ...  # noqa: A002 - the library's name


async def sign_in(engine: ServerEngine, address: ServerAddress, login: Login) -> None:
    """Log in, and take the address's database.

    Raises:
        AuthenticationFailed; NotMigrated: nobody has made the database, or its accesses.
        surrealdb.SurrealError: the connection did not carry it.
    """
    from surrealdb.errors import ServerError

    try:
        if login.role is Role.OWNER:
            await _sign_in_owner(engine, address, login)
        else:
            place = {"namespace": address.namespace, "database": address.database}
            secret = {"name": login.name, "password": login.password}
            await engine.signin({"access": login.role.value, **place, "variables": secret})
        await engine.use(address.namespace, address.database)
    except ServerError as error:
        raise _meaning(error, address, login) from error


async def _sign_in_owner(engine: ServerEngine, address: ServerAddress, login: Login) -> None:
    """Log in as a user of the database, or else of the whole server, who makes the database where it is not there."""
    from surrealdb.errors import ServerError

    secret = {"username": login.name, "password": login.password}
    try:
        await engine.signin({**secret, "namespace": address.namespace, "database": address.database})
    except ServerError:
        await engine.signin(secret)
        await engine.query_raw(
            f"DEFINE NAMESPACE IF NOT EXISTS {address.namespace}; USE NS {address.namespace};"
            f" DEFINE DATABASE IF NOT EXISTS {address.database};",
            {},
        )


def _meaning(error: Any, address: ServerAddress, login: Login) -> MerError:
    details = error.details if isinstance(error.details, dict) else {}
    if "access method" in str(error) or details.get("kind") in ("Database", "Namespace"):
        return NotMigrated(f"{address.name} is not migrated", hint="run `mer-migrate upgrade`")
    return AuthenticationFailed(
        f"{address.name} refuses {login.name!r} as its {login.role}",
        hint="Names and passwords: DRIVER_DB_…, AUDITOR_DB_…, and MIGRATIONS_DB_… for mer-migrate.",
    )
