"""A folder becomes a package of the store.

A folder with a carton.toml is a package already and is taken as it is; any other folder becomes the `model/` of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mer.content.author import AuthorFile, author_files, skipped_file
from mer.content.packages import Package
from mer.content.shelf import Shelf
from mer.core import carton
from mer.core.errors import ContentMissing, DigestMismatch, PackageInvalid, UsageError
from mer.core.manifest import MANIFEST, MAX_MANIFEST, format_manifest, package_id, parse_manifest
from mer.core.records import Digest
from mer.core.specs import VersionSpec

MODEL = "model"
"""Where a package has its author's files."""

LINKS = "LINKS"
"""Where Carton says from which addresses absent files come. Like MANIFEST it is not listed."""

TENSOR_INDEX = "tensor_data/index.toml"
"""Carton's specification calls it optional; its reference reader fails without it."""

NO_TENSORS = b"tensor = []\n"


def pack(folder: Path, spec: VersionSpec | None, *, blobs: Shelf, manifests: Shelf) -> Package:
    """Bring a folder in and return its package. `spec` is for a folder without a carton.toml, and only for that.

    Raises:
        PackageInvalid: a file, a name or carton.toml is not allowed, or neither a spec nor carton.toml is there.
        DigestMismatch, ContentMissing: the folder has a MANIFEST that its files do not keep.
        ContentUnwritable, UsageError.
    """
    found = author_files(folder)
    if carton.CARTON_TOML in found:
        if spec is not None:
            raise UsageError(
                f"{folder} has a carton.toml, which says how it runs: give no runner, options or specs here"
            )
        return _take_carton(folder, found, blobs, manifests)
    if spec is None:
        raise PackageInvalid(
            f"{folder} has no {carton.CARTON_TOML}", hint="say how it runs: --entry MODULE:CALLABLE, or a command"
        )
    written = {carton.CARTON_TOML: carton.generate(spec).encode(), TENSOR_INDEX: NO_TENSORS}
    return _store({f"{MODEL}/{path}": file for path, file in found.items()}, written, spec, blobs, manifests)


def _take_carton(folder: Path, found: dict[str, AuthorFile], blobs: Shelf, manifests: Shelf) -> Package:
    stated = found.pop(MANIFEST, None)
    linked = found.pop(LINKS, None)
    toml = _text(found[carton.CARTON_TOML], carton.MAX_BYTES)
    spec = carton.read(toml)
    # the very text that was read is what is stored: the file may change meanwhile
    written = {carton.CARTON_TOML: toml.encode()}
    if stated is None:
        return _store(found, written, spec, blobs, manifests)
    promised = parse_manifest(_text(stated, MAX_MANIFEST))
    for path in promised.keys() - found.keys():
        left_out = skipped_file(folder, path)
        if left_out:
            found[path] = left_out
    absent = sorted(promised.keys() - found.keys())
    if absent:
        where = "stand only behind its LINKS: fetch them first" if linked else "are not there"
        raise ContentMissing(f"{folder}: files of its {MANIFEST} {where}: {', '.join(absent[:20])}")
    extra = sorted(found.keys() - promised.keys())
    if extra:
        raise PackageInvalid(f"{folder}: its {MANIFEST} does not list {', '.join(extra[:20])}")
    return _store(found, written, spec, blobs, manifests, promised=promised)


def _store(
    found: Mapping[str, AuthorFile],
    written: Mapping[str, bytes],
    spec: VersionSpec,
    blobs: Shelf,
    manifests: Shelf,
    promised: Mapping[str, Digest] | None = None,
) -> Package:
    format_manifest(dict.fromkeys((*found, *written), Digest("0" * 64)))  # names first: nothing is copied in vain
    files: dict[str, Digest] = {}
    size = 0
    for path in sorted({*found, *written}):
        stored = blobs.add([written[path]] if path in written else found[path].chunks())
        if promised is not None and promised[path] != stored.digest:
            raise DigestMismatch(f"{path} does not have the digest that the package's {MANIFEST} gives it")
        files[path] = stored.digest
        size += stored.size
    blobs.settle(files.values())
    # the list comes last: where it stands, everything that it names is on the disk
    text = format_manifest(files)
    manifests.add([text.encode()])
    identifier = package_id(text)
    manifests.settle([identifier])
    return Package(id=identifier, spec=spec, files=files, size=size)


def _text(file: AuthorFile, limit: int) -> str:
    if file.size > limit:
        raise PackageInvalid(f"{file.path} has {file.size} bytes; {limit} are the most")
    content = bytearray()
    for chunk in file.chunks():
        content += chunk
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise PackageInvalid(f"{file.path} is not UTF-8 (byte {error.start})") from error
