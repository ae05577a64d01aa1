"""Kinds of settings: how a value of each is read from text, written as text, and shown without its secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

MAX_SECONDS = 10 * 365 * 86400.0
"""Ten years: whoever means "no limit" leaves a deadline unset, and timers overflow far beyond this."""

MAX_WORKERS = 1024
"""Processes of one driver; past it a machine runs out of something less clearly named."""

MAX_MEBIBYTES = 65536
"""Of shared memory: 64 GiB."""

LEVELS = ("debug", "info", "warning", "error")

HOST_KEYS = ("strict", "accept-new")

MASK = "********"


class Kind(StrEnum):
    """What a setting's value is; each is read in its own way."""

    TEXT = "text"
    SECRET = "secret"  # noqa: S105 - the kind, not one
    URL = "url"
    SWITCH = "switch"
    FOLDER = "folder"
    FILE = "file"
    SECONDS = "seconds"
    COUNT = "count"
    MEBIBYTES = "mebibytes"
    LEVEL = "level"
    HOST_KEYS = "host-keys"


def read(kind: Kind, value: object) -> Any:
    """Return what a text, or a value of the very type, means for a setting of this kind.

    Raises:
        ValueError: it means nothing. The words are what is meant instead, such as "true or false".
    """
    return _READERS[kind](value)


def written(value: object) -> str:
    """Return the text that is read as `value`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def masked(kind: Kind, value: object) -> str:
    """Return a value as it is written, but for its secrets."""
    if kind is Kind.SECRET:
        return MASK if value else ""
    return without_password(str(value)) if kind is Kind.URL else written(value)


def shown(kind: Kind, value: object) -> str:
    """Return a value for people: a secret masked, a URL without its password."""
    if kind is Kind.SECRET:
        return MASK if value else "''"
    if kind is Kind.URL:
        return repr(without_password(str(value)))
    return repr(str(value)) if isinstance(value, Path) else repr(value)


def without_password(url: str) -> str:
    """Return a URL with its password masked, in whichever part of it one stands."""
    url = re.sub(r"(?<=://)([^/@?#]*?):[^/?#]*(?=@)", rf"\1:{MASK}", url)
    return re.sub(r"(?i)((?:^|[?&;\s])(?:ssl)?password=)[^&;\s]*", rf"\1{MASK}", url)


def _text(value: object) -> str:
    text = str(value)
    if "\x00" in text or "\n" in text:
        raise ValueError("text on one line")
    return text


def _url(value: object) -> str:
    text = _text(value).strip()
    if text and not re.match(r"[a-z][a-z0-9+.-]*://", text):
        raise ValueError("a URL such as postgresql://HOST/NAME or surrealkv:///PATH, or nothing,")
    return text


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def _folder(value: object) -> Path:
    try:
        path = Path(_text(value)).expanduser()
    except RuntimeError:
        raise ValueError("a folder that exists for this user") from None
    # one that is relative would be another folder for every cron line and every shell
    if not path.is_absolute():
        raise ValueError("an absolute path")
    return path


def _file(value: object) -> Path:
    return Path(_text(value)).expanduser()  # relative: that of the shell in which it was typed


def _seconds(value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = math.nan
    if seconds > MAX_SECONDS:
        raise ValueError(f"at most {MAX_SECONDS:.0f} seconds (ten years)")
    if not seconds > 0:
        raise ValueError("a number of seconds above 0")
    return seconds


def _count(value: object) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 0 < int(text) <= MAX_WORKERS:
        raise ValueError(f"a whole number from 1 to {MAX_WORKERS}")
    return int(text)


def _mebibytes(value: object) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) > MAX_MEBIBYTES:
        raise ValueError(f"a whole number of MiB from 0 to {MAX_MEBIBYTES}")
    return int(text)


def _level(value: object) -> str:
    text = str(value).strip().lower()
    if text not in LEVELS:
        raise ValueError(f"one of {', '.join(LEVELS)}")
    return text


def _host_keys(value: object) -> str:
    text = str(value).strip().lower()
    if text not in HOST_KEYS:
        raise ValueError(" or ".join(HOST_KEYS))
    return text


_READERS: Mapping[Kind, Callable[[object], Any]] = {
    Kind.TEXT: _text,
    Kind.SECRET: _text,
    Kind.URL: _url,
    Kind.SWITCH: _switch,
    Kind.FOLDER: _folder,
    Kind.FILE: _file,
    Kind.SECONDS: _seconds,
    Kind.COUNT: _count,
    Kind.MEBIBYTES: _mebibytes,
    Kind.LEVEL: _level,
    Kind.HOST_KEYS: _host_keys,
}
