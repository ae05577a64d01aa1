"""Databases side by side share one content store: gc under one of them frees nothing that another needs."""

from pathlib import Path

import pytest

from mer.api import Mer
from mer.content.claims import Claims
from mer.content.store import ContentStore
from mer.core.records import Digest
from mer.dal.memory import MemoryStore
from tests.support.running import folder_with, python_spec, running

A, B, C = (Digest(letter * 64) for letter in "abc")


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContentStore.gc, "__kwdefaults__", {"grace_seconds": -1.0, "wait_seconds": 30.0})


async def register(m: Mer, folder: Path, name: str) -> None:
    source = f"def load():\n    return lambda tensors: {{'name': {name!r}}}\n"
    await m.register_model(name, folder_with(folder / name, source), spec=python_spec(arrays="buffer"))


@pytest.mark.usefixtures("no_grace")
async def test_gc_keeps_what_another_database_needs(tmp_path: Path) -> None:
    one, other = MemoryStore(), MemoryStore()
    async with running(tmp_path, one) as m:
        await register(m, tmp_path, "first")
    async with running(tmp_path, other) as m:
        await register(m, tmp_path, "second")
        assert (await m.collect_garbage()).packages == 0
    async with running(tmp_path, one) as m:
        assert (await m.run("first")).outputs == {"name": "first"}


@pytest.mark.usefixtures("no_grace")
async def test_gc_frees_what_no_database_claims(tmp_path: Path) -> None:
    gone = MemoryStore()
    async with running(tmp_path, gone) as m:
        await register(m, tmp_path, "first")
    async with running(tmp_path) as m:
        (tmp_path / "state/content/claims" / await gone.access_log.chain()).unlink()
        assert (await m.collect_garbage()).packages == 1


def test_a_claim_is_kept_once_and_only_other_chains_are_others(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    claims.add("one", [A, B])
    claims.add("one", [B])
    claims.add("two", [C])
    assert (tmp_path / "claims/one").read_text().split() == [A, B]
    assert (claims.of_others("one"), claims.of_others("two"), claims.of_others("three")) == ({C}, {A, B}, {A, B, C})


def test_a_line_that_a_crash_cut_off_swallows_nothing(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    claims.add("one", [A])
    with (tmp_path / "claims/one").open("a") as file:
        file.write(B[:20])
    claims.add("one", [C])
    assert claims.of_others("two") == {A, C}


def test_without_any_claim_there_is_no_folder(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "claims")
    claims.add("one", [])
    assert claims.of_others("two") == set()
    assert not (tmp_path / "claims").exists()
