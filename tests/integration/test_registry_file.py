"""Registry files over a real registry and a real content store: applied, applied again, exported, applied elsewhere."""

import asyncio
import json
import shlex

import numpy as np
import pytest

from mer.core.errors import Busy, ChangesNotAllowed, ConfigurationError, DigestMismatch, RegistryFileInvalid
from mer.dal.memory import MemoryStore
from mer.registry.declared import writing
from tests.support.registry import ADA
from tests.support.running import folder_with, running
from tests.support.typing_in import Terminal, environ_of

HANDLER = "def load():\n    return lambda inputs: inputs\n"

FILE = """\
format = 1

[servers.gpu]
address = "gpu.example.org"
user = "mer"
labels = { site = "oslo" }

[servers.old]
address = "old.example.org"
retired = true

[weights.w]
description = "numbers"

[[weights.w.versions]]
file = "one.npy"

[[weights.w.versions]]
file = "two.npy"

[models.echo]
description = "what goes in"
labels = { team = "a" }

[[models.echo.versions]]
number = 1
package = "package"
carton = { runner = { runner_name = "python", opts = { entrypoint_package = "handler", entrypoint_fn = "load" } } }
weights = "w:1"
aliases = ["first"]
retired = true

[[models.echo.versions]]
package = "package"
carton = { runner = { runner_name = "python", opts = { entrypoint_package = "handler", entrypoint_fn = "load" } } }
weights = "w"
aliases = ["default", "prod"]

[[models.echo.placements]]
server = "gpu"
version = 2
device = "cuda:0"

[models."кот"]
without_default = true

[[models."кот".versions]]
command = ["/bin/cat", "-u"]
directory = "/tmp"

[models.gone]
retired = true

[[models.gone.versions]]
[models.gone.versions.carton]
runner.runner_name = "command"
mer.command = { argv = ["/bin/cat"], tokens = { ready = "r", start = "s", stop = "t", exit = "e" } }
mer.limits = { wall_seconds = 5 }
input = [{ name = "x", dtype = "float32", shape = [1, "n"], description = "a \\"number\\"" }]
"""


@pytest.fixture
def file(tmp_path):
    folder_with(tmp_path / "package", HANDLER)
    np.save(tmp_path / "one.npy", np.arange(3.0))
    np.save(tmp_path / "two.npy", np.arange(4.0))
    path = tmp_path / "registry.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
async def mer(tmp_path):
    async with running(tmp_path) as opened:
        yield opened


async def apply(mer, file, *, prune=False):
    plan = await mer.declared.plan(file, prune=prune)
    await mer.declared.apply(ADA, plan)
    return list(map(str, plan.lines()))


async def actions(mer):
    page = await mer.log.list(limit=1000)
    return [record.columns["action"] for record in reversed(page.items)]


async def test_a_file_makes_the_registry_what_it_says(mer, file):
    await apply(mer, file)
    view = await mer.models.show("echo")
    assert [version.number for version in view.versions.items] == [2, 1]
    assert [retirement.number for retirement in view.retirements] == [1]
    assert {move.alias: move.version for move in view.aliases} == {"default": 2, "first": 1, "prod": 2}
    [(placement, server)] = view.placements
    assert (server.name, placement.version, placement.device) == ("gpu", 2, "cuda:0")
    assert view.model.labels == {"team": "a"}
    assert (await mer.models.show("кот")).aliases == ()
    assert (await mer.models.show("gone")).model.retired_at is not None
    assert (await mer.servers.show("old")).retired_at is not None
    assert (await mer.weights.show("w")).weights.description == "numbers"


async def test_each_change_is_on_record(mer, file):
    lines = await apply(mer, file)
    assert len(await actions(mer)) == len(lines)
    assert set(await actions(mer)) == {
        *("server.register", "server.retire", "weights.register"),
        *("model.register", "model.alias", "model.place", "model.retire"),
    }


async def test_a_second_time_changes_nothing_and_records_nothing(mer, file):
    await apply(mer, file)
    before = await actions(mer)
    assert await apply(mer, file) == []
    assert await apply(mer, file, prune=True) == []
    assert await actions(mer) == before


async def test_a_plan_changes_nothing_and_brings_nothing_in(mer, file):
    plan = await mer.declared.plan(file)
    assert len(plan.steps) > 10
    assert await actions(mer) == []
    assert not [path for path in mer.content.folder.glob("blobs/*/*") if path.is_file()]


async def test_a_changed_folder_becomes_a_version(mer, file, tmp_path):
    file.write_text(
        """\
format = 1
[[models.m.versions]]
package = "package"
carton.runner = { runner_name = "python", opts = { entrypoint_package = "handler", entrypoint_fn = "load" } }
aliases = ["default"]
"""
    )
    await apply(mer, file)
    folder_with(tmp_path / "package", HANDLER + "# changed\n")
    lines = await apply(mer, file)
    assert [line.split(": ")[0] for line in lines] == ["create version m:2", "move alias m@default"]
    assert await apply(mer, file) == []


async def test_without_leave_to_change_nothing_changes_and_the_refusal_is_on_record(tmp_path, file):
    store = MemoryStore()
    async with running(tmp_path, store, allow_changes=False) as mer:
        plan = await mer.declared.plan(file)
        with pytest.raises(ChangesNotAllowed):
            await mer.declared.apply(ADA, plan)
        assert await actions(mer) == ["registry.apply"]
        assert not [path for path in mer.content.folder.glob("blobs/*/*") if path.is_file()]


async def test_a_file_with_faults_is_refused_whole_with_all_of_them(mer, file):
    text = file.read_text().replace('"two.npy"', '"three.npy"').replace('user = "mer"', "user = 3")
    file.write_text(text + '\n[models.more]\n[[models.more.versions]]\ndigest = "' + "a" * 64 + '"\n')
    with pytest.raises(RegistryFileInvalid) as refused:
        await apply(mer, file)
    lines = [line.partition(": ")[0].strip() for line in refused.value.message.splitlines()[1:]]
    assert lines == ["line 3", "line 19", f"line {text.count(chr(10)) + 4}"]
    assert refused.value.exit_code == 78
    assert await actions(mer) == []


async def test_an_export_applied_to_an_empty_database_gives_the_same_registry(mer, file, tmp_path):
    await apply(mer, file)
    await mer.models.alias(ADA, "echo", "prod", None)
    exported = tmp_path / "exported.toml"
    exported.write_text(await mer.declared.export())
    async with running(tmp_path, MemoryStore()) as other:
        await apply(other, exported)
        assert await other.declared.export() == exported.read_text()
        assert await apply(other, exported, prune=True) == []


async def test_an_export_applied_where_it_came_from_changes_nothing(mer, file, tmp_path):
    await apply(mer, file)
    exported = tmp_path / "exported.toml"
    exported.write_text(await mer.declared.export())
    assert await apply(mer, exported, prune=True) == []


async def test_what_the_database_names_already_needs_no_content_here(mer, file, tmp_path):
    await apply(mer, file)
    exported = tmp_path / "exported.toml"
    exported.write_text(await mer.declared.export())
    store = mer._store
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with running(elsewhere, store) as other:
        assert await apply(other, exported) == []


async def test_the_same_version_twice_in_a_row_keeps_its_numbers_through_an_export(mer, file, tmp_path):
    file.write_text('format = 1\n[[models.m.versions]]\ncommand = ["/bin/cat"]\nnumber = 1\nretired = true\n')
    await apply(mer, file)
    with file.open("a") as out:
        out.write('[[models.m.versions]]\ncommand = ["/bin/cat"]\nnumber = 2\n')
    await apply(mer, file)
    exported = tmp_path / "exported.toml"
    exported.write_text(await mer.declared.export())
    async with running(tmp_path, MemoryStore()) as other:
        await apply(other, exported)
        assert [version.number for version in (await other.models.show("m")).versions.items] == [2, 1]


async def test_applies_at_once_make_each_version_once(mer, file):
    plans = [await mer.declared.plan(file) for _ in range(4)]
    ended = await asyncio.gather(*(mer.declared.apply(ADA, plan) for plan in plans), return_exceptions=True)
    assert all(error is None or isinstance(error, Busy) or "retired" in str(error) for error in ended), ended
    assert [version.number for version in (await mer.models.show("echo")).versions.items] == [2, 1]
    assert [version.number for version in (await mer.weights.show("w")).versions.items] == [2, 1]
    assert await apply(mer, file) == []


async def test_a_folder_that_changes_between_plan_and_apply_is_not_registered(mer, file, tmp_path):
    plan = await mer.declared.plan(file)
    folder_with(tmp_path / "package", HANDLER + "# changed\n")
    with pytest.raises(DigestMismatch):
        await mer.declared.apply(ADA, plan)


@pytest.mark.parametrize("content", [b"\xff", b"x" * 9_000_000])
async def test_what_is_no_text_or_too_large_is_refused(mer, file, content):
    file.write_bytes(content)
    with pytest.raises(RegistryFileInvalid):
        await mer.declared.plan(file)


@pytest.mark.parametrize("bound", ["MAX_BYTES", "MAX_ENTRIES"])
async def test_no_export_is_larger_than_what_can_be_applied(mer, file, monkeypatch, bound):
    await apply(mer, file)
    text = await mer.declared.export()
    size = len(text.encode()) if bound == "MAX_BYTES" else text.count("\n[")
    monkeypatch.setattr(writing, bound, size)
    assert await mer.declared.export() == text
    monkeypatch.setattr(writing, bound, size - 1)
    with pytest.raises(ConfigurationError):
        await mer.declared.export()


# --- the commands


@pytest.fixture
def terminal(mer, tmp_path):
    return Terminal(mer, environ_of(tmp_path))


async def test_the_commands_plan_apply_and_export(terminal, file, tmp_path):
    planned = await terminal.type(f"registry apply {shlex.quote(str(file))} --plan")
    assert (planned.code, planned.err) == (0, "")
    assert planned.out.splitlines()[0] == "create server gpu: gpu.example.org"
    applied = await terminal.type(f"-a registry apply {shlex.quote(str(file))}")
    assert (applied.code, applied.out) == (0, planned.out)
    assert (await terminal.type(f"-a registry apply {file}")).out == "nothing to change\n"
    exported = await terminal.type(f"registry export {tmp_path}/exported.toml")
    assert exported.code == 0
    assert (tmp_path / "exported.toml").read_text() == (await terminal.type("registry export")).out


async def test_a_program_reads_the_plan(terminal, file):
    told = json.loads((await terminal.type(f"registry apply {file} --plan --json")).out)
    assert told["applied"] is False
    assert told["changes"][0] == {"action": "create", "what": "server gpu", "detail": "gpu.example.org"}


async def test_a_prune_that_takes_away_asks_first(terminal, file, tmp_path):
    assert (await terminal.type(f"-a registry apply {file}")).code == 0
    file.write_text("format = 1\n")
    asked = await terminal.type(f"-a registry apply {file} --prune")
    assert asked.code == 2
    assert "retire model echo" in asked.err
    agreed = await terminal.type(f"-a registry apply {file} --prune --yes")
    assert agreed.code == 0
    assert "retire server gpu" in agreed.out


async def test_a_bad_file_ends_in_78_and_its_faults_on_lines_of_their_own(terminal, file):
    file.write_text("format = 1\nx = 1\ny = 2\n")
    refused = await terminal.type(f"-a registry apply {file}")
    assert refused.code == 78
    assert [line.split(":")[0] for line in refused.err.splitlines()[1:]] == ["  line 2", "  line 3"]
    assert (await terminal.type(f"registry apply {file.parent}/none.toml")).code == 78
