"""Reports of bugs: the traceback of what nobody expected, without secrets, in a file that can be sent to somebody."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import traceback
from pathlib import Path

from mer.core.errors import MerError
from mer.faces.face import Access
from mer.faces.render.console import Console
from mer.folders import made_state_folder, own_folder
from mer.setting_kinds import MASK, Kind, without_password
from mer.settings import SETTINGS, Settings

MOST_REPORTS = 20
"""Kept; a cron line that fails every minute must not fill the disk."""

SHORTEST_SECRET = 4
"""Characters: masking every `a` because a password is `a` would make the report unreadable, and hide nothing."""


def told_of_bug(error: Exception, *, access: Access, console: Console) -> MerError:
    """Return the error to show, having written the traceback to stderr (with --debug) or to a file of the state folder."""
    settings = access.loaded
    text = redacted("".join(traceback.format_exception(error)), settings)
    what = f"a bug in MER: {redacted(_first_line(error), settings)}"
    if console.debug:
        console.note(text.rstrip("\n"))
        return MerError(what, hint="please report it with the traceback above")
    if settings is not None:
        with contextlib.suppress(MerError, OSError):
            return MerError(what, hint=f"please report it with {_write(text, settings.state_folder)}")
    return MerError(what, hint="--debug shows where it happened")


def redacted(text: str, settings: Settings | None) -> str:
    """Return `text` without any secret of the settings."""
    text = without_password(text)
    if settings is None:
        return text
    secrets = [getattr(settings, setting.name) for setting in SETTINGS if setting.kind is Kind.SECRET]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return text


def _first_line(error: Exception) -> str:
    words = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _write(text: str, state_folder: Path) -> Path:
    folder = own_folder(made_state_folder(state_folder) / "reports")
    for old in sorted(folder.glob("*.txt"))[: 1 - MOST_REPORTS]:
        with contextlib.suppress(OSError):
            old.unlink()
    path = folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}.txt"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return path
