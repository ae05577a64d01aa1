"""What servers, models and weights have in common: an id, a unique name, a time of retirement."""

from __future__ import annotations

import datetime as dt
from typing import Generic, Protocol, TypeVar

from mer.core.errors import AlreadyExists, NotFound
from mer.core.records import PAGE, Page
from mer.dal.memory.tables import Rows
from mer.dal.paging import bounded, page_of


class Named(Protocol):
    """A record with a name."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def retired_at(self) -> dt.datetime | None: ...


N = TypeVar("N", bound=Named)


class NamedRows(Generic[N]):
    """Records by id and by name; `noun` and `missing` are how errors speak of them."""

    def __init__(self, rows: Rows[str, N], names: Rows[str, str], *, noun: str, missing: type[NotFound]) -> None:
        self._rows = rows
        self._names = names
        self._noun = noun
        self._missing = missing

    async def add(self, record: N) -> None:
        if self._names.get(record.name) is not None or self._rows.get(record.id) is not None:
            raise AlreadyExists(f"the {self._noun} {record.name!r} is registered already")
        self._rows.put(record.id, record)
        self._names.put(record.name, record.id)

    async def get(self, name: str) -> N:
        found = self._names.get(name)
        record = None if found is None else self._rows.get(found)
        if record is None:
            raise self._missing(f"no {self._noun} {name!r} is registered")
        return record

    async def replace(self, record: N) -> None:
        old = self._rows.get(record.id)
        if old is None:
            raise self._missing(f"no {self._noun} has the id {record.id}")
        if self._names.get(record.name) not in (None, record.id):
            raise AlreadyExists(f"another {self._noun} is named {record.name!r}")
        if old.name != record.name:
            self._names.remove(old.name)
        self._names.put(record.name, record.id)
        self._rows.put(record.id, record)

    async def page(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[N]:
        found = sorted(
            (
                row
                for row in self._rows.values()
                if (after is None or row.name > after) and (retired or row.retired_at is None)
            ),
            key=lambda row: row.name,
        )
        return page_of(found[: bounded(limit) + 1], limit=limit, key=lambda row: row.name)
