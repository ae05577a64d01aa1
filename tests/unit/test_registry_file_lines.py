"""On which line each key of a TOML text stands."""

import tomllib

import pytest

from mer.registry.declared.lines import MAX_DEPTH, TooDeep, find_lines

TEXT = '''\
format = 1 # one

[models."a.b"]
labels = { x = "}", 'y z' = "[" } # ]
note = """
[no.header]
key = 1
"""

[[models.'a.b'.versions]]
package = "one"
rows = [
  { x = "prod" }, # "]"
  { x = "test" },
]

[[models."a.b".versions]]
carton.runner.runner_name = "python"
[models."a.b".versions.carton.mer]
command = { argv = ["/bin/cat"] }
[[models."a.b".versions.carton.input]]
name = 'x'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("format",), 1),
        (("models",), 3),
        (("models", "a.b"), 3),
        (("models", "a.b", "labels", "y z"), 4),
        (("models", "a.b", "note"), 5),
        (("models", "a.b", "versions", 0), 10),
        (("models", "a.b", "versions", 0, "package"), 11),
        (("models", "a.b", "versions", 0, "rows", 1), 14),
        (("models", "a.b", "versions", 0, "rows", 1, "x"), 14),
        (("models", "a.b", "versions", 1), 17),
        (("models", "a.b", "versions", 1, "carton", "runner", "runner_name"), 18),
        (("models", "a.b", "versions", 1, "carton", "mer", "command", "argv"), 20),
        (("models", "a.b", "versions", 1, "carton", "input", 0, "name"), 22),
    ],
)
def test_a_key_is_found_on_its_line(path, line):
    tomllib.loads(TEXT)
    assert find_lines(TEXT).found[path] == line


def test_what_is_missing_is_missed_on_the_line_of_its_table():
    assert find_lines(TEXT).of(("models", "a.b", "versions", 0, "digest")) == 10


def test_what_is_missing_from_the_whole_file_is_missed_on_its_first_line():
    assert find_lines("").of(("format",)) == 1


def test_values_too_deep_within_each_other_are_refused_on_their_line():
    find_lines("a = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(TooDeep, match="line 2"):
        find_lines("\na = " + "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))
