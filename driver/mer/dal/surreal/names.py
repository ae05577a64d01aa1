"""What servers, models and weights have in common: an id, a unique name, a time of retirement."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from mer.core.errors import AlreadyExists, NotFound
from mer.core.records import PAGE, Page
from mer.dal.paging import bounded, page_of
from mer.dal.surreal.executor import Executor
from mer.dal.surreal.queries import load
from mer.dal.surreal.rows import from_row, to_row


class Named(Protocol):
    """A record with a name."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def retired_at(self) -> dt.datetime | None: ...


N = TypeVar("N", bound=Any)  # Named and a msgspec.Struct, which Python cannot say of one variable


class NamedRows(Generic[N]):
    """Records by name; `noun` and `missing` are how errors speak of them."""

    def __init__(self, run: Executor, *, record: type[N], repository: str, noun: str, missing: type[NotFound]) -> None:
        self._run = run
        self._record = record
        self._queries = load(repository)
        self._noun = noun
        self._missing = missing

    async def add(self, record: N) -> None:
        taken = AlreadyExists(f"the {self._noun} {record.name!r} is registered already")
        await self._run.tell(self._queries["add"], {"taken": taken}, id=record.id, row=to_row(record, without=("id",)))

    async def get(self, name: str) -> N:
        rows = await self._run.ask(self._queries["get"], name=name)
        if not rows:
            raise self._missing(f"no {self._noun} {name!r} is registered")
        return self._from(rows[0])

    async def replace(self, record: N) -> None:
        otherwise = {
            "missing": self._missing(f"no {self._noun} has the id {record.id}"),
            "taken": AlreadyExists(f"another {self._noun} is named {record.name!r}"),
        }
        await self._run.tell(self._queries["replace"], otherwise, id=record.id, row=to_row(record, without=("id",)))

    async def page(self, *, after: str | None = None, limit: int = PAGE, retired: bool = False) -> Page[N]:
        rows = await self._run.ask(self._queries["page"], after=after or "", limit=bounded(limit) + 1, retired=retired)
        return page_of([self._from(row) for row in rows], limit=limit, key=lambda record: str(record.name))

    def _from(self, row: Mapping[str, Any]) -> N:
        record: N = from_row(self._record, row)
        return record
