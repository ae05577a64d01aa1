"""Which process a lease means, and whether it has ended."""

import os
import signal
import subprocess
import sys

import msgspec

from mer.execution.process import is_dead, started, this_process


def test_this_process_is_alive() -> None:
    assert is_dead(this_process(), here=this_process()) is False


def test_a_pid_that_is_gone_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    other = msgspec.structs.replace(this_process(), pid=child.pid, process_started=started(child.pid) or "")
    child.wait()
    assert is_dead(other, here=this_process()) is True


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = msgspec.structs.replace(this_process(), pid=child.pid, process_started=started(child.pid) or "")
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(other, here=this_process()) is True
    child.wait()


def test_a_pid_that_another_process_has_by_now_is_dead() -> None:
    reused = msgspec.structs.replace(this_process(), process_started="1")
    assert is_dead(reused, here=this_process()) is True


def test_a_process_from_before_the_machine_was_started_again_is_dead() -> None:
    before = msgspec.structs.replace(this_process(), boot_id="another")
    assert is_dead(before, here=this_process()) is True


def test_a_process_of_another_machine_cannot_be_seen() -> None:
    elsewhere = msgspec.structs.replace(this_process(), host="elsewhere")
    assert is_dead(elsewhere, here=this_process()) is None


def test_a_process_of_another_container_cannot_be_seen() -> None:
    contained = msgspec.structs.replace(this_process(), pid_namespace="pid:[1]")
    assert is_dead(contained, here=this_process()) is None
