"""What goes from a far host's cache, and what stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mer.core.errors import ConfigurationError
from mer.meal.blobs import put
from mer.meal.contents import contents_of
from mer.meal.starting import start_once
from mer_worker.collecting import collect
from mer_worker.failures import Failure
from tests.support.caching import CachingHost, blob_of, put_frame, worker_of
from tests.support.workers import local_host, plan_of, soon, until


@pytest.fixture
def host(tmp_path: Path) -> CachingHost:
    return CachingHost(tmp_path)


def gc(
    host: CachingHost,
    packages: tuple[str, ...] = (),
    blobs: tuple[str, ...] = (),
    *,
    grace: int = 0,
    plan: bool = False,
) -> dict[str, int]:
    time.sleep(0.01)  # what is as old as this moment is young
    fields = {"packages": list(packages), "blobs": list(blobs), "grace_seconds": grace, "plan": plan}
    return collect(str(host.far), fields)


async def pushed(host: CachingHost, *contents: bytes) -> list[str]:
    blobs = [blob_of(content) for content in contents]
    async with worker_of(host) as session:
        for blob in blobs:
            await put(session, blob, sent=lambda _: None)
    return [blob.digest for blob in blobs]


async def test_what_is_not_needed_goes_and_the_rest_stays(host):
    kept, gone = await pushed(host, b"needed", b"not needed")
    assert gc(host, blobs=(kept,)) == {"blobs": 1, "size": len(b"not needed"), "trees": 0, "parts": 0}
    assert (host.blob(kept).exists(), host.blob(gone).exists()) == (True, False)


async def test_a_plan_removes_nothing(host):
    [digest] = await pushed(host, b"not needed")
    assert gc(host, plan=True)["blobs"] == 1
    assert host.blob(digest).exists()


async def test_what_is_young_stays(host):
    [digest] = await pushed(host, b"not needed")
    assert gc(host, grace=60)["blobs"] == 0
    assert host.blob(digest).exists()


async def test_a_package_that_is_needed_keeps_its_files_and_its_tree(host, tmp_path):
    kept, gone = plan_of(tmp_path / "kept"), plan_of(tmp_path / "gone", "# another\ndef load():\n    return dict\n")
    for plan in (kept, gone):
        await (await start_once(host, plan, deadline=soon(30))).close()
    needed = contents_of(kept)
    assert needed.package is not None
    assert gc(host, packages=(needed.package,)) == {
        "blobs": 2,
        "size": pytest.approx(120, abs=60),
        "trees": 1,
        "parts": 0,
    }
    assert [tree.name for tree in (host.far / "trees").iterdir()] == [needed.package]
    assert all(host.blob(digest).exists() for digest in needed.sources)
    assert gc(host)["trees"] == 1
    assert list((host.far / "trees").iterdir()) == []


async def test_what_a_running_worker_uses_stays(host, tmp_path):
    session = await start_once(host, plan_of(tmp_path / "model"), deadline=soon(30))
    try:
        assert gc(host) == {"blobs": 0, "size": 0, "trees": 0, "parts": 0}
        assert await session.infer_values({"x": "y"}) == {"x": "y"}
    finally:
        await session.close()
    assert gc(host)["blobs"] == 2
    assert list((host.far / "using").iterdir()) == []


async def test_what_was_asked_for_stays_for_as_long_as_he_runs_who_asked(host):
    from mer.meal.blobs import lacking

    [digest] = await pushed(host, b"asked for")
    async with worker_of(host) as session:
        await lacking(session, [digest])
        assert gc(host)["blobs"] == 0
        session._stream.kill()
        await until(lambda: gc(host, plan=True)["blobs"] == 1)


async def test_beginnings_that_nobody_goes_on_with_go(host):
    blob = blob_of(bytes(1000))
    async with worker_of(host) as session:
        _, end = await put_frame(session, {"digest": blob.digest, "size": blob.size}, bytes(10), more=True)
        part = host.far / "incoming" / f"{blob.digest}.part"
        await until(part.exists)
        assert gc(host)["parts"] == 0  # somebody is at it
        end.cancel()
    (host.far / "incoming" / f"{blob.digest}.of-a-killed-one").touch()
    (host.far / "incoming" / "x.tree").mkdir()
    assert gc(host, grace=3600)["parts"] == 2
    assert part.exists()
    os.utime(part, (1, 1))
    assert gc(host, grace=3600)["parts"] == 1
    assert host.incoming() == []


def test_a_cache_in_which_nothing_is_yet_has_nothing_to_free(host):
    assert gc(host) == {"blobs": 0, "size": 0, "trees": 0, "parts": 0}


def test_what_is_kept_is_told_by_digests(host):
    with pytest.raises(Failure, match="sha256"):
        gc(host, packages=("../x",))


async def test_nothing_is_pushed_to_this_machine(tmp_path):
    with pytest.raises(ConfigurationError, match="nothing is pushed to local"):
        await local_host(tmp_path).collect((), (), grace_seconds=0, plan=False)
