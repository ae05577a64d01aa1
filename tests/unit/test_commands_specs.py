"""Specs, options and times as they are typed."""

import datetime as dt

import pytest

from mer.core.errors import UsageError
from mer.core.specs import Command, Limits, TensorSpec, Tokens
from mer.faces.commands.specs import make_spec, parse_entry, parse_option, parse_tensor
from mer.faces.commands.times import parse_time

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "name", "dtype", "shape"),
    [
        ("image:float32[8,8]", "image", "float32", (8, 8)),
        ("image:float32[ n, *, 3 ]", "image", "float32", ("n", "*", 3)),
        ("digit:int64[]", "digit", "int64", ()),
        ("anything:json", "anything", "json", "*"),
        ("a:b:string[]", "a:b", "string", ()),
        ("x:int8[0]", "x", "int8", (0,)),
    ],
)
def test_a_spec_is_read(text, name, dtype, shape):
    assert parse_tensor(text, option="--input") == TensorSpec(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    "text",
    ["image", "image:", ":int8", "x:int8[", "x:int8[-1]", "x:int8[1.5]", "x:int8[1,]", "x:float", "x:int8[[1]]", ""],
)
def test_what_is_no_spec_is_refused_with_the_option(text):
    with pytest.raises(UsageError, match="--input"):
        parse_tensor(text, option="--input")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1.5", 1.5),
        ("a=true", True),
        ("a=x", "x"),
        ("a=", ""),
        ('a="1"', "1"),
        ("a=b=c", "b=c"),
        ("a=[1]", "[1]"),
        ("a=null", "null"),
    ],
)
def test_an_option_has_the_type_that_it_looks_like(text, value):
    key, parsed = parse_option(text)
    assert (key, parsed, type(parsed)) == ("a", value, type(value))


@pytest.mark.parametrize("text", ["a", "=1", "a=NaN", "a=Infinity"])
def test_what_is_no_option_is_refused(text):
    with pytest.raises(UsageError):
        parse_option(text)


def test_an_entry_point_is_two_options():
    assert parse_entry("a.b:load") == {"entrypoint_package": "a.b", "entrypoint_fn": "load"}


@pytest.mark.parametrize("text", ["load", ":load", "a:", "a b:load", "a:load()", "../a:load", "a:b:c"])
def test_what_is_no_entry_point_is_refused(text):
    with pytest.raises(UsageError, match="MODULE:CALLABLE"):
        parse_entry(text)


NOTHING = {
    "runner": None,
    "entry": None,
    "options": (),
    "inputs": (),
    "outputs": (),
    "arrays": None,
    "argv": (),
    "directory": None,
    "tokens": {},
    "limits": {},
}


def made(**given):
    return make_spec(**{**NOTHING, **given})


def test_without_a_word_about_it_there_is_no_spec():
    assert made() is None


def test_a_python_package_is_the_usual_case():
    spec = made(entry="a:load", options=("scale=2",), arrays="buffer", limits={"wall_seconds": 3.0})
    assert (spec.runner, spec.arrays, spec.limits) == ("python", "buffer", Limits(wall_seconds=3.0))
    assert spec.options == {"scale": 2, "entrypoint_package": "a", "entrypoint_fn": "load"}


def test_words_make_a_command():
    spec = made(argv=("cat", "-u"), directory="/srv", tokens={"ready": "go"})
    assert spec.runner == "command"
    assert spec.command == Command(argv=("cat", "-u"), directory="/srv", tokens=Tokens(ready="go"))


@pytest.mark.parametrize(
    "given",
    [
        {"runner": "command"},
        {"runner": "command", "argv": ("cat",), "entry": "a:b"},
        {"runner": "command", "argv": ("cat",), "arrays": "numpy"},
        {"runner": "python", "argv": ("cat",)},
        {"directory": "/srv"},
        {"tokens": {"ready": "go"}},
        {"options": ("a=1", "a=2")},
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(given):
    with pytest.raises(UsageError):
        made(**given)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-20T10:30Z", dt.datetime(2026, 11, 20, 10, 30, tzinfo=dt.UTC)),
        ("2026-11-20T10:30:01.5+02:00", dt.datetime(2026, 11, 20, 8, 30, 1, 500000, tzinfo=dt.UTC)),
        ("90m", dt.datetime(2026, 11, 21, 10, 30, tzinfo=dt.UTC)),
        ("7d", dt.datetime(2026, 11, 14, 12, tzinfo=dt.UTC)),
        ("2026-11-20", dt.datetime(2026, 11, 20).astimezone(dt.UTC)),
    ],
)
def test_a_time_is_read(text, at):
    assert parse_time(text, option="--since", now=NOW) == at


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "5 minutes", "-5m", "999999999w", "0001-01-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="--since"):
        parse_time(text, option="--since", now=NOW)
