"""The scripts beside the program, as far as they need no installation: who they are, and what they say."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRINTS = """#!/bin/sh
printf '%s|%s\\n' "$MER_HOME" "$*"
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the scripts with a program that prints what it got in place of the installed one."""
    home = tmp_path / "a folder"
    for name in ("environment.sh", "start_mer.sh", "stop_mer.sh", "test_driver.sh"):
        target = home / "start_stop_scripts" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / "start_stop_scripts" / name).read_bytes())
        target.chmod(0o755)
    (home / "pyproject.toml").touch()
    programs = home / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("mer", "python"):
        (programs / name).write_text(PRINTS)
        (programs / name).chmod(0o755)
    counted = subprocess.run(["cksum"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    (home / ".venv/.installed-mer").write_text(f"{counted.strip()} {home} ")
    return home


def start(script, *words, cwd):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run([script, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("link", ["absolute", "relative", "chain"])
def test_a_link_to_a_script_is_the_script(copy, tmp_path, link):
    script = copy / "start_stop_scripts/test_driver.sh"
    (tmp_path / "bin").mkdir()
    linked = tmp_path / "bin/mer"
    match link:
        case "absolute":
            linked.symlink_to(script)
        case "relative":
            linked.symlink_to(os.path.relpath(script, linked.parent))
        case "chain":
            (tmp_path / "first").symlink_to(script)
            linked.symlink_to(tmp_path / "first")
    done = start(linked, "run", "x y", cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{copy}|run x y\n", "")


def test_a_script_runs_from_any_folder(copy, tmp_path):
    script = os.path.relpath(copy / "start_stop_scripts/stop_mer.sh", tmp_path)
    assert start(script, cwd=tmp_path).stdout == f"{copy}|db stop --drivers\n"
