"""Which database the settings mean, as a target. Only that one's client library is imported."""

from __future__ import annotations

from mer.core.errors import ConfigurationError
from mer.settings import Settings
from mer_migrations.target import Target


def target(settings: Settings) -> Target:
    """Return the database of the settings. Raises: ConfigurationError."""
    match settings.database_url.partition(":")[0]:
        case "" | "postgresql" | "postgres":
            from mer_migrations.postgres.target import PostgresTarget

            return PostgresTarget(settings)
        case "surrealkv" | "mem" | "ws" | "wss" | "http" | "https":
            from mer_migrations.surreal.target import SurrealTarget

            return SurrealTarget(settings)
        case scheme:
            raise ConfigurationError(
                f"{scheme}: is no database that this program knows",
                hint="DB_CONNECTION_URL is empty, postgresql://…, surrealkv://PATH or ws://….",
            )
