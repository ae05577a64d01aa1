"""A PostgreSQL database as the migrations program sees it: the embedded one, or a server's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from mer.core.errors import ConfigurationError, NotMigrated, UsageError
from mer.dal.postgres import cluster
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.settings import Settings
from mer_migrations.postgres import roles, runner
from mer_migrations.target import Applied, Migration, Planned


class PostgresTarget:
    """Migrated under the owner's login; the driver's role gets its rights there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._embedded = (
            None if settings.database_url else EmbeddedPostgres(settings.state_folder, settings.socket_folder)
        )

    @property
    def shown(self) -> str:
        return self._login().shown

    def known(self) -> Sequence[Migration]:
        return [Migration(number=script.number, name=script.name) for script in runner.scripts()]

    def applied(self) -> Sequence[Applied]:
        last = runner.current(self._login())
        return [
            Applied(
                number=script.number,
                name=script.name,
                checksum="",
                applied_at=dt.datetime.now(dt.UTC),
                microseconds=None,
                edited=False,
            )
            for script in self._scripts_and(last)
        ]

    def _scripts_and(self, last: int | None) -> Sequence[runner.Script]:
        known = {script.number: script for script in runner.scripts()}
        return [
            known.get(number) or runner.Script(number=number, name="?")
            for number in range((-1 if last is None else last) + 1)
        ]

    def verify(self) -> None:
        last = runner.current(self._login())
        if last is not None and last > runner.scripts()[-1].number:
            raise NotMigrated(
                f"{self.shown} has schema {last:02}, which is newer than this program's", hint="Update mer."
            )

    def plan(self, to: int | None) -> Sequence[Planned]:
        raise UsageError("not yet")

    def downgrade(self, to: int) -> Sequence[Migration]:
        raise UsageError("not yet")

    def stamp(self, number: int) -> None:
        raise UsageError("not yet")

    def advice(self) -> Sequence[str]:
        return ()

    def upgrade(self, to: int | None) -> Sequence[Migration]:
        login = self._login()
        if self._embedded:
            driver = cluster.DRIVER
        else:
            driver = self._settings.driver_username or _user_of(self._settings.database_url)
            if not driver:
                raise ConfigurationError(
                    "nothing says whom mer logs in as", hint="Give DRIVER_DB_USERNAME and DRIVER_DB_PASSWORD."
                )
            roles.ensure(login, driver, self._settings.driver_password)
        return [Migration(number=script.number, name=script.name) for script in runner.upgrade(login, driver=driver)]

    def _login(self) -> ConnectionSettings:
        if self._embedded:
            self._embedded.ensure_running()
            return self._embedded.owner()
        return ConnectionSettings.from_url(
            self._settings.database_url,
            username=self._settings.migrations_username,
            password=self._settings.migrations_password,
        )


def _user_of(url: str) -> str:
    return unquote(urlsplit(url).username or "")
