"""Which version a guest means who knows its digests only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from mer.api import Mer
from mer.core.actor import Guest
from mer.core.errors import NotFound
from mer.core.records import MAX_PAGE, Model, Page, Version
from mer.dal.paging import every


async def find(mer: Mer, guest: Guest, package: object, weights: object) -> str | None:
    """Return NAME:VERSION of a version of just these digests that this guest may run; None where there is none.

    Of several the one of the first model by name, and its newest: they are the same content.
    """
    if not isinstance(package, str) or not package:
        return None  # a program of the owner's machine has no digest, and is lent by its name only
    async for model in _lent(mer, guest):
        view = await mer.models.show(model.name, limit=1)
        retired = {retirement.number for retirement in view.retirements}
        async for version in every(partial(_versions, mer, model.name)):
            if (version.package, version.weights) == (package, weights) and version.number not in retired:
                return f"{model.name}:{version.number}"
    return None


async def _versions(mer: Mer, name: str, *, after: str | None) -> Page[Version]:
    return (await mer.models.show(name, after=after, limit=MAX_PAGE)).versions


async def _lent(mer: Mer, guest: Guest) -> AsyncIterator[Model]:
    if guest.models is None:
        async for model in every(partial(mer.models.list, limit=MAX_PAGE)):
            yield model
        return
    for name in sorted(guest.models):
        try:
            model = (await mer.models.show(name, limit=1)).model
        except NotFound:
            continue
        if model.retired_at is None:
            yield model
