"""A package's MANIFEST, and which paths may stand in one. Each side checks what the other one has sent.

The format is Carton's: a line `path=sha256` and `\\n` for each file, sorted by the path's UTF-8. A line splits at its last
`=`, since paths may hold one. The package's id is the sha256 of the text (docs/content.md).
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Optional

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


def path_fault(path: str) -> Optional[str]:
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


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """Return each path with its digest, in the text's order, and every fault; with a fault the paths are of no use."""
    if text and not text.endswith("\n"):
        return {}, ["its last line does not end, so a part of it may be missing"]
    lines = text.split("\n")[:-1]
    if len(lines) > MAX_FILES:
        return {}, [f"lists more than {MAX_FILES} files"]
    files: dict[str, str] = {}
    faults: list[str] = []
    before: Optional[bytes] = None
    for number, line in enumerate(lines, start=1):
        path, equals, digest = line.rpartition("=")
        if not equals or not is_digest(digest):
            faults.append(f"line {number} is not PATH=SHA256 in lower-case hex")
            continue
        place = path.encode("utf-8", "surrogatepass")
        if before is not None and place <= before:
            faults.append(f"line {number}: {path!r} stands twice or out of order")
        before = place
        files[path] = digest
    return files, faults or list(faults_of(files))


def faults_of(paths: Iterable[str]) -> Iterator[str]:
    """Give what keeps these paths from standing in one package."""
    known = dict.fromkeys(paths)
    if len(known) > MAX_FILES:
        yield f"{len(known)} files are more than the {MAX_FILES} that a package may have"
        return
    for path in known:
        fault = path_fault(path)
        if fault is not None:
            yield f"{path!r} {fault}"
        for folder in folders(path):
            if folder in known:
                yield f"{folder!r} is listed as a file and as a folder"
    if MANIFEST in known:
        yield f"{MANIFEST!r} lists itself"


def folders(path: str) -> Iterator[str]:
    """Give every folder that a path lies in, the outermost first."""
    return (path[:at] for at, character in enumerate(path) if character == "/")
