"""Inputs as they are typed: text, JSON and files, each told apart by its spec and its name."""

import asyncio
import io
import json
import os
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mer.core.errors import InputInvalid, UsageError
from mer.core.specs import TensorSpec, VersionSpec
from mer.faces.commands import inputs
from mer.faces.commands.inputs import read_inputs


def spec(*tensors, runner="python"):
    return VersionSpec(runner=runner, inputs=tuple(TensorSpec(name=n, dtype=d, shape=s) for n, d, s in tensors))


ANY = spec()
TEXT = spec(("text", "string", ()))
IMAGE = spec(("image", "float32", (2,)))


async def read(version_spec, *given, text=None, together=None, stdin=b""):
    return await read_inputs(version_spec, text=text, given=given, together=together, stdin=io.BytesIO(stdin))


@pytest.mark.parametrize(
    ("version_spec", "given", "value"),
    [
        (IMAGE, "image=[1, 2]", [1, 2]),
        (IMAGE, "image=nonsense", "nonsense"),
        (TEXT, "text=[1, 2]", "[1, 2]"),
        (TEXT, "text=", ""),
        (TEXT, "text=a=b", "a=b"),
        (TEXT, "text=@@ada", "@ada"),
        (spec(("text", "string", ("n",))), 'text=["a", "b"]', ["a", "b"]),
        (spec(("text", "string", ("n",))), "text=a", "a"),
        (spec(("text", "string", "*")), "text=7", "7"),
        (spec(("data", "bytes", ())), "data=7", "7"),
        (spec(("any", "json", ())), 'any={"a": null}', {"a": None}),
        (ANY, "x=7", 7),
        (ANY, "x=seven", "seven"),
    ],
)
async def test_a_typed_value_is_what_its_spec_asks_for(version_spec, given, value):
    assert await read(version_spec, given) == {given.partition("=")[0]: value}


async def test_a_bare_text_is_for_the_only_string():
    two = spec(("text", "string", ()), ("n", "int64", ()))
    assert await read(two, "n=3", text="hello") == {"text": "hello", "n": 3}


async def test_a_bare_text_is_for_the_only_input():
    assert await read(IMAGE, text="[1, 2]") == {"image": [1, 2]}


async def test_a_bare_text_for_who_knows_what_is_refused():
    with pytest.raises(InputInvalid, match="The model does not say what it takes"):
        await read(ANY, text="hello")


async def test_a_command_without_specs_takes_a_bare_text():
    assert await read(spec(runner="command"), text="hello") == {"text": "hello"}


@pytest.mark.parametrize(
    "version_spec", [ANY, spec(("a", "string", ()), ("b", "string", ())), spec(("a", "int8", ()), ("b", "int8", ()))]
)
async def test_a_bare_text_is_refused_where_it_could_be_for_anything(version_spec):
    with pytest.raises(InputInvalid, match="which input"):
        await read(version_spec, text="hello")


async def test_a_npy_file_is_an_array(tmp_path):
    np.save(tmp_path / "x.npy", np.array([1, 2], np.float32))
    values = await read(IMAGE, f"image=@{tmp_path}/x.npy")
    assert values["image"].dtype == np.float32
    assert values["image"].tolist() == [1, 2]


async def test_a_npz_file_of_one_array_is_that_array(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(2))
    assert (await read(IMAGE, f"image=@{tmp_path}/x.npz"))["image"].tolist() == [0, 1]


async def test_a_npz_file_of_several_arrays_is_all_inputs(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(2), b=np.arange(3))
    values = await read(ANY, together=f"@{tmp_path}/x.npz")
    assert {name: value.tolist() for name, value in values.items()} == {"a": [0, 1], "b": [0, 1, 2]}
    with pytest.raises(InputInvalid, match="several arrays"):
        await read(ANY, f"x=@{tmp_path}/x.npz")


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("x.json", b'{"a": [1]}', {"a": [1]}),
        ("x.txt", "Grüße\n".encode(), "Grüße\n"),
        ("x.bin", b"\x00\xff", b"\x00\xff"),
        ("x", b"text", b"text"),
        ("X.JSON", b"7", 7),
    ],
)
async def test_a_file_is_read_by_the_end_of_its_name(tmp_path, name, content, value):
    (tmp_path / name).write_bytes(content)
    assert await read(ANY, f"x=@{tmp_path}/{name}") == {"x": value}


async def test_a_file_of_any_name_is_text_where_text_is_asked_for(tmp_path):
    (tmp_path / "letter").write_text("dear")
    assert await read(TEXT, f"text=@{tmp_path}/letter") == {"text": "dear"}


async def test_stdin_is_an_input():
    assert await read(TEXT, "text=@-", stdin=b"dear\n") == {"text": "dear\n"}
    assert await read(IMAGE, "image=@-", stdin=b"[1, 2]") == {"image": [1, 2]}
    assert await read(ANY, "x=@-", stdin=b"\xff\x00") == {"x": b"\xff\x00"}


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


@pytest.mark.parametrize("version_spec", [IMAGE, spec(("image", "float32", "*")), ANY])
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
async def test_an_array_in_stdin_is_known_by_its_first_bytes(version_spec, save):
    value = (await read(version_spec, "image=@-", stdin=saved(save, np.array([1, 2], np.float32))))["image"]
    assert value.dtype == np.float32
    assert value.tolist() == [1, 2]


async def test_all_inputs_come_from_an_npz_file_or_json_in_stdin():
    arrays = saved(np.savez, a=np.arange(2), b=np.arange(3))
    values = await read(ANY, together="@-", stdin=arrays)
    assert {name: value.tolist() for name, value in values.items()} == {"a": [0, 1], "b": [0, 1, 2]}
    assert await read(ANY, together="@-", stdin=b'{"a": 1}') == {"a": 1}
    with pytest.raises(InputInvalid, match=r"stdin holds several arrays \(a, b\)"):
        await read(IMAGE, "image=@-", stdin=arrays)
    with pytest.raises(InputInvalid, match="a bare one: --input takes it"):
        await read(ANY, together="@-", stdin=saved(np.save, np.arange(2)))


async def test_a_pipe_without_a_telling_name_is_told_by_its_first_bytes_too(tmp_path):
    for name in ("pipe", "pipe.npy"):  # what a shell's <(…) gives, and one that somebody has named
        os.mkfifo(tmp_path / name)
        writing = asyncio.to_thread((tmp_path / name).write_bytes, saved(np.save, np.arange(2)))
        task = asyncio.create_task(writing)
        assert (await read(IMAGE, f"image=@{tmp_path}/{name}"))["image"].tolist() == [0, 1]
        await task


@pytest.mark.parametrize("content", [saved(np.save, np.arange(2)), saved(np.savez, np.arange(2))])
async def test_bytes_that_are_asked_for_stay_bytes(tmp_path, content):
    (tmp_path / "content").write_bytes(content)
    data = spec(("x", "bytes", ()))
    assert await read(data, "x=@-", stdin=content) == {"x": content}
    assert await read(data, f"x=@{tmp_path}/content") == {"x": content}
    assert await read(ANY, f"x=@{tmp_path}/content") == {"x": content}


async def test_a_document_that_is_a_zip_is_bytes_where_nothing_is_asked_for():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    for content in (file.getvalue(), b"PK\x03\x04 broken \xff", b"PK\x05\x06\xff"):
        assert await read(ANY, "x=@-", stdin=content) == {"x": content}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x93NUMPY\x01\x00v\x00{", "stdin is no array in numpy's format"),
        (b"PK\x03\x04 broken", "stdin is no array in numpy's format"),
        (saved(np.save, np.arange(100))[:-1], "stdin is no array in numpy's format"),
        (saved(np.savez, np.arange(100)).replace(b"\x63" + bytes(7), b"\x62" + bytes(7), 1), "stdin holds no arrays"),
        (saved(np.savez), "stdin holds no array"),
        (saved(np.save, np.array([{}], object), allow_pickle=True), "allow_pickle=False"),
        (b"\xff", "stdin .for image. is not UTF-8"),
    ],
)
async def test_stdin_that_is_damaged_is_refused_as_what_it_began_to_be(content, told):
    with pytest.raises(InputInvalid, match=told):
        await read(IMAGE, "image=@-", stdin=content)


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
@pytest.mark.parametrize("way", ["file", "stdin"])
async def test_arrays_are_read_up_to_the_bound(tmp_path, monkeypatch, save, way):
    content = saved(save, np.zeros(10_000, np.uint8))
    unpacked = len(saved(np.save, np.zeros(10_000, np.uint8)))
    most = max(unpacked, len(content))
    (tmp_path / "x.npz").write_bytes(content)
    source, stdin = (f"image=@{tmp_path}/x.npz", b"") if way == "file" else ("image=@-", content)
    monkeypatch.setattr(inputs, "MAX_INPUT_BYTES", most)
    assert (await read(IMAGE, source, stdin=stdin))["image"].shape == (10_000,)
    monkeypatch.setattr(inputs, "MAX_INPUT_BYTES", most - 1)
    with pytest.raises(InputInvalid, match=f"more than {most - 1} bytes"):
        await read(IMAGE, source, stdin=stdin)


async def test_stdin_is_read_once():
    with pytest.raises(InputInvalid, match="once"):
        await read(ANY, "a=@-", "b=@-", stdin=b"1")


async def test_stdin_cannot_be_both_the_script_and_an_input():
    with pytest.raises(InputInvalid, match="commands are being read"):
        await read_inputs(ANY, text=None, given=("x=@-",), together=None, stdin=None)


async def test_all_inputs_come_from_a_json_file(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps({"a": 1, "b": "x"}))
    assert await read(ANY, "c=3", together=f"@{tmp_path}/all.json") == {"a": 1, "b": "x", "c": 3}
    assert await read(ANY, together='{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.npy", b"no array", "no array in numpy's format"),
        ("x.npy", b"", "no array in numpy's format"),
        ("x.npy", b"\x93NUMPY\x01\x00v\x00{", "no array in numpy's format"),
        ("x.npz", b"PK\x03\x04 broken", "no array in numpy's format"),
        ("x.json", b"{", "is not JSON"),
        ("x.json", b"[" * 100_000, "is not JSON"),
        ("x.txt", b"\xff", "is not UTF-8 text"),
    ],
)
async def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputInvalid, match=told) as refused:
        await read(ANY, f"x=@{tmp_path}/{name}")
    assert str(tmp_path / name) in refused.value.message


async def test_an_array_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputInvalid, match="allow_pickle=False"):
        await read(ANY, f"x=@{tmp_path}/x.npy")


@pytest.mark.parametrize("name", ["none.npy", "none.npz", "none.json", "none.txt", "none", "."])
async def test_a_file_that_is_not_there_is_refused_with_how_to_write_an_at_sign(tmp_path, name):
    with pytest.raises(InputInvalid, match="cannot be read") as refused:
        await read(ANY, f"x=@{tmp_path}/{name}")
    assert "@@" in (refused.value.hint or "")


async def test_a_file_is_read_up_to_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_INPUT_BYTES", 4)
    (tmp_path / "four").write_bytes(b"1234")
    (tmp_path / "five").write_bytes(b"12345")
    assert await read(ANY, f"x=@{tmp_path}/four") == {"x": b"1234"}
    with pytest.raises(InputInvalid, match="more than 4 bytes"):
        await read(ANY, f"x=@{tmp_path}/five")


@pytest.mark.parametrize(
    ("given", "told"), [(("x",), "NAME=VALUE"), (("=1",), "NAME=VALUE"), (("x=1", "x=2"), "twice")]
)
async def test_an_input_without_a_name_or_with_two_values_is_refused(given, told):
    with pytest.raises(UsageError, match=told):
        await read(ANY, *given)


@pytest.mark.parametrize("together", ["@{}/list.json", "[1]", "nonsense"])
async def test_inputs_that_are_no_object_are_refused(tmp_path, together):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputInvalid):
        await read(ANY, together=together.format(tmp_path))


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (3 << 20) + 1])
async def test_bytes_of_any_size_come_whole_from_a_file_a_pipe_and_stdin(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "content.bin").write_bytes(content)
    os.mkfifo(tmp_path / "pipe.bin")
    assert await read(ANY, f"x=@{tmp_path}/content.bin") == {"x": content}
    writing = asyncio.create_task(asyncio.to_thread((tmp_path / "pipe.bin").write_bytes, content))
    assert await read(ANY, f"x=@{tmp_path}/pipe.bin") == {"x": content}
    await writing
    assert await read(spec(("x", "bytes", ())), "x=@-", stdin=content) == {"x": content}


@pytest.fixture
def little_memory():
    """A machine that has no 4 GiB to give."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("little_memory")
async def test_reading_asks_for_no_more_memory_than_there_is_to_read(tmp_path):
    (tmp_path / "small.bin").write_bytes(b"small")
    assert await read(ANY, f"x=@{tmp_path}/small.bin") == {"x": b"small"}
