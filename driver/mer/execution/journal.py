"""The journal: finishes that could not be recorded because the database was gone wait here, in the state folder.

One file a record, named by its invocation: whoever starts next appends them and removes each once it is durable in the
log. (invocation, kind) is unique there, so two who do this at once, or one who is killed in between, do no harm.
"""

from __future__ import annotations

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

    @property
    def holds_any(self) -> bool:
        """Whether something may wait: a look that costs a start nothing where the journal was never needed."""
        try:
            return any(self._folder.iterdir())
        except FileNotFoundError:
            return False

    def keep(self, invocation: InvocationId, body: str, *, chain: str) -> Path:
        """Write a body so that it survives a crash of the machine, and return where.

        Raises:
            OSError: the disk is full too; the caller tells the operator.
        """
        folder = own_folder(own_folder(self._folder) / chain)
        path = folder / f"{invocation}.json"
        temporary = folder / f".{invocation}.{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as file:
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
            paths = sorted(path for path in (self._folder / chain).iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return
        for path in paths[:MAX_AT_ONCE]:
            try:
                body = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                continue  # another start has taken it up
            yield path, body
