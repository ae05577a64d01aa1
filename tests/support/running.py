"""A Mer over a store of the test's own, with real workers and a content store in a temporary folder."""

import contextlib
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from mer.__main__ import compose
from mer.api import Mer
from mer.core.specs import TensorSpec, VersionSpec
from mer.dal.base import Store
from mer.dal.memory import MemoryStore
from mer.settings import Settings
from tests.support import compiled
from tests.support.registry import ADA

ROOT = Path(__file__).parents[2]


@contextlib.asynccontextmanager
async def running(folder: Path, store: Store | None = None, **given: Any) -> AsyncIterator[Mer]:
    """Give a Mer that may change the registry, over memory unless a store is given."""
    settings = Settings(**{"state_folder": folder / "state", "allow_changes": True, **given})
    settings.state_folder.mkdir(mode=0o700, exist_ok=True)
    compiled.put_into(settings.state_folder / "cache")
    async with compose(settings, actor=ADA, store=store or MemoryStore()) as m:
        yield m


def python_spec(entry: str = "handler:load", **given: Any) -> VersionSpec:
    """Specs of a python package."""
    package, _, function = entry.partition(":")
    options = {"entrypoint_package": package, "entrypoint_fn": function, **given.pop("options", {})}
    return VersionSpec(runner="python", options=options, **given)


def folder_with(folder: Path, source: str, *, name: str = "handler.py") -> Path:
    """Write a handler's source into a folder of its own, and return that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(source))
    return folder


async def register(m: Mer, folder: Path, source: str, *, name: str = "model", **spec: Any) -> None:
    """Register a model of one python file, whose `load` gives the handler."""
    await m.register_model(name, folder_with(folder / "packages" / name, source), spec=python_spec(**spec))


X = TensorSpec(name="x", dtype="float32", shape=("n",))


async def log_kinds(m: Mer) -> list[str | int | None]:
    """What kinds of records the log has, oldest first."""
    page = await m.log.list(limit=1000)
    return [record.columns["kind"] for record in reversed(page.items)]


def last(records: Mapping[str, Any]) -> Any:
    """Return the only value."""
    [value] = records.values()
    return value
