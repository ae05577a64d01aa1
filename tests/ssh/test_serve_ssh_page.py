"""docs/serve-ssh.md, every block in its order: the owner's side, a guest's, and another MER's as the guest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from tests.support import sshd
from tests.support.documents import blocks
from tests.support.installation import DIGITS, MER, Installation
from tests.support.lender import Lender, of_process
from tests.support.postgres import state_folder

PAGE = "docs/serve-ssh.md"


def run(script: str, variables: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stood_for(script: str, stands_for: dict[str, str]) -> str:
    for shown, real in stands_for.items():
        assert shown in script
        script = script.replace(shown, real)
    return script


def test_every_block_does_what_the_page_says(tmp_path: Path) -> None:
    lender: Lender = of_process()
    line, guest, refused, borrowing, seen = blocks(PAGE, "sh")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    owner = {
        "/srv/mer/bin/mer": str(MER),
        "/srv/mer/.env": str(lender.home / ".env"),
        "ssh-ed25519 AAAAC3Nza…alice": key.with_suffix(".pub").read_text().strip(),
        "~/.ssh/authorized_keys": str(lender.server.folder / "authorized_keys"),
    }
    told = run(stood_for(line, owner), lender.installed.variables, tmp_path)
    assert told.strip() == str(lender.installed.folder)

    (tmp_path / "known_hosts").write_text(lender.server.known_hosts_line)
    config = tmp_path / "config"
    config.write_text(
        f"Host lender\n HostName {sshd.HOST}\n Port {lender.server.port}\n User {lender.server.user}\n"
        f" IdentityFile {key}\n IdentitiesOnly yes\n UserKnownHostsFile {tmp_path / 'known_hosts'}\n BatchMode yes\n"
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {config} "$@"\n')
    (programs / "ssh").chmod(0o755)
    picture = np.load(DIGITS / "three.npy")
    (tmp_path / "three.json").write_text(json.dumps({"image": picture.tolist()}))
    np.savez(tmp_path / "three.npz", image=picture)

    with state_folder() as folder:
        other = Installation(folder, {"MER_SSH_CONFIG": str(config)})
        variables = {**other.variables, "PATH": f"{programs}:{other.variables['PATH']}"}
        said = run(guest, variables, tmp_path)
        assert "answers alice" in said
        assert '"digit":{"dtype":"int64","shape":[],"value":3}' in said
        with np.load(tmp_path / "answer.npz", allow_pickle=False) as answer:
            assert int(answer["digit"]) == 3
        run(refused, variables, tmp_path)
        assert "digit = 3\n" in run(borrowing, variables, tmp_path)
        assert "sound" in other.mer("log", "verify").stdout
    said = run(seen, lender.installed.variables, tmp_path)
    assert "sound" in said
    assert "alice" in said
