"""Backups: whole or refused, whatever was done to the file."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import (
    AlreadyExists,
    BackupInvalid,
    ContentUnwritable,
    LogNotVerified,
    MerError,
    NotFound,
    UsageError,
)
from mer.dal.base import Store
from mer.dal.memory import MemoryStore
from mer.moving import backup_lines, backup_reading
from mer.moving.backup_reading import opened_backup
from mer.moving.backup_writing import stream_backup, write_backup
from mer.moving.source import StoreSource
from mer.moving.transfer import transfer
from tests.support import records
from tests.support.houses import append, furnish, sound, whole

RECORDS = 600


def noon() -> Any:
    return records.NOON


@pytest.fixture
async def old() -> Store:
    store = MemoryStore()
    await furnish(store)
    await append(store, RECORDS)
    return store


@pytest.fixture
async def file(old: Store, tmp_path: Path) -> Path:
    path = tmp_path / "backup.gz"
    await write_backup(StoreSource(old), path, clock=noon)
    return path


def content(file: Path) -> bytes:
    return file.read_bytes()


def write(file: Path, changed: bytes) -> None:
    file.write_bytes(changed)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def restored(path: Path) -> Store:
    store = MemoryStore()
    with opened_backup(path) as backup:
        await transfer(backup, store)
    return store


async def test_what_was_backed_up_is_restored(old: Store, file: Path) -> None:
    back = await restored(file)
    assert await whole(back) == await whole(old)
    assert await sound(back)


async def test_a_restore_that_was_cut_goes_on(old: Store, file: Path) -> None:
    store = MemoryStore()
    await store.access_log.adopt_chain(await old.access_log.chain())
    async for some in old.access_log.scan(until=300):
        await store.access_log.append([record.body for record in some])
    with opened_backup(file) as backup:
        moved = await transfer(backup, store)
    assert moved.records == RECORDS - 300
    assert await whole(store) == await whole(old)


async def test_an_empty_database_can_be_backed_up(tmp_path: Path) -> None:
    old = MemoryStore()
    await write_backup(StoreSource(old), tmp_path / "b", clock=noon)
    assert await whole(await restored(tmp_path / "b")) == await whole(old)


async def test_a_backup_is_for_its_owner_alone(file: Path) -> None:
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert names(file.parent) == ["backup.gz"]


async def test_a_backup_is_not_replaced_unless_that_is_said(old: Store, file: Path) -> None:
    before = content(file)
    with pytest.raises(AlreadyExists, match="is there already"):
        await write_backup(StoreSource(old), file, clock=noon)
    assert content(file) == before
    await append(old, 1)
    heading, _ = await write_backup(StoreSource(old), file, clock=noon, force=True)
    assert heading.head.seq == RECORDS + 1


async def test_a_file_that_somebody_made_meanwhile_is_his(old: Store, tmp_path: Path) -> None:
    path = tmp_path / "backup.gz"

    def made(what: str, done: int, total: int) -> None:
        path.write_text("his")

    with pytest.raises(AlreadyExists):
        await write_backup(StoreSource(old), path, clock=noon, progress=made)
    assert path.read_text() == "his"
    assert names(tmp_path) == ["backup.gz"]


async def test_a_name_may_be_as_long_as_the_system_takes_it(old: Store, tmp_path: Path) -> None:
    path = tmp_path / ("木" * 85)
    await write_backup(StoreSource(old), path, clock=noon)
    assert names(tmp_path) == [path.name]
    assert path.stat().st_nlink == 1


def test_a_first_line_costs_no_memory_whatever_it_would_unpack_to(tmp_path: Path) -> None:
    path = tmp_path / "backup.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"backup":{"a":[' + b"[]," * 2_000_000 + b"[]]}}\n")
    tracemalloc.start()
    try:
        with pytest.raises(BackupInvalid, match="first line"), opened_backup(path):
            pass
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


async def test_a_folder_that_is_not_there_is_told(old: Store, tmp_path: Path) -> None:
    with pytest.raises(ContentUnwritable, match="cannot be written"):
        await write_backup(StoreSource(old), tmp_path / "no" / "b", clock=noon)


class Used(StoreSource):
    """A database whose registry is changed while it is read, that many times, and whose models run meanwhile."""

    def __init__(self, store: Store, *, times: int) -> None:
        super().__init__(store)
        self._used = store
        self._times = times

    async def nouns(self) -> Any:
        async for noun in super().nouns():
            yield noun
        await append(self._used, 2)  # runs, which change no registry
        if self._times:
            self._times -= 1
            await self._used.models.add(records.model(f"new{self._times}"))
            await self._used.access_log.append([records.change(await self._used.access_log.chain())])


async def test_the_log_ends_where_the_registry_was_read_though_others_go_on(old: Store, tmp_path: Path) -> None:
    heading, _ = await write_backup(Used(old, times=2), tmp_path / "b", clock=noon)
    back = await restored(tmp_path / "b")
    assert await back.access_log.head() == heading.head
    assert heading.head.seq == RECORDS + 6
    for name in ("new0", "new1"):
        assert (await back.models.get(name)).name == name


async def test_a_log_that_does_not_hold_is_not_backed_up(old: Store, tmp_path: Path) -> None:
    class Edited(StoreSource):
        async def records(self, *, after: int, until: int) -> Any:
            async for some in super().records(after=after, until=until):
                yield [record for record in some if record.seq != 77]

    with pytest.raises(LogNotVerified, match="record 77"):
        await write_backup(Edited(old), tmp_path / "b", clock=noon)
    assert names(tmp_path) == []


def rewritten(file: Path, change: Callable[[list[bytes]], list[bytes]], *, signed: bool = True) -> None:
    """Change the lines, and with `signed` make the last one fit, as somebody who knows the format would."""
    lines = change(gzip.decompress(content(file)).splitlines(keepends=True))
    if signed:
        end = json.loads(lines[-1])
        body = lines[:-1]
        told = [json.loads(line) for line in body[1:]]
        end["end"] = {
            "records": sum("digest" in each for each in told),
            "registered": sum("digest" not in each for each in told),
            "sha256": hashlib.sha256(b"".join(body)).hexdigest(),
        }
        lines[-1] = json.dumps(end).encode() + b"\n"
    write(file, gzip.compress(b"".join(lines)))


def with_heading(**fields: Any) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        told = json.loads(lines[0])
        told["backup"] |= fields
        return [json.dumps(told).encode() + b"\n", *lines[1:]]

    return change


def at_record(number: int, *replacing: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Put other lines in place of the record of that seq."""

    def change(lines: list[bytes]) -> list[bytes]:
        at = next(n for n, line in enumerate(lines) if line.endswith(b',"seq":%d}\n' % number))
        return [*lines[:at], *replacing, *lines[at + 1 :]]

    return change


def renamed(old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    """Return what gives everything of that name another."""
    return lambda lines: [line.replace(b':"%s"' % old, b':"%s"' % new) for line in lines]


UNSIGNED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a description edited": (lambda lines: [line.replace(b"vision", b"hearing") for line in lines], "was changed"),
    "a line removed": (lambda lines: lines[:2] + lines[3:], "was changed"),
    "no end": (lambda lines: lines[:-1], "has no end"),
    "nothing but the first line": (lambda lines: lines[:1], "has no end"),
    "something after the end": (lambda lines: [*lines, lines[1]], "goes on after its end"),
    "no heading": (lambda lines: lines[1:], "this is no backup"),
    "another document": (lambda lines: [b'{"backup":7}\n'], "this is no backup"),
    "a deep document": (lambda lines: [b"[" * 200_000], "this is no backup"),
    "a deep line": (lambda lines: [lines[0], b'{"model":' + b"[" * 200_000 + b"\n"], "line 2"),
    "a line that is none": (lambda lines: [lines[0], b"hello\n", *lines[1:]], "line 2: it is no line of a backup"),
    "a line of many values": (
        lambda lines: [lines[0], b'{"server":[' + b"[]," * backup_lines.MAX_VALUES + b"[]]}\n"],
        "line 2: it has more than 250000 values",
    ),
    "values in each other": (
        lambda lines: [lines[0], b'{"server":' + b"[" * 64 + b"]" * 64 + b"}\n"],
        "more than 64 deep",
    ),
    "a record without end": (
        lambda lines: [lines[0], b'{"digest":"' + b"a" * 5 * 2**20 + b'"}\n', *lines[1:]],
        "line 2: it is no record",
    ),
    "a name that is a path": (renamed(b"digits", b"../digits"), "'../digits' is no name"),
    "a name with an escape": (renamed(b"digits", rb"\u001b[2J"), "is no name"),
    "a name that another looks like": (renamed(b"digits", "e\u0301".encode()), "composed form"),
    "an alias that is an option": (renamed(b"prod", b"-prod"), "'-prod' is no alias"),
    "an unknown noun": (lambda lines: [lines[0], b'{"spell":{}}\n', *lines[1:]], "line 2: it is no line"),
    "a server without a name": (lambda lines: [lines[0], b'{"server":{}}\n', *lines[1:]], "line 2: it is no line"),
    "a registry in the log": (lambda lines: [*lines[:-1], lines[1], lines[-1]], "stands among the records"),
    "an unknown format": (with_heading(format=2), "it has the format 2"),
    "a format that is none": (with_heading(format=None), "it has the format None"),
    "a newer schema": (with_heading(schema=7), "of the schema 07"),
    "a chain that is none": (with_heading(chain="mine"), "cannot be used"),
    "a head that is none": (with_heading(head=3), "cannot be used"),
}


@pytest.mark.parametrize(("change", "told"), UNSIGNED.values(), ids=UNSIGNED)
async def test_a_file_that_was_changed_is_refused(file: Path, change: Any, told: str) -> None:
    rewritten(file, change, signed=False)
    with pytest.raises(BackupInvalid, match=told) as caught:
        await restored(file)
    assert caught.value.exit_code == 74


SIGNED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], type[MerError], str]] = {
    "a body edited": (
        lambda lines: [line.replace(b'"ada"', b'"eve"') if b'"seq":5}' in line else line for line in lines],
        LogNotVerified,
        "record 5: its body",
    ),
    "a record removed": (at_record(300), BackupInvalid, "599 records"),
    "the last record removed, and told so": (
        lambda lines: with_heading(head={"seq": RECORDS - 1, "digest": "0" * 64})(at_record(RECORDS)(lines)),
        LogNotVerified,
        "does not end with the head",
    ),
    "another chain": (with_heading(chain="0193b2f0-0000-7000-8000-000000000001"), LogNotVerified, "belongs to chain"),
    "a record of another log": (
        at_record(9, b'{"digest":"%s","previous":"%s","record":{},"seq":9}\n' % (b"a" * 64, b"b" * 64)),
        LogNotVerified,
        "record 9",
    ),
}


@pytest.mark.parametrize(("change", "kind", "told"), SIGNED.values(), ids=SIGNED)
async def test_a_change_by_somebody_who_knows_the_format_shows_in_the_chain(
    file: Path, change: Any, kind: type[MerError], told: str
) -> None:
    rewritten(file, change)
    with pytest.raises(kind, match=told):
        await restored(file)


@pytest.mark.parametrize("kept", [0, 1, 10, 11, 500, -9, -8, -1])
async def test_a_file_that_was_cut_is_refused(file: Path, kept: int) -> None:
    write(file, content(file)[:kept])
    with pytest.raises(BackupInvalid):
        await restored(file)


async def test_bytes_that_are_no_backup_are_refused(file: Path) -> None:
    bad = bytearray(content(file))
    bad[len(bad) // 2] ^= 0xFF
    for each in (bytes(bad), os.urandom(5000), b"plain text\n", gzip.compress(b""), content(file) + b"more"):
        write(file, each)
        with pytest.raises(BackupInvalid):
            await restored(file)


async def test_a_line_is_read_up_to_its_limit_whatever_it_would_unpack_to(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heading = gzip.decompress(content(file)).splitlines(keepends=True)[0]
    write(file, gzip.compress(heading + b" " * (backup_lines.MAX_LINE + 1)))
    assert len(content(file)) < 2**20
    with pytest.raises(BackupInvalid, match=f"line 2 is longer than {backup_lines.MAX_LINE}"):
        await restored(file)
    monkeypatch.setattr(backup_reading, "MAX_LINE", 1000)
    write(file, gzip.compress(heading + b" " * 999 + b"\n"))
    with pytest.raises(BackupInvalid, match="line 2: it is no line"):
        await restored(file)


def test_what_cannot_be_read_twice_is_told_with_its_name(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(UsageError, match=r"/dev/fd/.* cannot be read"), opened_backup(Path(f"/dev/fd/{reading}")):
            pass
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_reader_that_was_given_up_does_not_disturb_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_reading, "LINES_AT_ONCE", 50)
    long, path = MemoryStore(), tmp_path / "backup.gz"
    await append(long, 3000)  # more than one reading takes from the file
    await write_backup(StoreSource(long), path, clock=noon)
    with opened_backup(path) as backup:
        first = backup.records(after=0, until=3000)
        given = list(await anext(first))
        again = [record async for some in backup.records(after=0, until=3000) for record in some]
        given += [record async for some in first for record in some]
    assert [record.seq for record in given] == [record.seq for record in again] == list(range(1, 3001))


async def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        await restored(tmp_path / "none")


async def test_nothing_is_written_before_the_last_line_was_read(file: Path) -> None:
    rewritten(file, lambda lines: lines[:-1], signed=False)
    store = MemoryStore()
    with pytest.raises(BackupInvalid), opened_backup(file) as backup:
        await transfer(backup, store)
    assert (await store.access_log.head()).seq == 0
    with pytest.raises(NotFound):
        await store.models.get("digits")


async def test_what_is_no_file_is_left_alone(old: Store, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ContentUnwritable, match="is no file"):
        await write_backup(StoreSource(old), pipe, clock=noon, force=True)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_what_strings_hold_is_no_value_and_no_bracket(tmp_path: Path) -> None:
    text = '[{"a\\b": 1},' * 60_000
    model = records.model("wordy", description=text)
    assert backup_lines.read_line(backup_lines.line_of(model)) == model


def test_a_line_may_cost_what_its_bytes_allow_and_no_more() -> None:
    line = b'{"server":[' + b"[]," * (backup_lines.MAX_LINE // 3 - 10) + b"[]]}\n"
    tracemalloc.start()
    try:
        with pytest.raises(BackupInvalid, match="values"):
            backup_lines.read_line(line)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_values_are_counted_up_to_the_limit() -> None:
    for count, told in ((backup_lines.MAX_VALUES - 2, "it is no line"), (backup_lines.MAX_VALUES - 1, "more than")):
        line = b'{"server":[' + b"0," * count + b"0]}\n"
        with pytest.raises(BackupInvalid, match=told):
            backup_lines.read_line(line)
    for depth, told in ((backup_lines.MAX_DEPTH - 1, "it is no line"), (backup_lines.MAX_DEPTH, "deep in each other")):
        with pytest.raises(BackupInvalid, match=told):
            backup_lines.read_line(b'{"server":' + b"[" * depth + b"]" * depth + b"}\n")


async def test_what_would_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    store, path = MemoryStore(), tmp_path / "b.gz"
    await store.models.add(records.model("long", description="x" * backup_lines.MAX_LINE))
    with pytest.raises(BackupInvalid, match="model 'long' makes no line of a backup: it is longer"):
        await write_backup(StoreSource(store), path, clock=noon)
    assert names(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from mer.moving.backup_output import new_file
with new_file(Path(sys.argv[1]), force=False) as output:
    output.write(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


async def test_what_a_killed_backup_left_goes_with_the_next_and_a_living_ones_stays(old: Store, tmp_path: Path) -> None:
    path = tmp_path / "backup.gz"
    strangers = [".backup.gz.12345678.part", ".backup.gz.0123456x.part", ".other.gz.0123abcd.part", ".backup.gz.part"]
    (tmp_path / strangers[0]).mkdir()
    for name in strangers[1:]:
        (tmp_path / name).touch()
    command = [sys.executable, "-c", KILLED, str(path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]  # noqa: ASYNC220 - begun, not awaited
    try:
        assert [each.stdout.readline() for each in writers if each.stdout] == ["writing\n"] * 2
        assert len(names(tmp_path)) == len(strangers) + 2
        writers[0].kill()
        writers[0].wait()
        await write_backup(StoreSource(old), path, clock=noon)
        assert len(names(tmp_path)) == len(strangers) + 2  # the living one's, and the backup
        assert {*strangers, "backup.gz"} < {*names(tmp_path)}
    finally:
        for each in writers:
            each.kill()
            each.communicate()
    await write_backup(StoreSource(old), path, clock=noon, force=True)
    assert {*names(tmp_path)} == {*strangers, "backup.gz"}


async def test_a_stream_gets_the_same_backup(old: Store, file: Path, tmp_path: Path) -> None:
    pieces: list[bytes] = []
    await stream_backup(StoreSource(old), pieces.append, clock=noon)
    assert gzip.decompress(b"".join(pieces)) == gzip.decompress(content(file))


async def test_a_stream_gets_only_the_last_of_several_readings(old: Store, tmp_path: Path) -> None:
    pieces: list[bytes] = []
    source = Used(old, times=2)
    await stream_backup(source, pieces.append, clock=noon)
    path = tmp_path / "streamed.gz"
    write(path, b"".join(pieces))
    assert (await (await restored(path)).models.get("new0")).name == "new0"


async def test_a_stream_that_fails_gives_no_backup(old: Store, tmp_path: Path) -> None:
    def full(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ContentUnwritable, match="No space left"):
        await stream_backup(StoreSource(old), full, clock=noon)
