"""The grammar of `mer serve-ssh`: what a guest may say, and that nothing else is understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer.core.errors import NotAllowed, UsageError
from mer.core.references import Reference
from mer.faces.serve_ssh.grammar import MAX_LINE, Form, Frames, ListModels, Ping, Run, ShowModel, parse
from tests.support.hostile import hostile

DIGITS = Reference(name="digits")


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("run digits", Run(reference=DIGITS)),
        ("mer run digits", Run(reference=DIGITS)),
        ("run --json digits:3", Run(reference=Reference(name="digits", version=3), form=Form.JSON)),
        ("run digits@prod --npz", Run(reference=Reference(name="digits", alias="prod"), form=Form.NPZ)),
        ("run digits 'a text; $(b)' --jsonl", Run(reference=DIGITS, text="a text; $(b)", form=Form.LINES)),
        ("run digits -i a=1 --input b=@@x --input=c=d=e", Run(reference=DIGITS, pairs=("a=1", "b=@@x", "c=d=e"))),
        ("run digits --timeout 2.5", Run(reference=DIGITS, timeout=2.5)),
        ("run digits -- --json", Run(reference=DIGITS, text="--json")),
        ("model list", ListModels()),
        ("model list --json --limit 5 --after a", ListModels(limit=5, after="a", json=True)),
        ("model show digits:2 --json", ShowModel(reference=Reference(name="digits", version=2), json=True)),
        ("model ping digits", Ping(reference=DIGITS)),
        ("ping digits", Ping(reference=DIGITS)),
        ("ping --json", Ping(json=True)),
        ("frames", Frames()),
    ],
)
def test_what_is_lent_is_understood(line: str, request_: object) -> None:
    assert parse(line) == request_


@pytest.mark.parametrize("line", [*hostile(Path("/x/canary"), Path("/x/state")), "run shout 'a\udcffb'", "mer", " "])
def test_everything_else_is_refused(line: str) -> None:
    with pytest.raises((NotAllowed, UsageError)):
        parse(line)


def test_a_line_has_a_longest_length() -> None:
    line = "run digits " + "x" * (MAX_LINE - len("run digits "))
    assert isinstance(parse(line), Run)
    with pytest.raises(NotAllowed):
        parse(line + "x")
