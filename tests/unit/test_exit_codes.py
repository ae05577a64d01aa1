"""docs/exit-codes.md says what the error classes say."""

import re
from pathlib import Path

from mer.faces.render.exit_codes import document

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_the_one_that_the_classes_give():
    assert (ROOT / "docs/exit-codes.md").read_text() == document()


def test_the_codes_are_those_that_scripts_may_rely_on():
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", document(), re.MULTILINE)]
    assert codes == [0, 1, 2, 65, 66, 69, 70, 74, 75, 76, 77, 78, 79, 124, 125, 130]
