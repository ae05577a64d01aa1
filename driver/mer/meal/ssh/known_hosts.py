"""Which host keys are trusted: MER's own known_hosts, which it writes, and those of ssh, which it only reads.

A name that stands in MER's own file is decided there: what was pinned or replaced by hand is not undone by an old line of
another file. A key that is revoked anywhere is refused. For everything else the files count together, as for ssh
(docs/decisions/35-host-keys.md).
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeAlias

import asyncssh

from mer.core.errors import ConfigurationError
from mer.folders import own_folder
from mer.locks import open_lock, try_lock

PORT = 22

MAX_BYTES = 64 << 20
"""Of a known_hosts file: a hundred thousand hosts; more is another file, given by mistake."""

LOCK_SECONDS = 10.0
"""To wait for another driver that writes a line."""

_REVOKED, _AUTHORITY = "@revoked", "@cert-authority"


Verdict: TypeAlias = Literal["trusted", "unknown", "changed", "revoked"]
"""What the files say of a key."""


class Policy(StrEnum):
    """What becomes of a key of a host that nobody has a key of."""

    STRICT = "strict"
    """It is refused, until `mer server trust`."""
    ACCEPT_NEW = "accept-new"
    """It is trusted and kept. A key other than the one that is known is refused either way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownKey:
    """A key in a file, and where it stands."""

    key: asyncssh.SSHKey
    file: Path
    line: int

    @property
    def where(self) -> str:
        """The place, as an editor opens it."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What the files have of one host."""

    keys: tuple[KnownKey, ...] = ()
    elsewhere: tuple[KnownKey, ...] = ()
    """Keys of the same host at port 22, where another port is meant: as good if they are the same, else they say nothing."""
    authorities: tuple[KnownKey, ...] = ()
    revoked: tuple[KnownKey, ...] = ()

    def judge(self, key: asyncssh.SSHKey) -> tuple[Verdict, tuple[KnownKey, ...]]:
        """Return what is to be thought of a key, and the lines by which."""
        if found := tuple(known for known in self.revoked if known.key == key):
            return "revoked", found
        if found := tuple(known for known in (*self.keys, *self.elsewhere) if known.key == key):
            return "trusted", found
        return ("changed", self.keys) if self.keys else ("unknown", ())


@dataclass(frozen=True, kw_only=True)
class KnownHosts:
    """The files. Made with `own=None` there is none to write to."""

    own: Path | None
    others: Sequence[Path] = field(default_factory=tuple)

    def of(self, host: str, port: int) -> Known:
        """Return what is known of a host: a name, an address or a HostKeyAlias.

        Raises:
            ConfigurationError: a file is there and cannot be read.
        """
        name, plain = entry_name(host, port), host.lower()
        lines = [line for file in self._files() for line in _lines(file) if line.is_of(name) or line.is_of(plain)]
        ours = [line for line in lines if line.file == self.own and not line.marker and line.is_of(name)]
        here = [line for line in lines if line.is_of(name)]
        keys = ours or [line for line in here if not line.marker]
        elsewhere = [] if keys else [line for line in lines if not line.marker]
        authorities = [line for line in here if line.marker == _AUTHORITY]
        authorities = authorities or [line for line in lines if line.marker == _AUTHORITY]
        return Known(
            keys=_keys(keys),
            elsewhere=_keys(elsewhere),
            authorities=_keys(authorities),
            revoked=_keys([line for line in lines if line.marker == _REVOKED]),
        )

    def pin(self, host: str, port: int, key: asyncssh.SSHKey) -> None:
        """Trust this key of the host, and no other from now on.

        Blocks, LOCK_SECONDS at most while another process writes.

        Raises:
            ConfigurationError: the file cannot be written.
            FolderUnsafe: its folder is not ours alone.
        """
        if self.own is None:
            raise ConfigurationError("there is no known_hosts file of MER's own to write to")
        name = entry_name(host, port)
        kind, data = key.export_public_key("openssh").decode("ascii").split()[:2]
        own_folder(self.own.parent, mode=0o711)
        try:
            lock = open_lock(self.own.with_name(f"{self.own.name}.lock"))
            try:
                if not try_lock(lock, fcntl.LOCK_EX, seconds=LOCK_SECONDS):
                    raise ConfigurationError(f"another process has held {self.own} for {LOCK_SECONDS:g} s")
                _replace(self.own, name, f"{name} {kind} {data}\n")
            finally:
                os.close(lock)
        except OSError as error:
            raise ConfigurationError(f"{self.own} cannot be written: {error.strerror or error}") from error

    def _files(self) -> list[Path]:
        return [*([] if self.own is None else [self.own]), *self.others]


def entry_name(host: str, port: int) -> str:
    """Return how known_hosts names a host at a port."""
    host = host.lower()
    return host if port == PORT else f"[{host}]:{port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    file: Path
    number: int
    marker: str
    names: str
    key: str

    def is_of(self, name: str) -> bool:
        return _matches(self.names, name)


def _lines(file: Path) -> Iterator[_Line]:
    """Give the lines that can be understood; one that cannot is left out, as by ssh."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{file} is longer than {MAX_BYTES} bytes: that is no file of host keys")
    for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), start=1):
        words = line.split()
        marker = words.pop(0).lower() if words and words[0].startswith("@") else ""
        if len(words) >= 3 and not words[0].startswith("#") and marker in ("", _REVOKED, _AUTHORITY):
            yield _Line(file=file, number=number, marker=marker, names=words[0], key=" ".join(words[1:3]))


def _keys(lines: Sequence[_Line]) -> tuple[KnownKey, ...]:
    found = []
    for line in lines:
        try:
            key = asyncssh.import_public_key(line.key)
        except asyncssh.KeyImportError:
            continue  # of a kind that asyncssh does not know: no server can be told by it
        found.append(KnownKey(key=key, file=line.file, line=line.number))
    return tuple(found)


def _matches(names: str, name: str) -> bool:
    """Tell whether a line is of a name: hashed, or patterns with `*` and `?`, of which one with `!` rules it out."""
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.digest(salt, name.encode(), hashlib.sha1), digest)
    matched = False
    for pattern in names.lower().split(","):
        wanted = pattern.removeprefix("!")
        if wanted == name or (set(wanted) & set("*?") and re.fullmatch(_expression(wanted), name, re.DOTALL)):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _expression(pattern: str) -> str:
    # several stars in a row are one: between them a backtracking match would try everything
    return "".join(
        ".*" if part.startswith("*") else "." if part == "?" else re.escape(part)
        for part in re.split(r"(\*+|\?)", pattern)
    )


def _replace(file: Path, name: str, line: str) -> None:
    """Write the file anew with `line` instead of what it had of the name: whole or not at all."""
    try:
        kept = file.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        kept = []
    if kept and not kept[-1].endswith(b"\n"):
        kept[-1] += b"\n"
    kept = [old for old in kept if old.split()[:1] != [name.encode()]]
    making = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(b"".join([*kept, line.encode()]))
            opened.flush()
            os.fsync(descriptor)
        making.replace(file)
    except OSError:
        making.unlink(missing_ok=True)
        raise
