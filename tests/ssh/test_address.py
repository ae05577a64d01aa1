"""What a server comes to: its record, then the ssh_config with Host, Match and Include, then defaults; and where each stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import ConfigurationError
from mer.core.hops import Hop, check_user, parse_hop, parse_password_reference
from mer.meal.secrets import Secrets
from mer.meal.ssh.address import Address, Operator, Target, effective
from mer.meal.ssh.config import ConfigFiles


def config(folder: Path, text: str, *, name: str = "config") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def found(folder: Path, text: str, address: str = "gpu1", **given: Any) -> Address:
    path = config(folder, text)
    operator = Operator(home=folder, secrets=Secrets({}), config=str(path), **given.pop("operator", {}))
    return effective(Target(name="far", address=address, operator=operator, **given))


def test_every_value_has_its_origin(tmp_path):
    text = "Host gpu1\n  HostName 10.0.0.5\n  Port 2222\n\nHost *\n  User ada\n  IdentityFile ~/key\n"
    address = found(tmp_path, text, port=2200, operator={"agent": "/run/agent"})
    told = address.fields()
    where = tmp_path / "config"
    assert told["host"] == ("10.0.0.5", f"{where}:2")
    assert told["port"] == ("2200", "record")
    assert told["user"] == ("ada", f"{where}:6")
    assert told["identity files"] == (str(tmp_path / "key"), f"{where}:7")
    assert told["agent"] == ("/run/agent", "environment")
    assert told["host key of"] == ("10.0.0.5", f"{where}:2")
    assert told["host keys"] == ("strict", "default")


def test_without_any_configuration_defaults_count(tmp_path):
    operator = Operator(home=tmp_path, secrets=Secrets({}), config="none")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text("")
    address = effective(Target(name="far", address="gpu1", operator=operator))
    assert (address.host.value, address.host.origin) == ("gpu1", "record")
    assert (address.port.value, address.port.origin) == (22, "default")
    assert address.identity_files.value == (str(tmp_path / ".ssh" / "id_ed25519"),)
    assert address.known_hosts.others[0] == tmp_path / ".ssh" / "known_hosts"


def test_includes_and_matches_are_followed(tmp_path):
    config(tmp_path, "Host gpu*\n  Port 2222\n", name="more/lab.conf")
    text = f"Include {tmp_path}/more/*.conf\nMatch host gpu1 user bob\n  HostKeyAlias bobs\nMatch final\n  User last\n"
    address = found(tmp_path, text, user="bob")
    assert address.fields()["port"] == ("2222", f"{tmp_path}/more/lab.conf:2")
    assert (address.key_name.value, address.user.value) == ("bobs", "bob")
    assert found(tmp_path, text).user.value == "last"


@pytest.mark.parametrize(
    ("text", "jump", "command"),
    [
        ("ProxyJump ada@bastion:2222,inner", ("ada@bastion:2222", "inner"), None),
        ("ProxyJump none", (), None),
        ("ProxyCommand nc %h %p", (), "nc gpu1 22"),
        ("ProxyCommand none\nProxyJump bastion", (), None),
        ("ProxyJump bastion\nProxyCommand nc %h %p", ("bastion",), None),
        ("ProxyCommand nc %h %p\nProxyJump bastion", (), "nc gpu1 22"),
        ("ProxyJump ssh://ada@[::1]:2222", ("ada@[::1]:2222",), None),
    ],
)
def test_there_is_one_way_and_what_stands_first_counts(tmp_path, text, jump, command):
    address = found(tmp_path, text)
    assert tuple(map(str, address.jump.value)) == jump
    assert address.proxy_command.value == command


def test_a_recorded_jump_beats_the_configuration(tmp_path):
    address = found(tmp_path, "ProxyCommand nc %h %p", jump=("bastion",))
    assert (address.jump.value, address.jump.origin) == ((Hop(host="bastion"),), "record")
    assert address.proxy_command.value is None


def test_a_proxy_command_is_not_told(tmp_path):
    told = found(tmp_path, "ProxyCommand connect --password hunter2 %h").fields()
    assert told["proxy"][0] == "by a ProxyCommand"
    assert "hunter2" not in str(told)


@pytest.mark.parametrize("address", ["gpu1[0]", "größe[0]", "a^b"])
def test_an_address_that_a_shell_might_read_meets_no_proxy_command(tmp_path, address):
    found(tmp_path, "Port 2222", address)
    with pytest.raises(ConfigurationError, match="ProxyCommand"):
        found(tmp_path, "ProxyCommand nc %h %p", address)


def test_the_agent_is_the_one_that_the_configuration_names(tmp_path):
    given = {"operator": {"agent": "/run/agent", "environ": {"OTHER": "/run/other"}}}
    assert found(tmp_path, "IdentityAgent none", **given).agent.value is None
    assert found(tmp_path, "IdentityAgent SSH_AUTH_SOCK", **given).agent.value == "/run/agent"
    assert found(tmp_path, "IdentityAgent $OTHER", **given).agent.value == "/run/other"


def test_a_configuration_that_others_may_write_is_refused(tmp_path):
    path = config(tmp_path, "Host *\n")
    path.chmod(0o666)
    for read in (lambda files: files.told("gpu1"), lambda files: files.hosts()):
        with pytest.raises(ConfigurationError, match="others may write"):
            read(ConfigFiles.of(str(path), home=tmp_path))


def test_so_is_what_it_includes(tmp_path):
    included = tmp_path / "included"
    included.write_text("Host gpu1\n  ProxyCommand touch /tmp/run\n")
    included.chmod(0o622)
    path = config(tmp_path, f"Include {included}\n")
    for read in (lambda files: files.told("gpu1"), lambda files: files.hosts()):
        with pytest.raises(ConfigurationError, match=f"others may write the ssh_config {included}"):
            read(ConfigFiles.of(str(path), home=tmp_path))
    included.chmod(0o644)
    assert ConfigFiles.of(str(path), home=tmp_path).told("gpu1").options["ProxyCommand"] == "touch /tmp/run"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Port many\n", "config line 1: Invalid Port"),
        ("Host 'gpu1\n", "line 1"),
        ("Match nonsense\n", "line 1"),
    ],
)
def test_a_configuration_that_cannot_be_understood_tells_the_line(tmp_path, text, words):
    with pytest.raises(ConfigurationError, match=words):
        found(tmp_path, text)


def test_a_named_configuration_must_be_there(tmp_path):
    for setting in (str(tmp_path / "none.conf"), "relative"):
        with pytest.raises(ConfigurationError):
            ConfigFiles.of(setting, home=tmp_path).told("gpu1")


def test_hosts_are_listed_without_wildcards_once_and_in_order(tmp_path):
    config(tmp_path, "Host inner\nHost gpu1\n", name=".ssh/lab.conf")
    text = "Host gpu1 gpu2 !gpu3 gpu*\nInclude lab.conf\nHost=größe\nMatch host gpu9\nHost 'unclosed\n# Host remark\n"
    files = ConfigFiles.of(str(config(tmp_path, text)), home=tmp_path)
    assert files.hosts() == ["gpu1", "gpu2", "inner", "größe"]


def test_a_file_that_includes_itself_ends(tmp_path):
    path = config(tmp_path, f"Host gpu1\nInclude {tmp_path}/config\n")
    files = ConfigFiles.of(str(path), home=tmp_path)
    assert files.hosts() == ["gpu1"]
    with pytest.raises(ConfigurationError, match="includes itself"):
        files.told("gpu1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-oProxyCommand=x",
        "a b",
        "a;b",
        "$(x)",
        "`x`",
        "a@",
        "@",
        "host:0",
        "host:65536",
        "a'b",
        "-u@host",
        "[::1",
        "a\nb",
    ],
)
def test_what_is_no_machine_to_jump_by(text):
    with pytest.raises(ConfigurationError):
        parse_hop(text)


@pytest.mark.parametrize("text", ["ada", "jörg", "LAB\\Ada Lovelace", "host$", "a.b-c_d"])
def test_users_as_directories_name_them(text):
    assert check_user(text) == text


@pytest.mark.parametrize(
    "text", ["", "-l", " ada", "ada ", "a -oProxyCommand=x", "a\\", "a'b", "a;b", "$(a)", "a\nb", "x" * 256]
)
def test_what_is_no_user(text):
    with pytest.raises(ConfigurationError):
        check_user(text)


@pytest.mark.parametrize("text", ["hunter2", "env:", "env:a b", "env:A=B", "keyring:x", "file:/x", "env:ä", "env:A\n"])
def test_what_is_no_reference_to_a_password_is_not_repeated(text):
    with pytest.raises(ConfigurationError) as raised:
        parse_password_reference(text)
    assert "hunter2" not in f"{raised.value.message} {raised.value.hint}"
