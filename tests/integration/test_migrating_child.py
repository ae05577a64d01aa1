"""The child that migrates an embedded database: however its parent is interrupted, none is left, nor a pipe to one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import warnings
from pathlib import Path

import pytest

from mer.core.errors import MerError
from mer.dal.migrate import upgrade_embedded
from mer.settings import Settings, load
from tests.support.workers import until


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def settings(folder: Path, url: str | None = None) -> Settings:
    return load(environ={"MER_STATE_FOLDER": str(folder), "DB_CONNECTION_URL": url or f"surrealkv://{folder}/registry"})


def test_one_that_is_cancelled_again_and_again_leaves_no_child_and_no_pipe(tmp_path: Path) -> None:
    before = children()

    async def interrupted() -> None:
        upgrading = asyncio.create_task(upgrade_embedded(settings(tmp_path)))
        await until(lambda: children() != before)
        for _ in range(3):
            upgrading.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(upgrading, timeout=20)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(interrupted())
        gc.collect()
    assert [each for each in warned if "subprocess" in str(each.message).lower()] == []
    assert children() == before


async def test_what_the_child_said_is_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("no folder")
    with pytest.raises(MerError, match=r"mer-migrate upgrade failed .*registry"):
        await upgrade_embedded(settings(tmp_path))


async def test_it_migrates_once_and_again(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):  # no folder of this name is the program
        (tmp_path / "mer_migrations").mkdir()
        await upgrade_embedded(settings(tmp_path))
        await upgrade_embedded(settings(tmp_path))
    assert (tmp_path / "registry").is_dir()
