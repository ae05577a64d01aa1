"""The journal: finishes that could not be recorded because the database was gone wait here, in the state folder.

One file a record, named by its invocation: whoever starts next appends them and removes each once it is durable in the
log. (invocation, kind) is unique there, so two who do this at once, or one who is killed in between, do no harm.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from mer.core.canonical import NotCanonical, canonical
from mer.core.errors import MerError
from mer.core.records import InvocationId, RecordKind
from mer.folders import own_folder

SUFFIX = ".json"

MAX_AT_ONCE = 10_000
"""Records taken up by one start, so that a start stays bounded; the next one takes the rest."""


class JournalDamaged(MerError):
    """A file of the journal holds no finish."""


class Journal:
    """Bodies of `finished` records on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def holds_any(self) -> bool:
        """Whether something may wait: a look that costs a start nothing where the journal was never needed."""
        try:
            return any(self._folder.iterdir())
        except OSError:  # missing, or not to be read: a start must not fail for it, and `keep` will tell
            return False

    def keep(self, invocation: InvocationId, body: str, *, chain: str) -> Path:
        """Write a body so that it survives a crash of the machine, and return where.

        Raises:
            OSError, FolderUnsafe: the disk is full too; the caller tells the operator.
        """
        folder = own_folder(own_folder(self._folder) / chain)
        path = folder / f"{invocation}{SUFFIX}"
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

    def waiting(self, *, chain: str) -> list[Path]:
        """Return what waits for that chain, oldest invocation first: a record belongs to the log that it was made for."""
        try:
            return sorted(path for path in (self._folder / chain).iterdir() if path.suffix == SUFFIX)[:MAX_AT_ONCE]
        except OSError:  # missing, or not to be read: see holds_any
            return []

    def read(self, path: Path, *, chain: str) -> str:
        """Return the body that waits in `path`.

        Raises:
            JournalDamaged: it is no finish of that invocation in that log. Once appended it could never be removed.
            OSError: it cannot be read.
        """
        try:
            body = path.read_text(encoding="utf-8")
            told = json.loads(body)
            whole = canonical(told) == body
        except (ValueError, RecursionError, NotCanonical) as error:
            raise JournalDamaged(f"it is no record: {error}") from error
        expected = {"chain": chain, "kind": RecordKind.FINISHED.value, "invocation": path.stem}
        if not whole or not isinstance(told, dict) or any(told.get(name) != value for name, value in expected.items()):
            raise JournalDamaged(f"it is not the finish of the invocation {path.stem}")
        return body
