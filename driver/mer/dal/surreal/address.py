"""Where a SurrealDB is: the URLs that this driver takes, and how they are shown to people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mer.core.errors import ConfigurationError

NAMESPACE = "mer"
DATABASE = "mer"

SERVER_SCHEMES = ("ws", "wss", "http", "https")
EMBEDDED_SCHEMES = ("surrealkv", "mem")

DEFAULT_PORT = 8000
"""SurrealDB's own."""

DEFAULT_PORT_ENCRYPTED = 443
"""The web's: what takes wss:// and https:// is mostly a proxy or a hosted server, and listens there."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
"""Of a namespace or a database: it stands in a statement that makes it, where no parameter can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedAddress:
    """A database inside this process: a folder, or memory where `folder` is None."""

    url: str
    folder: Path | None

    @property
    def name(self) -> str:
        """Return it for people, without secrets."""
        return self.url


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerAddress:
    """A database of a server."""

    url: str
    """The endpoint: scheme, host and port."""
    namespace: str
    database: str

    @property
    def name(self) -> str:
        """Return it for people, without secrets."""
        return f"{self.url}/{self.namespace}/{self.database}"


def is_server(url: str) -> bool:
    """Tell whether a URL is one of a server."""
    return url.partition(":")[0] in SERVER_SCHEMES


def parse_address(url: str) -> EmbeddedAddress:
    """Read `surrealkv://PATH` or `mem://`.

    Raises:
        ConfigurationError: it is neither, or the path cannot stand in such a URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in EMBEDDED_SCHEMES:
        raise ConfigurationError(
            f"{scheme}:// is no SurrealDB that this driver opens: write surrealkv://PATH, mem:// or ws://HOST"
        )
    if scheme == "mem":
        if rest:
            raise ConfigurationError("mem:// takes no path: it is this process's own")
        return EmbeddedAddress(url="mem://", folder=None)
    # the engine reads options after ?, the client's URL parser drops what follows #, and NUL ends a path
    if not rest or any(character in rest for character in "?#\x00"):
        raise ConfigurationError("surrealkv:// needs the path of a folder, without ? and #")
    folder = Path(rest).absolute()
    return EmbeddedAddress(url=f"surrealkv://{folder}", folder=folder)


def parse_server_address(url: str) -> ServerAddress:
    """Read `ws://HOST[:PORT][/NAMESPACE/DATABASE]`, or the same with wss, http or https.

    Raises:
        ConfigurationError: it is none, or has what does not belong there; a password among that.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as the client will: an empty or endless label is no name of a host
    except ValueError as error:  # its message would quote the URL, with whatever stands in it
        raise ConfigurationError("the database's URL has no host and port that can be read") from error
    if parts.scheme not in SERVER_SCHEMES or not host:
        raise ConfigurationError("a SurrealDB server is written ws://HOST:PORT/NAMESPACE/DATABASE")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "the URL of a SurrealDB server has no user and no password",
            hint="Give DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD; mer-migrate takes MIGRATIONS_DB_USERNAME and _PASSWORD.",
        )
    names = [name for name in parts.path.split("/") if name]
    if len(names) not in (0, 2) or parts.query or parts.fragment:
        raise ConfigurationError(f"after {parts.scheme}://HOST:PORT comes /NAMESPACE/DATABASE, or nothing")
    namespace, database = names or (NAMESPACE, DATABASE)
    for name in (namespace, database):
        if not _IDENTIFIER.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name of a namespace or database: letters, digits and _ only")
    shown = f"[{host}]" if ":" in host else host
    usual = DEFAULT_PORT_ENCRYPTED if parts.scheme in ("wss", "https") else DEFAULT_PORT
    endpoint = f"{parts.scheme}://{shown}:{port or usual}"
    return ServerAddress(url=endpoint, namespace=namespace, database=database)
