"""A store on the database that another process of the same user has open: what `Store.elsewhere` gives, opened again."""

from __future__ import annotations

from mer.dal.base import Store
from mer.dal.postgres.elsewhere import heard
from mer.dal.postgres.store import PostgresStore


def reopened(document: bytes) -> Store:
    """Return a store on that database, not opened yet. It never starts a server."""
    return PostgresStore(heard(document))
