"""A worker on a far host takes away itself what it leaves: no driver of that machine watches it.

Its scratch folder is locked for as long as it, or something that it has forked, lives. One of this machine that is not locked
is what a worker left that was killed, or a machine that went down; the next worker there removes it. Those of other machines,
which may share the home, look as if nobody held them: the name tells whose they are.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import threading
import time

from mer_worker.orphans import sweep

YOUNG_SECONDS = 60.0
"""A folder younger than that may be of a worker that is about to lock it."""


def begin(marker: str, scratch: str) -> None:
    """See to this worker's end, and remove what others have left."""
    held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def end() -> None:
        if marker:
            sweep(marker, os.getpid())
        shutil.rmtree(scratch, ignore_errors=True)

    own = os.getpid()
    atexit.register(
        lambda: end() if os.getpid() == own else None
    )  # the first to be registered is the last to be called
    parent, name = os.path.split(scratch)
    threading.Thread(target=remove_stale, args=(parent, name), name="mer-tidy", daemon=True).start()


def remove_stale(parent: str, own: str) -> None:
    """Remove the scratch folders of this machine (`MARKER.MACHINE`) that nobody holds."""
    machine = own.partition(".")[2]
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        try:
            if (
                name == own
                or name.partition(".")[2] != machine
                or time.time() - os.lstat(path).st_mtime < YOUNG_SECONDS
            ):
                continue
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or no folder
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody's
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(held)
