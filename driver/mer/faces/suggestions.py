"""Suggestions: a name that is not registered is answered with those that are near it, asked for only then."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mer.core.errors import (
    AliasNotFound,
    MerError,
    ModelNotFound,
    NotFound,
    ServerNotFound,
    VersionNotFound,
    WeightsNotFound,
)
from mer.core.records import MAX_PAGE
from mer.faces.face import Face

if TYPE_CHECKING:
    from mer.api import Mer

MOST_SUGGESTED = 3


async def suggesting(awaited: Awaitable[int | None], face: Face, words: Sequence[str]) -> int | None:
    """Return what the command returns whose command line was `words`; an error about an unknown name gets a hint.

    Raises:
        MerError: what the command raises.
    """
    try:
        return await awaited
    except NotFound as error:
        if error.hint is None:
            with contextlib.suppress(MerError):  # that the name is unknown is what the operator has to be told
                error.hint = await _hint(error, await face.mer(), tuple(_names(words)))
        raise


async def _hint(error: NotFound, mer: Mer, typed: Sequence[str]) -> str | None:
    match error:
        case ModelNotFound():
            noun, known = "model", [model.name for model in (await mer.models.list(limit=MAX_PAGE)).items]
        case ServerNotFound():
            noun, known = "server", [server.name for server in (await mer.servers.list(limit=MAX_PAGE)).items]
        case WeightsNotFound():
            noun, known = "weights", [weights.name for weights in (await mer.weights.list(limit=MAX_PAGE)).items]
        case VersionNotFound() | AliasNotFound():
            return "mer model show MODEL lists its versions and aliases"
        case _:
            return None
    # the error says which of the names that were typed it is about
    unknown = next((name for name in typed if repr(name) in error.message), None)
    if unknown is not None and (near := _near(unknown, known)):
        return f"did you mean {' or '.join(near)}?"
    return f"mer {noun} list shows what is registered"


def _names(words: Iterable[str]) -> Iterator[str]:
    """Give what may be a name in these words: `digits` of `digits:2`, `gpu` of `--on=gpu`."""
    for word in words:
        value = word.partition("=")[2] if word.startswith("--") else word
        yield value.partition(":")[0].partition("@")[0]


def _near(unknown: str, known: Iterable[str]) -> list[str]:
    by_folded = {name.casefold(): name for name in known}
    return [by_folded[name] for name in get_close_matches(unknown.casefold(), by_folded, n=MOST_SUGGESTED)]
