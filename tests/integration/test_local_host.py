"""Starting a process on this machine, when it cannot be: nothing of it is left, and the error says why."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from mer.core.errors import ServerUnreachable
from tests.support.workers import alive, local_host


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def test_an_argument_with_a_nul_is_no_program_and_leaves_nothing(tmp_path: Path) -> None:
    for host in (local_host(tmp_path, worker=("/bin/true", "a\0b")), local_host(tmp_path, python=Path("/a\0b"))):
        launch = await host.prepare()
        before = descriptors()
        with pytest.raises(ServerUnreachable, match=r"cannot be started here: .*null"):
            await host.open(launch)
        assert descriptors() == before
        await host.kill(launch)


async def test_running_out_of_descriptors_anywhere_on_the_way_leaves_none_open(tmp_path: Path) -> None:
    host = local_host(tmp_path)
    limit, failed = resource.getrlimit(resource.RLIMIT_NOFILE), 0
    for more in range(40):
        launch = await host.prepare()
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 1 + more, limit[1]))
        try:
            stream = await host.open(launch)
        except ServerUnreachable:
            failed += 1
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            assert descriptors() == before, f"with {more} more"
            await host.kill(launch)
            continue
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        pid = stream.pid  # type: ignore[attr-defined]
        await stream.close(0.0)
        assert not alive(pid)
        if descriptors() == before:
            break
    assert failed > 3
