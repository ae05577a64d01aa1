"""The tree of commands: cheap to show, true to its modules, and with the old names."""

import importlib
import subprocess
import sys

import click
import pytest

from mer.faces.cli import root
from mer.faces.commands.options import SECONDS
from mer.faces.commands.tree import ENTRIES, OLD_NAMES, REPL_ENTRIES, Noun, Verb
from mer.faces.repl.loop import tree
from tests.support.typing_in import Terminal, environ_of

HEAVY = [
    *("asyncio", "msgspec", "numpy", "prompt_toolkit", "rich", "structlog"),
    *("asyncssh", "psycopg", "surrealdb", "torch"),
    "mer.settings",
]


def commands():
    """Every command of the tree by its words."""
    found = {}
    for name in ENTRIES:
        command = root().get_command(click.Context(root()), name)
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {verb}": leaf for verb, leaf in command.commands.items()}
    return found


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], ["--nonsense"]])
def test_what_needs_nothing_imports_nothing_heavy(arguments):
    script = f"""
import sys
sys.argv = ["mer", *{arguments!r}]
from mer.__main__ import main
try:
    main()
except SystemExit:
    pass
sys.stderr.write("LOADED " + " ".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.rpartition("LOADED")[2].strip() == ""


def test_help_lists_every_command_with_its_help():
    shown = root().get_help(click.Context(root(), info_name="mer"))
    for name, entry in ENTRIES.items():
        assert f"{name} " in shown
        assert entry.help in " ".join(shown.split())


@pytest.mark.parametrize("name", [*ENTRIES, *REPL_ENTRIES])
def test_the_table_tells_of_each_command_what_the_command_tells_itself(name):
    entry = (ENTRIES | REPL_ENTRIES)[name]
    assert importlib.import_module(entry.module).command.help == entry.help


@pytest.mark.parametrize(
    ("words", "command"), commands().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_explains_itself(words, command):
    assert isinstance(command, Noun | Verb)
    assert command.get_short_help_str(limit=200).endswith(".")


@pytest.mark.parametrize(
    ("words", "command"), commands().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_takes_json(words, command):
    assert any("--json" in param.opts for param in command.params)


@pytest.mark.parametrize(
    ("words", "command"), commands().items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_parameter_type_looks_at_the_disk(words, command):
    assert not [param for param in command.params if isinstance(param.type, click.Path | click.File)]


@pytest.mark.parametrize(("old", "words"), OLD_NAMES.items())
def test_an_old_name_is_the_command_of_today(old, words):
    assert " ".join(words) in commands()
    assert old not in ENTRIES


@pytest.mark.parametrize("group", [root(), tree()], ids=["one-shot", "repl"])
def test_the_repl_and_one_shots_share_the_tree(group):
    assert set(ENTRIES) <= set(group.list_commands(click.Context(group)))


@pytest.fixture
def terminal(tmp_path):
    return Terminal(None, environ_of(tmp_path))


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [("modle list", "model"), ("modellist", "model-list"), ("model lst", "list"), ("model list --jsn", "--json")],
)
async def test_what_was_mistyped_is_answered_with_the_nearest(terminal, line, suggestion):
    typed = await terminal.type(line)
    assert typed.code == 2
    assert f"Did you mean '{suggestion}'?" in typed.err
    assert typed.out == ""


@pytest.mark.parametrize(
    "line", ["model --nonsense --json", "--json model --nonsense", "run --json", "nonsense --json"]
)
async def test_a_usage_error_is_json_where_json_was_asked_for(terminal, line):
    typed = await terminal.type(line)
    assert typed.code == 2
    assert typed.err.startswith('{"error":{"code":"usage-error",')


async def test_a_word_behind_two_dashes_is_no_option(terminal):
    typed = await terminal.type("nonsense -- --json")
    assert typed.err.startswith("error:")


async def test_a_noun_alone_shows_its_help_and_is_a_usage_error(terminal):
    typed = await terminal.type("model")
    assert typed.code == 2
    assert "register" in typed.err


async def test_the_version_needs_no_database(terminal):
    typed = await terminal.type("version --json")
    assert (typed.code, typed.err) == (0, "")
    assert '"mer":"' in typed.out


async def test_a_bad_setting_is_told_before_anything_is_opened(terminal):
    terminal.environ["MER_MAX_WORKERS"] = "none"
    typed = await terminal.type("model list")
    assert typed.code == 78
    assert "MER_MAX_WORKERS in the environment" in typed.err


@pytest.mark.parametrize("seconds", ["nan", "-inf", "0", "-1", "soon"])
@pytest.mark.parametrize("line", ["run x --timeout", "model register x --run-limit", "model register x --load-limit"])
async def test_a_time_to_wait_is_a_finite_number_of_seconds(terminal, line, seconds):
    typed = await terminal.type(f"{line} {seconds}")
    assert typed.code == 2
    assert "a number of seconds above 0 is meant" in typed.err


@pytest.mark.parametrize("seconds", ["inf", "1e300", "1e12", "315360001"])
async def test_a_time_that_is_too_long_is_told_the_longest(terminal, seconds):
    typed = await terminal.type(f"model register x --run-limit {seconds}")
    assert typed.code == 2
    assert "at most 315360000 seconds (ten years) is meant" in typed.err


def test_the_longest_time_to_wait_is_ten_years():
    assert SECONDS.convert("315360000", None, None) == 315360000.0
