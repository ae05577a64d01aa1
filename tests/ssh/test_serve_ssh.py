"""`mer serve-ssh` as the forced command of a key: what it answers, to a real sshd and a real client."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess

import numpy as np
import pytest

from tests.support import sshd
from tests.support.installation import DIGITS
from tests.support.lender import Lender, asked, of_process, three


@pytest.fixture(scope="module")
def lender() -> Lender:
    return of_process()


def npz(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


async def test_the_openssh_client_runs_a_model_and_its_owner_finds_on_record_who_it_was(lender: Lender) -> None:
    known = lender.server.folder / "known_hosts"
    known.write_text(lender.server.known_hosts_line)
    options = [
        "-F",
        "none",
        "-o",
        f"UserKnownHostsFile={known}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
    ]
    where = ["-i", str(lender.keys["alice"].path), "-p", str(lender.server.port), f"{lender.server.user}@{sshd.HOST}"]
    done = await asyncio.to_thread(
        subprocess.run,
        ["ssh", *options, *where, "mer", "run", "digits"],
        input=three(),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"digit = 3\n" in done.stdout
    started, finished = lender.records()[-2:]
    assert (started["kind"], finished["outcome"]) == ("started", "succeeded")
    actor = finished["actor"]
    assert (actor["user"], actor["via"]) == ("alice", "ssh")
    assert actor["ssh_client"].startswith("127.0.0.1 ")


async def test_inputs_come_as_json_as_npz_or_on_the_line_and_results_go_in_the_form_that_is_asked_for(
    lender: Lender,
) -> None:
    async with lender.connected("alice") as connection:
        as_json, as_npz, typed, pair = await asyncio.gather(
            asked(connection, "run digits --json", npz(image=np.load(DIGITS / "three.npy"))),
            asked(connection, "run shout:1 --npz --timeout 50", json.dumps({"text": "aé"}).encode()),
            asked(connection, "run shout@default 'a $(b) @c'"),
            asked(connection, "run --input=text=@@home shout"),
        )
    assert as_json.document["outputs"]["digit"]["value"] == 3
    assert as_json.document["server"] == ""  # where the owner has it run is his own affair
    with np.load(io.BytesIO(as_npz.out), allow_pickle=False) as arrays:
        assert arrays["text"] == "AÉ"
        assert arrays["bytes"].tobytes() == "aé".encode()
        assert json.loads(str(arrays["facts"])) == {"length": 2}
    assert 'text = "A $(B) @C"' in typed.text
    assert typed.err == "reading a $(b) @c\n"
    assert 'text = "@HOME"' in pair.text


async def test_an_answer_in_parts_comes_a_line_each(lender: Lender) -> None:
    answer = await lender.ask("alice", "run shout 'count 3' --jsonl")
    values = [json.loads(line)["outputs"]["number"]["value"] for line in answer.text.splitlines()]
    assert (answer.code, values) == (0, [0, 1, 2])


async def test_a_model_that_fails_says_so_without_its_code(lender: Lender) -> None:
    answer = await lender.ask("alice", "run shout fail")
    assert (answer.code, answer.out, answer.err) == (1, b"", "error: ValueError: no such word\n")


async def test_models_are_listed_and_shown_as_far_as_they_are_lent(lender: Lender) -> None:
    async with lender.connected("alice") as connection:
        listed, shown, document, page = await asyncio.gather(
            asked(connection, "model list"),
            asked(connection, "model show shout"),
            asked(connection, "model show shout:1 --json"),
            asked(connection, "model list --json --limit 1"),
        )
    assert [line.split()[0] for line in listed.text.splitlines()] == ["NAME", "digits", "shout"]
    assert "text: string []" in shown.text
    assert str(lender.installed.folder) not in shown.text
    [version] = document.document["versions"]
    assert (version["number"], version["aliases"], len(version["package"])) == (1, ["default"], 64)
    assert (page.document["items"][0]["name"], page.document["next"]) == ("digits", "digits")
    bobs = await lender.ask("bob", "model list")
    assert [line.split()[0] for line in bobs.text.splitlines()] == ["NAME", "digits", "secret", "shout"]


async def test_pings_answer_without_telling_how_the_machine_is_arranged(lender: Lender) -> None:
    async with lender.connected("alice") as connection:
        bare, model, old = await asyncio.gather(
            asked(connection, "ping"), asked(connection, "model ping shout --json"), asked(connection, "ping none-yet")
        )
    assert (bare.code, bare.text.endswith("answers alice\n")) == (0, True)
    assert [(step["ok"], step["detail"]) for step in model.document["steps"]] == [(True, "")] * 2
    assert old.code == 66


async def test_a_model_that_is_not_lent_is_answered_like_one_that_does_not_exist(lender: Lender) -> None:
    lines = ("run {} x", "run {}", "run {}@prod --json", "model show {}", "ping {}")
    async with lender.connected("alice") as connection:
        limited = asyncio.Semaphore(6)

        async def told(line: str, name: str) -> tuple[int | None, bytes, str]:
            async with limited:
                answer = await asked(connection, line.format(name))
            return answer.code, answer.out, answer.err.replace(name, "NAME")

        secret = await asyncio.gather(*(told(line, "secret") for line in lines))
        unknown = await asyncio.gather(*(told(line, "nothing") for line in lines))
    assert secret == unknown
    assert {code for code, _, _ in secret} == {66}
    refused = [record for record in lender.records() if record.get("reference") == "secret"]
    assert {(record["kind"], record["reason"]["code"]) for record in refused} == {("refused", "model-not-found")}
    assert (await lender.ask("bob", "run secret x")).code == 0


async def test_without_a_command_it_says_what_is_possible(lender: Lender) -> None:
    before = len(lender.records())
    answer = await lender.ask("alice", None)
    assert (answer.code, answer.out) == (2, b"")
    assert "`run MODEL`, `model list`" in answer.err
    assert len(lender.records()) == before


async def test_a_configuration_that_is_not_usable_is_told_in_a_word(lender: Lender) -> None:
    key = lender.lend("carol")
    authorized = lender.server.folder / "authorized_keys"
    authorized.write_text(
        authorized.read_text().replace(key.line, key.line.replace(str(lender.home), "/nowhere/of/mine"))
    )
    answer = await lender.ask("carol", "ping")
    assert (answer.code, answer.out) == (78, b"")
    assert "/nowhere" not in answer.err


async def test_a_fault_of_the_owners_machine_names_none_of_its_folders(lender: Lender) -> None:
    blobs = lender.installed.folder / "content"
    away = blobs.rename(lender.installed.folder / "away")
    try:
        answer = await lender.ask("alice", "run shout x")
    finally:
        if blobs.exists():
            import shutil

            shutil.rmtree(blobs)
        away.rename(blobs)
    assert answer.code == 74
    assert str(lender.installed.folder) not in answer.err
