"""Claims: which database needs which packages and weights, since several databases may share one content store.

A file a database, named by its log's chain, with an id a line; it only grows, as versions do. A registration adds its ids before
it is committed; gc, which can ask one database only, keeps what the others claim. Whoever gives a database up for good
deletes its file in `claims/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from mer.core.errors import ContentUnwritable
from mer.core.records import Digest
from mer.folders import own_folder

_ID = re.compile(r"[0-9a-f]{64}")


class Claims:
    """The claims on one content store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, chain: str, ids: Iterable[Digest]) -> None:
        """Claim `ids` for the database of that chain, durably.

        Raises:
            ContentUnwritable
        """
        missing = sorted(set(ids) - self._of(self._folder / chain))
        if not missing:
            return
        try:
            path = own_folder(self._folder) / chain
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                # a newline first: a line that a crash cut off must not swallow this one
                file.write(b"\n" + "".join(f"{identifier}\n" for identifier in missing).encode())
                os.fsync(file.fileno())
        except OSError as error:
            raise ContentUnwritable(
                f"the claims in {self._folder} cannot be written: {error.strerror or error}"
            ) from error

    def of_others(self, chain: str) -> set[Digest]:
        """Return what all other databases claim."""
        try:
            files = [path for path in self._folder.iterdir() if path.name != chain]
        except FileNotFoundError:
            return set()
        return set().union(*map(self._of, files))

    @staticmethod
    def _of(file: Path) -> set[Digest]:
        try:
            lines = file.read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return set()
        # a line that a crash cut off is no id, and its registration was never committed
        return {Digest(line) for line in lines if _ID.fullmatch(line)}
