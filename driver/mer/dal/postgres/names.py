"""What servers, models and weights have in common: an id, a unique name, a time of retirement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from mer.core.errors import AlreadyExists, NotFound
from mer.core.records import PAGE, Model, Page, Server, Weights
from mer.dal.paging import bounded, page_of
from mer.dal.postgres.queries import queries
from mer.dal.postgres.session import Session, json

N = TypeVar("N", bound=Server | Model | Weights)


class NamedRows(Generic[N]):
    """Records by id and by name; `noun` and `missing` are how errors speak of them."""

    def __init__(self, session: Session, kind: type[N], *, noun: str, missing: type[NotFound], file: str) -> None:
        self._session = session
        self._queries = queries(file)
        self._kind = kind
        self._noun = noun
        self._missing = missing

    async def add(self, record: N) -> None:
        there = AlreadyExists(f"the {self._noun} {record.name!r} is registered already")
        meanings = {f"{self._noun}_name_unique": there, f"{self._noun}_pkey": there}
        await self._session.ask(self._queries["add"], _parameters(record), meanings=meanings)

    async def get(self, name: str) -> N:
        query = self._queries["get_for_change" if self._session.in_transaction else "get"]
        rows = await self._session.ask(query, {"name": name}, repeatable=True)
        if not rows:
            raise self._missing(f"no {self._noun} {name!r} is registered")
        return msgspec.convert(rows[0], self._kind)

    async def replace(self, record: N) -> None:
        there = AlreadyExists(f"another {self._noun} is named {record.name!r}")
        meanings = {f"{self._noun}_name_unique": there}
        if not await self._session.ask(self._queries["replace"], _parameters(record), meanings=meanings):
            raise self._missing(f"no {self._noun} has the id {record.id}")

    async def page(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[N]:
        parameters = {"after": after, "retired": retired, "limit": bounded(limit) + 1}
        rows = await self._session.ask(self._queries["page"], parameters, repeatable=True)
        found = [msgspec.convert(row, self._kind) for row in rows]
        return page_of(found, limit=limit, key=lambda record: record.name)


def _parameters(record: Server | Model | Weights) -> Mapping[str, Any]:
    values = msgspec.structs.asdict(record)
    return {name: json(value) if name in {"labels", "parameters"} else value for name, value in values.items()}
