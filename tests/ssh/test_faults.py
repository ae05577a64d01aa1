"""What may be wrong with a far host itself: its cache folder, its disk, its clock, its names, what it lacks."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import ModelFailed, ServerUnreachable
from mer.core.records import ServerKind
from mer.meal.session import Session
from mer.meal.ssh.host import SshHost
from mer.meal.starting import start
from tests.support import sshd
from tests.support.far import ECHO, plan
from tests.support.registry import ADA
from tests.support.running import folder_with, python_spec, running

ROOT_NEEDED = pytest.mark.skipif(os.geteuid() != 0, reason="root is needed")


@contextlib.asynccontextmanager
async def host_with(
    folder: Path, environment: dict[str, str], *, more: str = "", shared: bool = True
) -> AsyncIterator[SshHost]:
    """Give a host whose sessions have this environment."""
    if not sshd.available():
        pytest.skip("no sshd here")
    with sshd.running(folder / "sshd", environment=environment, more=more) as server:
        host = SshHost("far", sshd.connection(server), python=sys.executable, shared_cache=shared)
        try:
            yield host
        finally:
            await host.aclose()


async def answers(host: SshHost, folder: Path) -> None:
    session = await start(host, plan(folder, ECHO))
    try:
        assert (await session.infer_values({"x": np.arange(3)}))["x"].tolist() == [0, 1, 2]
    finally:
        await session.close()


async def refused(host: SshHost, folder: Path, words: str) -> None:
    with pytest.raises(ServerUnreachable, match=words) as caught:
        await start(host, plan(folder, ECHO))
    assert caught.value.exit_code == 69


# the cache folder


async def test_a_cache_that_is_open_to_others_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "cache" / "mer-worker").mkdir(parents=True)
    (tmp_path / "cache" / "mer-worker").chmod(0o755)
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        await refused(host, tmp_path, r"far, cache: .*/mer-worker is open to others \(mode 755\): chmod 700 it")
        (tmp_path / "cache" / "mer-worker").chmod(0o700)
        await answers(host, tmp_path)


async def test_a_cache_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cache" / "mer-worker").symlink_to(tmp_path / "elsewhere")
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        await refused(host, tmp_path, "mer-worker is no folder")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@ROOT_NEEDED
async def test_a_cache_that_is_anothers_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "cache" / "mer-worker").mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / "cache" / "mer-worker", 65534, 65534)
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        await refused(host, tmp_path, "mer-worker belongs to user 65534")


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp", "/dev/shm"])
async def test_a_cache_below_a_folder_of_everybody_is_not_used(tmp_path: Path, folder: str) -> None:
    (tmp_path / "link").symlink_to(folder)  # whatever it is called
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "link")}, shared=False) as host:
        await refused(host, tmp_path, "link lies in .*, which is everybody's")
    assert not (Path(folder) / "mer-worker").exists()


async def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, so that root may not either")
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        await refused(host, tmp_path, "far, cache: .*cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_cache_in_which_nothing_may_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        await refused(host, tmp_path, "mer-worker: Permission denied")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]).returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_disk_without_room_for_the_worker_is_told_and_left_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    full = small_disk / "full"
    full.write_bytes(bytes((4 << 20) - (96 << 10)))
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(small_disk)}) as host:
        await refused(host, tmp_path, f"far, disk: {small_disk}/mer-worker: No space left on device")
        assert list((small_disk / "mer-worker" / "worker").iterdir()) == []
        full.unlink()
        await answers(host, tmp_path)


# names


@pytest.mark.parametrize("name", ['-a b\'s "c"', "$HOME {d,e}* %s", "größe\u2028ß\\n"])
async def test_whatever_a_home_is_called_a_worker_lives_in_it(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir(mode=0o700)
    quoted = str(home).replace("\\", "\\\\").replace('"', '\\"')
    async with host_with(tmp_path, {"HOME": quoted}) as host:
        await answers(host, tmp_path)
    assert (home / ".cache" / "mer-worker").is_dir()


# what it lacks


async def test_a_module_that_is_not_there_is_named_with_its_host_and_interpreter(tmp_path: Path) -> None:
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        with pytest.raises(ModelFailed, match="No module named 'no_such_module'") as caught:
            await start(host, plan(tmp_path, "import no_such_module.part"))
    hint = caught.value.hint or ""
    assert f"far runs it by {sys.executable}: install what provides no_such_module " in hint
    assert "mer -a server edit far --python" in hint


# its clock


async def clock(host: SshHost) -> str:
    found = []
    await host.examine(found.append)
    return next(finding.detail for finding in found if finding.step == "clock")


@pytest.mark.parametrize(("seconds", "told"), [(3600, "ahead"), (-3600, "behind")])
async def test_a_clock_that_is_wrong_is_told_by_a_ping_and_hinders_nothing(
    tmp_path: Path, seconds: int, told: str
) -> None:
    wrong = tmp_path / "python"
    wrong.write_text(
        f"#!{sys.executable}\nimport sys, time\nnow, now_ns = time.time, time.time_ns\n"
        f"time.time, time.time_ns = lambda: now() + {seconds}, lambda: now_ns() + {seconds}_000_000_000\n"
        "sys.executable = __file__\n"
        "at = sys.argv.index('-c')\ncode, sys.argv[:] = sys.argv[at + 1], ['-c', *sys.argv[at + 2 :]]\nexec(code)\n"
    )
    wrong.chmod(stat.S_IRWXU)
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        host._python = str(wrong)
        assert told in await clock(host)
        await answers(host, tmp_path)


# too much of an answer


async def test_an_answer_beyond_the_cap_is_told_and_the_session_goes_on(tmp_path: Path) -> None:
    source = """
        import numpy as np

        def load():
            def handle(inputs):
                if inputs["x"].size:
                    return inputs
                return {"x": np.zeros(2 << 30, np.uint8)}
            return handle
    """
    async with host_with(tmp_path, {"XDG_CACHE_HOME": str(tmp_path / "cache")}) as host:
        session: Session = await start(host, plan(tmp_path, source))
        try:
            with pytest.raises(ModelFailed, match="output") as caught:
                await session.infer_values({"x": np.zeros(0)})
            assert "1073741824" in caught.value.message or "1 GiB" in caught.value.message
            assert (await session.infer_values({"x": np.arange(2)}))["x"].tolist() == [0, 1]
        finally:
            await session.close()


# names, through a whole Mer


async def test_names_of_any_kind_go_there_and_come_back(tmp_path: Path) -> None:
    tensor, file, server = 'a layer\'s "ß" $HOME/0', "données d'été (1) \U0001f600.txt", "größe"
    package = folder_with(
        tmp_path / "my models' ü",
        f"""
        import pathlib

        def load(weights):
            text = (pathlib.Path(__file__).parent / "ordner ß" / {file!r}).read_text("utf-8")
            return lambda inputs: {{"text": text, "sum": float(weights[{tensor!r}].sum()), **inputs}}
        """,
    )
    (package / "ordner ß").mkdir()
    (package / "ordner ß" / file).write_text("grüße")
    np.savez(tmp_path / "weights.npz", **{tensor: np.arange(4, dtype=np.float32)})
    running_sshd = sshd.of_process()
    async with running(tmp_path, ssh_config=sshd.operator(running_sshd).config) as m:
        parameters = {"address": sshd.HOST, "port": running_sshd.port, "python": sys.executable}
        made = await m.servers.register(ADA, server, kind=ServerKind.SSH, parameters=parameters)
        m._ping._hosts.of(made)._shared_cache = True  # type: ignore[attr-defined]
        await m.register_weights("gewichte", tmp_path / "weights.npz")
        await m.register_model("modell-ß", package, spec=python_spec(), weights="gewichte")
        await m.placements.place(ADA, "modell-ß", server)
        outputs = (await m.run("modell-ß", {"ein 'Wert'": "ja\u2028"})).outputs
        assert (outputs["text"], outputs["sum"], outputs["ein 'Wert'"]) == ("grüße", 6.0, "ja\u2028")
