"""Settings: what an operator can set, by which name, and where each value came from.

A flag beats the environment, the environment beats the `.env` file of MER_HOME (or `--env-file`), that beats the default.
The current folder is never looked at: a `.env` that came with somebody's model must not allow anything.
An empty value in the environment or the file means the default, and ends the search there.
"""

# no `from __future__ import annotations`: the fields' are read, and as texts they would have to be evaluated for that

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mer.core.errors import ConfigurationError
from mer.setting_kinds import Kind, read, shown, written

ROOT_STATE_FOLDER = Path("/var/lib/mer")
"""Of root: the embedded database's own user must pass through to its data, and no home is opened to it."""

MAX_ENV_FILE = 1 << 20
"""Bytes of a `.env`: settings and remarks fit many times; anything longer is another file, given by mistake."""


class Setting(msgspec.Struct, frozen=True):
    """One thing that can be set, as its field of Settings is annotated with it."""

    variable: str
    """In the environment and in `.env`."""
    kind: Kind
    explanation: str
    flag: str | None = None
    default_words: str | None = None
    """How `.env.example` tells a default that is no fixed value."""
    name: str = ""
    """The field."""
    default: Any = None
    """The field's; None where it is computed, or where there is none."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, and its value. `load` makes one; what stands here as a default is the default."""

    database_url: Annotated[
        str,
        Setting(
            "DB_CONNECTION_URL",
            Kind.URL,
            "Which database. Empty: a private PostgreSQL under the state folder, which starts by itself. "
            "postgresql://HOST/NAME: a Postgres server. "
            "ws(s)://HOST:PORT/NAMESPACE/DATABASE: a SurrealDB server. "
            "surrealkv:///PATH: SurrealDB in a folder, for one process at a time. "
            "mem://: SurrealDB in this process's memory, gone when it ends.",
            flag="--database-url",
        ),
    ] = ""
    driver_username: Annotated[
        str,
        Setting(
            "DRIVER_DB_USERNAME",
            Kind.TEXT,
            "Whom `mer` logs in to a database server as. The embedded database needs none.",
        ),
    ] = ""
    driver_password: Annotated[str, Setting("DRIVER_DB_PASSWORD", Kind.SECRET, "That user's password.")] = ""
    migrations_username: Annotated[
        str,
        Setting(
            "MIGRATIONS_DB_USERNAME",
            Kind.TEXT,
            "Whom `mer-migrate` logs in as: the owner of the tables. `mer` itself never does.",
        ),
    ] = ""
    migrations_password: Annotated[str, Setting("MIGRATIONS_DB_PASSWORD", Kind.SECRET, "That user's password.")] = ""
    auditor_username: Annotated[
        str,
        Setting(
            "AUDITOR_DB_USERNAME", Kind.TEXT, "Whom an auditor logs in as: it may read everything, and change nothing."
        ),
    ] = ""
    auditor_password: Annotated[str, Setting("AUDITOR_DB_PASSWORD", Kind.SECRET, "That user's password.")] = ""
    auditor: Annotated[
        bool,
        Setting(
            "MER_AUDITOR",
            Kind.SWITCH,
            "Whether to log in to the database as the auditor, who may only read.",
            flag="--auditor",
        ),
    ] = False
    allow_changes: Annotated[
        bool,
        Setting(
            "ALLOW_MODEL_SERVER_RUNTIME_CHANGES",
            Kind.SWITCH,
            "Whether the registry may be changed: who can do that can run code as everybody who runs its models.",
            flag="-a/--allow-model-server-runtime-changes",
        ),
    ] = False
    home: Annotated[
        Path | None,
        Setting(
            "MER_HOME",
            Kind.FOLDER,
            "The folder whose .env is read. start_mer.sh sets it. It cannot be set in a .env.",
            default_words="no .env is read",
        ),
    ] = None
    state_folder: Annotated[
        Path,
        Setting(
            "MER_STATE_FOLDER",
            Kind.FOLDER,
            "Where the embedded database, the content store, caches, the journal and the history live.",
            default_words="/var/lib/mer as root, else ~/.local/state/mer",
        ),
    ]
    socket_folder: Annotated[
        Path | None,
        Setting(
            "MER_SOCKET_FOLDER",
            Kind.FOLDER,
            "Where the embedded Postgres has its socket. Needed only where the state folder's path is so long "
            "that a socket below it would have more than the 107 bytes that the system allows.",
            default_words="under the state folder",
        ),
    ] = None
    start_database: Annotated[
        bool,
        Setting(
            "MER_START_DATABASE",
            Kind.SWITCH,
            "Whether to start and migrate the embedded database where it is not running. false: it must be there.",
        ),
    ] = True
    database_idle_seconds: Annotated[
        float,
        Setting(
            "MER_DATABASE_IDLE_SECONDS",
            Kind.SECONDS,
            "The embedded Postgres stops when nobody was connected to it for so long.",
        ),
    ] = 1800.0
    database_seconds: Annotated[
        float, Setting("MER_DATABASE_SECONDS", Kind.SECONDS, "The deadline of one statement.")
    ] = 10.0
    database_connections: Annotated[
        int,
        Setting(
            "MER_DATABASE_CONNECTIONS",
            Kind.COUNT,
            "Connections to a database server that one driver keeps at most, beside the one that appends to the log.",
        ),
    ] = 4
    database_reconnect_seconds: Annotated[
        float,
        Setting(
            "MER_DATABASE_RECONNECT_SECONDS",
            Kind.SECONDS,
            "How long a call goes on asking a database server that was there and is gone, such as one that is restarted. "
            "The first connection of a program is asked for once.",
        ),
    ] = 15.0
    lock_seconds: Annotated[
        float,
        Setting(
            "MER_LOCK_SECONDS", Kind.SECONDS, "How long to wait while another process holds a surrealkv:// database."
        ),
    ] = 10.0
    run_seconds: Annotated[
        float | None,
        Setting(
            "MER_RUN_SECONDS",
            Kind.SECONDS,
            "The deadline of a run that gives none with --timeout.",
            default_words="none",
        ),
    ] = None
    load_seconds: Annotated[
        float, Setting("MER_LOAD_SECONDS", Kind.SECONDS, "How long a worker may take to load a model.")
    ] = 60.0
    idle_seconds: Annotated[
        float, Setting("MER_IDLE_SECONDS", Kind.SECONDS, "A warm worker that nobody used for so long ends.")
    ] = 300.0
    max_workers: Annotated[int, Setting("MER_MAX_WORKERS", Kind.COUNT, "Workers that one driver keeps at a time.")] = 8
    shared_memory: Annotated[
        int,
        Setting(
            "MER_SHARED_MEMORY",
            Kind.MEBIBYTES,
            "MiB of memory that a worker on this machine may share with its driver, in either direction, for large "
            "tensors. Only what is used takes room. 0: everything goes through pipes.",
        ),
    ] = 1024
    record_model_log: Annotated[
        bool,
        Setting(
            "MER_RECORD_MODEL_LOG",
            Kind.SWITCH,
            "Whether the end of what a model prints is kept with the record of its invocation.",
        ),
    ] = True
    trace: Annotated[
        Path | None,
        Setting(
            "MER_TRACE",
            Kind.FILE,
            "A file that gets a trace of every run of this process, for ui.perfetto.dev, when it ends.",
            default_words="none",
        ),
    ] = None
    log_level: Annotated[
        str, Setting("MER_LOG_LEVEL", Kind.LEVEL, "What MER says of itself on stderr: debug, info, warning or error.")
    ] = "warning"
    ssh_config: Annotated[
        str,
        Setting(
            "MER_SSH_CONFIG",
            Kind.TEXT,
            "The one ssh_config that is read, an absolute path; none: none is.",
            default_words="~/.ssh/config, then /etc/ssh/ssh_config",
        ),
    ] = ""
    ssh_host_keys: Annotated[
        str,
        Setting(
            "MER_SSH_HOST_KEYS",
            Kind.HOST_KEYS,
            "What becomes of the host key of a server that nobody has a key of. strict: it is refused until "
            "`mer server trust`. accept-new: it is trusted and kept. A changed key is refused either way.",
        ),
    ] = "strict"
    origins: dict[str, str] = {}
    """Name to where the value came from; what is missing is a default."""

    def origin(self, name: str) -> str:
        """Return where the value of the setting `name` came from, for people."""
        return self.origins.get(name, "the default")

    def __repr__(self) -> str:
        """Show no secret: a Settings may end up in a traceback."""
        told = ", ".join(f"{setting.name}={shown(setting.kind, getattr(self, setting.name))}" for setting in SETTINGS)
        return f"Settings({told})"


def _table() -> Iterator[Setting]:
    for field in msgspec.structs.fields(Settings):
        for setting in getattr(field.type, "__metadata__", ()):
            default = None if field.default is msgspec.NODEFAULT else field.default
            yield msgspec.structs.replace(setting, name=field.name, default=default)


SETTINGS: tuple[Setting, ...] = tuple(_table())
"""In the order in which they are shown."""

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


def load(*, environ: Mapping[str, str], flags: Mapping[str, object] = {}, env_file: Path | None = None) -> Settings:
    """Return the settings. `flags` are values by setting's name, None where a flag was not given.

    Raises:
        ConfigurationError: a value that is not allowed, with its setting and origin, or a file that cannot be read.
    """
    file = env_file or _file_of_home(environ)
    in_file = _read_env_file(file) if file else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        found: tuple[object, str] | None = None
        if flags.get(setting.name) is not None:
            found = flags[setting.name], f"the flag {(setting.flag or setting.name).split('/')[-1]}"
        elif setting.variable in environ:
            found = environ[setting.variable], f"{setting.variable} in the environment"
        elif setting.variable in in_file and setting.name != "home":
            found = in_file[setting.variable], f"{setting.variable} in {file}"
        if found is None or found[0] == "":
            continue
        values[setting.name] = _read(setting, *found)
        origins[setting.name] = found[1]
    values.setdefault("state_folder", default_state_folder())
    return Settings(**values, origins=origins)


def to_environment(settings: Settings) -> dict[str, str]:
    """Return variables that give a child process the same settings, whatever its own `.env` says. They hold secrets."""
    return {setting.variable: written(getattr(settings, setting.name)) for setting in SETTINGS}


def default_state_folder() -> Path:
    """Return where state lives when nothing is set."""
    if os.geteuid() == 0:
        return ROOT_STATE_FOLDER
    import platformdirs

    return platformdirs.user_state_path("mer", appauthor=False)


ENV_EXAMPLE_HEAD = """\
# Settings of MER. Copy this file to `.env` beside it and take the `#` from the lines that you change.
# A flag beats the environment, the environment beats this file. A `.env` in the current folder is never read.
# It may hold passwords: chmod 600 .env
"""


def env_example() -> str:
    """Return the text of `.env.example`: every setting, explained, with its default."""
    import textwrap

    parts = [ENV_EXAMPLE_HEAD]
    for setting in SETTINGS:
        default = setting.default_words or written(setting.default) or "empty"
        flag = f" Flag: {setting.flag}." if setting.flag else ""
        text = f"{setting.explanation}{flag} Default: {default}."
        lines = [f"# {line}" for line in textwrap.wrap(text, 118, break_on_hyphens=False)]
        parts.append("\n".join([*lines, f"#{setting.variable}={written(setting.default)}", ""]))
    return "\n".join(parts)


def _file_of_home(environ: Mapping[str, str]) -> Path | None:
    if not (home := environ.get("MER_HOME")):
        return None
    file: Path = _read(BY_NAME["home"], home, "MER_HOME in the environment") / ".env"
    return file if file.is_file() else None


def _read_env_file(path: Path) -> dict[str, str]:
    import io

    from dotenv.parser import parse_stream

    try:
        with path.open("rb") as file:
            content = file.read(MAX_ENV_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"the settings in {path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_ENV_FILE:
        raise ConfigurationError(f"{path} is longer than {MAX_ENV_FILE} bytes: that is no file of settings")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8") from error
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            # the line itself is not told: it may hold half of a password
            raise ConfigurationError(f"{path}, line {binding.original.line}: NAME=VALUE is meant")
        if binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    return values


def _read(setting: Setting, value: object, origin: str) -> Any:
    try:
        return read(setting.kind, value)
    except ValueError as error:
        told = "" if setting.kind in (Kind.SECRET, Kind.URL) else f" is {str(value)[:80]!r}"
        raise ConfigurationError(f"{setting.name} ({origin}){told}: {error} is meant") from error
