"""Completion: commands, options, names and files, from what is known already."""

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from mer.faces.repl.completion import Completion
from mer.faces.repl.loop import tree
from mer.faces.repl.names import Names


class Known:
    """Names that nobody looks up."""

    names = Names(
        models=("digits", "draw"),
        references=("digits", "digits@prod", "draw"),
        servers=("far", "local"),
        weights=("w",),
    )


def completed(text):
    completion = Completion(tree(), Known())
    return [c.text for c in completion.get_completions(Document(text), CompleteEvent(completion_requested=True))]


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("mod", ["model"]),
        ("mer mod", ["model"]),
        ("model un", ["unplace"]),
        ("model nonsense x", []),
        ("nonsense ", []),
        ("run d", ["digits", "digits@prod", "draw"]),
        ("execute dig", ["digits", "digits@prod"]),
        ("run digits@", ["digits@prod"]),
        ("run digits --on ", ["far", "local"]),
        ("run digits --ti", ["--timeout"]),
        ("run digits --timeout ", []),
        ("model show dr", ["draw"]),
        ("model retire di", ["digits"]),
        ("model place digits ", ["far", "local"]),
        ("model place --device cuda:0 digits l", ["local"]),
        ("model place digits far ", []),
        ("model register x y --weights ", ["w"]),
        ("server ping ", ["far", "local"]),
        ("weights use digits ", ["w"]),
        ("log list --kind st", ["started"]),
        ("log list --model ", ["digits", "draw"]),
        ("log list --server f", ["far"]),
        ("ex", ["exit"]),
        ("help wei", ["weights"]),
        ('run "dig', []),
    ],
)
def test_a_line_is_completed(text, candidates):
    assert completed(text) == candidates


def test_hidden_options_are_not_offered():
    assert "--debug" not in completed("model list --")
    assert "--json" in completed("model list --")


@pytest.mark.parametrize("text", ["run digits --input image=@{}/th", "run digits @{}/th", "weights register w {}/th"])
def test_files_are_completed(tmp_path, text):
    (tmp_path / "three.npy").touch()
    assert completed(text.format(tmp_path)) == ["ree.npy"]


def test_a_name_that_would_steer_the_terminal_is_shown_as_an_escape():
    class Steering(Known):
        names = Names(models=("a\x1b[2J",), references=("a\x1b[2J",))

    completion = Completion(tree(), Steering())
    [candidate] = completion.get_completions(Document("run a"), CompleteEvent())
    assert candidate.display_text == "a\\x1b[2J"
