"""docs/other-languages.md: the program that it shows says what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import ROOT, blocks
from tests.support.peers import NODE

PAGE = "docs/other-languages.md"


@pytest.mark.skipif(NODE is None, reason="there is no node (on Debian: apt-get install nodejs)")
def test_the_program_of_the_page_says_what_the_page_says(tmp_path: Path) -> None:
    [program], [shown] = blocks(PAGE, "python"), blocks(PAGE, "text")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": str(Path(str(NODE)).parent), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def test_the_model_of_the_page_is_the_examples() -> None:
    [shown] = blocks(PAGE, "js")
    path, shown = re.match(r"// (\S+)\n(.*)", shown, re.DOTALL).groups()
    source = (ROOT / path).read_text()
    for part in shown.split("  …\n"):
        assert part in source


def test_the_commands_of_the_page_are_there() -> None:
    [command] = blocks(PAGE, "sh")
    script, folder, *_ = command.split()
    assert (ROOT / script).is_file()
    assert list((ROOT / folder).glob("test_session*.py"))
