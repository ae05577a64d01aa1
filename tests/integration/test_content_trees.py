"""Unpacked packages: whole or not there, read-only, and mended when somebody changed one."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mer.content import shelf, trees
from mer.content.packages import Package
from mer.content.shelf import SEALED
from mer.content.store import ContentStore
from mer.core.errors import DigestMismatch
from tests.support.content import PYTHON, write_folder


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


@pytest.fixture
def package(store: ContentStore, tmp_path: Path) -> Package:
    return store.add_package(write_folder(tmp_path / "plain", {"model.py": "x = 1\n", "a/b/c": "c"}), PYTHON)


def blob(store: ContentStore, package: Package, path: str) -> Path:
    digest = package.files[path]
    return store.folder / "blobs" / digest[:2] / digest


def test_a_tree_costs_no_bytes_since_its_files_are_the_blobs(store: ContentStore, package: Package):
    assert (store.tree(package.id) / "model/model.py").samefile(blob(store, package, "model/model.py"))


def test_a_tree_is_read_only(store: ContentStore, package: Package):
    tree = store.tree(package.id)
    for place in (tree, *tree.rglob("*")):
        assert place.stat().st_mode & 0o222 == 0, place


def test_a_tree_is_unpacked_once(store: ContentStore, package: Package):
    first = store.tree(package.id).stat()
    assert store.tree(package.id).stat() == first


def test_a_second_store_object_finds_the_tree(store: ContentStore, package: Package):
    first = store.tree(package.id).stat()
    assert ContentStore(store.folder).tree(package.id).stat() == first


def test_a_file_that_was_removed_from_the_tree_comes_back(store: ContentStore, package: Package):
    place = store.tree(package.id) / "model/model.py"
    place.parent.chmod(0o755)
    place.unlink()
    assert (store.tree(package.id) / "model/model.py").read_text() == "x = 1\n"


def test_a_file_that_was_replaced_in_the_tree_is_put_right(store: ContentStore, package: Package):
    place = store.tree(package.id) / "model/model.py"
    place.parent.chmod(0o755)
    place.unlink()
    place.write_text("x = 2\n")
    assert (store.tree(package.id) / "model/model.py").read_text() == "x = 1\n"


def test_a_file_that_was_written_to_in_the_tree_is_told_since_the_blob_is_that_file(
    store: ContentStore, package: Package
):
    place = store.tree(package.id) / "model/model.py"
    place.chmod(0o644)
    place.write_text("x = 2\n")
    with pytest.raises(DigestMismatch, match="was changed"):
        store.tree(package.id)


def test_a_package_that_is_brought_in_again_mends_what_was_changed(
    store: ContentStore, package: Package, tmp_path: Path
):
    place = store.tree(package.id) / "model/model.py"
    place.chmod(0o644)
    place.write_text("x = 2\n")
    store.add_package(tmp_path / "plain", PYTHON)
    assert (store.tree(package.id) / "model/model.py").read_text() == "x = 1\n"
    assert store.verify().faults == ()


def test_where_there_are_no_hard_links_the_files_are_copied(
    store: ContentStore, package: Package, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(trees.os, "link", refuse)
    place = store.tree(package.id) / "model/model.py"
    assert not place.samefile(blob(store, package, "model/model.py"))
    assert (place.read_text(), place.stat().st_mtime_ns, place.stat().st_mode & 0o777) == ("x = 1\n", SEALED, 0o444)
    assert store.verify().faults == ()


def test_threads_that_want_the_same_tree_at_once_all_get_it_whole(store: ContentStore, package: Package):
    start = threading.Barrier(8)

    def unpack(_: int) -> os.stat_result:
        start.wait()
        tree = ContentStore(store.folder).tree(package.id)
        assert (tree / "model/a/b/c").read_text() == "c"
        return tree.stat()

    with ThreadPoolExecutor(8) as threads:
        assert len({found.st_ino for found in threads.map(unpack, range(8))}) == 1
    assert list((store.folder / "incoming").iterdir()) == []


def test_what_a_killed_process_left_behind_is_in_nobodys_way(
    store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # in a container the same pid comes again, and begins to count anew
    monkeypatch.setattr(shelf, "_INCOMING", itertools.count())
    incoming = store.folder / "incoming"
    for number in range(20):
        write_folder(incoming, {f"{os.getpid()}-{number}" + "/left" * (number % 2): "by another"})
    package = store.add_package(write_folder(tmp_path / "plain", {"model.py": "x = 1\n"}), PYTHON)
    assert (store.tree(package.id) / "model/model.py").read_text() == "x = 1\n"
    assert {path.read_text() for path in incoming.rglob("*") if path.is_file()} == {"by another"}
    assert len(list(incoming.iterdir())) == 20
