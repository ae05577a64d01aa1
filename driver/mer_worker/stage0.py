"""The first thing that runs on a far host: finds or installs the worker in a cache folder of its own, and becomes it.

It is sent as one argument of `python3 -c`, and runs under whatever `python3` is there, an ancient one too: so it is written
in what every Python since 2.7 reads, and says by itself that it is too old. Its own argument is a task in JSON and Base64, so
that no shell finds anything in it to expand. What it has to say comes behind a mark of eight bytes, since a login shell may
have printed before: NEED, then the driver sends the worker's archive; FAIL and a line of JSON; or GO, and from there on the
stream is that of what it becomes.
"""

import errno
import json
import os
import signal
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict  # noqa: F401 - in comments, as 2.7 has no annotations

GO = b"\x89MEG\r\n\x1a\n"
NEED = b"\x89MEN\r\n\x1a\n"
FAIL = b"\x89MEX\r\n\x1a\n"
OLDEST = (3, 9)
NEWEST = 20  # of the 3.x that are looked for where `python3` itself is too old
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - they are refused
FULL = (errno.ENOSPC, errno.EDQUOT)
PATIENCE = 60  # seconds for the archive: where the network falls silent, its end is told by nobody


class Refused(Exception):
    """The worker cannot be started here."""

    def __init__(self, step, message):  # type: (str, str) -> None
        super(Refused, self).__init__(message)
        self.step = step


def main(task):  # type: (Dict[str, Any]) -> None
    """Become the worker that the task describes."""
    try:
        if sys.version_info[:2] < OLDEST:
            newer(task)
        os.umask(0o077)
        cache = cache_folder(task)
        try:
            folder(cache)
            code = os.path.join(folder(os.path.join(cache, "worker")), task["digest"])
            if not os.path.isdir(code):
                install(code, task)
            environment = {
                name: value
                for name, value in os.environ.items()
                if name in task["allowed"] or name.startswith(task["prefix"])
            }
            environment.update(task["environment"])
            arguments = ["--cache", cache]
            if task["scratch"]:
                scratch = os.path.join(folder(os.path.join(cache, "scratch")), task["scratch"] + "." + machine())
                folder(scratch)
                arguments += ["--scratch", scratch]
                environment["TMPDIR"] = scratch
                os.chdir(scratch)
            compiled = folder(os.path.join(cache, "pycache"))
            environment["PYTHONPYCACHEPREFIX"] = compiled
        except (IOError, OSError) as error:
            raise unwritable(cache, error)
        argv = task["argv"]
        if not argv:
            argv = [sys.executable, "-E", "-S", "-X", "pycache_prefix=" + compiled, "-c", task["start"], code]
            argv += task["arguments"] + arguments
        if not os.access(argv[0], os.X_OK):
            raise Refused("start", "%s cannot be started" % argv[0])
        os.write(1, GO)
        os.execve(argv[0], argv, environment)
    except Refused as refused:
        said = {"step": refused.step, "message": str(refused), "python": sys.executable}
        os.write(1, FAIL + json.dumps(said).encode("ascii") + b"\n")
        sys.exit(1)


def newer(task):  # type: (Dict[str, Any]) -> None
    """Go on under another interpreter of this host, one that is new enough. Raises: Refused (there is none)."""
    if task["search"]:
        folders = os.environ.get("PATH", os.defpath).split(os.pathsep) + ["/usr/local/bin", "/usr/bin"]
        for minor in range(NEWEST, OLDEST[1] - 1, -1):
            for place in folders:
                found = os.path.join(place, "python3.%d" % minor)
                if os.path.isabs(found) and os.access(found, os.X_OK):
                    os.execv(found, [found, "-E", "-S", "-c", task["again"]] + sys.argv[1:])
    found = "%s is Python %d.%d" % (sys.executable or "python", sys.version_info[0], sys.version_info[1])
    raise Refused("interpreter", "%s: the worker needs %d.%d or newer" % (found, OLDEST[0], OLDEST[1]))


def cache_folder(task):  # type: (Dict[str, Any]) -> str
    """Return where everything of ours is kept on this host. Raises: Refused."""
    home = os.environ.get("XDG_CACHE_HOME") or ""
    if not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):
        raise Refused("cache", "this user has no home")
    real = os.path.realpath(home)
    for shared in map(os.path.realpath, SHARED):  # macOS has them below /private
        if (real == shared or real.startswith(shared + "/")) and not task["shared_cache"]:
            raise Refused("cache", "%s lies in %s, which is everybody's" % (home, shared))
    if not os.path.isdir(home):
        try:
            os.makedirs(home, 0o700)
        except OSError as error:
            raise unwritable(home, error)
    return os.path.join(home, "mer-worker")


def unwritable(place, error):  # type: (str, EnvironmentError) -> Refused
    """Return what is told of a folder in which something cannot be written: if it is full, of no file in it."""
    full = error.errno in FULL
    where = None if full else getattr(error, "filename", None)
    return Refused("disk" if full else "cache", "%s: %s" % (where or place, error.strerror))


def machine():  # type: () -> str
    """Return this machine's name as a part of a file's: one home may be that of several machines.

    A lock on a folder holds on its own machine only, and each has a `cuda:0`.
    """
    return "".join(one if one.isalnum() or one in "-_" else "-" for one in os.uname()[1])[:64]


def folder(path):  # type: (str) -> str
    """Return a folder that is ours alone, and make it where there is none. Raises: OSError, Refused."""
    try:
        os.mkdir(path, 0o700)
    except OSError:
        if not os.path.lexists(path):
            raise
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise Refused("cache", "%s is no folder" % path)
    if found.st_uid != os.geteuid():
        raise Refused("cache", "%s belongs to user %d" % (path, found.st_uid))
    if found.st_mode & 0o077:
        raise Refused("cache", "%s is open to others (mode %o): chmod 700 it" % (path, found.st_mode & 0o777))
    return path


def install(code, task):  # type: (str, Dict[str, Any]) -> None
    """Ask for the worker's archive and unpack it, whole or not at all. Raises: OSError, Refused."""
    import hashlib
    import shutil
    import tempfile
    import zlib

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(PATIENCE)
    os.write(1, NEED)
    pieces, left = [], task["size"]
    while left:
        piece = os.read(0, min(left, 1 << 16))
        if not piece:
            raise Refused("worker", "the connection ended while the worker was sent")
        pieces.append(piece)
        left -= len(piece)
    signal.alarm(0)
    archive = b"".join(pieces)
    if hashlib.sha256(archive).hexdigest() != task["digest"]:
        raise Refused("worker", "what came is not what was sent")
    # one home may be that of several machines, which give the same numbers to processes
    making = tempfile.mkdtemp(prefix=task["digest"] + ".", dir=os.path.dirname(code))
    try:
        for name, text in json.loads(zlib.decompress(archive).decode("utf-8")).items():
            place = os.path.join(making, name)
            if not os.path.isdir(os.path.dirname(place)):
                os.makedirs(os.path.dirname(place), 0o700)
            with open(place, "wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())  # before the name: a machine that goes down would leave empty files under it
        os.rename(making, code)
    except (IOError, OSError):
        shutil.rmtree(making, ignore_errors=True)
        if not os.path.isdir(code):  # else another one has installed it meanwhile
            raise
