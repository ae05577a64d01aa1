"""What a process and its descendants use, as the kernel tells it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mer_worker.processes import descendants, memory_of, processor_seconds_of

GRANDCHILD = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"], stdin=0)
child.wait()
"""


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A child with a child of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


def test_children_and_theirs_are_found(family: subprocess.Popen[bytes]) -> None:
    of_child = descendants(family.pid)
    assert len(of_child) == 1
    assert {family.pid, *of_child} <= set(descendants(os.getpid()))


def test_one_that_has_ended_and_was_not_waited_for_is_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    end = time.monotonic() + 10
    while process.pid in descendants(os.getpid()) and time.monotonic() < end:
        time.sleep(0.01)
    assert process.pid not in descendants(os.getpid())
    process.wait()


def test_memory_is_what_is_touched() -> None:
    before, exact_before = memory_of(os.getpid()), memory_of(os.getpid(), exact=True)
    block = b"x" * (64 << 20)
    assert 60 << 20 < memory_of(os.getpid()) - before < 80 << 20
    assert 60 << 20 < memory_of(os.getpid(), exact=True) - exact_before < 80 << 20
    del block


def test_cpu_time_rises_with_work() -> None:
    before = processor_seconds_of(os.getpid())
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert 0.1 < processor_seconds_of(os.getpid()) - before < 2


def test_a_process_that_is_gone_uses_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert memory_of(process.pid) == 0
    assert processor_seconds_of(process.pid) == 0.0
    assert descendants(process.pid) == []
