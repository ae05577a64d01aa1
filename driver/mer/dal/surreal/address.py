"""Where a SurrealDB is: the URLs that this driver takes, and how they are shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mer.core.errors import ConfigurationError

NAMESPACE = "mer"
DATABASE = "mer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A database inside this process: a folder, or memory where `folder` is None."""

    url: str
    folder: Path | None

    @property
    def name(self) -> str:
        """Return it for people, without secrets."""
        return self.url


def parse_address(url: str) -> Address:
    """Read `surrealkv://PATH` or `mem://`.

    Raises:
        ConfigurationError: it is neither, or the path cannot stand in such a URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("surrealkv", "mem"):
        raise ConfigurationError(
            f"{scheme}:// is no SurrealDB that this driver opens: write surrealkv://PATH or mem://"
        )
    if scheme == "mem":
        if rest:
            raise ConfigurationError("mem:// takes no path: it is this process's own")
        return Address(url="mem://", folder=None)
    # the engine reads options after ?, the client's URL parser drops what follows #, and NUL ends a path
    if not rest or any(character in rest for character in "?#\x00"):
        raise ConfigurationError("surrealkv:// needs the path of a folder, without ? and #")
    folder = Path(rest).absolute()
    return Address(url=f"surrealkv://{folder}", folder=folder)
