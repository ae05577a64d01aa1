"""Weights come in as lists of tensors, share what is the same, and are refused when their file is not what it says."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mer.content.store import ContentStore
from mer.core.errors import ContentMissing, DigestMismatch, WeightsInvalid

TENSORS = {
    "layer.weight": np.arange(12, dtype="<f4").reshape(3, 4),
    "layer.bias": np.array([1.5, 2.5], dtype="<f2"),
    "scale": np.array(3, dtype="<i8"),
    "none": np.zeros((0, 4), dtype="|u1"),
    "mask": np.array([True, False]),
}


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


def stored_bytes(store: ContentStore) -> int:
    return sum(path.stat().st_size for path in (store.folder / "blobs").rglob("*") if path.is_file())


def write_safetensors(path: Path, header: dict[str, object], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_each_tensor_is_a_file_of_its_raw_bytes(store: ContentStore, tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    added = store.add_weights(tmp_path / "w.safetensors")
    assert [tensor.name for tensor in added.tensors] == sorted(TENSORS)
    assert added.size == sum(array.nbytes for array in TENSORS.values())
    for tensor in added.tensors:
        array = TENSORS[tensor.name]
        assert (tensor.dtype, tensor.shape) == (array.dtype.name, array.shape)
        assert tensor.path.read_bytes() == array.tobytes()


def test_weights_are_found_again_by_their_id(store: ContentStore, tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    added = store.add_weights(tmp_path / "w.safetensors")
    assert store.weights(added.id) == added
    assert store.missing(added.id) == ()


def test_the_same_tensors_have_one_id_in_whatever_file_they_come(store: ContentStore, tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors", metadata={"format": "np"})
    np.savez(tmp_path / "w.npz", **TENSORS)
    np.savez_compressed(tmp_path / "c.npz", **TENSORS)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, array in TENSORS.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "README.md").write_text("")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for name, array in TENSORS.items():
        save_file({name: array}, sharded / f"{name}-of-5.safetensors")
    sources = ("w.safetensors", "w.npz", "c.npz", "folder", "sharded")
    assert len({store.add_weights(tmp_path / source).id for source in sources}) == 1


def test_two_versions_share_the_bytes_of_what_is_the_same_in_both(store: ContentStore, tmp_path: Path):
    rows = {f"layer.{number}": np.full(100_000, number, "<f4") for number in range(10)}
    save_file(rows, tmp_path / "1.safetensors")
    first = store.add_weights(tmp_path / "1.safetensors")
    before = stored_bytes(store)
    save_file({**rows, "layer.9": np.full(100_000, 99, "<f4")}, tmp_path / "2.safetensors")
    second = store.add_weights(tmp_path / "2.safetensors")
    assert first.id != second.id
    assert stored_bytes(store) - before == 400_000


def test_bfloat16_which_numpy_has_no_word_for_comes_in(store: ContentStore, tmp_path: Path):
    row = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}
    added = store.add_weights(write_safetensors(tmp_path / "w.safetensors", {"a": row}, b"\x80\x3f\x00\x40"))
    assert (added.tensors[0].dtype, added.size) == ("bfloat16", 4)


def test_a_file_larger_than_the_memory_at_hand_comes_in_by_chunks(tmp_path: Path):
    size = 128 << 20
    path = write_safetensors(
        tmp_path / "w.safetensors", {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, b""
    )
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)  # sparse: it costs no disk, but the blob does
    program = f"""
import resource
from pathlib import Path
from mer.content.store import ContentStore
store = ContentStore(Path({str(tmp_path / "content")!r}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
added = store.add_weights(Path({str(path)!r}))
assert added.size == {size}
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10, "KiB"
import sys
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def row(**changes: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], **changes}


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        ({}, b"", "0 tensors"),
        ({"a": row()}, b"abc", "the file has 3"),
        ({"a": row()}, b"abcde", "the file has 5"),
        ({"a": row(dtype="F8_E5M2")}, b"abcd", "unknown dtype"),
        ({"a": row(), "b": row(data_offsets=[2, 6])}, b"abcdef", "overlaps"),
        ({"a": row(data_offsets=[1, 5])}, b"abcde", "gap"),
        ({"a": row(data_offsets=[0, 9999])}, b"abcd", "by its shape"),
    ],
)
def test_a_safetensors_file_with_faults_is_refused(
    store: ContentStore, tmp_path: Path, header: dict[str, object], data: bytes, why: str
):
    with pytest.raises(WeightsInvalid, match=why):
        store.add_weights(write_safetensors(tmp_path / "w.safetensors", header, data))
    assert store.verify().files == 0


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 8, b"\x02" + b"\0" * 7, b"\x04" + b"\0" * 7 + b"[[[["])
def test_a_file_that_is_no_safetensors_file_is_refused(store: ContentStore, tmp_path: Path, content: bytes):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalid):
        store.add_weights(tmp_path / "w.safetensors")


def test_a_file_of_another_kind_is_refused(store: ContentStore, tmp_path: Path):
    (tmp_path / "w.pt").write_bytes(b"PK")
    with pytest.raises(WeightsInvalid, match="none of") as caught:
        store.add_weights(tmp_path / "w.pt")
    assert caught.value.hint


def test_a_file_that_is_not_there_is_refused(store: ContentStore, tmp_path: Path):
    with pytest.raises(WeightsInvalid, match="cannot be read"):
        store.add_weights(tmp_path / "w.safetensors")


def test_an_array_of_python_objects_is_refused_and_nothing_is_unpickled(store: ContentStore, tmp_path: Path):
    class Trap:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "unpickled",))

    np.save(tmp_path / "w.npy", np.array([Trap()]), allow_pickle=True)
    with pytest.raises(WeightsInvalid, match="little-endian numbers"):
        store.add_weights(tmp_path / "w.npy")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "array", [np.zeros(3, ">f4"), np.array(["text"]), np.zeros((2, 3), "<f4", order="F"), np.zeros(1, "M8[s]")]
)
def test_an_array_that_weights_cannot_hold_is_refused(store: ContentStore, tmp_path: Path, array: np.ndarray):
    np.savez(tmp_path / "w.npz", array)
    with pytest.raises(WeightsInvalid):
        store.add_weights(tmp_path / "w.npz")


def test_an_array_that_is_cut_or_too_long_is_refused(store: ContentStore, tmp_path: Path):
    np.save(tmp_path / "w.npy", np.arange(4))
    whole = (tmp_path / "w.npy").read_bytes()
    for content, why in ((whole[:-1], "too early"), (whole + b"x", "more bytes"), (whole[:20], "too early")):
        (tmp_path / "w.npy").write_bytes(content)
        with pytest.raises(WeightsInvalid, match=why):
            store.add_weights(tmp_path / "w.npy")


def test_an_archive_that_was_damaged_is_refused(store: ContentStore, tmp_path: Path):
    np.savez_compressed(tmp_path / "w.npz", a=np.arange(10_000))
    content = bytearray((tmp_path / "w.npz").read_bytes())
    content[2000:2100] = bytes(100)
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(WeightsInvalid, match="unpacked"):
        store.add_weights(tmp_path / "w.npz")


def test_an_archive_that_unpacks_to_more_than_its_shape_stops_there(store: ContentStore, tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros(4))
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", (tmp_path / "a.npy").read_bytes() + bytes(100 << 20))
    with pytest.raises(WeightsInvalid, match="more bytes"):
        store.add_weights(tmp_path / "w.npz")
    assert stored_bytes(store) == 0


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_of_which_a_little_cannot_be_unpacked_alone_is_refused(
    store: ContentStore, tmp_path: Path, method: int
):
    np.save(tmp_path / "a.npy", np.zeros(4))
    with zipfile.ZipFile(tmp_path / "w.npz", "w", method) as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    with pytest.raises(WeightsInvalid, match="another method"):
        store.add_weights(tmp_path / "w.npz")


def test_a_name_that_stands_in_two_files_of_a_folder_is_refused(store: ContentStore, tmp_path: Path):
    for name in ("1.safetensors", "2.safetensors"):
        save_file({"a": np.zeros(1)}, tmp_path / name)
    with pytest.raises(WeightsInvalid, match="'a' stands twice"):
        store.add_weights(tmp_path)


def test_a_tensor_that_was_removed_is_missing(store: ContentStore, tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    added = store.add_weights(tmp_path / "w.safetensors")
    added.tensors[0].path.unlink()
    assert store.missing(added.id) == (added.tensors[0].digest,)
    with pytest.raises(ContentMissing):
        store.weights(added.id)


def test_a_tensor_that_was_changed_or_cut_is_told(store: ContentStore, tmp_path: Path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    added = store.add_weights(tmp_path / "w.safetensors")
    path = added.tensors[0].path
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DigestMismatch, match="was changed"):
        store.weights(added.id)
    path.write_bytes(b"")
    with pytest.raises(DigestMismatch, match="0 bytes"):
        store.weights(added.id)
