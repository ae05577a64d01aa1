"""Modules that a worker lacks, or of which a full disk left the beginning only: what the operator is told to do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mer.core.errors import WorkerLost
from mer.meal.modules import hint_at_missing
from mer.meal.starting import start
from tests.support.workers import local_host, plan_of


async def test_compiled_modules_that_were_cut_short_are_told_with_what_is_to_be_removed(tmp_path: Path) -> None:
    host = local_host(tmp_path, cache_folder=tmp_path / "cache")
    plan = plan_of(tmp_path / "model")
    await (await start(host, plan)).close()
    cut = 0
    for path in (tmp_path / "cache" / "pycache").rglob("loop.*.pyc"):
        path.write_bytes(path.read_bytes()[:100])
        cut += 1
    assert cut
    with pytest.raises(WorkerLost, match="marshal data too short") as caught:
        async with asyncio.timeout(60):
            await start(host, plan)
    assert (caught.value.hint or "").endswith(f"On local: rm -r {tmp_path}/cache/pycache")


def test_a_module_is_installed_for_the_interpreter_that_lacks_it(tmp_path: Path) -> None:
    hint = hint_at_missing("torch", "/opt/python3", host=local_host(tmp_path))
    assert hint == (
        "local runs it by /opt/python3: install what provides torch for that one (/opt/python3 -m pip install …)."
    )


def test_a_distributions_own_python_is_not_to_be_given_what_its_pip_refuses(tmp_path: Path) -> None:
    hint = hint_at_missing("torch", "/usr/bin/python3", host=local_host(tmp_path))
    assert "/usr/bin/python3 -m venv FOLDER" in hint
    assert "/usr/bin/python3 -m pip" not in hint
