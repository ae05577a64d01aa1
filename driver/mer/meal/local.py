"""This machine as a host: workers as child processes, over pipes, with a control channel beside them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import mer_worker
from mer.core.errors import ServerUnreachable
from mer.core.progress import waiting
from mer.folders import own_folder
from mer.meal.findings import Found, of_facts
from mer.meal.host import Host, Launch, Probe
from mer.meal.memory import DEFAULT_BYTES, memory_of
from mer.meal.pipes import ProcessStream
from mer.meal.stream import Stream
from mer_worker.orphans import VARIABLE, kill_group, sweep
from mer_worker.probing import probe

ALLOWED = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "USER",
        "LOGNAME",
        "LD_LIBRARY_PATH",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_HOME",
        "CUDA_PATH",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "OMP_PROC_BIND",
        "OMP_PLACES",
    }
)
"""What of the driver's environment a worker gets. No agent socket, no credentials, no database's address."""
ALLOWED_PREFIX = "LC_"

_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
"""Of glibc: large blocks come from the heap, and up to 256 MiB at its end stay there. Otherwise each array of a model that
has more than 32 MiB is mapped, filled with zeros by the kernel page by page, and unmapped: 2.5 times what its copy takes."""

_PIPE_BYTES = 1 << 20
"""Of a worker that shares no memory: the most that a plain user may ask for. 64 MiB take half as long on two CPUs."""

_STALE_SECONDS = 30 * 86400.0
"""After that a folder whose driver cannot be seen from here is stale: a start of this kernel before, another machine."""

# -I: nothing of the user's environment decides what is imported. -S: stdio.py comes before site, whose .pth files may
# print; the worker then runs site itself. The path goes again once the package is found, since it may be a site-packages
# folder, which must not stand before the standard library.
_START = (
    "import sys;sys.path.insert(0,sys.argv.pop(1));import mer_worker.stdio;del sys.path[0];"
    "from mer_worker.__main__ import main;main()"
)


class LocalHost(Host):
    """This machine."""

    def __init__(
        self,
        *,
        scratch_folder: Path,
        cache_folder: Path,
        environ: Mapping[str, str] | None = None,
        python: Path | None = None,
        worker: Sequence[str] | None = None,
        memory_bytes: int = DEFAULT_BYTES,
        name: str = "local",
    ) -> None:
        """Keep workers' own folders under `scratch_folder` and compiled modules under `cache_folder`.

        `environ` is what the allow-list picks from, this process's own by default; `python` another interpreter; `worker`
        the argv of another worker, in any language (docs/other-languages.md). `memory_bytes` is what a worker shares
        with this process in either direction; 0: everything goes through pipes.
        """
        self.name = name
        self._scratch = scratch_folder
        self._cache = cache_folder
        self._environ = os.environ if environ is None else environ  # the one place where a worker's surroundings begin
        self._python = str(python or sys.executable)
        self._worker = None if worker is None else tuple(worker)
        self._memory = memory_bytes
        self._swept = False

    @property
    def cache(self) -> str:
        """That of this driver."""
        return str(self._cache)

    async def probe(self) -> Probe:
        """Say what this interpreter is."""
        return Probe(address="local", python=self._python, version=".".join(map(str, sys.version_info[:3])))

    async def examine(self, found: Found) -> None:
        """Look at this machine: what a worker would find here."""
        await super().examine(found)
        waiting(self.name, "GPUs")  # of what follows, the one that may take long
        cache = own_folder(self._cache)
        began = time.monotonic_ns()
        facts = await asyncio.to_thread(probe, str(cache), {})
        for finding in of_facts(self.name, facts, microseconds=(time.monotonic_ns() - began) // 1000):
            if finding.step != "interpreter":
                found(finding)

    async def prepare(self) -> Launch:
        """Make a scratch folder and say how the worker is started."""
        if not self._swept:
            self._swept = True
            await asyncio.to_thread(self._remove_stale)
        marker = uuid.uuid4().hex
        compiled = own_folder(own_folder(self._cache) / "pycache")  # first: the scratch folder may be within it
        scratch = own_folder(own_folder(self._scratch) / f"{_own_name()}-{marker}")
        environment = {
            name: value for name, value in self._environ.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIX)
        } | {
            **_MALLOC,
            "TMPDIR": str(scratch),
            "PYTHONPYCACHEPREFIX": str(compiled),  # for the Python children of a model; -X is for itself
            VARIABLE: marker,
        }
        if self._worker is not None:  # pings and cancels in-band: its language may have no thread to spare
            return Launch(argv=self._worker, environment=environment, directory=scratch, marker=marker)
        argv = (self._python, "-I", "-S", "-X", f"pycache_prefix={compiled}", "-c", _START)
        code = Path(mer_worker.__file__).parent.parent
        return Launch(
            argv=(*argv, str(code), "--scratch", str(scratch)),
            environment=environment,
            directory=scratch,
            control=True,
            memory=self._memory,
            marker=marker,
        )

    async def open(self, launch: Launch) -> Stream:
        """Start the process. It leads a session of its own, so that no terminal's signal reaches it.

        Whatever fails on the way, nothing of it is left.
        """
        memory, without = memory_of(launch.memory)
        try:
            with contextlib.ExitStack() as undo, contextlib.ExitStack() as passing:
                argv, passed = list(launch.argv), list(launch.descriptors)
                own: socket.socket | None = None
                if memory is not None:
                    undo.callback(memory.close)
                    argv += ["--memory-fds", ",".join(map(str, memory.descriptors))]
                    passed += memory.descriptors
                if launch.control:
                    own, theirs = socket.socketpair()
                    undo.callback(own.close)
                    passing.callback(theirs.close)
                    own.setblocking(False)
                    argv += ["--control-fd", str(theirs.fileno())]
                    passed.append(theirs.fileno())
                process = subprocess.Popen(  # noqa: ASYNC220 - vfork: a millisecond, where a thread costs as much
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=launch.directory,
                    env=dict(launch.environment),
                    pass_fds=passed,
                    start_new_session=True,
                    bufsize=0,
                )
                undo.callback(_end, process)
                if memory is not None:
                    memory.started()
                else:
                    _widen(process)
                stream = ProcessStream(
                    process,
                    own,
                    marker=launch.marker,
                    directory=launch.directory,
                    memory=memory,
                    without_memory=without,
                )
                undo.pop_all()
                return stream
        except (OSError, ValueError) as error:  # ValueError: an argument has a NUL in it
            raise ServerUnreachable(f"{launch.argv[0]} cannot be started here: {error}") from error

    async def kill(self, launch: Launch) -> None:
        """Kill what carries the worker's marker, and remove its folder."""
        await asyncio.to_thread(sweep, launch.marker, 0)
        await asyncio.to_thread(shutil.rmtree, launch.directory, ignore_errors=True)

    def _remove_stale(self) -> None:
        """Remove the folders of workers whose driver was killed together with them."""
        with contextlib.suppress(OSError):
            for folder in self._scratch.iterdir():
                if _is_stale(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started in vain."""
    kill_group(process.pid, signal.SIGKILL)
    for file in (process.stdin, process.stdout, process.stderr):
        if file is not None:
            file.close()
    process.wait()


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Let its pipes hold more: large tensors go through them, and each filling of one is a change of processes."""
    for file in (process.stdin, process.stdout):
        with contextlib.suppress(OSError, AttributeError):  # not Linux, or this user has as much in pipes as he may
            if file is not None:
                fcntl.fcntl(file.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _own_name() -> str:
    """Name this process so that another one with its number, here or on another machine, is told from it."""
    return f"{_kernel()}-{os.getpid()}-{_started(os.getpid())}"


def _kernel() -> str:
    """Name this start of this kernel and this PID namespace: a number says nothing of a process anywhere else.

    A folder may be shared: a home on the network, a volume of several containers.
    """
    try:
        seen = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "0"
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def _started(pid: int) -> str:
    """Return when the process began, in clock ticks since boot; `0` where that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _is_stale(folder: Path) -> bool:
    """Whether a worker's folder is of a driver that has ended."""
    match folder.name.split("-"):
        case [kernel, pid, started, marker] if pid.isdecimal() and len(marker) == 32:
            if kernel == _kernel() != "0" and started != "0":
                return _started(int(pid)) != started
            return time.time() - folder.stat().st_mtime > _STALE_SECONDS
    return False
