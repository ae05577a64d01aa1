"""The names in the registry, as completion and toolbar know them: a cache that is swapped whole, never asked on a keypress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from mer.core.errors import MerError

if TYPE_CHECKING:
    from mer.api import Mer
    from mer.core.records import Page

MOST_NAMES = 1000
"""Of a kind: nobody completes among more."""

MOST_WITH_ALIASES = 50
"""Models whose aliases are asked for, one by one."""


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What was registered when somebody last looked."""

    models: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    """Models with their aliases: `digits`, `digits@prod`."""
    servers: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


class NameCache:
    """Keeps the names; `names` is what was found last."""

    def __init__(self, mer: Mer) -> None:
        self.names = Names()
        self._mer = mer
        self._outdated = asyncio.Event()

    def outdated(self) -> None:
        """Say that something was changed: it is looked again soon, behind the prompt."""
        self._outdated.set()

    def models_told(self) -> str:
        """Return how many models there are, for people."""
        count = len(self.names.models)
        return f"{count}{'+' if count == MOST_NAMES else ''} model{'' if count == 1 else 's'}"

    @contextlib.asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[NameCache]:
        """Look now, and again after each change until the block ends."""
        await self._look()
        behind = asyncio.create_task(self._look_again(), name="names for completion")
        try:
            yield self
        finally:
            behind.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await behind

    async def _look_again(self) -> None:
        while True:
            await self._outdated.wait()
            self._outdated.clear()
            await self._look()

    async def _look(self) -> None:
        mer = self._mer
        try:
            models = await _all(lambda after: mer.models.list(after=after))
            servers = await _all(lambda after: mer.servers.list(after=after))
            weights = await _all(lambda after: mer.weights.list(after=after))
            aliased: list[str] = []
            for name in models[:MOST_WITH_ALIASES]:
                view = await mer.models.show(name, limit=1)
                aliased += [name, *(f"{name}@{move.alias}" for move in view.aliases)]
        except MerError:
            return  # completion by older names is better than a prompt that complains; the next command tells
        references = (*aliased, *models[MOST_WITH_ALIASES:])
        self.names = Names(models=models, references=references, servers=servers, weights=weights)


async def _all(page_after: Callable[[str | None], Awaitable[Page[Any]]]) -> tuple[str, ...]:
    names: list[str] = []
    after = None
    while len(names) < MOST_NAMES:
        page = await page_after(after)
        names += [item.name for item in page.items]
        if (after := page.next) is None:
            break
    return tuple(names[:MOST_NAMES])
