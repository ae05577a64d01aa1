"""docs/ssh.md, every block in its order, against a real sshd: from a box that nobody knows to one that nothing is left on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import sshd
from tests.support.documents import ROOT, blocks
from tests.support.far_account import FarAccount, far_account
from tests.support.installation import MER, Installation, workers_of
from tests.support.postgres import state_folder
from tests.support.running import folder_with

PAGE = "docs/ssh.md"

ENDLESS = """
    import time

    def load():
        def handle(inputs):
            print("running", flush=True)
            time.sleep(600)
        return handle
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def theirs() -> Iterator[Installation]:
    """The MER that the far machine has of its own; on a database in its process, since the database is not the point."""
    with state_folder() as folder:
        made = Installation(folder, {"DB_CONNECTION_URL": f"surrealkv://{folder}/registry"})
        made.register_digits()
        yield made


@pytest.fixture(scope="module")
def far(theirs: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarAccount]:
    environment = {"MER_STATE_FOLDER": str(theirs.folder), **theirs.environment}
    with far_account(tmp_path_factory.mktemp("far"), environment=environment) as account:
        yield account


@pytest.fixture(scope="module")
def ours(far: FarAccount) -> Iterator[Installation]:
    """The MER here."""
    with state_folder() as folder:
        path = f"{far.programs}:{MER.parent}:/usr/local/bin:/usr/bin:/bin"
        made = Installation(
            folder,
            {"MER_SSH_CONFIG": str(far.config), "DB_CONNECTION_URL": f"surrealkv://{folder}/registry", "PATH": path},
        )
        made.register_digits()
        yield made


def stood_for(script: str, far: FarAccount) -> str:
    """Return the page's text with what is here in the place of what it shows."""
    for shown, real in {
        "--address 192.0.2.7 --port 2222 --user ada": f"--address {sshd.HOST} --port {far.server.port} "
        f"--user {far.server.user}",
        "/opt/conda/bin/python3": sys.executable,
        "/srv/mer/bin/mer": str(MER),
        "/srv/mer/examples": str(ROOT / "examples"),
    }.items():
        script = script.replace(shown, real)
    return script


def test_every_block_does_what_the_page_says(
    ours: Installation, theirs: Installation, far: FarAccount, tmp_path: Path
) -> None:
    script = stood_for("\n".join(blocks(PAGE, "sh")), far)
    # the python that is found there may lack numpy: the page names another one later, the test before the first run
    script = script.replace(
        "mer -a model place", f"mer -a server edit gpu1 --python {sys.executable}\nmer -a model place"
    )
    assert script.index("mer -a model place") < script.index("mer run digits")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=ours.variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    assert "not known" not in done.stdout  # pinned before it is pinged
    assert done.stdout.count("digit = 3\n") == 2  # there by our MER, and there by its own
    assert "digit = 7\n" in done.stdout
    assert done.stdout.count("\nsound: ") == 2
    assert "started" not in {record["kind"] for record in ours.records() if record.get("server") == "local"}
    assert not far.cache.exists()
    assert far.processes() == []
    assert [record["server"] for record in theirs.records("--kind", "started")] == ["local"]


def test_with_a_terminal_a_run_there_is_cancelled_when_the_connection_is_gone(
    ours: Installation, theirs: Installation, far: FarAccount, tmp_path: Path
) -> None:
    package = folder_with(tmp_path, ENDLESS)
    theirs.mer("-a", "model", "register", "endless", str(package), "--entry", "handler:load")
    command = ["ssh", "-tt", "gpu1", str(MER), "run", "endless"]
    with subprocess.Popen(command, env=ours.variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert b"running" in process.stdout.readline()
        finally:
            process.kill()
    deadline = time.monotonic() + 30
    while workers_of(f"{theirs.folder}/scratch") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers_of(f"{theirs.folder}/scratch") == []
    assert theirs.records("--kind", "finished")[-1]["outcome"] == "cancelled"
    theirs.mer("log", "verify")


def test_the_line_of_cron_runs_as_cron_runs_it(ours: Installation, far: FarAccount, tmp_path: Path) -> None:
    far.trust()
    ours.mer("-a", "server", "register", "cron1", "--address", "gpu1", "--python", sys.executable)
    ours.mer("-a", "model", "place", "digits", "cron1")
    (line,) = blocks(PAGE, "cron")
    command = line.strip().split(maxsplit=5)[5].replace("--on gpu1", "--on cron1")
    (tmp_path / "mer").symlink_to(ROOT)
    command = command.replace("$HOME/mer/start_stop_scripts/start_mer.sh", str(MER))
    bare = [f"HOME={tmp_path}", "PATH=/usr/bin:/bin", f"MER_STATE_FOLDER={ours.folder}"]
    bare += [f"{name}={ours.variables[name]}" for name in ("MER_SSH_CONFIG", "DB_CONNECTION_URL")]
    done = subprocess.run(
        ["env", "-i", *bare, "sh", "-c", command], cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"value":3' in (tmp_path / "gpu1.jsonl").read_text()


def test_the_lines_for_sshd_config_are_understood(far: FarAccount, tmp_path: Path) -> None:
    (lines,) = blocks(PAGE, "text")
    config = tmp_path / "sshd_config"
    config.write_text(f"HostKey {far.server.folder}/host_key\n{lines}")
    found = sshd.program()
    assert found is not None
    told = subprocess.run([found, "-T", "-f", str(config)], capture_output=True, text=True, timeout=20, check=False)
    assert told.returncode == 0, told.stderr
    for line in lines.lower().splitlines():
        assert line in told.stdout
