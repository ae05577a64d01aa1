"""The scanner of lines finds the very keys that tomllib finds, however they are written."""

import tomllib

from hypothesis import assume, given
from hypothesis import strategies as st

from mer.registry.declared.lines import find_lines

KEYS = st.sampled_from(["a", "b", "c-1", "_", "7", '"d e"', "'f.g'", r'"\u00e9\""', '""', '"#["'])
SCALARS = st.sampled_from(
    [
        *("1", "-0.5e3", "true", "inf", "1979-05-27 07:32:00", "07:32:00", "0x_ff".replace("_", "")),
        *('""', '"]"', r'"\"}"', "'#'", "'\\'", '"""\n[x]\ny = 1 # """', '"""a""b"""', '""""q"""""', "'''\n''q'''''"),
        r'"""\""""',
    ]
)
SPACES = st.sampled_from(["", " ", "\t"])
BLANKS = st.sampled_from(["", " ", "\n", '# ] } "\n', "\n\n  # x\n"])


def values(inner):
    arrays = st.builds(
        lambda items, blank, last: (
            f"[{blank}" + f"{blank},{blank}".join(items) + (f"{blank},{blank}]" if last and items else f"{blank}]")
        ),
        st.lists(inner, max_size=3),
        BLANKS,
        st.booleans(),
    )
    inlines = st.builds(
        lambda pairs: "{ " + ", ".join(f"{key} = {value}" for key, value in pairs) + " }",
        st.lists(st.tuples(dotted(), inner.filter(lambda text: "\n" not in text)), max_size=3),
    )
    return st.one_of(arrays, inlines)


def dotted():
    return st.builds(lambda keys, space: f"{space}.{space}".join(keys), st.lists(KEYS, min_size=1, max_size=3), SPACES)


VALUES = st.recursive(SCALARS, values, max_leaves=5)
STATEMENTS = st.one_of(
    st.builds(lambda key, space, value: f"{key}{space}={space}{value}", dotted(), SPACES, VALUES),
    st.builds(lambda key, space: f"[{space}{key}{space}] # [x]", dotted(), SPACES),
    st.builds(lambda key, space: f"[[{space}{key}{space}]]", dotted(), SPACES),
    st.just("# a = 1"),
)


def paths(value, place=()):
    """Every key of a document, and every index of a table or an array in it."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        if isinstance(step, str) or isinstance(inner, dict | list):
            yield (*place, step)
        yield from paths(inner, (*place, step))


@given(st.lists(STATEMENTS, max_size=8))
def test_every_key_that_tomllib_finds_has_a_line_and_no_other(statements):
    valid = []
    for statement in statements:  # those that contradict the ones before are left out, so that most texts stay long
        try:
            tomllib.loads("\n".join([*valid, statement]))
        except tomllib.TOMLDecodeError:
            continue
        valid.append(statement)
    assume(valid)
    text = "\n".join(valid)
    found = find_lines(text).found
    assert set(found) == set(paths(tomllib.loads(text)))
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())
