"""Which host keys are trusted: by name, port, pattern and hash; by whose file; and what is pinned."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
import threading
from pathlib import Path

import asyncssh
import pytest

from mer.core.errors import ConfigurationError
from mer.meal.ssh import known_hosts
from mer.meal.ssh.known_hosts import KnownHosts

KEY, OTHER = (asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(2))


def line(names: str, key: asyncssh.SSHKey = KEY) -> str:
    return f"{names} {key.export_public_key('openssh').decode().strip()}\n"


def hashed(name: str) -> str:
    salt = b"0123456789abcdef0123"
    digest = hmac.digest(salt, name.encode(), hashlib.sha1)
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in (salt, digest))


def files(folder: Path, *others: str, own: str | None = None) -> KnownHosts:
    paths = []
    for number, text in enumerate(others):
        paths.append(folder / f"known_hosts{number}")
        paths[-1].write_text(text)
    if own is not None:
        (folder / "own").write_text(own)
    return KnownHosts(own=folder / "own", others=paths)


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("gpu1", "gpu1", 22),
        ("GPU1", "Gpu1", 22),
        ("other,gpu1", "gpu1", 22),
        ("[gpu1]:2222", "gpu1", 2222),
        ("*.lab", "gpu1.lab", 22),
        ("gpu?", "gpu1", 22),
        ("*,!gpu2", "gpu1", 22),
        ("größe", "GRÖSSE".replace("SS", "ß"), 22),
        (hashed("gpu1"), "gpu1", 22),
        (hashed("[gpu1]:2222"), "gpu1", 2222),
        ("gpu1", "gpu1", 2222),  # a key of the machine, whatever the port
    ],
)
def test_a_line_is_of_a_host(tmp_path, names, host, port):
    assert files(tmp_path, line(names)).of(host, port).judge(KEY)[0] == "trusted"


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("gpu2", "gpu1", 22),
        ("[gpu1]:2222", "gpu1", 22),
        ("[gpu1]:2222", "gpu1", 2223),
        ("*,!gpu1", "gpu1", 22),
        ("gpu.", "gpu1", 22),  # a dot is a dot
        (hashed("gpu2"), "gpu1", 22),
        ("|1|no base64|", "gpu1", 22),
        ("|2|c2FsdA==|aGFzaA==", "gpu1", 22),
    ],
)
def test_a_line_is_of_another_host(tmp_path, names, host, port):
    assert files(tmp_path, line(names)).of(host, port).judge(KEY)[0] == "unknown"


def test_another_key_of_the_host_is_a_changed_one_and_its_place_is_told(tmp_path):
    known = files(tmp_path, "# a remark\n" + line("gpu1"))
    verdict, by = known.of("gpu1", 22).judge(OTHER)
    assert (verdict, [found.where for found in by]) == ("changed", [f"{tmp_path}/known_hosts0:2"])


def test_another_sshd_of_the_same_machine_has_another_key(tmp_path):
    assert files(tmp_path, line("gpu1")).of("gpu1", 2222).judge(OTHER)[0] == "unknown"


def test_what_is_revoked_is_refused_whatever_else_trusts_it(tmp_path):
    known = files(tmp_path, line("gpu1"), line("@revoked *"), own=line("gpu1"))
    assert known.of("gpu1", 22).judge(KEY)[0] == "revoked"


def test_authorities_are_no_keys_of_hosts(tmp_path):
    known = files(tmp_path, line("@cert-authority *.lab")).of("gpu1.lab", 22)
    assert known.judge(KEY)[0] == "unknown"
    assert [found.key for found in known.authorities] == [KEY]


def test_own_lines_decide_before_those_of_others(tmp_path):
    known = files(tmp_path, line("gpu1", OTHER), own=line("gpu1"))
    assert known.of("gpu1", 22).judge(KEY)[0] == "trusted"
    assert known.of("gpu1", 22).judge(OTHER)[0] == "changed"


def test_lines_that_nobody_understands_are_left_out(tmp_path):
    text = f"gpu1\n@new gpu1 x y\n gpu1 ssh-unknown AAAA\n{'x' * 100}\n\x00\xff\n" + line("gpu1")
    assert files(tmp_path, text).of("gpu1", 22).judge(KEY)[0] == "trusted"


def test_a_file_that_is_missing_holds_nothing_and_one_that_is_too_long_is_refused(tmp_path, monkeypatch):
    assert KnownHosts(own=None, others=[tmp_path / "none"]).of("gpu1", 22).judge(KEY)[0] == "unknown"
    known = files(tmp_path, line("gpu1"))
    monkeypatch.setattr(known_hosts, "MAX_BYTES", len(line("gpu1")))
    assert known.of("gpu1", 22).keys
    monkeypatch.setattr(known_hosts, "MAX_BYTES", len(line("gpu1")) - 1)
    with pytest.raises(ConfigurationError):
        known.of("gpu1", 22)


def test_a_pinned_key_replaces_the_one_before_and_nothing_else(tmp_path):
    known = files(tmp_path, own=line("gpu1") + "# kept\n" + line("gpu2") + line("[gpu1]:2222") + "@revoked gpu1 x y")
    known.pin("gpu1", 22, OTHER)
    assert known.of("gpu1", 22).judge(OTHER)[0] == "trusted"
    assert known.of("gpu1", 22).judge(KEY)[0] == "changed"
    assert known.of("gpu2", 22).judge(KEY)[0] == "trusted"
    assert known.of("gpu1", 2222).judge(KEY)[0] == "trusted"
    text = (tmp_path / "own").read_text()
    assert "# kept\n" in text
    assert "@revoked gpu1 x y\n" in text
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o600


def test_many_pin_at_once_and_none_is_lost(tmp_path):
    folder = tmp_path / "state"
    known = KnownHosts(own=folder / "known_hosts")
    pinning = [threading.Thread(target=known.pin, args=(f"gpu{n}", 22, KEY)) for n in range(20)]
    for each in pinning:
        each.start()
    for each in pinning:
        each.join()
    assert all(known.of(f"gpu{n}", 22).judge(KEY)[0] == "trusted" for n in range(20))
    assert sorted(path.name for path in folder.iterdir()) == ["known_hosts", "known_hosts.lock"]


def test_without_a_file_of_ones_own_nothing_is_pinned(tmp_path):
    with pytest.raises(ConfigurationError):
        KnownHosts(own=None).pin("gpu1", 22, KEY)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError):
        KnownHosts(own=tmp_path / "file" / "known_hosts").pin("gpu1", 22, KEY)
