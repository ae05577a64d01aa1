"""The REPL and one-shots as whole programs: at a terminal, in a script, in a pipe, and interrupted."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from tests.support import compiled

ROOT = Path(__file__).parents[2]
MER = [sys.executable, "-m", "tests.support.memory_console"]
PROMPT = "mer>"
LET_GO = "\x1b\\[\\?2004l"
"""What the prompt sends when it has let go of the terminal: before that, what is seen is its own drawing."""


@pytest.fixture
def environment(tmp_path):
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MER_", "DB_", "ALLOW_"))},
        "MER_STATE_FOLDER": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        "NO_COLOR": "1",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }


@pytest.fixture(autouse=True)
def state(tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    compiled.put_into(tmp_path / "state" / "cache")
    return tmp_path / "state"


@pytest.fixture
def repl(environment):
    child = pexpect.spawn(
        MER[0], [*MER[1:], "-a"], env=environment, cwd=ROOT, encoding="utf-8", timeout=20, dimensions=(30, 100)
    )
    child.expect(PROMPT)
    yield child
    child.close(force=True)


def enter(child, line):
    """Type a line, and return what came of it up to the next prompt."""
    child.sendline(line)
    child.expect(LET_GO)
    child.expect(PROMPT)
    return child.before


def in_script(environment, text, *options):
    return subprocess.run(
        [*MER, *options], input=text, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60
    )


def test_the_banner_tells_the_database_the_models_and_what_is_allowed(environment):
    child = pexpect.spawn(MER[0], MER[1:], env=environment, cwd=ROOT, encoding="utf-8", timeout=20)
    child.expect(r"memory · 1 model\r\nChanges are not allowed \(start with -a\)\.")
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)


def test_a_model_runs_and_what_it_prints_is_shown(repl):
    shown = enter(repl, "run echo hello")
    assert "reading hello" in shown
    assert "text: HELLO" in shown


def test_an_error_has_its_hint_and_the_repl_goes_on(repl):
    assert "Did you mean 'model'?" in enter(repl, "modle list")
    assert "no closing quotation" in enter(repl, 'run echo "hello')
    assert "text: HELLO" in enter(repl, "mer run echo hello")


def test_tab_completes_commands_and_names_from_the_registry(repl):
    repl.send("model sh\t")
    repl.expect("ow")  # the prompt draws what is new
    repl.send(" ec\t")
    repl.expect("ho")
    assert "a python package" in enter(repl, "")


def test_a_name_registered_just_now_is_completed(repl, state):
    enter(repl, f"model register parrot {state}/package --entry handler:load")
    time.sleep(0.3)  # the names are looked up behind the prompt
    repl.send("run parr\t")
    repl.expect("ot")
    repl.sendintr()
    repl.expect(PROMPT)


def test_ctrl_c_cancels_the_run_which_is_on_record_and_the_repl_goes_on(repl):
    repl.sendline('run echo "sleep 60"')
    repl.expect("reading sleep 60")
    repl.sendintr()
    repl.expect("error: Interrupted.")
    repl.expect(PROMPT)
    assert "cancelled" in enter(repl, "log list --limit 1")
    assert "text: AGAIN" in enter(repl, "run echo again")


def test_ctrl_c_at_the_prompt_clears_the_line(repl):
    repl.send("garbage")
    repl.expect("garbage")
    repl.sendintr()
    repl.expect(LET_GO)
    repl.expect(PROMPT)
    assert "text: HELLO" in enter(repl, "run echo hello")


def test_lines_that_are_pasted_run_one_by_one(repl):
    repl.send("\x1b[200~run echo one\nrun nope\nrun echo \\\n  two\x1b[201~\r")
    for told in ("text: ONE", "no model 'nope'", "text: TWO"):
        repl.expect(told)
    repl.expect(PROMPT)


def test_ctrl_z_stops_the_repl_until_the_shell_goes_on_with_it(environment):
    shell = pexpect.spawn(
        "bash", ["--norc", "-i"], env={**environment, "PS1": "shell> "}, cwd=ROOT, encoding="utf-8", timeout=20
    )
    shell.expect("shell> ")
    shell.sendline(" ".join(MER))
    shell.expect(PROMPT)
    shell.send("\x1a")
    shell.expect("Stopped")
    shell.expect("shell> ")
    shell.sendline("fg")
    shell.expect(PROMPT)
    assert "text: HELLO" in enter(shell, "run echo hello")
    shell.close(force=True)


def test_a_question_is_asked_and_no_means_no(repl):
    repl.sendline("model retire echo")
    repl.expect(r"Retire echo\? \[y/N\]")
    repl.sendline("n")
    repl.expect("nothing was changed")
    repl.expect(PROMPT)
    repl.sendline("model retire echo")
    repl.expect(r"\[y/N\]")
    repl.sendintr()
    repl.expect("Interrupted")
    repl.expect(PROMPT)
    repl.sendline("model retire echo")
    repl.expect(r"\[y/N\]")
    repl.sendline("y")
    repl.expect("retired echo")


def test_what_a_model_answers_cannot_steer_the_terminal(repl):
    assert r"text: \x1b]0;owned\x07\x1b[2J" in enter(repl, "run echo steer")


@pytest.mark.parametrize("leave", ["exit", "quit", None])
def test_the_repl_is_left(repl, leave):
    repl.sendline(leave) if leave else repl.sendeof()
    repl.expect(pexpect.EOF)
    repl.close()
    assert (repl.exitstatus, repl.signalstatus) == (0, None)


def test_help_lists_the_commands_and_explains_one(repl):
    assert "Run a model and show what it answers." in enter(repl, "help")
    assert "--entry MODULE:CALLABLE" in enter(repl, "help model register")
    assert "No such command" in enter(repl, "help nonsense")


@pytest.mark.parametrize("asked", ["mer --help", "--help", "-h"])
def test_the_hint_of_a_mistake_can_be_followed(repl, asked):
    assert "mer --help says" in enter(repl, "nonsense")
    assert "Run a model and show" in enter(repl, asked)


def test_the_history_is_kept_for_its_owner_alone(repl, state):
    enter(repl, "version")
    enter(repl, " run echo secret")
    history = state / "history"
    assert history.read_text() == "version\n"
    assert history.stat().st_mode & 0o777 == 0o600


def test_the_history_is_not_written_through_a_link(environment, state, tmp_path):
    (tmp_path / "theirs").write_text("")
    (state / "history").symlink_to(tmp_path / "theirs")
    child = pexpect.spawn(MER[0], MER[1:], env=environment, cwd=ROOT, encoding="utf-8", timeout=20)
    child.expect(PROMPT)
    enter(child, "version")
    child.close(force=True)
    assert (tmp_path / "theirs").read_text() == ""


# --- scripts


def test_a_script_runs_line_by_line_and_exits_with_its_first_failure(environment):
    done = in_script(environment, "run echo one\n\n# remark\nmodel show nope # 66\nrun echo fail\nrun echo two")
    assert done.stdout == "ONE\nTWO\n"
    assert done.returncode == 66
    assert "no model 'nope'" in done.stderr


def test_a_line_of_a_script_goes_on_behind_a_backslash(environment):
    done = in_script(environment, "run \\\n  echo hello\nrun echo don't\nrun echo again\\")
    assert done.stdout == "HELLO\n"
    assert done.stderr.count("the line ends too early") == 2


def test_a_script_ends_at_exit(environment):
    done = in_script(environment, "run echo one\nexit\nrun echo two\n")
    assert (done.returncode, done.stdout) == (0, "ONE\n")


def test_a_script_may_come_from_a_file_and_may_be_empty(environment, tmp_path):
    (tmp_path / "script").write_text("run echo one --json")
    with (tmp_path / "script").open() as script:
        done = subprocess.run(MER, stdin=script, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert json.loads(done.stdout)["outputs"]["text"]["value"] == "ONE"
    done = subprocess.run(MER, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_script_is_never_asked(environment):
    done = in_script(environment, "model retire echo\nrun echo still\n", "-a")
    assert (done.returncode, done.stdout) == (2, "STILL\n")


def test_json_for_one_line_is_for_that_line_alone(environment):
    done = in_script(environment, "run echo a --json\nrun echo b\nnonsense --json\nnonsense\n")
    assert done.stdout.splitlines()[1] == "B"
    assert [line[:7] for line in done.stderr.splitlines() if "No such" in line] == ['{"error', "error: "]


def test_a_line_of_a_binary_file_is_told_and_ends_the_script(environment):
    done = subprocess.run(MER, input=b"version\n\xff\xfe\n", capture_output=True, env=environment, cwd=ROOT)
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr


# --- one-shots as processes


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_one_shot_with_130(environment, number):
    child = subprocess.Popen(
        [*MER, "run", "echo", "sleep 60"], stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "reading sleep 60\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err.count("error:")) == (130, 1)
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("source", ["@-", "@unfinished"])
def test_a_signal_ends_a_one_shot_that_waits_for_its_input(environment, tmp_path, number, source):
    os.mkfifo(tmp_path / "unfinished")
    with (tmp_path / "unfinished").open("r+b", buffering=0) as unfinished:
        unfinished.write(b"the beginning")
        command = [*MER, "run", "echo", "--input", f"text={source}"]
        child = subprocess.Popen(
            command, stdin=unfinished, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        )
        try:
            deadline = time.monotonic() + 20
            while select.select([unfinished], [], [], 0)[0]:  # it has not begun to read
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.send_signal(number)
            _, err = child.communicate(timeout=10)
        finally:
            child.kill()
    assert (child.returncode, err.count("error:"), "Fatal" in err) == (130, 1, False)


@pytest.mark.parametrize("words", [["log", "export"], ["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(environment, words):
    command = " ".join([*MER, *words]) + " | true; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["version"], ["--help"], ["model", "--help"]], ids=" ".join)
def test_output_that_cannot_be_written_is_an_error(environment, words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*MER, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 74
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


def test_a_remark_follows_what_it_remarks_on(environment):
    script = "server register a --address a\nserver register b --address b\nserver list --limit 1\n"
    done = subprocess.run(
        [*MER, "-a"],
        input=script.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=ROOT,
    )
    assert done.stdout.decode().splitlines()[-1].startswith("there are more:")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", ">&- <&-"])
def test_an_output_that_was_closed_cannot_be_written(environment, closed):
    command = " ".join([*MER, "run", "echo", "hello", closed])
    done = subprocess.run(["bash", "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 74
    assert "2>" in closed or "error: the output cannot be written" in done.stderr


def test_errors_that_nobody_can_see_are_no_error(environment):
    command = " ".join([*MER, "run", "echo", "hello", "2>&-"])
    done = subprocess.run(["bash", "-c", command], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "HELLO\n")


def test_ctrl_c_while_the_program_is_still_being_imported_ends_it_quietly(environment):
    program = """if True:
        import sys
        import mer.__main__
        class Early:
            def find_spec(self, name, *_):
                if name == "click":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Early())
        mer.__main__.main()
    """
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("columns", [40, 60])
def test_help_fits_a_narrow_terminal(environment, columns):
    words = ["model", "register", "--help"]
    done = subprocess.run(
        [*MER, *words], env=environment | {"COLUMNS": str(columns)}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= columns


def test_an_error_keeps_its_code_though_nobody_reads(environment):
    command = " ".join([*MER, "run", "nope"]) + " 2>&1 | true; exit ${PIPESTATUS[0]}"
    assert subprocess.run(["bash", "-c", command], env=environment, cwd=ROOT).returncode == 66


def test_an_error_keeps_its_code_though_it_cannot_be_written(environment):
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([*MER, "run", "nope"], stderr=full, env=environment, cwd=ROOT).returncode == 66


def test_a_terminal_without_umlauts_is_no_error(environment):
    environment |= {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*MER, "run", "echo", "\u00fcber"], capture_output=True, env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, b"\\xdcBER\n")


def test_a_bug_is_told_in_a_line_with_its_traceback_in_a_file(environment, state):
    environment["DRIVER_DB_PASSWORD"] = "hunter2!"
    broken = "import tests.support.memory_console as c, os, sys\n"
    broken += "c.open_in_memory = lambda settings, via: 1 / 0 if settings.driver_password != 'hunter2!' else boom('hunter2!')\n"
    broken += "def boom(x): raise RuntimeError(f'cannot use {x} for postgresql://ada:pw@host')\n"
    broken += "sys.exit(c.main(sys.argv[1:], environ=os.environ, open_mer=c.open_in_memory))\n"
    command = [sys.executable, "-c", broken]
    done = subprocess.run([*command, "model", "list"], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 70
    assert done.stderr.startswith(
        "error: a bug in MER: RuntimeError: cannot use ******** for postgresql://ada:********@host\n"
    )
    [report] = (state / "reports").iterdir()
    assert str(report) in done.stderr
    assert "Traceback" in report.read_text()
    assert "hunter2" not in report.read_text() + done.stderr
    assert report.stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(
        [*command, "--debug", "model", "list"], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert "Traceback" in shown.stderr
    assert "hunter2" not in shown.stderr
