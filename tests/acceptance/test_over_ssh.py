"""Models on a far machine, as people use them: the demo and 100 MB of weights, each way in, two drivers at once, every end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pexpect
import pytest

from tests.support.far_account import FarAccount, far_account
from tests.support.installation import DIGITS, MER, THREE, Installation
from tests.support.postgres import state_folder
from tests.support.running import folder_with

pytestmark = pytest.mark.slow

ELEMENTS = 25_000_000
"""100 MB of float32."""

HEAVY = """
    def load(weights):
        kernel = weights["kernel"]
        return lambda inputs: {"total": float(kernel[:: 1 << 10].sum())}
"""

ENDLESS = """
    import subprocess, time

    def load():
        def handle(inputs):
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            print("running", flush=True)
            time.sleep(600)
        return handle
"""

GONE_SECONDS = 30
"""What a far machine gets to be rid of workers whose driver is gone: they end with their input, at once."""


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarAccount]:
    with far_account(tmp_path_factory.mktemp("far"), name="ada's höme") as account:
        account.trust()
        yield account


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    folder_with(folder / "heavy", HEAVY)
    folder_with(folder / "endless", ENDLESS)
    np.savez(folder / "kernel.npz", kernel=np.arange(ELEMENTS, dtype=np.float32))
    return folder


TOTAL = float(np.arange(ELEMENTS, dtype=np.float32)[:: 1 << 10].sum())


def driver_of(folder: Path, far: FarAccount, packages: Path) -> Installation:
    """Return an installation whose models are placed on gpu1."""
    made = Installation(
        folder, {"MER_SSH_CONFIG": str(far.config), "DB_CONNECTION_URL": f"surrealkv://{folder}/registry"}
    )
    script = [
        f"weights register digits '{DIGITS}/digits.safetensors'",
        f"model register digits '{DIGITS}/package' --weights digits",
        f"weights register kernel '{packages}/kernel.npz'",
        f"model register heavy '{packages}/heavy' --entry handler:load --weights kernel",
        f"model register endless '{packages}/endless' --entry handler:load",
        f"server register gpu1 --address gpu1 --python '{sys.executable}'",
        *(f"model place {name} gpu1" for name in ("digits", "heavy", "endless")),
    ]
    (folder / "script").write_text("\n".join(script))
    with (folder / "script").open() as stdin:
        made.mer("-a", stdin=stdin)
    return made


@pytest.fixture(scope="module")
def ours(far: FarAccount, packages: Path) -> Iterator[Installation]:
    with state_folder() as folder:
        made = driver_of(folder, far, packages)
        yield made
        made.mer("log", "verify")  # after all that was done to its runs


@pytest.fixture(scope="module")
def another(far: FarAccount, packages: Path) -> Iterator[Installation]:
    """Another driver, with a state folder and a database of its own, that uses the same account."""
    with state_folder() as folder:
        yield driver_of(folder, far, packages)


@pytest.fixture(autouse=True)
def _nothing_is_left_there(far: FarAccount) -> Iterator[None]:
    yield
    until(lambda: far.processes() == [] and far.scratch() == [])


def until(happened: Callable[[], bool], *, seconds: float = GONE_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def outcomes(driver: Installation) -> list[tuple[str, str]]:
    finished = driver.records("--kind", "finished")
    assert all(record["host_key"].startswith("SHA256:") for record in finished if record["outcome"] == "succeeded")
    return [(record["server"], record["outcome"]) for record in finished]


# each way in


def by_a_one_shot(driver: Installation, arguments: str) -> str:
    return driver.mer(*arguments.split()).stdout


def by_cron(driver: Installation, arguments: str) -> str:
    """Run it in the bare environment that cron gives."""
    settings = [f"{name}={value}" for name, value in driver.environment.items()]
    bare = [f"HOME={Path.home()}", "PATH=/usr/bin:/bin", f"MER_STATE_FOLDER={driver.folder}", *settings]
    done = subprocess.run(
        ["env", "-i", *bare, "sh", "-c", f"{MER} {arguments}"], cwd="/", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def repl_of(driver: Installation) -> pexpect.spawn[str]:
    terminal = pexpect.spawn(
        str(MER),
        env={**driver.variables, "TERM": "xterm", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1"},  # type: ignore[arg-type] - a mapping will do
        dimensions=(24, 100),
        encoding="utf-8",
        timeout=60,
    )
    terminal.expect("mer>")
    return terminal


def by_the_repl(driver: Installation, arguments: str) -> str:
    terminal = repl_of(driver)
    try:
        terminal.sendline(arguments)
        terminal.expect(r"\x1b\[\?2004l")  # the prompt has let go of the terminal
        terminal.expect("mer>")
        said: str = terminal.before
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
    return said


@pytest.mark.parametrize("way", [by_a_one_shot, by_cron, by_the_repl])
def test_the_demo_and_a_hundred_megabytes_of_weights_run_there(
    ours: Installation, way: Callable[[Installation, str], str]
) -> None:
    assert '"value":3' in way(ours, f"run digits --input {THREE} --json")
    assert f'"value":{TOTAL}' in way(ours, "run heavy --json")
    assert outcomes(ours)[-2:] == [("gpu1", "succeeded"), ("gpu1", "succeeded")]


def test_two_drivers_bring_and_run_the_same_at_once(ours: Installation, another: Installation, far: FarAccount) -> None:
    far.forget()
    running = [
        subprocess.Popen(
            [str(MER), "run", "heavy", "--json"],
            env=driver.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for driver in (ours, another)
    ]
    for process in running:
        out, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        assert f'"value":{TOTAL}' in out
    assert sum(blob.stat().st_size > 1 << 20 for blob in (far.cache / "blobs").rglob("*") if blob.is_file()) == 1
    another.mer("log", "verify")


# every end


def killed(process: subprocess.Popen[str], far: FarAccount) -> None:
    process.kill()


def cut(process: subprocess.Popen[str], far: FarAccount) -> None:
    for pid in far.server.connections():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("end", "code"), [(killed, -signal.SIGKILL), (cut, 125)])
def test_however_a_run_ends_nothing_stays_there_and_it_is_lost(
    ours: Installation, far: FarAccount, end: Callable[[subprocess.Popen[str], FarAccount], None], code: int
) -> None:
    process = subprocess.Popen(
        [str(MER), "run", "endless"], env=ours.variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "running" in process.stderr.readline()
        assert len(far.processes()) == 2
        end(process, far)
        said = process.stderr.read()
        assert process.wait(30) == code, said
    finally:
        process.kill()
        process.communicate()
    until(lambda: far.processes() == [])
    assert '"value":3' in by_a_one_shot(ours, f"run digits --input {THREE} --json")  # and finds what was left open
    assert sorted(outcomes(ours)[-2:]) == [("gpu1", "lost"), ("gpu1", "succeeded")]


def test_a_repl_that_is_killed_leaves_no_warm_worker_there(ours: Installation, far: FarAccount) -> None:
    terminal = repl_of(ours)
    try:
        terminal.sendline(f"run digits --input {THREE}")
        terminal.expect(r"\x1b\[\?2004l")  # the prompt has let go: what was typed is not what is meant
        terminal.expect("digit.*3")
        until(lambda: len(far.processes()) == 1)
        terminal.kill(signal.SIGKILL)
        until(lambda: far.processes() == [])
    finally:
        terminal.close(force=True)


def test_a_repl_whose_connection_was_cut_goes_on_over_a_new_one(ours: Installation, far: FarAccount) -> None:
    terminal = repl_of(ours)
    try:
        for _ in range(2):
            terminal.sendline(f"run digits --input {THREE}")
            terminal.expect(r"\x1b\[\?2004l")  # the prompt has let go: what was typed is not what is meant
            terminal.expect("digit.*3")
            terminal.expect("mer>")
            for pid in far.server.connections():
                os.kill(pid, signal.SIGKILL)
            until(lambda: far.processes() == [])
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)
