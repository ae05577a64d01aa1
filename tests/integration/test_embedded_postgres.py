"""The embedded PostgreSQL: private, started by whoever comes first, and back after whatever happened to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mer.core.errors import ConfigurationError, DatabaseUnreachable, FolderUnsafe
from mer.dal.base import SCHEMA
from mer.dal.postgres.cluster import DRIVER, OWNER
from mer.dal.postgres.connection_settings import ConnectionSettings
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
from mer.dal.postgres.places import MAX_SOCKET_PATH, SOCKET_NAME, places
from mer.dal.postgres.postmaster import accepts
from mer.dal.postgres.store import PostgresStore
from mer_migrations.postgres import runner
from tests.support.postgres import PostgresServer, state_folder

ROOT = Path(__file__).parents[2]
GONE_SECONDS = 10
START = """
import pathlib, sys
from mer.dal.postgres.embedded import EmbeddedPostgres
EmbeddedPostgres(pathlib.Path(sys.argv[1])).ensure_running()
"""
ANSWER = """
import pathlib, sys
import psycopg
from mer.dal.postgres.conninfo import conninfo
from mer.dal.postgres.embedded import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]))
try:
    with psycopg.connect(conninfo(server.ensure_running())) as connection:
        print(connection.execute("SELECT count(DISTINCT n % 1000) FROM generate_series(1, 100000) AS n").fetchone())
finally:
    server.stop()
"""
TINY_SHM = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
NO_SHM = """
made="$FOLDER/dev"
mkdir -m 755 "$made"
for name in null zero random urandom; do touch "$made/$name"; mount --bind "/dev/$name" "$made/$name"; done
mount --rbind "$made" /dev
test ! -e /dev/shm
"""
UNREADABLE = """
import pathlib, sys
from mer.core.errors import MerError
from mer.dal.postgres.embedded import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]))
for ask in (server.ensure_running, server.status, server.driver, server.stop):
    try:
        ask()
    except MerError as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A state folder with a server of this file's own: it is killed and stopped here."""
    with state_folder() as made:
        EmbeddedPostgres(made).ensure_running()
        yield made


def answers(login: ConnectionSettings) -> str:
    with psycopg.connect(conninfo(login)) as connection:
        (user,) = connection.execute("SELECT current_user").fetchone() or ("",)
        return str(user)


def kill(folder: Path) -> int:
    """Kill the server as a crash would, and wait until it is gone."""
    pid = EmbeddedPostgres(folder).status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + GONE_SECONDS
    # a process that is killed loses its memory, and so its command line, a moment before its socket
    while (
        EmbeddedPostgres(folder).status().pid or accepts(folder / "postgres" / "socket")
    ) and time.monotonic() < until:
        time.sleep(0.01)
    return pid


def test_the_driver_and_the_owner_log_in_each_with_its_own_password(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    login = server.ensure_running()
    assert answers(login) == DRIVER
    assert answers(server.owner()) == OWNER
    assert login.parameters["password"] != server.owner().parameters["password"]


def test_every_folder_and_password_is_closed_to_others(folder: Path) -> None:
    home = folder / "postgres"
    closed = [home / "data", home / "socket", home / "passwords", home / "log"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in closed] == [0o700] * 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in (home / "passwords").iterdir()} == {0o600}
    assert stat.S_IMODE((home / "socket" / SOCKET_NAME).stat().st_mode) == 0o700


def test_it_listens_on_its_socket_and_nowhere_else(folder: Path) -> None:
    with psycopg.connect(conninfo(EmbeddedPostgres(folder).superuser())) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert connection.execute("SHOW unix_socket_permissions").fetchone() == ("0700",)


def test_every_login_needs_its_password(folder: Path) -> None:
    login = EmbeddedPostgres(folder).superuser()
    wrong = {**login.parameters, "password": "postgres"}
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(conninfo(ConnectionSettings(shown="it", parameters=wrong, hermetic=True)))


def test_no_password_stands_in_a_command_line(folder: Path) -> None:
    passwords = [file.read_bytes() for file in (folder / "postgres" / "passwords").iterdir()]
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [line for line in lines for password in passwords if password in line]


def test_text_is_utf_8_and_compares_by_code_point(folder: Path) -> None:
    with psycopg.connect(conninfo(EmbeddedPostgres(folder).driver())) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("SELECT 'Z' < 'a' AND 'a' < 'é' AND lower('É') = 'é'").fetchone() == (True,)


def test_variables_of_the_users_own_postgres_do_not_lead_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGUSER": "x",
        "PGDATABASE": "x",
    }
    variables |= {"PGOPTIONS": "-c nonsense=1", "PGSSLMODE": "require", "PGREQUIREAUTH": "none", "PGREQUIREPEER": "x"}
    variables |= {"PGTARGETSESSIONATTRS": "standby", "PGCHANNELBINDING": "require", "PGMINPROTOCOLVERSION": "3.2"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert answers(EmbeddedPostgres(folder).driver()) == DRIVER


async def test_a_service_of_the_users_own_postgres_that_nobody_defined_is_no_obstacle(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_server.wiped()
    monkeypatch.setenv("PGSERVICE", "nonsense")
    store = PostgresStore(server.driver())
    await store.open()
    async with store.transaction() as inside:
        assert (await inside.models.page()).items == ()
    await store.close()
    assert runner.applied(server.owner())[-1].number == SCHEMA
    assert os.environ["PGSERVICE"] == "nonsense"


def test_starting_what_runs_starts_no_process(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    server.ensure_running()
    before = server.status().pid
    began = time.perf_counter()
    server.ensure_running()
    assert time.perf_counter() - began < 0.05  # a fork of pg_ctl alone takes longer on a busy machine
    assert server.status().pid == before


def test_it_comes_back_after_a_kill(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    before = kill(folder)
    assert server.status().running is False
    assert answers(server.ensure_running()) == DRIVER
    assert server.status().pid not in (None, before)


def test_a_pid_file_that_names_another_process_does_not_keep_it_down(folder: Path) -> None:
    kill(folder)
    file = folder / "postgres" / "data" / "postmaster.pid"
    lines = file.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as other:  # whoever got the dead server's number
        try:
            file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
            assert answers(EmbeddedPostgres(folder).ensure_running()) == DRIVER
        finally:
            other.kill()


@pytest.mark.parametrize("written", ["", "{other}\n/elsewhere\n1\n"])
def test_a_pid_file_that_was_cut_off_does_not_keep_it_down(folder: Path, written: str) -> None:
    kill(folder)
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            (folder / "postgres" / "data" / "postmaster.pid").write_text(written.format(other=other.pid))
            assert answers(EmbeddedPostgres(folder).ensure_running()) == DRIVER
        finally:
            other.kill()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a root without its powers")
def test_a_user_who_may_not_read_the_servers_files_is_told_so(folder: Path) -> None:
    command = ["unshare", "-Ur", sys.executable, "-c", UNREADABLE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    if "unshare failed" in done.stderr:
        pytest.skip("this machine has no user namespaces")
    assert done.stdout.split() == ["DatabaseUnreachable"] * 4, done.stderr


def test_stopping_and_starting_keeps_what_is_in_it(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    with psycopg.connect(conninfo(server.owner())) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS n")
    server.stop()
    assert server.status().running is False
    server.stop()
    server.ensure_running()
    with psycopg.connect(conninfo(server.owner())) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)


def test_files_of_ours_that_were_damaged_are_told_and_are_no_bug() -> None:
    with state_folder() as made:
        embedded = EmbeddedPostgres(made)
        login = embedded.ensure_running()
        password, version = made / "postgres" / "passwords" / DRIVER, made / "postgres" / "data" / "PG_VERSION"
        password.write_bytes(b"\xff\xfe")
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            answers(embedded.driver())
        password.write_text(login.parameters["password"])
        embedded.stop()
        written = version.read_bytes()
        version.write_bytes(b"\xff")
        with pytest.raises(ConfigurationError, match="was made by PostgreSQL"):
            embedded.ensure_running()
        version.write_bytes(written)
        assert answers(embedded.ensure_running()) == DRIVER


def test_a_socket_that_was_removed_is_made_again(folder: Path) -> None:
    (folder / "postgres" / "socket" / SOCKET_NAME).unlink()
    assert answers(EmbeddedPostgres(folder).ensure_running()) == DRIVER


def test_two_settings_of_the_socket_folder_meet_at_one_server(folder: Path) -> None:
    with state_folder() as other:
        elsewhere = EmbeddedPostgres(folder, other / "socket")
        assert answers(elsewhere.ensure_running()) == DRIVER
        assert elsewhere.status().pid == EmbeddedPostgres(folder).status().pid


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts in a namespace of its own")
@pytest.mark.parametrize("mounts", [TINY_SHM, NO_SHM], ids=["of 64 kB", "missing"])
def test_shared_memory_that_is_tiny_or_missing_is_not_needed(mounts: str) -> None:
    with state_folder() as made:
        program = "set -e\n" + mounts + '\nexec "$@"'
        command = ["unshare", "-m", "sh", "-c", program, "sh", sys.executable, "-c", ANSWER, str(made)]
        environment = {**os.environ, "FOLDER": str(made)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip("this machine lets nobody mount anything")
        assert done.stdout == "(1000,)\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="the other tests run as a plain user")
@pytest.mark.parametrize(("uid", "told"), [(65534, r"\(1000,\)"), (54321, "uid 54321 has no entry in /etc/passwd")])
def test_a_plain_user_runs_the_server_as_himself_if_he_has_a_name(uid: int, told: str) -> None:
    # the system still lets it read what root may, this interpreter among it
    somebody = ["unshare", "-U", f"--map-user={uid}", f"--map-group={uid}"]
    with state_folder() as made:
        command = [*somebody, sys.executable, "-c", ANSWER, str(made / "state")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        if "unshare" in done.stderr:
            pytest.skip("this machine has no user namespaces")
        assert re.search(told, done.stdout + done.stderr)
        assert stat.S_IMODE((made / "state").stat().st_mode) == 0o700


def test_two_first_starts_at_the_same_moment_make_one_server() -> None:
    with state_folder() as made:
        starts = [subprocess.Popen([sys.executable, "-c", START, str(made)], cwd=ROOT) for _ in range(2)]
        assert [start.wait(60) for start in starts] == [0, 0]
        assert answers(EmbeddedPostgres(made).driver()) == DRIVER


def test_a_first_start_that_was_killed_is_begun_anew() -> None:
    with state_folder() as made:
        start = subprocess.Popen([sys.executable, "-c", START, str(made)], cwd=ROOT)
        while not (made / "postgres" / "data.new" / "PG_VERSION").exists() and start.poll() is None:
            time.sleep(0.005)
        start.kill()
        start.wait()
        assert not (made / "postgres" / "data").exists()
        assert answers(EmbeddedPostgres(made).ensure_running()) == DRIVER


def test_a_state_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(FolderUnsafe, match="open to others"):
        EmbeddedPostgres(tmp_path).ensure_running()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_state_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(FolderUnsafe, match="belongs to uid 65534"):
        EmbeddedPostgres(tmp_path).ensure_running()


def test_a_data_folder_that_was_opened_is_refused(folder: Path) -> None:
    data = folder / "postgres" / "socket"
    data.chmod(0o777)
    try:
        with pytest.raises(FolderUnsafe, match="socket"):
            EmbeddedPostgres(folder).ensure_running()
    finally:
        data.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user than ours runs the server for root alone")
def test_a_folder_that_the_servers_user_cannot_reach_is_refused_and_not_opened(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    state = closed / "mer"
    with pytest.raises(ConfigurationError, match=re.escape(str(closed))):
        EmbeddedPostgres(state).ensure_running()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_socket_folder_that_is_too_long_is_refused_by_the_settings_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MER_SOCKET_FOLDER"):
        EmbeddedPostgres(tmp_path, tmp_path / ("x" * MAX_SOCKET_PATH))


@pytest.mark.parametrize(("length", "fits"), [(MAX_SOCKET_PATH, True), (MAX_SOCKET_PATH + 1, False)])
def test_the_longest_socket_path_is_used_and_one_more_is_not(length: int, fits: bool) -> None:
    folder = Path("/" + "x" * (length - len(SOCKET_NAME) - 2))
    assert len(str(folder / SOCKET_NAME)) == length
    if fits:
        assert places(Path("/state"), folder).socket == folder
    else:
        with pytest.raises(ConfigurationError):
            places(Path("/state"), folder)


def test_a_state_folder_too_long_for_a_socket_gets_a_short_one_of_ours() -> None:
    long = Path("/" + "x" * 120)
    try:
        socket = places(long, None).socket
    except ConfigurationError as error:
        assert "MER_SOCKET_FOLDER" in (error.hint or "")  # noqa: PT017 - a machine without a runtime folder says so
    else:
        assert socket.is_relative_to("/run")
        assert places(long / "other", None).socket != socket


def test_a_login_before_the_first_start_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnreachable, match="not made yet"):
        EmbeddedPostgres(tmp_path).driver()


def test_settings_and_passwords_do_not_show_in_a_traceback(postgres_server: PostgresServer) -> None:
    login = postgres_server.database("wiped").driver()
    assert login.parameters["password"] not in repr(login)
