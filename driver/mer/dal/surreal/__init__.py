"""SurrealDB: the only package that speaks SurrealQL. The client library is imported when the first connection opens."""

from mer.dal.surreal.store import SurrealStore

__all__ = ["SurrealStore"]
