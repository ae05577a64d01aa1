"""The operator's ssh_config: which files, what they say of a host, and in which of them each value stands.

Read by asyncssh's own parser, in a thread: `Match exec` runs commands. Nothing here connects to anything.
"""

from __future__ import annotations

import getpass
import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncssh.config import ConfigParseError, SSHClientConfig

from mer.core.errors import ConfigurationError

NONE = "none"
"""As a setting: no file is read."""

SYSTEM = Path("/etc/ssh/ssh_config")

MAX_INCLUDES = 16
"""Files within files, as ssh has it: one that includes itself would not end."""

MAX_LISTED = 10_000
"""Hosts listed of a configuration: more than any person has written."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the files say of one host. `options` are asyncssh's names and values, in the order in which they were found."""

    options: Mapping[str, Any]
    origins: Mapping[str, str]
    """Where each option stands: `/home/ada/.ssh/config:12`."""

    def first(self, *names: str) -> str | None:
        """Return the one of several options that stands first, as ssh takes ProxyJump or ProxyCommand; None: neither does."""
        return next((name for name in self.options if name in names), None)


@dataclass(frozen=True, kw_only=True)
class ConfigFiles:
    """The files, first one first: what stands in it beats what stands in the next."""

    paths: tuple[Path, ...]
    home: Path

    @classmethod
    def of(cls, setting: str, *, home: Path) -> ConfigFiles:
        """Return the files that a setting means: `none`, one file, or, where it is empty, those that ssh reads.

        Raises:
            ConfigurationError: the named file cannot be read, or others may write it.
        """
        if setting == NONE:
            return cls(paths=(), home=home)
        if setting:
            path = Path(setting).expanduser()
            if not path.is_absolute():
                raise ConfigurationError(f"the ssh_config {setting!r} is no absolute path")
            return cls(paths=(path,), home=home)
        paths = (home / ".ssh" / "config", SYSTEM)
        return cls(paths=tuple(path for path in paths if path.exists()), home=home)

    def told(self, address: str, *, user: str | None = None, port: int | None = None) -> Told:
        """Return what the files say of an address; `user` and `port` are given, and beat theirs.

        Blocks: it reads files, and runs what stands in `Match exec`.

        Raises:
            ConfigurationError: a file cannot be read, or not be understood, or others may write it.
        """
        files = [str(path) for path in self.paths]
        try:
            found = _parsed(files, address, user, port, final=False)
            if found.has_match_final():
                found = _parsed(files, address, user, port, final=True)
        except ConfigParseError as error:
            raise ConfigurationError(f"the ssh_config cannot be understood: {error}") from error
        except RecursionError as error:
            raise ConfigurationError("the ssh_config includes itself") from error
        except (OSError, UnicodeDecodeError) as error:
            told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            raise ConfigurationError(f"the ssh_config cannot be read: {told}") from error
        return Told(options=dict(found.noted), origins=dict(found.noted.origins))

    def hosts(self) -> list[str]:
        """Return the names that a `Host` line gives without a wildcard, each once, in the order of the files.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        names: dict[str, None] = {}
        for path in self.paths:
            for name in _named(path, self.home, MAX_INCLUDES):
                names.setdefault(name)
                if len(names) > MAX_LISTED:
                    raise ConfigurationError(f"{path} names more than {MAX_LISTED} hosts")
        return list(names)


class _Noting(dict[str, Any]):
    """Options that remember where they were first set."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[str, str] = {}
        self.where = ""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            self.origins[name] = self.where
        super().__setitem__(name, value)


class _Config(SSHClientConfig):
    """asyncssh's parser, which keeps no account of files itself."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.noted = _Noting()
        self.noted.update(self._options)
        self._options = self.noted

    def parse(self, path: Path) -> None:
        """Read one file, each that is included too: as ssh, none that others may write."""
        _require_own(path)
        super().parse(path)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_line_no" and value and "noted" in self.__dict__:
            self.noted.where = f"{self._path}:{value}"


def _parsed(files: Sequence[str], address: str, user: str | None, port: int | None, *, final: bool) -> _Config:
    try:
        local = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a uid that nobody has
        local = f"uid-{os.getuid()}"
    given = (() if user is None else user, () if port is None else port)
    loaded = _Config.load(None, list(files), False, False, final, local, given[0], address, given[1])
    assert isinstance(loaded, _Config)
    return loaded


def _require_own(path: Path) -> None:
    """Refuse a file that somebody else may write, as ssh does: its ProxyCommand runs as whoever reads it."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"the ssh_config {path} cannot be read: {error.strerror or error}") from error
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise ConfigurationError(
            f"others may write the ssh_config {path}, and what stands in it is run",
            hint=f"chmod go-w {shlex.quote(str(path))}",
        )


def _named(path: Path, home: Path, depth: int) -> Iterator[str]:
    _require_own(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"the ssh_config {path} cannot be read: {told}") from error
    for line in lines:
        try:
            word, *rest = shlex.split(line.replace("=", " ", 1), comments=True)
        except ValueError:
            continue  # no words, or a quote that never ends: whoever connects is told
        if word.lower() == "host":
            yield from (name for name in rest if not set(name) & set("*?!"))
        elif word.lower() == "include" and depth:
            for pattern in rest:
                for included in _included(pattern, home):
                    yield from _named(included, home, depth - 1)


def _included(pattern: str, home: Path) -> list[Path]:
    place = Path(pattern).expanduser()
    if not place.is_absolute():
        place = home / ".ssh" / place
    anchor = Path(place.anchor)
    return sorted(found for found in anchor.glob(str(place.relative_to(anchor))) if found.is_file())
