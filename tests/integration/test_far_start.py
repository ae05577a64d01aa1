"""What begins on a far host before there is a worker: the first step, and tasks. Neither waits for ever, nor trusts a half."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mer.meal.bootstrap import archive
from mer_worker.blobs import Blobs
from mer_worker.stage0 import FAIL, GO, NEED

FIRST_STEP = """
import json, os, sys
from mer_worker import stage0
{before}
stage0.main(json.loads(sys.argv[1]))
"""

TASK = """
import sys
from mer_worker import far
{before}
far.main()
"""


def first_step(cache: Path, before: str, **given: Any) -> subprocess.Popen[bytes]:
    """Start the first step, with its standard input open; `before` is what is changed of it."""
    code = archive()
    task: dict[str, Any] = {"digest": code.digest, "size": len(code.data), "allowed": ["PATH"], "prefix": "LC_"}
    task |= {"environment": {}, "scratch": "", "start": "", "arguments": [], "argv": [], "shared_cache": True, **given}
    return started(FIRST_STEP.format(before=before), json.dumps(task), cache=cache)


def started(source: str, *arguments: str, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_first_step_waits_for_the_code_for_a_while_only(tmp_path: Path) -> None:
    with first_step(tmp_path, "stage0.PATIENCE = 1") as process:
        assert process.stdout is not None
        assert process.stdout.read() == NEED  # to its end, with the input still open
        assert process.wait(20) == -signal.SIGALRM
    assert os.listdir(tmp_path / "mer-worker" / "worker") == []


def test_that_time_is_not_the_workers(tmp_path: Path) -> None:
    with first_step(tmp_path, "stage0.PATIENCE = 1", argv=["/bin/sleep", "2"]) as process:
        told, _ = process.communicate(archive().data, timeout=20)
        assert (told, process.returncode) == (NEED + GO, 0)


def test_every_file_of_the_code_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    watched = """
synced, sync, rename = [], os.fsync, os.rename
os.fsync = lambda file: (synced.append(os.fstat(file).st_ino), sync(file))
def named(source, target):
    inside = [os.path.join(place, name) for place, _, names in os.walk(source) for name in names]
    sys.stderr.write(json.dumps([len(inside), {os.stat(path).st_ino for path in inside} == set(synced)]))
    rename(source, target)
os.rename = named
"""
    with first_step(tmp_path, watched, argv=["/bin/true"]) as process:
        _, said = process.communicate(archive().data, timeout=20)
    count, all_of_them = json.loads(said)
    assert count > 40
    assert all_of_them


def test_a_folder_of_everybody_is_known_by_whatever_name_it_has(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "everybody").symlink_to(tmp_path / "private")  # as macOS has /tmp
    before = f"stage0.SHARED = ({str(tmp_path / 'everybody')!r},)"
    with first_step(tmp_path / "everybody" / "mine", before, shared_cache=False) as process:
        told, _ = process.communicate(timeout=20)
    assert told.startswith(FAIL)
    assert b"which is everybody's" in told


def test_a_full_disk_is_told_with_the_folder_that_it_is_full_under(tmp_path: Path) -> None:
    full = """
def full(_file):
    raise OSError(28, "No space left on device")
os.fsync = full
"""
    with first_step(tmp_path, full) as process:
        told, _ = process.communicate(archive().data, timeout=20)
    said = json.loads(told.removeprefix(NEED + FAIL))
    assert (said["step"], said["message"]) == ("disk", f"{tmp_path}/mer-worker: No space left on device")


def test_a_task_waits_for_its_fields_for_a_while_only(tmp_path: Path) -> None:
    with started(TASK.format(before="far.FIELDS_SECONDS = 1"), "--task", "probe", cache=tmp_path) as process:
        assert process.wait(20) == -signal.SIGALRM


def test_a_task_that_waits_for_a_lock_does_so_for_a_while_only(tmp_path: Path) -> None:
    arguments = ("--task", "gc", "--cache", str(tmp_path))
    with (tmp_path / "lock").open("w") as held:
        tmp_path.chmod(0o700)
        fcntl.flock(held, fcntl.LOCK_SH)
        with started(TASK.format(before="far.TASK_SECONDS = 1"), *arguments, cache=tmp_path) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"packages": [], "blobs": [], "grace_seconds": 0}).encode())
            process.stdin.close()
            assert process.wait(20) == -signal.SIGALRM


# --- a blob that was cut


def by_somebody(work: Callable[[], None]) -> int:
    """Do it in a child of ours that is not root, whom no mode of a file would hold, and return its exit status."""
    child = os.fork()
    if not child:
        try:
            if not os.geteuid():
                os.setgid(65534)
                os.setuid(65534)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_what_was_cut_between_its_seal_and_its_name_is_brought_in_again() -> None:
    data = base64.b64encode(os.urandom(60))
    digest = hashlib.sha256(data).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        cache = Path(folder) / "cache"
        cache.mkdir(mode=0o700)
        if not os.geteuid():
            os.chown(cache, 65534, 65534)

        def work() -> None:
            blobs = Blobs(str(cache), "one")
            (cache / "incoming" / f"{digest}.part").write_bytes(data)
            (cache / "incoming" / f"{digest}.part").chmod(0o400)
            assert blobs.partial(digest) == 0
            part = blobs.begin(digest, len(data), 0)
            part.write(data)
            part.finish()
            assert blobs.has(digest)

        assert by_somebody(work) == 0
