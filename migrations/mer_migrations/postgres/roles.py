"""The driver's role on a server: made here where the owner may, else asked for. The embedded server has it from the start."""

from __future__ import annotations

from psycopg import sql
from psycopg.errors import DuplicateObject, InsufficientPrivilege

from mer.core.errors import ConfigurationError
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer_migrations.postgres.connect import connected


def ensure(login: ConnectionSettings, driver: str, password: str) -> None:
    """Make the driver's role unless it is there.

    Raises:
        ConfigurationError: it is missing, and this login may not make it or no password was given for it.
    """
    with connected(login) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (driver,)).fetchone():
            return
        if not password:
            raise ConfigurationError(
                f"the role {driver} is not there, and there is no password to make it with",
                hint="Give DRIVER_DB_PASSWORD, or make the role yourself.",
            )
        # hashed here: a plain password in a statement can end up in the server's log
        hashed = connection.pgconn.encrypt_password(password.encode(), driver.encode(), b"scram-sha-256").decode()
        make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(driver), sql.Literal(hashed))
        allow = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
            sql.Identifier(connection.info.dbname), sql.Identifier(driver)
        )
        try:
            connection.execute(make)
            connection.execute(allow)
        except DuplicateObject:
            pass  # another upgrade made it at the same moment
        except InsufficientPrivilege as error:
            raise ConfigurationError(
                f"the role {driver} is not there, and {connection.info.user} may not make it",
                hint=f'As an administrator: CREATE ROLE "{driver}" LOGIN PASSWORD …',
            ) from error
