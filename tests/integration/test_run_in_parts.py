"""`mer run` of a model that answers in parts: as text, as lines of JSON, into files, cut off, fed by parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mer.faces.commands import input_parts
from tests.support.documents import ROOT

CONSOLE = (sys.executable, "-m", "tests.support.memory_console")
SECONDS = 60


def console(folder: Path, *words: str, **given: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "MER_STATE_FOLDER": str(folder)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
    return subprocess.Popen([*CONSOLE, *words], cwd=ROOT, env=environment, text=True, **pipes)


def run(folder: Path, *words: str, code: int = 0, given: str | None = None) -> str:
    program = console(folder, *words, stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL)
    out, err = program.communicate(given, timeout=SECONDS)
    assert program.returncode == code, (out, err)
    return out if code == 0 else err


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_parts_are_written_one_after_the_other(tmp_path):
    assert run(tmp_path, "run", "echo", "count 3") == "number = 1\nnumber = 2\nnumber = 3\n"


def test_a_script_of_the_repl_writes_them_too(tmp_path):
    assert run(tmp_path, given="run echo 'count 2'\nrun echo hello\n").startswith("number = 1\nnumber = 2\nHELLO\n")


def test_jsonl_writes_an_object_a_line(tmp_path):
    told = lines(run(tmp_path, "run", "echo", "count 2", "--jsonl"))
    assert [part["part"] for part in told] == [1, 2]
    assert [part["outputs"]["number"]["value"] for part in told] == [1, 2]


def test_jsonl_of_an_answer_that_comes_whole_is_one_line(tmp_path):
    (told,) = lines(run(tmp_path, "run", "echo", "hello", "--jsonl"))
    assert told == {"part": 1, "outputs": {"text": {"dtype": "string", "shape": [], "value": "HELLO"}}}


def test_json_is_one_document_of_all_parts(tmp_path):
    told = json.loads(run(tmp_path, "run", "echo", "count 2", "--json"))
    assert [part["outputs"]["number"]["value"] for part in told["parts"]] == [1, 2]
    assert told["recorded"] is True


def test_a_part_is_there_before_the_next_one(tmp_path):
    program = console(tmp_path, "run", "echo", "count 2 1", "--jsonl")
    assert program.stdout is not None
    assert json.loads(program.stdout.readline())["part"] == 1
    assert program.poll() is None
    rest, _ = program.communicate(timeout=SECONDS)
    assert json.loads(rest)["part"] == 2


def test_ctrl_c_ends_with_130(tmp_path):
    program = console(tmp_path, "run", "echo", "count 1000 0.1", "--jsonl")
    assert program.stdout is not None
    program.stdout.readline()
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=SECONDS)
    assert program.returncode == 130


def test_ctrl_c_ends_a_script(tmp_path):
    program = console(tmp_path, stdin=subprocess.PIPE)
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("run echo 'count 1000 0.1'\n")
    program.stdin.flush()
    while not program.stdout.readline().startswith("number = 1"):
        pass
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=SECONDS)
    assert program.returncode == 130


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path):
    program = console(tmp_path, "run", "echo", "count 1000000", "--jsonl")
    assert program.stdout is not None
    assert json.loads(program.stdout.readline())["part"] == 1
    program.stdout.close()
    assert program.stderr is not None
    told = program.stderr.read()
    assert program.wait(SECONDS) == 0, told
    assert "error" not in told


def test_output_to_stdout_is_that_of_every_part(tmp_path):
    assert (
        run(
            tmp_path,
            "run",
            "echo",
            "double",
            "-o",
            "text=-",
            "--input-parts",
            "-",
            given='{"text": "a"}\n{"text": "b"}\n',
        )
        == "aabb"
    )


def test_an_output_that_no_part_has_is_told(tmp_path):
    assert "'other'" in run(tmp_path, "run", "echo", "count 2", "-o", "other=-", code=2)


def test_stdin_is_read_once(tmp_path):
    told = run(tmp_path, "run", "echo", "-i", "text=@-", "--input-parts", "-", given="double", code=65)
    assert "read once" in told


def test_files_take_an_answer_that_comes_whole(tmp_path):
    told = run(tmp_path, "run", "echo", "count 2", "-o", f"number={tmp_path / 'n.json'}", code=2)
    assert "in parts" in told
    assert "--jsonl" in told


def test_jsonl_and_output_do_not_go_together(tmp_path):
    assert "--jsonl" in run(tmp_path, "run", "echo", "count 2", "--jsonl", "-o", "number=-", code=2)


def test_an_error_comes_after_the_parts_before_it(tmp_path):
    parts = tmp_path / "parts.jsonl"
    parts.write_text('{"text": "a"}\n\nnonsense\n')
    told = run(tmp_path, "run", "echo", "double", "--input-parts", str(parts), code=65)
    assert "line 3" in told


@pytest.mark.parametrize(
    ("content", "why"), [("[1]\n", "no JSON object"), ("\xff", "not UTF-8"), ('{"other": 1}\n', "'other' is not one")]
)
def test_lines_that_are_no_parts_are_told(tmp_path, content, why):
    parts = tmp_path / "parts.jsonl"
    parts.write_bytes(content.encode("latin-1"))
    program = console(tmp_path, "run", "echo", "double", "--input-parts", str(parts))
    _, told = program.communicate(timeout=SECONDS)
    assert program.returncode == 65
    assert why in told


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert "cannot be read" in run(tmp_path, "run", "echo", "double", "--input-parts", "absent", code=65)


@pytest.mark.parametrize("words", ["double --input-parts -", "-i text=@-", "--inputs @-"])
def test_in_a_script_stdin_is_not_for_inputs(tmp_path, words):
    program = console(tmp_path, stdin=subprocess.PIPE)
    _, told = program.communicate(f"run echo {words}\n", timeout=SECONDS)
    assert program.returncode == 65
    assert "commands are being read" in told


async def test_a_line_may_be_as_long_as_the_cap_and_no_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(input_parts, "MAX_PART_LINE", 20)
    path = tmp_path / "parts"
    path.write_text('{"text": "01234567"}\n')
    assert [part async for part in input_parts.input_parts(str(path), None)] == [{"text": "01234567"}]
    path.write_text('{"text": "012345678"}\n')
    with pytest.raises(Exception, match="20 bytes"):
        [part async for part in input_parts.input_parts(str(path), None)]
