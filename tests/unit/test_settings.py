"""Settings: which source wins, what is refused, and that no secret is shown."""

import os
from pathlib import Path

import msgspec
import pytest

from mer.core.errors import ConfigurationError
from mer.setting_kinds import MASK, MAX_WORKERS, Kind, masked, read, without_password
from mer.settings import (
    MAX_ENV_FILE,
    SETTINGS,
    Settings,
    env_example,
    load,
    to_environment,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_every_field_has_a_setting_and_every_setting_a_field():
    fields = [name for name in Settings.__struct_fields__ if name != "origins"]
    assert [setting.name for setting in SETTINGS] == fields


def test_no_two_settings_share_a_variable():
    variables = [setting.variable for setting in SETTINGS]
    assert len(set(variables)) == len(variables)


def test_the_committed_example_is_the_one_that_the_table_gives():
    assert (ROOT / ".env.example").read_text() == env_example()


def test_the_example_changes_nothing_and_with_its_marks_removed_neither(tmp_path):
    copied = tmp_path / ".env"
    copied.write_text(env_example())
    plain = load(environ={})
    assert load(environ={}, env_file=copied) == plain
    opened = [
        line.removeprefix("#") if line[:1] == "#" and line[1:2] != " " else line for line in env_example().split("\n")
    ]
    copied.write_text("\n".join(opened))
    assert to_environment(load(environ={}, env_file=copied)) == to_environment(plain)


def test_nothing_set_gives_the_defaults():
    settings = load(environ={})
    assert (settings.database_url, settings.allow_changes, settings.run_seconds, settings.max_workers) == (
        "",
        False,
        None,
        8,
    )
    assert settings.origin("max_workers") == "the default"


def test_a_flag_beats_the_environment_which_beats_the_file(home):
    (home / ".env").write_text("MER_MAX_WORKERS=1\nMER_IDLE_SECONDS=1\nDB_CONNECTION_URL=mem://file\n")
    environ = {"MER_HOME": str(home), "MER_IDLE_SECONDS": "2", "DB_CONNECTION_URL": "mem://environment"}
    settings = load(environ=environ, flags={"database_url": "mem://flag", "allow_changes": None})
    assert (settings.database_url, settings.idle_seconds, settings.max_workers) == ("mem://flag", 2.0, 1)
    assert settings.origin("database_url") == "the flag --database-url"
    assert settings.origin("idle_seconds") == "MER_IDLE_SECONDS in the environment"
    assert settings.origin("max_workers") == f"MER_MAX_WORKERS in {home / '.env'}"


def test_a_file_in_the_current_folder_is_never_read(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("ALLOW_MODEL_SERVER_RUNTIME_CHANGES=true\n")
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).allow_changes is False


def test_the_file_given_by_name_is_read_in_place_of_the_one_of_mer_home(home, tmp_path):
    (home / ".env").write_text("MER_MAX_WORKERS=1\n")
    other = tmp_path / "other.env"
    other.write_text("MER_IDLE_SECONDS=7\n")
    settings = load(environ={"MER_HOME": str(home)}, env_file=other)
    assert (settings.max_workers, settings.idle_seconds) == (8, 7.0)


def test_an_empty_value_means_the_default_and_ends_the_search(home):
    (home / ".env").write_text("DB_CONNECTION_URL=mem://file\nMER_RUN_SECONDS=5\n")
    settings = load(environ={"MER_HOME": str(home), "DB_CONNECTION_URL": "", "MER_RUN_SECONDS": ""})
    assert (settings.database_url, settings.run_seconds) == ("", None)


def test_a_file_cannot_move_the_home_it_was_found_in(home):
    (home / ".env").write_text("MER_HOME=/elsewhere\n")
    assert load(environ={"MER_HOME": str(home)}).home == home


def test_a_password_with_a_dollar_sign_is_taken_as_it_is(home):
    (home / ".env").write_text("DRIVER_DB_PASSWORD='a${HOME}$b'\n")
    assert load(environ={"MER_HOME": str(home)}).driver_password == "a${HOME}$b"


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_a_switch_is_turned_on_by(text):
    assert load(environ={"ALLOW_MODEL_SERVER_RUNTIME_CHANGES": text}).allow_changes is True


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("ALLOW_MODEL_SERVER_RUNTIME_CHANGES", "perhaps", "true or false"),
        ("MER_STATE_FOLDER", "relative/folder", "an absolute path"),
        ("MER_DATABASE_SECONDS", "0", "above 0"),
        ("MER_DATABASE_SECONDS", "-1", "above 0"),
        ("MER_DATABASE_SECONDS", "nan", "above 0"),
        ("MER_RUN_SECONDS", "inf", "at most 315360000 seconds"),
        ("MER_MAX_WORKERS", "0", "from 1 to"),
        ("MER_MAX_WORKERS", str(MAX_WORKERS + 1), "from 1 to"),
        ("MER_MAX_WORKERS", "2.5", "from 1 to"),
        ("MER_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("MER_HOME", "relative", "an absolute path"),
        ("MER_HOME", "~nobody-of-this-name/x", "exists for this user"),
        ("DB_CONNECTION_URL", "the database", "a URL"),
    ],
)
def test_a_bad_value_is_refused_with_its_setting_its_origin_and_what_is_allowed(variable, value, allowed):
    name = next(setting.name for setting in SETTINGS if setting.variable == variable)
    with pytest.raises(ConfigurationError) as refused:
        load(environ={variable: value})
    assert refused.value.message.startswith(f"{name} ({variable} in the environment)")
    assert allowed in refused.value.message


def test_the_most_workers_allowed_are_allowed():
    assert load(environ={"MER_MAX_WORKERS": str(MAX_WORKERS)}).max_workers == MAX_WORKERS


@pytest.mark.parametrize("variable", ["DRIVER_DB_PASSWORD", "DB_CONNECTION_URL"])
def test_a_refusal_never_tells_a_secret(variable):
    with pytest.raises(ConfigurationError) as refused:
        load(environ={variable: "hunter2\n"} if "PASSWORD" in variable else {variable: "no url:hunter2@"})
    assert "hunter2" not in str(refused.value)


def test_a_line_that_is_no_setting_is_refused_by_its_number_and_not_shown(home):
    (home / ".env").write_text("MER_MAX_WORKERS=1\nDRIVER_DB_PASSWORD='hunter2\n")
    with pytest.raises(ConfigurationError, match="line 2") as refused:
        load(environ={"MER_HOME": str(home)})
    assert "hunter2" not in str(refused.value)


def test_a_named_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        load(environ={}, env_file=tmp_path / "none.env")


def test_a_home_without_a_file_is_fine(home):
    assert load(environ={"MER_HOME": str(home)}).home == home


@pytest.mark.parametrize(("size", "refused"), [(MAX_ENV_FILE, False), (MAX_ENV_FILE + 1, True)])
def test_a_file_is_read_up_to_its_bound(tmp_path, size, refused):
    path = tmp_path / "long.env"
    path.write_bytes(b"#" * size)
    if refused:
        with pytest.raises(ConfigurationError, match="longer than"):
            load(environ={}, env_file=path)
    else:
        assert load(environ={}, env_file=path)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "binary.env"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(environ={}, env_file=path)


def test_a_child_gets_the_very_same_settings_whatever_its_own_file_says(home, tmp_path):
    (home / ".env").write_text("DB_CONNECTION_URL=mem://file\nMER_IDLE_SECONDS=1\n")
    settings = load(
        environ={"MER_HOME": str(home), "MER_STATE_FOLDER": str(tmp_path), "DRIVER_DB_PASSWORD": "x"},
        flags={"database_url": "", "allow_changes": True, "run_seconds": 0.25},
    )
    child = load(environ=to_environment(settings))
    assert msgspec.structs.replace(child, origins={}) == msgspec.structs.replace(settings, origins={})


def test_settings_show_no_secret():
    settings = Settings(
        state_folder=Path("/state"), driver_password="hunter2", database_url="postgresql://me:hunter2@host/db"
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in f"{settings}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:hunter2@host/db", "postgresql://me:********@host/db"),
        ("postgresql://me:hun:t@er2@host/db", "postgresql://me:********@host/db"),
        (
            "postgresql://host/db?password=hunter2&sslmode=require",
            "postgresql://host/db?password=********&sslmode=require",
        ),
        ("postgresql://host/db", "postgresql://host/db"),
        ("surrealkv:///var/lib/mer", "surrealkv:///var/lib/mer"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown


@pytest.mark.skipif(os.geteuid() != 0, reason="the default of root")
def test_the_state_of_root_lies_outside_every_home():
    assert load(environ={}).state_folder == Path("/var/lib/mer")


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Kind.SWITCH, False, "false"),
        (Kind.SECONDS, 10.0, "10"),
        (Kind.SECONDS, 0.5, "0.5"),
        (Kind.SECONDS, None, ""),
        (Kind.FOLDER, Path("/tmp/it's \\ here"), "/tmp/it's \\ here"),
        (Kind.SECRET, "", ""),
        (Kind.SECRET, "hunter2", MASK),
        (Kind.URL, "postgresql://me:hunter2@host/mer", f"postgresql://me:{MASK}@host/mer"),
    ],
)
def test_a_value_is_shown_as_it_is_written(kind, value, shown):
    assert masked(kind, value) == shown
    if value is not None and MASK not in shown:
        assert read(kind, shown) == value
