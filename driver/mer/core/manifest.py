"""MANIFEST: which files a package has, by digest. Its bytes are what a package is named by.

The format is Carton's: a line `path=sha256` and `\\n` for each file, sorted by the path's UTF-8. A line splits at its last
`=`, since paths may hold one. The package's id is the sha256 of the text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from mer.core.errors import PackageInvalid
from mer.core.records import Digest

MANIFEST = "MANIFEST"
"""The name under which the text stands in a package's folder. It does not list itself."""

MAX_FILES = 20_000
"""Each file costs a sync to the disk when it comes in and a link when it is unpacked; a home folder is no package."""

MAX_PATH = 1024
"""Bytes of a path: with the folder that it is unpacked in it stays below the 4096 that Linux takes."""

MAX_PART = 255
"""Bytes of one part of a path: what every file system in use takes."""

MAX_MANIFEST = MAX_FILES * (MAX_PATH + 66)
"""Bytes of the text: the longest that the bounds above allow."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would move a terminal's cursor, break a line, or is no character at all."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Tell whether `text` is a sha256 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def path_fault(path: str) -> str | None:
    """Return why `path` may not stand in a package; None where it may."""
    if CONTROL.search(path):
        return "has a control character or is not UTF-8"
    if "\\" in path:
        return "has a backslash"
    if len(path.encode()) > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    parts = path.split("/")
    if "" in parts:
        return "is empty, absolute, or has an empty part"
    if "." in parts or ".." in parts:
        return "has a part . or .."
    if any(len(part.encode()) > MAX_PART for part in parts):
        return f"has a part longer than {MAX_PART} bytes"
    return None


def format_manifest(files: Mapping[str, Digest]) -> str:
    """Return the text for these files, each path with its digest.

    Raises:
        PackageInvalid: a path or the number of files is not allowed.
    """
    _check(files)
    return "".join(f"{path}={files[path]}\n" for path in sorted(files, key=str.encode))


def parse_manifest(text: str) -> dict[str, Digest]:
    """Return each path with its digest, in the text's order.

    Raises:
        PackageInvalid: with every fault (the first 20): a line that is none, a path that is not allowed, no order.
    """
    if text and not text.endswith("\n"):
        raise PackageInvalid(f"{MANIFEST}: its last line does not end, so a part of it may be missing")
    lines = text.split("\n")[:-1]
    if len(lines) > MAX_FILES:
        raise PackageInvalid(f"{MANIFEST}: lists more than {MAX_FILES} files")
    files: dict[str, Digest] = {}
    faults: list[str] = []
    before: bytes | None = None
    for number, line in enumerate(lines, start=1):
        path, equals, digest = line.rpartition("=")
        if not equals or not is_digest(digest):
            faults.append(f"line {number} is not PATH=SHA256 in lower-case hex")
            continue
        place = path.encode("utf-8", "surrogatepass")
        if before is not None and place <= before:
            faults.append(f"line {number}: {path!r} stands twice or out of order")
        before = place
        files[path] = Digest(digest)
    if faults:
        raise PackageInvalid(f"{MANIFEST}: {'; '.join(faults[:20])}")
    _check(files)
    return files


def package_id(text: str) -> Digest:
    """Return the id of the package whose MANIFEST this is."""
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def _check(files: Mapping[str, Digest]) -> None:
    if len(files) > MAX_FILES:
        raise PackageInvalid(f"{len(files)} files are more than the {MAX_FILES} that a package may have")
    faults = [f"{path!r} {fault}" for path in files if (fault := path_fault(path))]
    faults += [
        f"{folder!r} is listed as a file and as a folder"
        for path in files
        for folder in _folders(path)
        if folder in files
    ]
    if faults:
        raise PackageInvalid(f"{MANIFEST}: {'; '.join(faults[:20])}")


def _folders(path: str) -> Iterator[str]:
    return (path[:at] for at, character in enumerate(path) if character == "/")
