"""`verify` finds what is missing, changed or strange; `gc` frees what nothing needs, and never more."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mer.content import checking
from mer.content.checking import FaultKind
from mer.content.lock import locked
from mer.content.packages import Package
from mer.content.store import ContentStore
from mer.content.weights import WeightsList
from mer.core.errors import Busy, ContentMissing, DigestMismatch
from mer.core.records import Digest
from tests.support.content import PYTHON, write_folder

DAY = 24 * 3600.0


class Clock:
    """A clock that tests move."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> ContentStore:
    return ContentStore(tmp_path / "content", clock=clock)


@pytest.fixture
def package(store: ContentStore, tmp_path: Path) -> Package:
    return store.add_package(write_folder(tmp_path / "plain", {"model.py": "x = 1\n", "data": "y" * 1000}), PYTHON)


@pytest.fixture
def weights(store: ContentStore, tmp_path: Path) -> WeightsList:
    save_file({"a": np.arange(10, dtype="<f4"), "b": np.arange(5)}, tmp_path / "w.safetensors")
    return store.add_weights(tmp_path / "w.safetensors")


def blob(store: ContentStore, digest: Digest) -> Path:
    return store.folder / "blobs" / digest[:2] / digest


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def faults(store: ContentStore) -> list[tuple[FaultKind, Path, str | None]]:
    return [(fault.kind, fault.place, fault.needed_by) for fault in store.verify().faults]


def test_a_store_in_order_has_no_fault(store: ContentStore, package: Package, weights: WeightsList):
    store.tree(package.id)
    report = store.verify()
    assert report.faults == ()
    assert (report.packages, report.weights, report.files) == (1, 1, 4 + 2 + 2)
    assert report.size > package.size + weights.size


def test_an_empty_store_has_no_fault(store: ContentStore):
    assert store.verify().faults == ()


def test_a_missing_blob_is_told_with_what_needs_it(store: ContentStore, package: Package):
    gone = blob(store, package.files["model/data"])
    gone.unlink()
    assert faults(store) == [(FaultKind.MISSING, gone, package.id)]


def test_a_changed_blob_is_told_with_what_needs_it(store: ContentStore, weights: WeightsList):
    path = weights.tensors[0].path
    overwrite(path, b"x" * 40)
    assert faults(store) == [(FaultKind.WRONG_DIGEST, path, weights.id)]


def test_bytes_that_went_bad_on_the_disk_are_told_and_never_trusted_again(store: ContentStore, weights: WeightsList):
    path = weights.tensors[0].path
    seal = path.stat().st_mtime_ns
    overwrite(path, b"x" * 40)
    os.utime(path, ns=(seal, seal))  # as a failing disk does it: no time tells
    assert store.weights(weights.id) == weights
    assert faults(store) == [(FaultKind.WRONG_DIGEST, path, weights.id)]
    with pytest.raises(DigestMismatch):
        store.weights(weights.id)


def test_bytes_that_went_bad_are_mended_by_bringing_them_in_again(
    store: ContentStore, weights: WeightsList, tmp_path: Path
):
    overwrite(weights.tensors[0].path, b"x" * 40)
    assert store.add_weights(tmp_path / "w.safetensors") == weights
    assert faults(store) == []


def test_a_changed_list_is_told(store: ContentStore, package: Package):
    path = store.folder / "packages" / package.id[:2] / package.id
    overwrite(path, b"")
    assert faults(store) == [(FaultKind.WRONG_DIGEST, path, None)]


def test_stray_files_are_told(store: ContentStore, package: Package):
    tree = store.tree(package.id)
    (tree / "model").chmod(0o755)
    digest = package.files["model/data"]
    strays = {
        store.folder / "blobs/note",
        store.folder / "blobs" / digest[:2] / "x",
        store.folder / "weights/00",
        tree / "model/written",
    }
    for place in strays:
        place.write_text("")
    shutil.copy(blob(store, digest), store.folder / "blobs" / package.files["model/model.py"][:2] / digest)
    strays.add(store.folder / "blobs" / package.files["model/model.py"][:2] / digest)
    (store.folder / "trees/x").mkdir()
    strays.add(store.folder / "trees/x")
    assert {(kind, place) for kind, place, _ in faults(store)} == {(FaultKind.STRAY, place) for place in strays}


def test_a_link_in_the_place_of_a_blob_is_a_stray_and_the_blob_missing(store: ContentStore, package: Package):
    path = blob(store, package.files["model/data"])
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert {kind for kind, _, _ in faults(store)} == {FaultKind.STRAY, FaultKind.MISSING}
    with pytest.raises(DigestMismatch):
        store.tree(package.id)


def test_a_list_on_the_wrong_shelf_is_a_stray(store: ContentStore, weights: WeightsList):
    right = store.folder / "weights" / weights.id[:2] / weights.id
    wrong = store.folder / "packages" / weights.id[:2] / weights.id
    wrong.parent.mkdir()
    shutil.copy2(right, wrong)
    assert faults(store) == [(FaultKind.STRAY, wrong, None)]


def test_a_damaged_tree_is_told(store: ContentStore, package: Package):
    tree = store.tree(package.id)
    (tree / "model").chmod(0o755)
    (tree / "model/data").unlink()
    (tree / "model/model.py").unlink()
    (tree / "model/model.py").write_text("x = 2\n")
    assert set(faults(store)) == {
        (FaultKind.MISSING, tree / "model/data", package.id),
        (FaultKind.WRONG_DIGEST, tree / "model/model.py", package.id),
    }


def test_of_very_many_faults_the_first_are_told_and_all_are_counted(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checking, "MAX_FAULTS", 3)
    for number in range(5):
        (store.folder / f"blobs/{number}").write_text("")
    report = store.verify()
    assert (len(report.faults), report.fault_count) == (3, 5)


def test_what_is_kept_stays_and_the_rest_goes(
    store: ContentStore, package: Package, weights: WeightsList, clock: Clock
):
    store.tree(package.id)
    clock.ahead = 2 * DAY
    freed = store.gc({package.id})
    assert (freed.packages, freed.weights, freed.blobs, freed.size) == (0, 1, 2, weights.size)
    assert store.package(package.id) == package
    with pytest.raises(ContentMissing):
        store.weights(weights.id)
    assert store.verify().faults == ()


def test_the_tree_of_a_package_goes_with_it(store: ContentStore, package: Package, clock: Clock):
    tree = store.tree(package.id)
    clock.ahead = 2 * DAY
    freed = store.gc(())
    assert (freed.packages, freed.trees, freed.blobs, freed.size) == (1, 1, 4, package.size)
    assert not tree.exists()


def test_a_blob_that_something_kept_shares_stays(store: ContentStore, package: Package, tmp_path: Path, clock: Clock):
    write_folder(tmp_path / "plain", {"model.py": "x = 2\n"})
    other = store.add_package(tmp_path / "plain", PYTHON)
    clock.ahead = 2 * DAY
    assert store.gc({other.id}).blobs == 1
    assert store.package(other.id) == other
    assert store.verify().faults == ()


def test_what_just_came_in_stays_although_nothing_is_registered_yet(
    store: ContentStore, package: Package, weights: WeightsList, clock: Clock
):
    clock.ahead = DAY - 60
    assert store.gc(()).blobs == 0
    assert store.package(package.id) == package
    assert store.weights(weights.id) == weights


def test_what_came_in_again_is_young_again(
    store: ContentStore, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    time.sleep(1.1)
    store.add_package(tmp_path / "plain", PYTHON)
    assert store.gc((), grace_seconds=1.0).blobs == 0
    assert store.verify().packages == 1


def test_a_blob_without_a_list_is_freed_once_it_is_old(store: ContentStore, package: Package, clock: Clock):
    path = store.folder / "packages" / package.id[:2] / package.id
    path.unlink()  # as after a crash between the blobs and their list
    assert store.gc(()).blobs == 0
    clock.ahead = 2 * DAY
    assert store.gc(()).blobs == 4


def test_a_kept_list_that_cannot_be_read_stops_gc_before_anything_is_removed(
    store: ContentStore, package: Package, weights: WeightsList, clock: Clock
):
    overwrite(store.folder / "packages" / package.id[:2] / package.id, b"x")
    clock.ahead = 2 * DAY
    with pytest.raises(DigestMismatch):
        store.gc({package.id})
    assert store.weights(weights.id) == weights


def test_what_killed_processes_left_behind_is_removed(store: ContentStore):
    write_folder(store.folder / "incoming", {"1-0": "half a blob", "1-1/model/x": "half a tree"})
    store.gc(())
    assert list((store.folder / "incoming").iterdir()) == []


def test_ids_that_are_kept_and_not_there_are_no_fault(store: ContentStore):
    assert store.gc({"0" * 64}).blobs == 0


def test_gc_waits_for_whoever_adds_and_says_busy_after_that(store: ContentStore):
    with locked(store.folder / "lock", alone=False), pytest.raises(Busy):
        store.gc((), wait_seconds=0.1)
    store.gc(())
