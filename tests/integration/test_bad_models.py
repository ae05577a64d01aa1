"""Models that misbehave: a clear error with the right exit code, its record, and the next call is served."""

import os
from pathlib import Path

import pytest

from mer.api import Mer
from mer.core.errors import (
    ContentMissing,
    DeadlineExceeded,
    DigestMismatch,
    MerError,
    ModelFailed,
    PackageInvalid,
    WorkerLost,
)
from mer.core.records import AccessFilter, Outcome, RecordKind
from tests.support.running import register, running

MISBEHAVES = """
    import os, signal, subprocess, sys, time

    def load():
        def handle(tensors):
            what = tensors["what"]
            if what == "raise":
                raise ValueError("no such luck")
            if what == "exit":
                sys.exit(3)
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "hang":
                while True:
                    try:
                        time.sleep(60)
                    except BaseException:
                        pass
            if what == "flood":
                line = "x" * 1023
                for _ in range(2**20):
                    print(line)
            if what == "fork":
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(600)
                child = subprocess.Popen(["sleep", "600"], start_new_session=True)
                return {"pid": child.pid}
            if what == "nothing":
                return None
            return {"ok": True}
        return handle
"""


async def misbehave(m: Mer, what: str, **given: object) -> MerError:
    with pytest.raises(MerError) as caught:
        await m.run("model", {"what": what}, **given)  # type: ignore[arg-type]
    return caught.value


async def outcomes(m: Mer) -> list[str | int | None]:
    page = await m.log.list(AccessFilter(kind=RecordKind.FINISHED))
    return [record.columns["outcome"] for record in reversed(page.items)]


async def serves_the_next_call(m: Mer) -> bool:
    return (await m.run("model", {"what": "well"})).outputs == {"ok": True}


async def test_one_that_raises_fails_with_its_own_traceback(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        error = await misbehave(m, "raise")
        assert isinstance(error, ModelFailed)
        assert error.exit_code == 1
        assert "ValueError: no such luck" in error.message
        assert error.traceback is not None
        assert 'raise ValueError("no such luck")' in error.traceback
        assert "mer_worker" not in error.traceback
        assert await serves_the_next_call(m)
        assert await outcomes(m) == ["failed", "succeeded"]


async def test_one_that_calls_exit_fails_and_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        error = await misbehave(m, "exit")
        assert isinstance(error, ModelFailed | WorkerLost)
        assert "exit" in error.message.lower()
        assert await serves_the_next_call(m)


async def test_one_that_is_killed_is_lost_and_replaced(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        error = await misbehave(m, "kill")
        assert isinstance(error, WorkerLost)
        assert error.exit_code == 125
        assert "SIGKILL" in error.message
        assert await serves_the_next_call(m)
        assert await outcomes(m) == ["lost", "succeeded"]


async def test_one_that_never_returns_is_ended_at_its_deadline(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        assert await serves_the_next_call(m)
        error = await misbehave(m, "hang", timeout=0.5)
        assert isinstance(error, DeadlineExceeded)
        assert error.exit_code == 124
        assert await serves_the_next_call(m)
        assert await outcomes(m) == ["succeeded", "timed_out", "succeeded"]


async def test_one_that_prints_a_gigabyte_answers_and_is_cut(tmp_path: Path) -> None:
    got = 0

    def count(stream: str, level: str, text: bytes) -> None:
        nonlocal got
        got += len(text)

    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        result = await m.run("model", {"what": "flood"}, on_log=count)
    assert result.outputs == {"ok": True}
    assert 0 < got < 16 * 2**20


async def test_what_it_forks_does_not_outlive_it(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        result = await m.run("model", {"what": "fork"})
        pid = result.outputs["pid"]
        os.kill(pid, 0)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_one_that_answers_nothing_fails_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        error = await misbehave(m, "nothing")
        assert isinstance(error, ModelFailed)
        assert "NoneType" in error.message


@pytest.mark.parametrize(
    ("source", "entry", "told"),
    [
        ("def load(:\n", "handler:load", "SyntaxError"),
        ("", "handler:load", "load"),
        ("def load(): pass\n", "nosuch:load", "nosuch"),
        ("import nosuchmodule\n", "handler:load", "nosuchmodule"),
        ("def load(): return 5\n", "handler:load", "int"),
        ("def load(): raise OSError('no disk')\n", "handler:load", "no disk"),
        ("def load(**options): return options['missing']\n", "handler:load", "missing"),
    ],
)
async def test_one_that_does_not_load_says_why(tmp_path: Path, source: str, entry: str, told: str) -> None:
    from tests.support.running import folder_with, python_spec

    async with running(tmp_path) as m:
        await m.register_model("model", folder_with(tmp_path / "package", source), spec=python_spec(entry))
        with pytest.raises((ModelFailed, PackageInvalid)) as caught:
            await m.run("model", {})
        assert told in caught.value.message
        assert await outcomes(m) == ["failed"]


async def test_one_that_dies_while_loading_is_given_up_after_three_times(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    source = f"""
        import os, signal

        with open({str(starts)!r}, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    async with running(tmp_path) as m:
        await register(m, tmp_path, source)
        for _ in range(3):
            with pytest.raises(WorkerLost):
                await m.run("model", {}, timeout=30)
    assert starts.read_text() == "xxx"


async def test_content_that_is_missing_is_told_before_anything_starts(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        for file in (tmp_path / "state/content/blobs").rglob("*"):
            if file.is_file():
                file.unlink()
        with pytest.raises(ContentMissing) as caught:
            await m.run("model", {"what": "well"})
        assert caught.value.exit_code == 74
        [record] = (await m.log.list(AccessFilter(outcome=Outcome.REFUSED))).items
        assert record.columns["model"] == "model"


async def test_content_that_was_changed_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await register(m, tmp_path, MISBEHAVES)
        for file in (tmp_path / "state/content/blobs").rglob("*"):
            if file.is_file() and b"no such luck" in file.read_bytes():
                file.chmod(0o600)
                file.write_bytes(file.read_bytes() + b"# changed")
        with pytest.raises((DigestMismatch, ContentMissing)) as caught:
            await m.run("model", {"what": "well"})
        assert caught.value.exit_code == 74
