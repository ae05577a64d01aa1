"""What a worker with a cache is pushed by digest: whole and verified under its name, or not there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mer.core.errors import (
    Busy,
    ContentMissing,
    ContentUnwritable,
    DigestMismatch,
    InputInvalid,
    Interrupted,
    MerError,
    PackageInvalid,
    WorkerLost,
)
from mer.meal import pushing
from mer.meal.blobs import Blob, lacking, put
from mer.meal.plan import WeightFile
from mer.meal.pushing import Push
from mer.meal.starting import start_once
from mer_worker.blobs import SEALED
from mer_worker.wire import Flag, Kind, pack
from tests.support.caching import CachingHost, blob_of, put_frame, worker_of
from tests.support.workers import plan_of, soon, until

NOBODY = Path("/none")


@pytest.fixture
def host(tmp_path: Path) -> CachingHost:
    return CachingHost(tmp_path)


def nothing(_: int) -> None:
    """Nobody looks at how far it is."""


# --- have and put


async def test_what_was_put_is_there_whole_read_only_and_sealed(host):
    blob = blob_of(os.urandom(3_000_000))
    async with worker_of(host) as session:
        assert (await lacking(session, [blob.digest])).missing == (blob.digest,)
        await put(session, blob, sent=nothing)
        assert (await lacking(session, [blob.digest])).missing == ()
    stored = host.blob(blob.digest)
    assert stored.read_bytes() == blob.source
    assert (stored.stat().st_mode & 0o777, stored.stat().st_mtime_ns) == (0o400, SEALED)
    assert host.incoming() == []


async def test_a_blob_of_no_bytes_is_one(host):
    blob = blob_of(b"")
    async with worker_of(host) as session:
        await put(session, blob, sent=nothing)
        assert (await lacking(session, [blob.digest])).missing == ()


async def test_more_digests_than_one_frame_has_are_asked_about_in_several(host):
    blob = blob_of(b"there")
    digests = [f"{number:064x}" for number in range(9000)]
    async with worker_of(host) as session:
        await put(session, blob, sent=nothing)
        there = await lacking(session, [*digests, blob.digest])
    assert list(there.missing) == digests


async def test_what_is_not_what_was_announced_gets_no_name(host):
    async with worker_of(host) as session:
        wrong = Blob(digest=blob_of(b"right").digest, source=b"wrong", size=5)
        with pytest.raises(DigestMismatch, match="has the digest"):
            await put(session, wrong, sent=nothing)
        assert (await lacking(session, [wrong.digest])).missing == (wrong.digest,)
    assert host.incoming() == []


async def test_many_blobs_are_pushed_and_none_twice(host):
    blobs = [blob_of(os.urandom(number * 997)) for number in range(60)]
    async with worker_of(host) as session:
        await Push("far", blobs, {}).over(session, NotImplemented)
        inodes = [host.blob(blob.digest).stat().st_ino for blob in blobs]
        await Push("far", blobs, {}).over(session, NotImplemented)
    assert [host.blob(blob.digest).stat().st_ino for blob in blobs] == inodes
    assert host.incoming() == []


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        {"digest": "x", "size": 1},
        {"digest": "../../../../tmp/x", "size": 1},
        {"digest": "A" * 64, "size": 1},
        {"digest": "a" * 63 + "\n", "size": 1},
        {"digest": ["a" * 64], "size": 1},
        {"digest": "a" * 64, "size": -1},
        {"digest": "a" * 64, "size": True},
        {"digest": "a" * 64, "size": "1"},
        {"digest": "a" * 64, "size": 1 << 60},
        {"digest": "a" * 64, "size": 1, "offset": 2},
        {"digest": "a" * 64, "size": 1, "offset": -1},
        {"digest": "a" * 64, "size": 0},
    ],
)
async def test_a_put_that_is_none_is_refused_and_the_conversation_goes_on(host, fields):
    async with worker_of(host) as session:
        _, end = await put_frame(session, fields, b"x")
        with pytest.raises(InputInvalid):
            await end
        await session.ping()
        assert host.incoming() == []


@pytest.mark.parametrize("digests", [None, "a", ["x"], [1], ["a" * 64] * 4097, ["/" * 64]])
async def test_a_have_that_is_none_is_refused(host, digests):
    from mer_worker.wire import frame

    async with worker_of(host) as session:
        with pytest.raises(InputInvalid):
            await session.ask(lambda request: (frame(Kind.HAVE, {"digests": digests}, request=request),))
        await session.ping()


async def test_more_bytes_than_announced_are_not_kept_and_the_rest_is_ignored(host):
    blob = blob_of(b"abc")
    async with worker_of(host) as session:
        request, end = await put_frame(session, {"digest": blob.digest, "size": 3}, b"ab", more=True)
        for _ in range(5):
            await session.send(pack(Kind.PUT, request=request, flags=Flag.MORE, body_bytes=2), b"cd")
        with pytest.raises(InputInvalid, match="more than the 3 bytes"):
            await end
        await put(session, blob, sent=nothing)
    assert host.blob(blob.digest).read_bytes() == b"abc"


async def test_fewer_bytes_than_announced_are_told(host):
    blob = blob_of(b"abc")
    async with worker_of(host) as session:
        _, end = await put_frame(session, {"digest": blob.digest, "size": 3}, b"ab")
        with pytest.raises(InputInvalid, match="ended after 2 of 3"):
            await end


async def test_a_driver_begins_only_so_many_blobs_at_once(host):
    async with worker_of(host) as session:
        ends = [
            (await put_frame(session, {"digest": f"{number:064x}", "size": 2}, b"a", more=True))[1]
            for number in range(9)
        ]
        with pytest.raises(Busy, match="8 blobs"):
            await ends[-1]
    for end in ends[:-1]:
        with pytest.raises(WorkerLost):
            await end


async def test_a_cancelled_put_ends_and_what_came_is_gone_on_with(host):
    content = os.urandom(5 << 20)
    blob = blob_of(content)
    async with worker_of(host) as session:
        request, end = await put_frame(
            session, {"digest": blob.digest, "size": blob.size}, content[: 2 << 20], more=True
        )
        session.cancel(request)
        with pytest.raises(Interrupted):
            await end
        await session.send(pack(Kind.PUT, request=request, body_bytes=3), b"abc")  # what was under way
        there = await lacking(session, [blob.digest])
        assert there.partial == {blob.digest: 2 << 20}
        await put(session, blob, offset=2 << 20, sent=nothing)
    assert host.blob(blob.digest).read_bytes() == content


async def test_content_that_was_changed_there_is_missing_and_replaced(host):
    blob = blob_of(b"as it was")
    async with worker_of(host) as session:
        await put(session, blob, sent=nothing)
        stored = host.blob(blob.digest)
        stored.chmod(0o600)
        stored.write_bytes(b"as it is!")
        assert (await lacking(session, [blob.digest])).missing == (blob.digest,)
        await put(session, blob, sent=nothing)
    assert stored.read_bytes() == b"as it was"


async def test_content_that_has_only_lost_its_seal_is_read_again_and_sealed(host):
    blob = blob_of(b"as it was")
    async with worker_of(host) as session:
        await put(session, blob, sent=nothing)
        os.utime(host.blob(blob.digest))
        assert (await lacking(session, [blob.digest])).missing == ()
    assert host.blob(blob.digest).stat().st_mtime_ns == SEALED


async def test_a_link_in_the_place_of_a_blob_or_of_a_part_is_not_followed(host, tmp_path):
    blob, other = blob_of(b"content"), tmp_path / "precious"
    other.write_bytes(b"precious")
    async with worker_of(host) as session:
        await put(session, blob_of(b"first"), sent=nothing)
        host.blob(blob.digest).parent.mkdir(mode=0o700, exist_ok=True)
        host.blob(blob.digest).symlink_to(other)
        (host.far / "incoming" / f"{blob.digest}.part").symlink_to(other)
        assert (await lacking(session, [blob.digest])).partial == {}
        with pytest.raises(ContentUnwritable):
            await put(session, blob, sent=nothing)
    assert other.read_bytes() == b"precious"


async def test_a_folder_that_is_open_to_others_is_not_used(host):
    (host.far / "blobs").mkdir(mode=0o700)
    (host.far / "blobs").chmod(0o777)
    async with worker_of(host) as session:
        with pytest.raises(ContentUnwritable, match="not this user's alone"):
            await put(session, blob_of(b"x"), sent=nothing)


# --- faults


async def test_a_push_that_a_kill_cut_is_gone_on_with(host):
    content = os.urandom(6 << 20)
    blob = blob_of(content)
    async with worker_of(host) as session:
        _, end = await put_frame(session, {"digest": blob.digest, "size": blob.size}, content[: 4 << 20], more=True)
        part = host.far / "incoming" / f"{blob.digest}.part"
        await until(lambda: part.exists() and part.stat().st_size == 4 << 20)
        session._stream.kill()
        with pytest.raises(WorkerLost):
            await end
    assert not host.blob(blob.digest).exists()
    async with worker_of(host) as session:
        there = await lacking(session, [blob.digest])
        assert there.partial == {blob.digest: 4 << 20}
        sent: list[int] = []
        await put(session, blob, offset=4 << 20, sent=sent.append)
        assert sum(sent) == 2 << 20
    assert host.blob(blob.digest).read_bytes() == content


async def test_a_part_that_has_all_its_bytes_is_only_verified(host):
    blob = blob_of(b"all of it")
    async with worker_of(host) as session:
        await put(session, blob_of(b"first"), sent=nothing)
        (host.far / "incoming" / f"{blob.digest}.part").write_bytes(b"all of it")
        there = await lacking(session, [blob.digest])
        sent: list[int] = []
        await put(session, blob, offset=there.partial[blob.digest], sent=sent.append)
    assert (sum(sent), host.blob(blob.digest).read_bytes()) == (0, b"all of it")


async def test_a_part_that_is_not_what_it_should_be_is_pushed_from_the_beginning(host):
    content = os.urandom(100_000)
    blob = blob_of(content)
    async with worker_of(host) as session:
        await put(session, blob_of(b"first"), sent=nothing)
        (host.far / "incoming" / f"{blob.digest}.part").write_bytes(bytes(50_000))
        there = await lacking(session, [blob.digest])
        await Push("far", [blob], there.partial).over(session, NotImplemented)
    assert host.blob(blob.digest).read_bytes() == content
    assert host.incoming() == []


async def test_what_is_there_of_a_large_blob_may_be_read_again_for_longer_than_a_stall(host, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "STALL_SECONDS", 0.05)
    source, there = tmp_path / "large", 256 << 20
    with source.open("wb") as file:
        file.truncate(there)
        file.seek(there)
        file.write(b"the end")
    with source.open("rb") as file:
        blob = Blob(digest=hashlib.file_digest(file, "sha256").hexdigest(), source=source, size=there + 7)
    async with worker_of(host) as session:
        await lacking(session, [blob.digest])  # which makes the folders
        with (host.far / "incoming" / f"{blob.digest}.part").open("wb") as file:
            file.truncate(there)
        await Push("far", [blob], {blob.digest: there}).over(session, NotImplemented)
        assert (await lacking(session, [blob.digest])).missing == ()


async def test_two_who_push_the_same_at_once_do_no_harm(host):
    content = os.urandom(8 << 20)
    blob = blob_of(content)
    async with worker_of(host) as first, worker_of(host) as second:
        head: dict[str, object] = {"digest": blob.digest, "size": blob.size}
        request, end = await put_frame(first, head, content[: 1 << 20], more=True)
        part = host.far / "incoming" / f"{blob.digest}.part"
        await until(part.exists)
        assert (await lacking(second, [blob.digest])).partial == {}  # somebody is at it
        await put(second, blob, sent=nothing)
        inode = host.blob(blob.digest).stat().st_ino
        await first.send(pack(Kind.PUT, request=request, body_bytes=7 << 20), content[1 << 20 :])
        await end
        await asyncio.gather(put(first, blob, sent=nothing), put(second, blob, sent=nothing))
    assert (host.blob(blob.digest).read_bytes(), host.blob(blob.digest).stat().st_ino) == (content, inode)
    assert host.incoming() == []


async def test_one_driver_may_push_the_same_several_times_at_once(host):
    content = os.urandom(1000)
    blob = blob_of(content)
    async with worker_of(host) as session:
        head: dict[str, object] = {"digest": blob.digest, "size": blob.size}
        begun = [await put_frame(session, head, content[:500], more=True) for _ in range(4)]
        for request, _ in begun:
            await session.send(pack(Kind.PUT, request=request, body_bytes=500), content[500:])
        async with asyncio.timeout(20):
            await asyncio.gather(*(end for _, end in begun))
    assert host.blob(blob.digest).read_bytes() == content
    assert host.incoming() == []


async def test_a_disk_that_is_full_is_told_before_anything_is_sent(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")
    host = CachingHost(tmp_path)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(host.far)]
    if (await asyncio.to_thread(subprocess.run, mount, capture_output=True)).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        async with worker_of(host) as session:
            with pytest.raises(ContentUnwritable, match="not that many"):
                await put(session, blob_of(bytes(8 << 20)), sent=nothing)
            small = [blob_of(os.urandom(1 << 20)) for _ in range(3)]
            await Push("far", small, {}).over(session, NotImplemented)
            with pytest.raises(ContentUnwritable):
                await Push("far", [blob_of(os.urandom(900_000)) for _ in range(2)], {}).over(session, NotImplemented)
            assert (await lacking(session, [blob.digest for blob in small])).missing == ()
        assert host.incoming() == []
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(host.far)], check=True)


async def test_a_write_that_fails_leaves_nothing_and_the_next_one_goes(tmp_path):
    most = 1 << 20
    limited = (
        "import os,resource,signal,sys;signal.signal(signal.SIGXFSZ,signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE,({most},{most}));os.execv(sys.argv[1],sys.argv[1:])"
    )
    assert resource.RLIMIT_FSIZE >= 0
    host = CachingHost(tmp_path, wrap=(sys.executable, "-c", limited))
    async with worker_of(host) as session:
        with pytest.raises(ContentUnwritable, match="File too large"):
            await put(session, blob_of(os.urandom(3 << 20)), sent=nothing)
        assert host.incoming() == []
        await put(session, blob_of(b"small"), sent=nothing)


async def test_what_shrinks_while_it_is_pushed_is_told(host, tmp_path):
    file = tmp_path / "tensor"
    file.write_bytes(b"12345678")
    blob = Blob(digest=blob_of(b"12345678").digest, source=file, size=8)
    file.write_bytes(b"1234")
    async with worker_of(host) as session:
        with pytest.raises(DigestMismatch, match="shorter than 8"):
            await put(session, blob, sent=nothing)
        with pytest.raises(ContentMissing):
            await put(session, Blob(digest=blob.digest, source=NOBODY, size=8), sent=nothing)


# --- load


SUM = """
import numpy

def load(weights=None):
    from handler_part.more import FACTOR
    return lambda inputs: {"y": numpy.int64(FACTOR * sum(int(w.sum()) for w in weights.values()))}
"""


async def test_a_package_and_its_weights_are_loaded_by_digest(host, tmp_path):
    import numpy as np

    folder = tmp_path / "model"
    (folder / "handler_part").mkdir(parents=True)
    (folder / "handler_part" / "more.py").write_text("FACTOR = 2\n")
    np.arange(10, dtype="int64").tofile(tmp_path / "w")
    weights = tuple(WeightFile(name=name, dtype="int64", shape=(10,), path=tmp_path / "w") for name in ("a", "b"))
    plan = plan_of(folder, SUM, weights=weights, arrays="numpy")
    for _ in range(2):
        session = await start_once(host, plan, deadline=soon(30), arrays="numpy")
        try:
            assert (await session.infer_values({}))["y"] == 180
        finally:
            await session.close()
    trees = list((host.far / "trees").iterdir())
    assert len(trees) == 1
    tree = trees[0]
    assert (tree / "model" / "handler_part" / "more.py").stat().st_nlink == 2  # the blob's own bytes
    assert tree.stat().st_mode & 0o777 == 0o500
    assert host.incoming() == []


async def test_a_tree_that_was_spoilt_is_unpacked_again(host, tmp_path):
    plan = plan_of(tmp_path / "model", "def load():\n    return lambda inputs: {'y': 'right'}\n")
    session = await start_once(host, plan, deadline=soon(30))
    await session.close()
    (tree,) = (host.far / "trees").iterdir()
    (tree / "model").chmod(0o700)
    (tree / "model" / "handler.py").unlink()
    (tree / "model" / "handler.py").write_text("def load():\n    return lambda inputs: {'y': 'wrong'}\n")
    session = await start_once(host, plan, deadline=soon(30))
    assert (await session.infer_values({}))["y"] == "right"
    await session.close()


HOSTILE = {
    "absolute": "/etc/passwd={}\n",
    "above": "../x={}\n",
    "within": "a/../../x={}\n",
    "dot": "./x={}\n",
    "backslash": "a\\b={}\n",
    "control": "a\x1b[2J={}\n",
    "empty part": "a//b={}\n",
    "empty": "={}\n",
    "long": "x" * 1025 + "={}\n",
    "long part": "x" * 256 + "={}\n",
    "twice": "a={0}\na={0}\n",
    "order": "b={0}\na={0}\n",
    "folder and file": "a={0}\na/b={0}\n",
    "no digest": "a=b\n",
    "itself": "MANIFEST={}\n",
    "no end": "a={}",
    "not UTF-8": "a\udcff={}\n",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_manifest_that_leaves_its_folder_or_is_none_is_refused(host, name):
    file = blob_of(b"content")
    manifest = blob_of(HOSTILE[name].format(file.digest).encode("utf-8", "surrogateescape"))
    async with worker_of(host) as session:
        await Push("far", [file, manifest], {}).over(session, NotImplemented)
        fields = {"runner": "python", "package": manifest.digest, "options": {}, "arrays": "buffer"}
        with pytest.raises(DigestMismatch, match="MANIFEST"):
            await session.load(fields, deadline=soon(20))
    assert list((host.far / "trees").iterdir()) == []
    assert host.incoming() == []


async def test_too_many_files_are_no_package(host):
    file = blob_of(b"content")
    manifest = blob_of("".join(f"{number:06}={file.digest}\n" for number in range(20_001)).encode())
    async with worker_of(host) as session:
        await Push("far", [manifest], {}).over(session, NotImplemented)
        with pytest.raises(DigestMismatch, match="more than 20000 files"):
            await session.load({"runner": "python", "package": manifest.digest}, deadline=soon(20))


@pytest.mark.parametrize("package", ["../x", 1, "a" * 65, {"a": 1}])
async def test_a_package_that_is_no_digest_is_refused(host, package):
    async with worker_of(host) as session:
        with pytest.raises(InputInvalid):
            await session.load({"runner": "python", "package": package}, deadline=soon(20))


async def test_a_version_of_very_many_tensors_is_brought_there_and_loaded(host, tmp_path):
    blobs = [blob_of(bytes([number])) for number in range(100)]
    for number, blob in enumerate(blobs):
        (tmp_path / str(number)).write_bytes(blob.source)
    weights = tuple(
        WeightFile(
            name=f"layer.{number}",
            dtype="uint8",
            shape=(1,),
            path=tmp_path / str(number % 100),
            digest=blobs[number % 100].digest,
        )
        for number in range(20_000)
    )
    source = "def load(weights):\n    return lambda inputs: {'found': [len(weights), weights['layer.19999'].data[0]]}\n"
    session = await start_once(host, plan_of(tmp_path / "model", source, weights=weights), deadline=soon(60))
    try:
        assert await session.infer_values({}) == {"found": [20_000, 99]}
    finally:
        await session.close()


async def test_what_was_not_pushed_is_missing_at_the_load(host):
    weights = [["w", "uint8", [1], {"sha256": "a" * 64}]]
    async with worker_of(host) as session:
        with pytest.raises(ContentMissing, match="a" * 64):
            await session.load({"runner": "python", "package": "a" * 64}, deadline=soon(20))
        with pytest.raises(ContentMissing, match="a" * 64):
            await session.load({"runner": "python", "folder": "/", "weights": weights}, deadline=soon(20))


async def test_a_worker_without_a_cache_takes_no_content(tmp_path):
    from mer.core.errors import ConfigurationError, ProtocolViolation
    from mer.meal.staging import stage
    from tests.support.workers import local_host

    host = local_host(tmp_path)
    session = await start_once(host, plan_of(tmp_path / "model"), deadline=soon(30))
    try:
        with pytest.raises(ProtocolViolation, match="kind 15"):
            await lacking(session, ["a" * 64])
        with pytest.raises(ConfigurationError, match="takes no content"):
            await stage(host, session, plan_of(tmp_path / "model"), deadline=soon(30))
    finally:
        await session.close()


async def test_weights_that_shrank_there_are_damaged(host, tmp_path):
    (tmp_path / "w").write_bytes(bytes(10))
    weights = (WeightFile(name="w", dtype="uint8", shape=(11,), path=tmp_path / "w"),)
    source = "def load(weights):\n    weights['w']\n    return lambda inputs: inputs\n"
    with pytest.raises(DigestMismatch, match="has 10 bytes, not 11"):
        await start_once(host, plan_of(tmp_path / "model", source, weights=weights), deadline=soon(30))


async def test_a_carton_that_is_only_tried_gets_there_with_all_that_it_has(host, tmp_path):
    plan = plan_of(tmp_path / "carton" / "model", "def load():\n    return lambda inputs: {'y': open(PATH).read()}\n")
    handler = tmp_path / "carton" / "model" / "handler.py"
    handler.write_text(f"import os\nPATH = os.path.join(os.path.dirname(__file__), 'MANIFEST')\n{handler.read_text()}")
    (tmp_path / "carton" / "model" / "MANIFEST").write_text("the author's own")
    (tmp_path / "carton" / "MANIFEST").write_text("of before")
    (tmp_path / "carton" / "carton.toml").write_text("")
    carton = dataclasses.replace(plan, package=tmp_path / "carton", model_folder=None)
    session = await start_once(host, carton, deadline=soon(30))
    assert (await session.infer_values({}))["y"] == "the author's own"
    await session.close()


async def test_what_no_package_may_hold_is_refused_here(host, tmp_path):
    plan = plan_of(tmp_path / "model")
    (tmp_path / "model" / "a\x1bb").write_text("")
    with pytest.raises(PackageInvalid):
        await start_once(host, plan, deadline=soon(30))


async def test_content_is_pushed_while_the_model_computes(host, tmp_path):
    source = "import time\ndef load():\n    return lambda inputs: time.sleep(30) or inputs\n"
    session = await start_once(host, plan_of(tmp_path / "model", source), deadline=soon(30))
    computing = asyncio.create_task(session.infer_values({}))
    try:
        await asyncio.sleep(0.1)
        async with asyncio.timeout(20):
            await put(session, blob_of(os.urandom(20 << 20)), sent=nothing)
        assert not computing.done()
    finally:
        computing.cancel()
        with contextlib.suppress(asyncio.CancelledError, MerError):
            await computing
        await session.close()
