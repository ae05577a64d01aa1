"""A PostgreSQL database as the migrations program sees it: the embedded one, or a server's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mer.core.errors import ConfigurationError, DatabaseUnreachable
from mer.dal.postgres import cluster
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.embedded import SHOWN, EmbeddedPostgres
from mer.settings import Settings
from mer_migrations.postgres.connect import LOCK_SECONDS
from mer_migrations.postgres.roles import Role, Roles
from mer_migrations.postgres.runner import Migrations, applied
from mer_migrations.postgres.scripts import VERSIONS, Script, read_scripts
from mer_migrations.target import Applied, Migration, Planned, not_made


class PostgresTarget:
    """Migrated under the owner's login; the driver's role and the auditor's get their rights there."""

    def __init__(self, settings: Settings, *, versions: Path = VERSIONS, lock_seconds: float = LOCK_SECONDS) -> None:
        self._settings = settings
        self._versions = versions
        self._lock_seconds = lock_seconds
        self._embedded = (
            None
            if settings.database_url
            else EmbeddedPostgres(
                settings.state_folder, settings.socket_folder, idle_seconds=settings.database_idle_seconds
            )
        )

    @property
    def shown(self) -> str:
        return SHOWN if self._embedded else self._login.shown

    @property
    def made(self) -> bool:
        return self._embedded is None or self._embedded.made

    def known(self) -> Sequence[Migration]:
        return [_migration(script) for script in read_scripts(self._versions)]

    def applied(self) -> Sequence[Applied]:
        if not self.made:
            return ()
        own = {script.number: (script.name, script.checksum) for script in read_scripts(self._versions)}
        return [
            Applied(
                number=row.number,
                name=row.name,
                checksum=row.checksum,
                applied_at=row.applied_at,
                microseconds=row.microseconds,
                edited=row.number in own and own[row.number] != (row.name, row.checksum),
            )
            for row in applied(self._login)
        ]

    def verify(self) -> None:
        if self.made:
            self._migrations().verify()
        else:
            self.known()

    def plan(self, to: int | None) -> Sequence[Planned]:
        if not self.made:
            raise not_made(self.shown)
        migrations = self._migrations()
        return [
            Planned(
                migration=_migration(script),
                direction=direction,
                statements=tuple(statement.text for statement in statements),
            )
            for script, direction, statements in migrations.plan(to)
        ]

    def upgrade(self, to: int | None) -> Sequence[Migration]:
        return [_migration(script) for script in self._migrations().upgrade(to)]

    def downgrade(self, to: int) -> Sequence[Migration]:
        return [_migration(script) for script in self._migrations().downgrade(to)]

    def stamp(self, number: int) -> None:
        self._migrations().stamp(number)

    def advice(self) -> Sequence[str]:
        return self._migrations().advice()

    def _migrations(self) -> Migrations:
        return Migrations(self._login, self._roles(), versions=self._versions, lock_seconds=self._lock_seconds)

    def _roles(self) -> Roles:
        if self._embedded:
            return Roles(driver=Role(name=cluster.DRIVER), auditor=Role(name=cluster.AUDITOR))
        given = self._settings
        driver = given.driver_username or _user_of(given.database_url)
        if not driver:
            raise ConfigurationError(
                "nothing says whom mer logs in as",
                hint="Give DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD; mer-migrate itself logs in with"
                " MIGRATIONS_DB_USERNAME and MIGRATIONS_DB_PASSWORD.",
            )
        return Roles(
            driver=Role(name=driver, password=given.driver_password),
            auditor=Role(name=given.auditor_username, password=given.auditor_password)
            if given.auditor_username
            else None,
        )

    @cached_property
    def _login(self) -> ConnectionSettings:
        if self._embedded:
            if self._settings.start_database:
                self._embedded.ensure_running()
            elif not self._embedded.enter():
                raise DatabaseUnreachable(
                    f"the {self.shown} does not run, and MER_START_DATABASE forbids to start it",
                    hint="start_mer.sh starts it",
                )
            return self._embedded.owner()
        return ConnectionSettings.from_url(
            self._settings.database_url,
            username=self._settings.migrations_username,
            password=self._settings.migrations_password,
        )


def _migration(script: Script) -> Migration:
    return Migration(number=script.number, name=script.name)


def _user_of(url: str) -> str:
    return unquote(urlsplit(url).username or "")
