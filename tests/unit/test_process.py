"""Which process a lease means, and whether it has ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_a_process_of_another_start_or_another_machine_cannot_be_seen() -> None:
    """Two machines of one name share the number of the first PID namespace: only the boot id tells them apart."""
    elsewhere = msgspec.structs.replace(this_process(), boot_id="another")
    assert is_dead(elsewhere, here=this_process()) is None


def test_a_process_that_proc_hides_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Under hidepid=2 the processes of other users have no folder in /proc; process 1 is another user's to a plain one."""
    hidden = msgspec.structs.replace(this_process(), pid=1, process_started="1")
    as_nobody = f"""
import os, msgspec
from pathlib import Path
from mer.execution.process import ProcessIdentity, is_dead

hidden = msgspec.json.decode({msgspec.json.encode(hidden)!r}, type=ProcessIdentity)
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(is_dead(hidden, here=hidden, proc=Path("/nonexistent")))
"""
    told = subprocess.run([sys.executable, "-c", as_nobody], capture_output=True, text=True, check=True, cwd="/")
    assert told.stdout == "None\n"


def test_a_name_that_was_cut_within_a_character_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_bytes(
        b"7 (" + "модельный".encode()[:15] + b") S " + b" ".join(b"%d" % n for n in range(30))
    )
    assert started(7, tmp_path) == "18"


def test_a_process_of_another_container_cannot_be_seen() -> None:
    contained = msgspec.structs.replace(this_process(), pid_namespace="pid:[1]")
    assert is_dead(contained, here=this_process()) is None
