"""Scripts are cut into statements where the engine would, and queries are found by name."""

from __future__ import annotations

from importlib.resources import files

import pytest

from mer.core.errors import ConfigurationError
from mer.dal.surreal.address import parse_address
from mer.dal.surreal.queries import load, numbered_name
from mer.dal.surreal.statements import ScriptUnreadable, split

REPOSITORIES = sorted(
    path.name.removesuffix(".surql") for path in files("mer.dal.surreal").joinpath("queries").iterdir()
)


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", []),
        (" ;; \n;", []),
        ("A; B", ["A", "B"]),
        ("A; -- B; C\nD;", ["A", "D"]),
        ("A # B; C\n;D // E;\n; /* F; \n G; */ H", ["A", "D", "H"]),
        ("A 'b; ''c;' ; D \"e;\\\"f;\" ; G `h;` ; I ⟨j;⟩", ["A 'b; ''c;'", 'D "e;\\"f;"', "G `h;`", "I ⟨j;⟩"]),
        ("DEFINE EVENT e THEN { A; B; }; C", ["DEFINE EVENT e THEN { A; B; }", "C"]),
        ("A - B / C; D", ["A - B / C", "D"]),
    ],
)
def test_a_script_is_cut_at_its_own_semicolons(script: str, statements: list[str]) -> None:
    assert split(script) == statements


@pytest.mark.parametrize(
    "script", ["A 'b", 'A "b', "A `b", "A ⟨b", "A /* b", "A {", "A }", "BEGIN; A; COMMIT", "use db x"]
)
def test_what_cannot_be_cut_is_unreadable(script: str) -> None:
    with pytest.raises(ScriptUnreadable):
        split(script)


def test_an_open_quotation_is_named_with_its_line() -> None:
    with pytest.raises(ScriptUnreadable, match="line 2"):
        split("A;\nB 'c")


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_query_has_a_description_and_statements(repository: str) -> None:
    for query in load(repository).values():
        assert query.description.endswith(".")
        assert query.text.rstrip().endswith(";")


def test_queries_that_change_something_are_known() -> None:
    changing = {query.name for repository in REPOSITORIES for query in load(repository).values() if query.changes}
    assert {"access_log.append", "leases.renew", "models.add", "placements.remove", "servers.replace"} <= changing
    assert not {"access_log.between", "leases.now", "models.page"} & changing


def test_parameters_of_a_step_are_its_own() -> None:
    query = load("leases")["renew"]
    assert f"${numbered_name(3, 'id')}" in query.numbered(3)
    assert f"${numbered_name(3, 'there')}" in query.numbered(3)
    assert "$id" not in query.numbered(3)


def test_the_parent_of_a_subquery_stays_the_engines_own() -> None:
    assert "$parent.server" in load("placements")["of_model"].numbered(1)


def test_a_relative_path_is_made_whole() -> None:
    assert parse_address("surrealkv://registry").url.startswith("surrealkv:///")


@pytest.mark.parametrize("url", ["", "mem", "surrealkv:", "postgresql://x", "surrealkv://a#b", "mem://a"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_address(url)
