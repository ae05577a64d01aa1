"""Writing to the store: whole or not at all, on a full disk and with many writers."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mer.content.shelf import SEALED, Shelf
from mer.content.store import ContentStore
from mer.core.errors import ContentMissing, ContentUnwritable, DigestMismatch, FolderUnsafe, PackageInvalid
from mer.core.records import Digest
from tests.support.content import PYTHON, write_folder

HELLO = Digest("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
"""sha256 of `hello`."""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    for name in ("blobs", "incoming"):
        (tmp_path / name).mkdir()
    return Shelf(tmp_path / "blobs", incoming=tmp_path / "incoming")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes, as a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_stands_read_only_under_the_digest_of_its_bytes(shelf: Shelf):
    stored = shelf.add([b"hel", memoryview(b"lo")])
    path = shelf.find(stored.digest, size=5)
    assert (stored.digest, stored.size, stored.fresh) == (HELLO, 5, True)
    assert path == shelf.folder / "2c" / HELLO
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_mtime_ns) == (b"hello", 0o444, SEALED)


def test_no_bytes_at_all_are_a_file_too(shelf: Shelf):
    assert shelf.find(shelf.add([]).digest, size=0).read_bytes() == b""


def test_what_is_there_already_is_not_written_again(shelf: Shelf):
    shelf.add([b"hello"])
    before = shelf.find(HELLO).stat().st_ino
    assert not shelf.add([b"hello"]).fresh
    assert shelf.find(HELLO).stat().st_ino == before
    assert files_in(shelf.folder.parent / "incoming") == []


def test_bytes_of_another_digest_than_was_promised_are_refused(shelf: Shelf):
    with pytest.raises(DigestMismatch):
        shelf.add([b"hellO"], expected=HELLO)
    assert files_in(shelf.folder.parent) == []


def test_a_file_that_lost_its_seal_is_read_again_and_trusted_if_it_is_right(shelf: Shelf):
    shelf.add([b"hello"])
    os.utime(shelf.path(HELLO))  # a backup that was played back without times
    assert shelf.find(HELLO).stat().st_mtime_ns == SEALED


def test_a_file_of_another_size_is_told_without_reading_it(shelf: Shelf):
    shelf.add([b"hello"])
    with pytest.raises(DigestMismatch, match="5 bytes, not 6"):
        shelf.find(HELLO, size=6)


def test_a_digest_that_is_none_never_becomes_a_path(shelf: Shelf):
    with pytest.raises(ContentMissing):
        shelf.find(Digest("../" * 20 + "etc/passwd"))


def test_an_author_whose_file_fails_half_way_leaves_nothing(shelf: Shelf):
    def chunks() -> Iterator[bytes]:
        yield b"hel"
        raise PackageInvalid("it cannot be read")

    with pytest.raises(PackageInvalid):
        shelf.add(chunks())
    assert files_in(shelf.folder.parent) == []


def test_a_file_that_grows_too_large_for_the_disk_leaves_nothing(shelf: Shelf):
    with largest_file(1000), pytest.raises(ContentUnwritable):
        shelf.add([bytes(600), bytes(600)])
    assert files_in(shelf.folder.parent) == []


def test_a_package_that_does_not_fit_on_the_disk_is_not_there(tmp_path: Path):
    store = ContentStore(tmp_path / "content")
    folder = write_folder(tmp_path / "plain", {"a": "small", "b": bytes(100_000)})
    with largest_file(50_000), pytest.raises(ContentUnwritable):
        store.add_package(folder, PYTHON)
    assert files_in(store.folder / "incoming") == []
    assert store.verify().packages == 0
    assert store.verify().faults == ()
    assert store.add_package(folder, PYTHON).size > 100_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_on_a_full_disk_nothing_half_written_is_left(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine mounts nothing: {mounted.stderr.decode()}")
    try:
        store = ContentStore(disk / "content")
        small = store.add_package(write_folder(tmp_path / "small", {"a": "x"}), PYTHON)
        with pytest.raises(ContentUnwritable, match="No space left") as caught:
            store.add_package(write_folder(tmp_path / "large", {"a": bytes(300_000)}), PYTHON)
        assert caught.value.hint
        assert files_in(store.folder / "incoming") == []
        assert store.verify().faults == ()
        assert store.tree(small.id).is_dir()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_store_that_is_read_only_says_so(tmp_path: Path):
    store = ContentStore(tmp_path / "content")
    (store.folder / "incoming").chmod(0o500)
    with pytest.raises(ContentUnwritable, match="Permission denied"):
        store.add_package(write_folder(tmp_path / "plain", {"a": "x"}), PYTHON)


def test_a_folder_that_others_can_write_to_is_no_store(tmp_path: Path):
    (tmp_path / "content").mkdir()
    (tmp_path / "content").chmod(0o777)
    with pytest.raises(FolderUnsafe):
        ContentStore(tmp_path / "content")


def test_threads_that_bring_in_the_same_bytes_at_once_agree(shelf: Shelf):
    content = os.urandom(1 << 20)
    with ThreadPoolExecutor(8) as threads:
        stored = list(threads.map(lambda _: shelf.add([content, content]), range(16)))
    assert len({one.digest for one in stored}) == 1
    assert len(files_in(shelf.folder)) == 1
    assert files_in(shelf.folder.parent / "incoming") == []
    assert shelf.check(stored[0].digest) == 2 << 20


PROCESS = """
import sys
from pathlib import Path
from mer.content.store import ContentStore
from tests.support.content import PYTHON
store = ContentStore(Path(sys.argv[1]))
for _ in range(5):
    package = store.add_package(Path(sys.argv[2]), PYTHON)
    assert (store.tree(package.id) / "model/a").exists()
print(package.id)
"""


def test_processes_that_add_and_collect_at_the_same_time_lose_nothing(tmp_path: Path):
    folder = write_folder(tmp_path / "plain", {"a": os.urandom(100_000), "b": b"b", "c/d": b"d"})
    store = ContentStore(tmp_path / "content")
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, store.folder, folder], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    while any(process.poll() is None for process in running):
        store.gc((), grace_seconds=60.0)
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(outputs)) == 1
    assert store.verify().faults == ()
    assert store.package(Digest(outputs[0].strip())).size > 100_000


def test_a_process_that_is_killed_while_it_adds_leaves_a_store_in_order(tmp_path: Path):
    program = """
import os, signal, sys
from pathlib import Path
from mer.content import packing
from mer.content.store import ContentStore
from tests.support.content import PYTHON
packing.format_manifest, whole = lambda files: (
    whole(files) if set(files.values()) == {"0" * 64} else os.kill(os.getpid(), signal.SIGKILL)), packing.format_manifest
ContentStore(Path(sys.argv[1])).add_package(Path(sys.argv[2]), PYTHON)
"""
    folder = write_folder(tmp_path / "plain", {"a": "a"})
    store = ContentStore(tmp_path / "content")
    killed = subprocess.run([sys.executable, "-c", program, store.folder, folder], check=False, timeout=60)
    assert killed.returncode == -9
    report = store.verify()
    assert (report.faults, report.packages, report.files) == ((), 0, 3)
    assert store.gc((), grace_seconds=-60.0).blobs == 3
    assert store.add_package(folder, PYTHON).files["model/a"]
