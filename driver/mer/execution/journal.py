"""The journal: finishes that could not be recorded because the database was gone wait here, in the state folder.

One file a record, named by its invocation: whoever starts next appends them and removes each once it is durable in the
log. (invocation, kind) is unique there, so two who do this at once, or one who is killed in between, do no harm.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mer.core.records import InvocationId
from mer.folders import own_folder

MAX_AT_ONCE = 10_000
"""Records taken up by one start, so that a start stays bounded; the next one takes the rest."""


class Journal:
    """Bodies of `finished` records on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, invocation: InvocationId, body: str, *, chain: str) -> Path:
        """Write a body so that it survives a crash of the machine, and return where.

        Raises:
            OSError: the disk is full too; the caller tells the operator.
        """
        folder = own_folder(own_folder(self._folder) / chain)
        path = folder / f"{invocation}.json"
        temporary = folder / f".{invocation}.{os.getpid()}"
        with temporary.open("x", encoding="utf-8") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path

    def waiting(self, *, chain: str) -> Iterator[tuple[Path, str]]:
        """Give what waits for that chain, oldest invocation first: a record belongs to the log that it was made for."""
        try:
            names = sorted(name for name in os.listdir(self._folder / chain) if name.endswith(".json"))
        except FileNotFoundError:
            return
        for name in names[:MAX_AT_ONCE]:
            path = self._folder / chain / name
            with contextlib.suppress(FileNotFoundError):  # another start has taken it up
                yield path, path.read_text(encoding="utf-8")
