"""The error tree."""

import inspect

import pytest

from mer.core import errors

TREE = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.MerError)]
CODES = {0, 1, 2, 65, 66, 69, 70, 74, 75, 76, 77, 78, 79, 124, 125, 130}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_words_of_its_own_and_an_exit_code_of_the_table(kind: type[errors.MerError]) -> None:
    assert kind.__doc__
    assert kind().message.endswith(".")
    assert kind.exit_code in CODES


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_stands_in_the_drawing(kind: type[errors.MerError]) -> None:
    assert errors.__doc__
    assert kind.__name__ in errors.__doc__


def test_a_code_is_the_name_in_kebab_case() -> None:
    assert errors.ServerNotFound().code == "server-not-found"


@pytest.mark.parametrize(("limit", "exit_code"), [("memory", 1), ("cpu", 1), ("open-files", 1), ("wall", 124)])
def test_a_limit_of_a_version_is_named_by_its_code(limit: str, exit_code: int) -> None:
    error = errors.limit_exceeded(limit, "too much")
    assert (error.code, error.exit_code) == (f"limit:{limit}", exit_code)
    assert error.hint
