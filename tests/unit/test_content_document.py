"""docs/content.md is normative: its vectors hold, and its bounds are the ones in the code."""

import hashlib
import re
import struct
from pathlib import Path

from mer.content.author import MAX_PACKAGE_BYTES, SKIPPED
from mer.core.carton import generate
from mer.core.manifest import MAX_FILES, MAX_PATH, package_id, parse_manifest
from mer.core.specs import VersionSpec
from mer.core.weights import MAX_NAME, MAX_RANK, MAX_TENSORS, parse_weights, weights_id

TEXT = (Path(__file__).parents[2] / "docs" / "content.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def id_after(block: str) -> str:
    found = re.search(r"has the id `([0-9a-f]{64})`", TEXT[TEXT.index(block) :])
    assert found
    return found[1]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_manifest_has_the_id_that_the_document_gives():
    manifest = blocks("")[0]
    assert package_id(manifest) == id_after(manifest)


def test_the_manifest_lists_the_files_that_the_document_shows():
    assert parse_manifest(blocks("")[0]) == {
        "carton.toml": sha256(blocks("toml")[0].encode()),
        "model/model.py": sha256(blocks("python")[0].encode()),
        "tensor_data/index.toml": sha256(b"tensor = []\n"),
    }


def test_the_carton_file_is_the_one_that_is_generated():
    options = {"entrypoint_package": "model", "entrypoint_fn": "load"}
    assert generate(VersionSpec(runner="python", options=options)) == blocks("toml")[0]


def test_the_list_of_tensors_has_the_id_that_the_document_gives():
    text = blocks("")[1]
    assert weights_id(text) == id_after(text)
    first, second = parse_weights(text)
    assert first.digest == sha256(struct.pack("<2f", 1, 2))
    assert second.digest == sha256(b"\x07")


def test_the_bounds_are_those_of_the_code():
    for bound in (
        f"{MAX_FILES:,} files",
        f"{MAX_PATH} bytes",
        f"{MAX_PACKAGE_BYTES >> 40} TiB",
        f"{MAX_NAME} bytes",
        f"{MAX_RANK} lengths",
        f"{MAX_TENSORS:,} tensors",
        *(f"`{name}`" for name in SKIPPED),
    ):
        assert bound in TEXT
