"""What people get wrong at the command line: a clear error, the right exit code, and its refusal on record."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.installation import DIGITS, THREE, Installation


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["run", "nosuch"], 66, "nosuch"),
        (["run", "digits:99", "--input", THREE], 66, "99"),
        (["run", "digits@nosuch", "--input", THREE], 66, "nosuch"),
        (["run", "digits", "--input", THREE, "--on", "nosuch"], 66, "nosuch"),
        (["run", "dig its"], 2, "dig its"),
        (["run", "digits"], 65, "input 'image' is missing"),
        (["run", "digits", "--input", "image=not json"], 65, "image"),
        (["run", "digits", "--input", "image=[1,2"], 65, "image"),
        (["run", "digits", "--input", "image=@/nosuch/file.npy"], 65, "/nosuch/file.npy"),
        (["run", "digits", "--input", "image=[[1]]"], 65, "shape [1, 1]"),
        (["run", "digits", "--input", THREE, "--input", "mask=1"], 65, "mask"),
        (["run", "digits", "--input", "image"], 2, "NAME=VALUE"),
        (["run", "digits", "--input", THREE, "--timeout", "soon"], 2, "timeout"),
        (["model", "show", "nosuch"], 66, "nosuch"),
        (["server", "show", "nosuch"], 66, "nosuch"),
        (["server", "ping", "nosuch"], 66, "nosuch"),
        (["weights", "show", "nosuch"], 66, "nosuch"),
        (["log", "show", "999999"], 66, "999999"),
        (["log", "verify", "--since", "yesterday"], 2, "checkpoint"),
        (["log", "verify", "/nosuch/file"], 2, "/nosuch/file"),
        (["-a", "model", "register", "x", "/nosuch/folder", "--entry", "a:b"], 78, "/nosuch/folder"),
        (["-a", "model", "register", "x y", "/tmp", "--entry", "a:b"], 2, "x y"),
        (["-a", "model", "place", "digits", "nosuch"], 66, "nosuch"),
        (["-a", "model", "alias", "digits", "prod", "99"], 66, "99"),
        (["-a", "weights", "register", "x", "/nosuch.safetensors"], 78, "nosuch"),
        (["-a", "model", "retire", "digits"], 2, "--yes"),
        (["--auditor", "-a", "model", "list"], 2, "only reads"),
        (["--auditor", "run", "digits", "--input", THREE], 77, "does not allow"),
        (["--env-file", "/nosuch/.env", "model", "list"], 78, "/nosuch/.env"),
        (["--database-url", "mysql://x", "model", "list"], 78, "mysql"),
        (["nosuch"], 2, "nosuch"),
        (["model", "nosuch"], 2, "nosuch"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_mistake_is_told_with_its_exit_code(installed: Installation, words: list[str], code: int, told: str) -> None:
    done = installed.mer(*words, code=code)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_error_is_one_json_document_when_asked(installed: Installation) -> None:
    done = installed.mer("run", "nosuch", "--json", code=66)
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["exit_code"]) == ("model-not-found", 66)


def test_an_array_of_another_dtype_is_refused_not_converted(installed: Installation, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.load(DIGITS / "three.npy").astype(np.float64))
    done = installed.mer("run", "digits", "--input", f"image=@{tmp_path / 'image.npy'}", code=65)
    assert "float64, not float32" in done.stderr


def test_an_array_that_would_be_unpickled_is_refused(installed: Installation, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.array([{}]), allow_pickle=True)
    installed.mer("run", "digits", "--input", f"image=@{tmp_path / 'image.npy'}", code=65)


@pytest.mark.parametrize(
    "words",
    [
        ["model", "register", "x", str(DIGITS / "package")],
        ["model", "edit", "digits", "--description", "x"],
        ["model", "alias", "digits", "prod", "1"],
        ["model", "place", "digits", "local"],
        ["model", "retire", "digits", "--yes"],
        ["server", "register", "gpu1", "--address", "gpu1"],
        ["weights", "register", "x", str(DIGITS / "digits.safetensors")],
        ["weights", "use", "digits", "digits"],
        ["store", "gc", "--yes"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_change_needs_the_flag_and_its_refusal_is_on_record(installed: Installation, words: list[str]) -> None:
    before = installed.json("log", "checkpoint")["seq"]
    done = installed.mer(*words, code=77)
    assert "--allow-model-server-runtime-changes" in done.stderr
    newest = installed.json("log", "list", "--limit", "1")["items"][0]
    assert (newest["seq"], newest["record"]["kind"]) == (before + 1, "refused")


def test_a_dotenv_in_the_current_folder_allows_nothing(installed: Installation, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ALLOW_MODEL_SERVER_RUNTIME_CHANGES=true\nDB_CONNECTION_URL=mem://\n")
    installed.mer("model", "edit", "digits", "--description", "x", code=77, cwd=tmp_path)


def test_a_dotenv_of_mer_home_allows_what_it_says(installed: Installation, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ALLOW_MODEL_SERVER_RUNTIME_CHANGES=true\n")
    installed.mer("model", "edit", "digits", "--description", "read", environment={"MER_HOME": str(tmp_path)})
    assert installed.json("model", "show", "digits")["model"]["description"] == "read"


def test_the_environment_allows_changes_too(installed: Installation) -> None:
    allowed = {"ALLOW_MODEL_SERVER_RUNTIME_CHANGES": "true"}
    installed.mer("model", "edit", "digits", "--label", "team=vision", environment=allowed)


def test_no_password_reaches_an_error(installed: Installation) -> None:
    url = "postgresql://ada:sesame-open@127.0.0.1:1/mer"
    done = installed.mer("model", "list", code=69, environment={"DB_CONNECTION_URL": url})
    assert "sesame" not in done.stderr + done.stdout
