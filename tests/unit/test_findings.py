"""What is told of a host from its facts, and how nvidia-smi is asked."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import ServerUnreachable
from mer.meal.findings import LEAST_DISK, Finding, clock, of_facts
from mer.meal.ssh.examining import skew
from mer_worker import probing


def facts(**given: Any) -> dict[str, Any]:
    return {
        "python": "/usr/bin/python3",
        "version": "3.11.2",
        "cache": "/home/ada/.cache/mer-worker",
        "unwritable": None,
        "disk": {"free": 3 << 40, "total": 4 << 40},
        "memory": {"available": 1 << 30, "total": 16 << 30},
        "gpus": {"found": []},
        "took": {"cache": 1, "disk": 2, "memory": 3, "gpus": 4},
        "clock": 0,
    } | given


def told(**given: Any) -> dict[str, Finding]:
    return {finding.step: finding for finding in of_facts("gpu1", facts(**given), microseconds=1000)}


def test_each_fact_is_told_with_what_it_took():
    found = told()
    assert {step: finding.detail for step, finding in found.items()} == {
        "interpreter": "/usr/bin/python3, Python 3.11.2",
        "cache": "/home/ada/.cache/mer-worker, writable",
        "disk": "3.0 TiB free of 4.0 TiB",
        "memory": "1.0 GiB available of 16.0 GiB",
        "GPUs": "none",
    }
    assert [finding.microseconds for finding in found.values()] == [990, 1, 2, 3, 4]


def test_gpus_are_listed_with_their_memory_where_it_is_told():
    gpus = [
        {"index": "0", "name": "NVIDIA H100", "total": 80 << 30, "free": 79 << 30},
        {"index": "1", "name": "NVIDIA GB10", "total": None, "free": None},
    ]
    assert told(gpus={"found": gpus})["GPUs"].detail == "0: NVIDIA H100, 79.0 GiB free of 80.0 GiB; 1: NVIDIA GB10"


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({"unwritable": "Read-only file system"}, "cache"),
        ({"disk": {"free": LEAST_DISK - 1, "total": 1 << 40}}, "disk"),
        ({"gpus": {"found": [], "failed": "nvidia-smi: driver mismatch"}}, "GPUs"),
    ],
)
def test_what_is_wrong_is_an_error_and_the_rest_is_told(given, step):
    found = told(**given)
    assert [name for name, finding in found.items() if finding.error is not None] == [step]
    assert found[step].error.exit_code == 69
    assert told(disk={"free": LEAST_DISK, "total": 1 << 40})["disk"].error is None


@pytest.mark.parametrize("given", [{"disk": None}, {"took": 3}, {"gpus": []}, {"memory": "much"}])
def test_facts_that_are_none_are_refused(given):
    with pytest.raises(ServerUnreachable, match="cannot be understood"):
        told(**given)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "as here"), (-1.9, "as here"), (30, "30 s ahead"), (-300, "5 min behind"), (3600 * 3, "3.0 h ahead")],
)
def test_a_clock_is_told_in_words(seconds, words):
    assert clock(seconds).detail == words


@pytest.mark.parametrize(
    ("shown", "ahead"),
    [(100.5, 0.0), (100.0, 0.0), (101.0, 0.0), (3701.0, 3600.0), (40.0, -60.0)],
)
def test_a_clock_is_off_only_by_what_the_question_did_not_take(shown, ahead):
    assert skew({"clock": int(shown * 1e6)}, asked=100.0, answered=101.0) == ahead


def test_a_clock_that_shows_no_time_is_told():
    with pytest.raises(ServerUnreachable):
        skew({}, asked=100.0, answered=101.0)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "nvidia-smi"


def says(program: Path, script: str) -> dict[str, Any]:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return dict(probing.probe(str(program.parent), {})["gpus"])


def test_cards_are_read_whatever_their_names(nvidia_smi):
    found = says(
        nvidia_smi, "echo '0, NVIDIA H100, 80GB, 81559, 81153'; echo '1, GB10, [N/A], [N/A]'; echo broken; echo"
    )
    assert found == {
        "found": [
            {"index": "0", "name": "NVIDIA H100, 80GB", "total": 81559 << 20, "free": 81153 << 20},
            {"index": "1", "name": "GB10", "total": None, "free": None},
        ]
    }


def test_a_driver_that_fails_or_hangs_is_told(nvidia_smi, monkeypatch):
    assert says(nvidia_smi, "echo 'Driver/library version mismatch'; exit 18")["failed"].endswith("version mismatch")
    monkeypatch.setattr(probing, "GPU_SECONDS", 0.2)
    assert "did not answer" in says(nvidia_smi, "exec sleep 60")["failed"]


def test_a_cache_that_is_gone_cannot_be_written(tmp_path):
    assert probing.probe(str(tmp_path), {})["unwritable"] is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        probing.probe(str(tmp_path / "none"), {})
