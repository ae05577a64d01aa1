"""The commands over a real Mer: what they write for people, for pipes and for programs, and what they exit with."""

import json
import re
import shlex

import numpy as np
import pytest

from mer.core.actor import Via
from tests.support.running import folder_with, running
from tests.support.typing_in import Terminal, environ_of

HANDLERS = {
    "shout": """
def load():
    def handler(inputs):
        print("reading", inputs["text"])
        return {"text": inputs["text"].upper(), "../escape": b"\\x00\\x01"}

    return handler
""",
    "double": """
import numpy


def load():
    return lambda inputs: {"double": inputs["x"] * 2, "share": numpy.array([0.25, 0.75], "float32")}
""",
    "same": """
def load():
    return lambda inputs: {"any": inputs["any"]}
""",
    "raising": """
def load():
    return lambda inputs: 1 / 0
""",
}
SPECS = {"shout": "text:string[] --arrays buffer", "double": "x:float32[n]", "same": "any:json --arrays buffer"}


def registering(folder, name):
    """What registers one of the handlers."""
    package = folder_with(folder / name, HANDLERS[name])
    spec = SPECS.get(name, "x:json --arrays buffer")
    return f"-a model register {name} {package} --entry handler:load --input {spec}"


@pytest.fixture
async def terminal(tmp_path):
    async with running(tmp_path) as mer:
        yield Terminal(mer, environ_of(tmp_path))


@pytest.fixture
async def models(terminal, tmp_path):
    """`shout` takes a text, `double` takes numbers."""
    for name in ("shout", "double"):
        typed = await terminal.type(registering(tmp_path, name))
        assert typed.code == 0, typed.err
    return terminal


async def as_json(terminal, line):
    typed = await terminal.type(f"{line} --json")
    return json.loads(typed.out or typed.err)


# --- models


async def test_a_model_is_registered_listed_and_shown(models):
    assert (await models.type("model list")).out.split()[4::4] == ["double", "shout"]
    shown = (await models.type("model show shout")).out
    assert "a python package: code that runs as you" in shown
    assert "text: string []" in shown
    assert "@default=1" in shown


async def test_registering_the_same_again_registers_nothing(models, tmp_path):
    typed = await models.type(registering(tmp_path, "shout"))
    assert (typed.code, typed.out) == (0, "registered already: shout:1\n")


async def test_a_version_is_shown_by_number_and_by_alias(models, tmp_path):
    await models.type(registering(tmp_path, "shout") + " --option scale=2")
    assert (await as_json(models, "model show shout:2"))["versions"]["items"][0]["number"] == 2
    assert (await as_json(models, "model show shout@default"))["versions"]["items"][0]["number"] == 1
    assert (await models.type("model show shout:3")).code == 66
    assert (await models.type("model show shout@prod")).code == 66


async def test_an_alias_moves_and_its_history_is_kept(models):
    assert (await models.type("-a model alias shout prod 1")).out == "shout@prod means shout:1\n"
    assert (await models.type("run shout@prod hello --output text=-")).out == "HELLO"
    assert (await models.type("-a model alias shout @prod --remove")).out == "shout@prod means nothing any more\n"
    assert (await models.type("run shout@prod hello")).code == 66
    moves = (await as_json(models, "model history shout"))["items"]
    assert [(move["alias"], move["version"]) for move in moves] == [("prod", None), ("prod", 1), ("default", 1)]


@pytest.mark.parametrize(
    "line", ["model alias shout prod", "model alias shout prod 1 --remove", "model alias shout prod 0"]
)
async def test_an_alias_needs_a_version_or_to_be_removed(models, line):
    assert (await models.type(f"-a {line}")).code == 2


async def test_labels_are_added_and_removed_one_by_one(models):
    await models.type("-a model edit shout --label a=1 --label b=2 --description 'is loud'")
    await models.type("-a model edit shout --label b=3 --remove-label a")
    model = (await as_json(models, "model show shout"))["model"]
    assert (model["labels"], model["description"]) == ({"b": "3"}, "is loud")
    assert (await models.type("-a model edit shout --remove-label a")).code == 2
    assert (await models.type("-a model edit shout")).code == 2


async def test_a_retired_model_leaves_the_list_unless_it_is_asked_for(models):
    assert (await models.type("-a model retire shout --yes")).code == 0
    assert "shout" not in (await models.type("model list")).out
    assert "shout (retired)" in (await models.type("model list --retired")).out
    assert (await models.type("run shout hello")).code == 66


async def test_retiring_asks_first_and_without_a_terminal_wants_a_yes(models):
    typed = await models.type("-a model retire shout")
    assert typed.code == 2
    assert "--yes" in typed.err
    assert (await models.type("model list")).out.count("shout") == 1


async def test_pages_follow_each_other(models):
    first = await models.type("model list --limit 1")
    assert first.out.splitlines()[1].startswith("double")
    assert first.err == "there are more: the same again with --after double\n"
    second = await models.type("model list --limit 1 --after double")
    assert second.out.splitlines()[1].startswith("shout")
    assert second.err == ""
    assert (await as_json(models, "model list --limit 1"))["next"] == "double"


@pytest.mark.parametrize("limit", ["0", "1001", "many"])
async def test_a_page_has_bounds(models, limit):
    assert (await models.type(f"model list --limit {limit}")).code == 2


async def test_a_command_is_registered_with_its_words(terminal):
    line = "-a model register loud --directory /tmp --stop-token END -- /bin/cat -u --json"
    assert (await terminal.type(line)).code == 0
    spec = (await as_json(terminal, "model show loud"))["versions"]["items"][0]["spec"]
    assert spec["runner"] == "command"
    assert spec["command"]["argv"] == ["/bin/cat", "-u", "--json"]
    assert spec["command"]["tokens"]["stop"] == "END"


async def test_a_model_is_placed_and_taken_away(models):
    await models.type("-a server register far --address far.example")
    assert (await models.type("-a model place shout:1 far --device cuda:0")).out == "shout:1 runs on far\n"
    shown = await as_json(models, "model show shout")
    assert [(p["server"], p["placement"]["version"], p["placement"]["device"]) for p in shown["placements"]] == [
        ("far", 1, "cuda:0")
    ]
    assert (await models.type("-a model unplace shout far")).code == 0
    assert (await models.type("-a model unplace shout far")).code == 66


async def test_a_ping_tells_each_step(models):
    steps = (await as_json(models, "model ping shout"))["steps"]
    assert [(step["name"], step["ok"]) for step in steps] == [("content", True), ("worker", True)]


async def test_a_ping_that_fails_exits_with_the_failed_steps_code(terminal, tmp_path):
    broken = folder_with(tmp_path / "broken", "import nonsense_that_nobody_has\n")
    await terminal.type(f"-a model register broken {broken} --entry handler:load")
    typed = await terminal.type("model ping broken")
    assert typed.code not in (0, 70)
    assert re.search(r"worker +failed", typed.out)


# --- servers, weights, store, drivers


async def test_a_server_is_registered_edited_and_retired(terminal):
    assert (await terminal.type("-a server register far --address a.example --user ada --label room=1")).code == 0
    assert (await terminal.type("-a server edit far --port 2222 --label room=2")).code == 0
    server = await as_json(terminal, "server show far")
    assert server["parameters"] == {"address": "a.example", "user": "ada", "port": 2222}
    assert server["labels"] == {"room": "2"}
    assert "ada@a.example:2222" in (await terminal.type("server list")).out
    assert (await terminal.type("-a server retire far -y")).code == 0
    assert (await terminal.type("server list")).out.count("far") == 0
    assert (await terminal.type("-a server edit local")).code == 2


async def test_weights_are_registered_used_and_retired(models, tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.arange(3.0)}, tmp_path / "w.safetensors")
    typed = await models.type(f"-a weights register w {tmp_path}/w.safetensors")
    assert typed.out == "registered weights w:1 (1 tensor, 24 bytes)\n"
    used = await models.type("-a weights use shout w:1")
    assert used.out == "registered shout:2 with the weights w:1\n"
    assert "mer model alias" in used.err
    assert (await as_json(models, "weights show w"))["versions"]["items"][0]["tensors"] == 1
    assert (await models.type("-a weights retire w --yes")).code == 0
    assert (await models.type("weights list")).out == ""


async def test_what_was_read_of_the_store_has_its_units(models):
    assert (await models.type("store verify")).out.endswith(" bytes\n")


@pytest.mark.parametrize(("columns", "shown"), [("80", False), ("120", True)])
async def test_an_invocation_is_listed_whole_or_not_at_all(models, columns, shown):
    models.terminal = True
    models.environ["COLUMNS"] = columns
    await models.type("run shout hello")
    invocation = (await as_json(models, "log list --kind finished"))["items"][0]["record"]["invocation"]
    listed = (await models.type("log list")).out
    assert (invocation in listed, "…" in listed) == (shown, False)


async def test_the_store_is_read_again_and_tells_what_is_wrong(models, tmp_path):
    assert (await models.type("store verify")).code == 0
    blobs = [
        path for path in (tmp_path / "state/content").rglob("*") if path.is_file() and b"def load" in path.read_bytes()
    ]
    for blob in blobs:
        blob.chmod(0o600)
        blob.write_bytes(b"# changed\n")
    typed = await models.type("store verify")
    assert typed.code == 74
    assert "wrong digest" in typed.out


async def test_a_change_that_is_not_allowed_is_refused_with_how_to_allow_it(tmp_path):
    async with running(tmp_path, allow_changes=False) as mer:
        terminal = Terminal(mer, environ_of(tmp_path))
        for line in ("model retire x", "server register far --address a", "weights retire w", "store gc"):
            typed = await terminal.type(line)
            assert typed.code == 77, typed
            assert "-a" in typed.err


async def test_flags_reach_the_settings_and_the_face_says_what_it_is(models):
    models.opened.clear()
    await models.type("--database-url mem://x -a model list")
    [(settings, via)] = models.opened
    assert (settings.database_url, settings.allow_changes, via) == ("mem://x", True, Via.ONE_SHOT)


# --- run


async def test_a_lone_text_is_written_as_it_is(models, tmp_path):
    typed = await models.type("run shout hello --output '../escape'=-")
    assert typed.out == "\x00\x01"


async def test_outputs_are_stable_lines_in_a_pipe(models):
    typed = await models.type("run double --input x=[1,2.5]")
    assert typed.out == "double = [2.0, 5.0]\nshare = [0.25, 0.75]\n"
    assert typed.err == ""


async def test_outputs_are_one_document_for_a_program(models):
    document = await as_json(models, "run double --input x=[1,2.5]")
    assert document["outputs"]["double"] == {"dtype": "float32", "shape": [2], "value": [2.0, 5.0]}
    assert (document["model"], document["version"], document["server"]) == ("double", 1, "local")
    assert document["recorded"] is True
    assert document["timings"]["run_us"] >= 0
    assert await as_json(models, f"log show {document['invocation']}")


async def test_outputs_are_drawn_on_a_terminal(models):
    models.terminal = True
    typed = await models.type("--no-color run double --input x=[1,2.5]")
    assert "double: float32 [2]\n  [2. 5.]\n" in typed.out
    assert "1  75.0% ███" in typed.out
    assert "double:1 on local" in typed.err


async def test_what_a_model_prints_goes_to_stderr(models):
    typed = await models.type("run shout hello --output text=-")
    assert (typed.out, typed.err) == ("HELLO", "reading hello\n")


@pytest.mark.parametrize("old", ["execute", "execute-model", "model-execute"])
async def test_the_old_execute_takes_a_name_and_an_input(models, old):
    assert "HELLO" in (await models.type(f"{old} shout hello")).out


async def test_outputs_go_to_files(models, tmp_path):
    typed = await models.type(f"run double -i x=[1] -o double={tmp_path}/d.npy -o share={tmp_path}/s.json")
    assert (typed.code, typed.out) == (0, "")
    assert np.load(tmp_path / "d.npy").tolist() == [2.0]
    assert json.loads((tmp_path / "s.json").read_text()) == [0.25, 0.75]


async def test_no_name_of_an_output_leads_out_of_the_folder(models, tmp_path):
    typed = await models.type(f"run shout hello --output-dir {tmp_path}/a/b")
    assert typed.code == 0
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["_escape.bin", "text.txt"]
    assert (tmp_path / "a/b/text.txt").read_text() == "HELLO"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("-o nope=x.npy", 2),
        ("-o double", 2),
        ("-o double=a -o double=b", 2),
        ("-o double=x.txt", 2),
        ("-o double=/nope/x.npy", 74),
    ],
)
async def test_an_output_that_cannot_be_written_is_told(models, options, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (await models.type(f"run double -i x=[1] {options}")).code == code
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("run nope x", 66),
        ("run double:9 [1]", 66),
        ("run double@prod [1]", 66),
        ("run double [1] --on nope", 66),
        ("run double", 65),
        ("run double -i y=1", 65),
        ("run double -i x=@nope.npy", 65),
        ("run double -i x=@setup", 65),
        ("run double -i x=[[1]]", 65),
        ("run double -i x=nonsense", 65),
        ("run double:x [1]", 2),
        ("run double [1] --timeout 0", 2),
        ("run double [1] -i x=[1]", 2),
    ],
)
async def test_bad_input_is_a_clear_error_with_its_code(models, line, code):
    typed = await models.type(line)
    assert (typed.code, typed.out) == (code, "")
    assert typed.err.startswith("error: ")
    assert "Traceback" not in typed.err


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("run shuot hello", "did you mean shout?"),
        ("run SHOUT:2 hello", "did you mean shout?"),
        ("model show doubel", "did you mean double?"),
        ("run shout hello --on lcal", "did you mean local?"),
        ("run shout hello --on=loca", "did you mean local?"),
        ("run nothing-like-it hello", "mer model list shows what is registered"),
        ("server show nothing", "mer server list shows what is registered"),
        ("weights show nothing", "mer weights list shows what is registered"),
        ("run shout:9 hello", "mer model show MODEL lists its versions and aliases"),
        ("run shout@prod hello", "mer model show MODEL lists its versions and aliases"),
    ],
)
async def test_an_unknown_name_is_answered_with_those_near_it(models, line, hint):
    typed = await models.type(line)
    assert (typed.code, typed.out) == (66, "")
    assert typed.err.endswith(f"hint: {hint}\n")


@pytest.mark.parametrize(("value", "hint"), [("[1, 2", True), ("{'a': 1}", True), ('{"a": 1}', False), ("one", False)])
async def test_json_with_a_mistake_is_told_as_such(models, value, hint):
    typed = await models.type(f"run double -i x={shlex.quote(value)}")
    assert typed.code == 65
    assert ("hint: x is taken for a text, for it is not JSON: " in typed.err) is hint


@pytest.mark.parametrize("value", ['"text"', '["a", "b"]', "7", "null", '{"a": [1.5, null]}', "not json"])
async def test_anything_goes_through_a_json_input(terminal, tmp_path, value):
    await terminal.type(registering(tmp_path, "same"))
    document = await as_json(terminal, f"run same {shlex.quote(value)}")
    assert document["outputs"]["any"]["value"] == (value if value == "not json" else json.loads(value))


async def test_a_failing_model_shows_its_own_traceback(terminal, tmp_path):
    await terminal.type(registering(tmp_path, "raising"))
    typed = await terminal.type("run raising 1")
    assert typed.code == 1
    assert "Traceback (most recent call last)" in typed.err
    assert "ZeroDivisionError: division by zero" in typed.err.splitlines()[-1]
    error = (await as_json(terminal, "run raising 1"))["error"]
    assert (error["code"], error["exit_code"]) == ("model-failed", 1)
    assert "ZeroDivisionError" in error["traceback"]


# --- the log


async def test_the_log_is_listed_filtered_and_shown(models):
    await models.type("run shout hello")
    await models.type("run double x")
    assert (await models.type("log list --model shout --kind finished")).out.count("succeeded") == 1
    assert len((await as_json(models, "log list --outcome refused"))["items"]) == 1
    assert (await as_json(models, "log list --until 1h"))["items"] == []
    assert len((await as_json(models, "log list --since 1h --limit 2"))["items"]) == 2
    assert (await models.type("log show 1")).out.startswith("seq ")
    assert (await models.type("log show 99")).code == 66
    assert (await models.type("log list --kind nonsense")).code == 2


async def test_the_log_verifies_against_a_checkpoint(models):
    checkpoint = (await models.type("log checkpoint")).out.strip()
    await models.type("run shout hello")
    assert (await models.type(f"log verify --since {checkpoint}")).code == 0
    typed = await models.type(f"log verify --since {checkpoint[:-1]}{'0' if checkpoint[-1] != '0' else '1'}")
    assert typed.code == 79
    assert "is not the record of the checkpoint" in typed.out
    assert (await models.type("log verify --since nonsense")).code == 2


async def test_an_export_verifies_without_a_database_and_tells_what_was_changed(models, tmp_path):
    file = tmp_path / "log.jsonl"
    assert (await models.type(f"log export {file}")).out.startswith("wrote 2 records")
    offline = Terminal(None, models.environ)
    assert (await offline.type(f"log verify {file}")).code == 0
    assert (await models.type("log export")).out == file.read_text()
    file.write_text(file.read_text().replace('"model":"shout"', '"model":"quiet"', 1))
    typed = await offline.type(f"log verify {file} --json")
    assert typed.code == 79
    assert json.loads(typed.out)["faults"][0]["seq"] == 1


async def test_an_export_that_cannot_be_written_leaves_nothing(models, tmp_path):
    assert (await models.type(f"log export {tmp_path}/nope/log.jsonl")).code == 74
    assert (await models.type(f"log export {tmp_path}")).code == 74
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


# --- for terminals and programs


async def test_a_description_cannot_steer_the_terminal(models):
    models.terminal = True
    await models.type("-a model edit shout --description '\x1b]0;owned\x07\x1b[2Jshout\r'")
    for line in ("model list", "model show shout", "--no-color log list"):
        typed = await models.type(f"--no-color {line}")
        assert "\x1b" not in typed.out + typed.err
        assert "\r" not in typed.out


@pytest.mark.parametrize("columns", ["80", "40"])
async def test_lists_fit_the_terminal(models, columns):
    models.terminal = True
    models.environ["COLUMNS"] = columns
    for line in ("model list", "log list", "server list", "settings list"):
        typed = await models.type(f"--no-color {line}")
        assert typed.code == 0
        if line != "settings list":
            assert max(map(len, typed.out.splitlines())) <= max(int(columns), 56), typed.out


@pytest.mark.parametrize(
    "line",
    [
        "model list",
        "model show shout",
        "model history shout",
        "model ping shout",
        "server list",
        "server show local",
        "server ping local",
        "weights list",
        "log list",
        "log show 1",
        "log verify",
        "log checkpoint",
        "store verify",
        "driver list",
        "settings list",
        "settings show max_workers",
        "version",
        "run shout hello",
        "-a model edit shout --label a=b",
        "-a model alias shout prod 1",
        "-a model retire shout --yes",
        "-a store gc --yes",
    ],
)
async def test_every_command_answers_in_json(models, line):
    typed = await models.type(f"{line} --json")
    assert typed.code == 0, typed
    assert isinstance(json.loads(typed.out), dict)
    assert (await models.type(f"--json {line}")).out.startswith("{")
