"""Folders become packages: which files are taken, which are refused, and under which id."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from mer.content import author
from mer.content.store import ContentStore
from mer.core import carton
from mer.core.errors import ContentMissing, DigestMismatch, PackageInvalid, UsageError
from mer.core.manifest import MAX_FILES
from mer.core.records import Digest
from mer.core.specs import TensorSpec, VersionSpec
from tests.support.content import CARTON_TOML, PYTHON, write_folder


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "plain", {"model.py": "def load(): ...\n", "parts/table.csv": "1,2\n"})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return write_folder(
        tmp_path / "own",
        {
            "carton.toml": CARTON_TOML,
            "model/model.py": "x = 1\n",
            "model/.carton/carton.lock": "",
            "misc/note": "n",
            "tensor_data/index.toml": "tensor = []\n",
            "README.md": "# small\n",
        },
    )


def sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def manifest_of(folder: Path) -> str:
    """Carton's own rule, written once more: every file but MANIFEST and LINKS, bytewise by path."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = sorted((name.encode(), path) for name, path in files.items() if name not in ("MANIFEST", "LINKS"))
    return "".join(f"{name.decode()}={sha256(path.read_bytes())}\n" for name, path in listed)


def test_a_plain_folder_becomes_the_model_of_a_package(store: ContentStore, plain: Path):
    package = store.add_package(plain, PYTHON)
    tree = store.tree(package.id)
    assert sorted(package.files) == [
        "carton.toml",
        "model/model.py",
        "model/parts/table.csv",
        "tensor_data/index.toml",
    ]
    assert (tree / "model/parts/table.csv").read_text() == "1,2\n"
    assert (tree / "tensor_data/index.toml").read_text() == "tensor = []\n"
    assert carton.read((tree / "carton.toml").read_text()) == PYTHON == package.spec


def test_the_id_is_the_sha256_of_the_manifest_that_stands_in_the_tree(store: ContentStore, plain: Path):
    package = store.add_package(plain, PYTHON)
    tree = store.tree(package.id)
    assert (tree / "MANIFEST").read_text() == manifest_of(tree)
    assert sha256(manifest_of(tree)) == package.id


def test_the_size_is_that_of_the_files(store: ContentStore, plain: Path):
    package = store.add_package(plain, PYTHON)
    tree = store.tree(package.id)
    assert package.size == sum((tree / path).stat().st_size for path in package.files)


def test_a_package_is_found_again_by_its_id(store: ContentStore, plain: Path, own: Path):
    for package in (store.add_package(plain, PYTHON), store.add_package(own)):
        assert store.package(package.id) == package


def test_packing_twice_gives_one_id(store: ContentStore, plain: Path):
    assert store.add_package(plain, PYTHON).id == store.add_package(plain, PYTHON).id


def test_packing_a_tree_again_gives_the_same_id(store: ContentStore, plain: Path):
    package = store.add_package(plain, PYTHON)
    assert store.add_package(store.tree(package.id)).id == package.id


def test_another_spec_makes_another_package_with_the_same_files(store: ContentStore, plain: Path):
    first = store.add_package(plain, PYTHON)
    other = store.add_package(plain, VersionSpec(runner="python", inputs=(TensorSpec(name="x", dtype="json"),)))
    assert first.id != other.id
    assert first.files["model/model.py"] == other.files["model/model.py"]


def test_modes_times_and_caches_of_tools_make_no_other_package(store: ContentStore, plain: Path):
    before = store.add_package(plain, PYTHON).id
    (plain / "model.py").chmod(0o755)
    os.utime(plain / "model.py", (1, 1))
    write_folder(
        plain, {"__pycache__/model.pyc": "x", "parts/__pycache__/y.pyc": "x", ".git/HEAD": "x", ".DS_Store": "x"}
    )
    (plain / "empty").mkdir()
    assert store.add_package(plain, PYTHON).id == before


def test_a_package_with_its_own_carton_toml_is_taken_as_it_is(store: ContentStore, own: Path):
    text = manifest_of(own)
    package = store.add_package(own)
    tree = store.tree(package.id)
    assert package.id == sha256(text)
    assert (tree / "carton.toml").read_text() == CARTON_TOML
    assert manifest_of(tree) == text


def test_a_manifest_in_the_folder_is_verified_and_names_the_package(store: ContentStore, own: Path):
    text = manifest_of(own)
    (own / "MANIFEST").write_text(text)
    assert store.add_package(own).id == sha256(text)


def test_an_author_may_list_what_tools_leave_behind(store: ContentStore, own: Path):
    write_folder(own, {"model/__pycache__/a.pyc": "x"})
    text = manifest_of(own)
    (own / "MANIFEST").write_text(text)
    assert store.add_package(own).id == sha256(text)


def test_a_file_that_is_not_what_the_manifest_says_is_refused(store: ContentStore, own: Path):
    (own / "MANIFEST").write_text(manifest_of(own))
    (own / "model/model.py").write_text("x = 2\n")
    with pytest.raises(DigestMismatch, match=r"model/model\.py"):
        store.add_package(own)
    assert store.verify().packages == 0


def test_a_file_that_the_manifest_lacks_is_refused(store: ContentStore, own: Path):
    (own / "MANIFEST").write_text(manifest_of(own))
    write_folder(own, {"model/more.py": ""})
    with pytest.raises(PackageInvalid, match=r"does not list model/more\.py"):
        store.add_package(own)


def test_a_file_that_only_the_manifest_has_is_missing(store: ContentStore, own: Path):
    (own / "MANIFEST").write_text(manifest_of(own))
    (own / "misc/note").unlink()
    with pytest.raises(ContentMissing, match="are not there: misc/note"):
        store.add_package(own)
    (own / "LINKS").write_text("version = 1\n")
    with pytest.raises(ContentMissing, match="behind its LINKS"):
        store.add_package(own)


def test_a_manifest_that_is_none_is_refused(store: ContentStore, own: Path):
    (own / "MANIFEST").write_text("carton.toml\n")
    with pytest.raises(PackageInvalid, match="line 1"):
        store.add_package(own)


def test_a_folder_that_says_how_it_runs_takes_no_spec(store: ContentStore, own: Path):
    with pytest.raises(UsageError, match=r"carton\.toml"):
        store.add_package(own, PYTHON)


def test_a_folder_that_does_not_say_how_it_runs_needs_a_spec(store: ContentStore, plain: Path):
    with pytest.raises(PackageInvalid, match=r"no carton\.toml"):
        store.add_package(plain)


def test_a_carton_toml_with_faults_is_refused_before_anything_is_stored(store: ContentStore, own: Path):
    (own / "carton.toml").write_text("spec_version = 9\n")
    with pytest.raises(PackageInvalid, match="version"):
        store.add_package(own)
    assert store.verify().files == 0


def test_a_carton_toml_that_is_not_utf_8_is_refused(store: ContentStore, own: Path):
    (own / "carton.toml").write_bytes(b"\xff")
    with pytest.raises(PackageInvalid, match="UTF-8"):
        store.add_package(own)


def test_a_carton_toml_has_a_largest_size(store: ContentStore, own: Path):
    (own / "carton.toml").write_text(CARTON_TOML + "#" * (carton.MAX_BYTES - len(CARTON_TOML)))
    store.add_package(own)
    (own / "carton.toml").write_text(CARTON_TOML + "#" * (carton.MAX_BYTES - len(CARTON_TOML) + 1))
    with pytest.raises(PackageInvalid, match="the most"):
        store.add_package(own)


def test_a_link_within_the_folder_is_stored_as_the_file_it_points_to(store: ContentStore, plain: Path):
    (plain / "again.py").symlink_to("model.py")
    package = store.add_package(plain, PYTHON)
    assert package.files["model/again.py"] == package.files["model/model.py"]
    assert not (store.tree(package.id) / "model/again.py").is_symlink()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/etc/passwd", "leaves the folder"),
        ("../outside", "leaves the folder"),
        ("nowhere", "link to nothing"),
        ("link", "link to nothing"),
        ("parts", "a link to a folder"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(store: ContentStore, plain: Path, target: str, why: str):
    (plain.parent / "outside").write_text("secret")
    (plain / "link").symlink_to(target)
    with pytest.raises(PackageInvalid, match=why):
        store.add_package(plain, PYTHON)


def test_a_pipe_is_refused_and_nobody_waits_for_it(store: ContentStore, plain: Path):
    os.mkfifo(plain / "pipe")
    with pytest.raises(PackageInvalid, match="'pipe' is no file but a pipe"):
        store.add_package(plain, PYTHON)


def test_a_socket_is_refused(store: ContentStore, plain: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(plain)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(PackageInvalid, match="'s' is no file but a socket"):
            store.add_package(plain, PYTHON)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_refused(store: ContentStore, plain: Path):
    os.mknod(plain / "null", 0o600 | 0o020000, os.makedev(1, 3))
    with pytest.raises(PackageInvalid, match="'null' is no file but a device"):
        store.add_package(plain, PYTHON)


@pytest.mark.parametrize("name", [b"a\nb", b"a\x1b[31m", b"\xff", b"a\\b"])
def test_a_name_that_would_confuse_a_terminal_or_another_machine_is_refused(
    store: ContentStore, plain: Path, name: bytes
):
    Path(os.fsdecode(os.fsencode(plain) + b"/" + name)).write_text("")
    with pytest.raises(PackageInvalid, match="has a"):
        store.add_package(plain, PYTHON)


def test_every_fault_is_told_at_once(store: ContentStore, plain: Path):
    (plain / "a\nb").write_text("")
    (plain / "link").symlink_to("/etc")
    with pytest.raises(PackageInvalid) as caught:
        store.add_package(plain, PYTHON)
    assert "'a\\nb'" in caught.value.message
    assert "'link'" in caught.value.message


def test_a_folder_that_is_not_there_is_refused(store: ContentStore, tmp_path: Path):
    with pytest.raises(PackageInvalid, match="nowhere") as caught:
        store.add_package(tmp_path / "nowhere", PYTHON)
    assert caught.value.message.count("nowhere") == 1


def test_a_file_is_no_folder(store: ContentStore, plain: Path):
    with pytest.raises(PackageInvalid, match="Not a directory"):
        store.add_package(plain / "model.py", PYTHON)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(store: ContentStore, plain: Path):
    (plain / "model.py").chmod(0)
    with pytest.raises(PackageInvalid, match=r"model\.py cannot be read"):
        store.add_package(plain, PYTHON)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(store: ContentStore, plain: Path):
    found = author.author_files(plain)["model.py"]
    for content in ("", "longer than it was before"):
        (plain / "model.py").write_text(content)
        with pytest.raises(PackageInvalid, match="was changed while it was read"):
            list(found.chunks())


def test_a_file_that_became_a_pipe_is_refused_and_nobody_waits_for_it(store: ContentStore, plain: Path):
    found = author.author_files(plain)["model.py"]
    (plain / "model.py").unlink()
    os.mkfifo(plain / "model.py")
    with pytest.raises(PackageInvalid, match="no file any more"):
        list(found.chunks())


def test_a_folder_of_too_many_files_is_refused_before_one_is_copied(store: ContentStore, tmp_path: Path):
    many = tmp_path / "many"
    many.mkdir()
    source = many / "0"
    source.write_text("")
    for number in range(1, MAX_FILES + 1):
        os.link(source, many / str(number))
    with pytest.raises(PackageInvalid, match="20000 files"):
        store.add_package(many, PYTHON)
    assert store.verify().files == 0


def test_a_folder_of_too_many_bytes_is_refused(store: ContentStore, plain: Path):
    with (plain / "sparse").open("wb") as file:
        file.truncate(author.MAX_PACKAGE_BYTES)
    with pytest.raises(PackageInvalid, match="1 TiB"):
        store.add_package(plain, PYTHON)


def test_what_is_not_in_the_store_is_missing(store: ContentStore):
    for name in (Digest("0" * 64), Digest("../../etc/passwd")):
        for ask in (store.package, store.tree, store.weights):
            with pytest.raises(ContentMissing):
                ask(name)


def test_missing_names_what_a_package_lacks(store: ContentStore, plain: Path):
    package = store.add_package(plain, PYTHON)
    assert store.missing(package.id) == ()
    gone = package.files["model/model.py"]
    (store.folder / "blobs" / gone[:2] / gone).unlink()
    assert store.missing(package.id) == (gone,)
    assert store.missing(Digest("0" * 64)) == ("0" * 64,)
