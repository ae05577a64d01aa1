"""The demo by each of the four ways in, on each database that needs no server; then the log verifies."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.support.installation import DIGITS, MER, THREE, Installation

LIBRARY = f"""
import asyncio, mer, numpy as np

async def main():
    async with mer.open() as m:
        result = await m.run("digits", {{"image": np.load({str(DIGITS / "three.npy")!r})}})
        print(int(result.outputs["digit"]))

asyncio.run(main())
"""


@pytest.fixture(params=["embedded Postgres", "surrealkv"])
def place(request: pytest.FixtureRequest, installed: Installation) -> Iterator[Installation]:
    if request.param == "surrealkv":
        place = installed.with_database(f"surrealkv://{installed.folder}/registry")
        place.register_digits()
    else:
        place = installed
    before = head(place)
    yield place
    place.mer("log", "verify")
    # whichever way it was: a started and a finished, and nothing else
    newest = place.json("log", "list", "--limit", "2")["items"]
    assert head(place) == before + 2
    assert [(item["record"]["kind"], item["record"].get("outcome")) for item in newest] == [
        ("finished", "succeeded"),
        ("started", None),
    ]


def head(place: Installation) -> int:
    seq: int = place.json("log", "checkpoint")["seq"]
    return seq


def test_a_one_shot_predicts(place: Installation) -> None:
    assert place.mer("run", "digits", "--input", THREE).stdout.startswith("digit = 3\n")


def test_the_library_predicts(place: Installation) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], env=place.variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "3\n", done.stderr


def test_the_repl_predicts(place: Installation) -> None:
    terminal = pexpect.spawn(
        str(MER),
        env={**place.variables, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},  # type: ignore[arg-type] - a mapping will do
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=60,
    )
    try:
        terminal.expect("mer>")
        terminal.send(f"run digits --input {THREE}\r")
        terminal.expect(r"\x1b\[\?2004l")  # the prompt has let go: what was typed is not what is meant
        terminal.expect("digit.*3")
        terminal.expect("mer>")
        terminal.send("\x04")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)


def test_a_line_of_cron_predicts(place: Installation) -> None:
    """The actor's way in is `cron` because an ancestor of that name is there, as on a machine with one."""
    cron = place.folder / "cron"
    if not cron.exists():
        cron.write_bytes(Path("/bin/sh").read_bytes())
        cron.chmod(0o755)
    environment = {**place.variables, "SHELL": "/bin/sh"}
    line = f"{MER} run digits --input {THREE} --json; exit $?"
    done = subprocess.run(
        [cron, "-c", line], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )
    assert '"value":3' in done.stdout, done.stderr
    newest = place.json("log", "list", "--limit", "1")["items"][0]["record"]
    assert newest["actor"]["via"] == "cron"


def test_several_at_once_share_the_default_database(installed: Installation) -> None:
    before = head(installed)
    command = [str(MER), "run", "digits", "--input", THREE, "--json"]
    processes = [
        subprocess.Popen(command, env=installed.variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        out, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        assert '"value":3' in out
    assert head(installed) == before + 8
    installed.mer("log", "verify")
