"""What a host says of itself: its interpreter (a task of mer_worker.far)."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def probe(cache: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a ping tells of this host."""
    del fields
    return {"python": sys.executable, "version": ".".join(map(str, sys.version_info[:3])), "cache": cache}
