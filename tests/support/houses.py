"""A database with something of everything in it, and the whole of one for a comparison."""

from __future__ import annotations

from typing import Any

import msgspec

from mer.audit.log import AuditLog
from mer.core.identifiers import uuid7
from mer.core.records import Digest, LeaseId, ServerKind
from mer.core.specs import VersionSpec
from mer.dal.base import Store
from mer.moving.nouns import Noun, nouns_of
from tests.support import records

AT_ONCE = 2500
"""Records a transaction. SurrealDB takes more than twice as long for twice as many; Postgres does not."""


async def furnish(store: Store) -> None:
    """Register something of everything, with what databases are apt to change on the way."""
    local = records.server("local", kind=ServerKind.LOCAL)
    gpu = records.server("gpu", labels={"Ü": "\u2028", "a": ""}, parameters={"port": 2222, "options": [1, None, 0.5]})
    for server in (local, gpu, records.server("öde", retired_at=records.at(9.000001))):
        await store.servers.add(server)
    base = records.weights("base", description="line\nline\t\N{GRINNING FACE}")
    await store.weights.add(base)
    for number in (1, 2):
        await store.weights.add_version(records.weights_version(base, number, size=2**53 + number))
    digits, chat = records.model("digits", labels={"team": "vision"}), records.model("chat", retired_at=records.at(1))
    for model in (digits, chat):
        await store.models.add(model)
    spec = VersionSpec(runner="command", options={"rate": 0.1, "count": 2**40, "on": True, "z": "1e16", "a": -1})
    for number in range(1, 4):
        await store.models.add_version(records.version(digits, number, spec=spec, weights=Digest("ef" * 32)))
    await store.models.add_version(records.version(chat, 1, package=None))
    await store.models.retire_version(records.retirement(digits, 2))
    for number, to in enumerate((1, 3, None, 2), start=1):
        await store.models.move_alias(records.move(digits, "prod", number, to, at=records.at(number)))
    await store.models.move_alias(records.move(digits, "default", 1, 1))
    await store.placements.put(records.placement(digits, gpu, version=3, device="cuda:0", path="/opt/ä"))
    await store.placements.put(records.placement(digits, local))


def bodies(chain: str, count: int, *, at_first: int = 0) -> list[str]:
    """Return that many bodies: runs that start and finish, a change now and then, and a text of every kind."""
    lease = LeaseId(uuid7())
    made: list[str] = []
    number = at_first
    while len(made) < count:
        of, when = records.invocation(), records.at(number).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        made.append(records.started(chain, of, lease=lease, at=when, note="\x7f\u2028 ß"))
        made.append(records.finished(chain, of, lease=lease, at=when, version=number % 9 + 1))
        if number % 10 == 0:
            made.append(records.change(chain, at=when, number=number))
        number += 1
    return made[:count]


async def append(store: Store, count: int, *, at_once: int = AT_ONCE) -> None:
    """Append that many records."""
    made = bodies(await store.access_log.chain(), count)
    for start in range(0, count, at_once):
        await store.access_log.append(made[start : start + at_once])


async def whole(store: Store) -> dict[str, Any]:
    """Return everything that a move keeps."""
    nouns: list[Noun] = [noun async for noun in nouns_of(store)]
    return {
        "chain": await store.access_log.chain(),
        "head": await store.access_log.head(),
        "nouns": nouns,
        "records": [msgspec.structs.astuple(record) async for some in store.access_log.scan() for record in some],
    }


async def sound(store: Store) -> bool:
    """Tell whether `mer log verify` would find no fault."""
    return (await AuditLog(store).verify()).sound
