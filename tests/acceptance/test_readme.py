"""The README as a new user follows it: in a fresh copy, with an empty home folder, every block in its order.

This is also the test of the scripts: the copy has no virtual environment, so the first command installs MER.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from tests.support.documents import ROOT
from tests.support.postgres import state_folder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("readme")]

INSTALL_SECONDS = 900
"""A first installation on a slow network."""

_BLOCK = re.compile(r"^```(sh|text|python|cron|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Copy:
    """A fresh copy of the repository, and what its user's shell has."""

    folder: Path
    environment: dict[str, str]

    def shell(self, command: str, **given: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
            **given,  # type: ignore[call-overload]
        )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("fresh") / "a folder"  # a space, as people have them
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    home = tmp_path_factory.mktemp("home")
    with state_folder() as state:
        kept = {
            name: value for name, value in os.environ.items() if name.startswith("PIP_") or "_proxy" in name.lower()
        }
        environment = {
            **kept,
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "MER_STATE_FOLDER": str(state),
        }
        yield Copy(folder, environment)


@pytest.fixture(scope="module")
def followed(copy: Copy) -> list[tuple[str, str, str]]:
    """Run every block in one shell, in order; return (language, text, what it wrote) of each."""
    blocks = _BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    script = ["set -eu"]
    for number, (language, text) in enumerate(blocks):
        script.append(f"printf '\\n@@%d@@\\n' {number}")
        match language:
            case "sh":
                script.append(text)
            case "python":
                (copy.folder / f"block_{number}.py").write_text(text)
                script.append(f"python block_{number}.py")
    done = copy.shell("\n".join(script))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    wrote = dict(re.findall(r"\n@@(\d+)@@\n(.*?)(?=\n@@\d+@@\n|\Z)", done.stdout, re.DOTALL))
    return [(language, text, wrote[str(number)]) for number, (language, text) in enumerate(blocks)]


def test_what_the_readme_says_a_block_writes_is_what_it_writes(followed: list[tuple[str, str, str]]) -> None:
    shown = 0
    for (_, _, wrote), (language, text, _) in itertools.pairwise(followed):
        if language == "text":
            shown += 1
            pattern = ".*?".join(re.escape(part) for part in text.strip().split("…"))
            assert re.fullmatch(pattern, wrote.strip(), re.DOTALL), (text, wrote)
    assert shown >= 3


def test_the_python_blocks_answer(followed: list[tuple[str, str, str]]) -> None:
    assert [wrote.strip() for language, _, wrote in followed if language == "python"] == ["3", "[4. 4.]"]


def test_stopping_leaves_nothing_running(copy: Copy, followed: list[tuple[str, str, str]]) -> None:
    assert "stop" in followed[-1][2]
    done = copy.shell(".venv/bin/mer db status --json")
    assert '"running":false' in done.stdout


def test_the_second_start_needs_no_network_and_no_installer(copy: Copy, followed: object) -> None:
    command = "./start_stop_scripts/start_mer.sh run digits --input image=@examples/digits/three.npy"
    unshare = "unshare --net" if os.geteuid() == 0 else "unshare --net --map-current-user"
    if copy.shell(f"{unshare} true").returncode:
        pytest.skip("this system lets us make no network namespace")
    alone = copy.shell(f"{unshare} {command}")
    assert alone.stdout.startswith("digit = 3"), alone.stderr
    assert "Install" not in alone.stderr


def test_the_line_of_cron_runs_as_cron_runs_it(copy: Copy, followed: list[tuple[str, str, str]]) -> None:
    [line] = [text for language, text, _ in followed if language == "cron"]
    command = line.strip().split(maxsplit=5)[5]
    link = Path(copy.environment["HOME"]) / "mer"
    link.symlink_to(copy.folder)
    cron = {"HOME": copy.environment["HOME"], "LOGNAME": "ada", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    environment = {**cron, "MER_STATE_FOLDER": copy.environment["MER_STATE_FOLDER"]}
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"value":3' in (Path(copy.environment["HOME"]) / "digits.jsonl").read_text()


def test_without_arguments_the_repl_opens_and_predicts(copy: Copy, followed: object) -> None:
    terminal = pexpect.spawn(
        "bash",
        ["-c", "./start_stop_scripts/start_mer.sh"],
        cwd=str(copy.folder),
        env={**copy.environment, "TERM": "xterm-256color"},  # type: ignore[arg-type] - pexpect's stubs want os._Environ
        dimensions=(24, 80),
        encoding="utf-8",
        timeout=60,
    )
    try:
        terminal.expect("mer>")
        terminal.send("run digits --input image=@examples/digits/three.npy\r")
        terminal.expect(r"\x1b\[\?2004l")  # the prompt has let go: what was typed is not what is meant
        terminal.expect("digit")
        terminal.expect("3")
        terminal.expect("mer>")
        terminal.send("\x04")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == 0
    finally:
        terminal.close(force=True)


def test_the_driver_alone_starts_no_database(copy: Copy, followed: object) -> None:
    copy.shell("./start_stop_scripts/stop_mer.sh")
    done = copy.shell("./start_stop_scripts/test_driver.sh model list")
    assert done.returncode == 69, done.stderr
    copy.shell("./start_stop_scripts/start_mer.sh model list")
    done = copy.shell("./start_stop_scripts/test_driver.sh model list")
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout
