"""A registry file: every fault with its line, and the steps from what stands to what it says."""

import datetime as dt

import pytest

from mer.core.errors import RegistryFileInvalid
from mer.core.records import Digest, Model, ModelId, Placement, Server, ServerId, ServerKind, Version
from mer.core.specs import Command, VersionSpec
from mer.registry.declared import reading
from mer.registry.declared.contents import Contents, VersionContent
from mer.registry.declared.faults import MOST_FAULTS, refuse
from mer.registry.declared.planning import make_plan
from mer.registry.declared.reading import MAX_ENTRIES, read_declaration
from mer.registry.declared.standing import Standing, StandingModel

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CAT = VersionSpec(runner="command", command=Command(argv=("/bin/cat",)))
PYTHON = VersionSpec(runner="python")


def told(text: str) -> list[str]:
    """The faults of a file, as they are told."""
    _, lines, faults = read_declaration(text, name="r.toml")
    try:
        refuse("r.toml", faults, lines)
    except RegistryFileInvalid as error:
        return [line.strip() for line in error.message.splitlines()[1:]]
    return []


def model(*lines: str) -> str:
    return "\n".join(["format = 1", "[models.m]", *lines])


VERSION = '[[models.m.versions]]\ncommand = ["/bin/cat"]'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("format = 1\nnonsense = 2", "line 2: nonsense is not known: format, servers, weights, models are"),
        ("format = 1\n[servers.'a b']\naddress = 'x'", "line 2: servers.a b cannot stand: 'a b' is no name"),
        ("format = 1\n[servers.x]\nport = 22", "line 2: servers.x cannot stand: a server that is reached by SSH needs"),
        ("format = 1\n[servers.x]\naddress = 'a@b'", "line 2: servers.x cannot stand: the address holds an @"),
        ("format = 1\n[servers.local]\nkind = 'ssh'", "line 3: servers.local.kind is 'ssh'"),
        ("format = 1\n[servers.local]\nretired = true", "line 3: servers.local.retired cannot be"),
        ("format = 1\n[weights.w]\n[[weights.w.versions]]\nnumber = 1", "line 3: weights.w.versions[0] has no file"),
        (
            "format = 1\n[[weights.w.versions]]\nfile = 'x'\ndigest = 'y'",
            "line 4: weights.w.versions[0].digest is no digest",
        ),
        (model("labels = { a = 1 }", VERSION), "line 3: models.m.labels.a is no string"),
        (model("retired = 1", VERSION), "line 3: models.m.retired is neither true nor false"),
        (model("[[models.m.versions]]"), "line 3: models.m.versions[0] has no package and no digest and no command"),
        (
            model("[[models.m.versions]]", "command = ['cat']"),
            "line 4: models.m.versions[0].command has the program 'cat'",
        ),
        (model("[[models.m.versions]]", "command = []"), "line 4: models.m.versions[0].command cannot stand"),
        (model("[[models.m.versions]]", "package = ''"), "line 4: models.m.versions[0].package is no path"),
        (
            model("[[models.m.versions]]", "package = 'x'", "command = ['/bin/cat']"),
            "line 4: models.m.versions[0].package is there and command too",
        ),
        (
            model("[[models.m.versions]]", "package = 'x'", "[models.m.versions.carton.runner]", "runner_name = 3"),
            "line 6: models.m.versions[0].carton.runner.runner_name is no string",
        ),
        (model(VERSION, "number = 0"), "line 5: models.m.versions[0].number is no version"),
        (model(VERSION, "retired = true"), "line 5: models.m.versions[0].retired needs a number"),
        (model(VERSION, "weights = 'w@x'"), "line 5: models.m.versions[0].weights names an alias"),
        (model(VERSION, "aliases = ['a b']"), "line 5: models.m.versions[0].aliases cannot stand"),
        (model(VERSION, "aliases = ['a', 'a']"), "line 3: models.m.versions[0] has the alias 'a', which stands twice"),
        (
            model("without_default = true", VERSION, "aliases = ['default']"),
            "line 4: models.m.versions[0] has the alias 'default', which is to mean nothing",
        ),
        (model(VERSION, "number = 1", VERSION, "number = 1"), "line 6: models.m.versions[1] has the number 1 twice"),
        (model(VERSION, "[[models.m.placements]]", "device = 'x'"), "line 5: models.m.placements[0].server is missing"),
        (
            model(VERSION, *("[[models.m.placements]]", "server = 'local'") * 2),
            "line 8: models.m.placements[1].server local has a placement of this model already",
        ),
    ],
)
def test_a_fault_is_told_with_its_line(text, fault):
    assert any(line.startswith(fault) for line in told(text)), told(text)


def test_all_faults_are_told_at_once_by_line():
    text = model("labels = { a = 1 }", "[[models.m.versions]]", "number = 0", "[servers.x]", "address = 3")
    assert [line.partition(":")[0] for line in told(text)] == ["line 3", "line 4", "line 5", "line 6"]


def test_a_file_of_another_program_does_not_fill_the_terminal():
    text = "format = 1\n" + "".join(f"key{n} = 1\n" for n in range(MOST_FAULTS + 5))
    assert len(told(text)) == MOST_FAULTS + 1
    assert told(text)[-1] == "and 5 more"


@pytest.mark.parametrize("text", ["", "format = 2", "format = 'x'", "format = 1\nformat = 1", "format = 1\n[x"])
def test_what_is_no_registry_file_of_this_format_is_refused_with_its_line(text):
    with pytest.raises(RegistryFileInvalid, match=r"line \d"):
        read_declaration(text, name="r.toml")


@pytest.mark.parametrize("text", ["format = 1\nx = " + "[" * 5000, "format = " + "9" * 5000])
def test_what_is_too_much_for_a_parser_is_refused(text):
    with pytest.raises(RegistryFileInvalid):
        read_declaration(text, name="r.toml")


def test_the_entries_of_a_file_are_bounded(monkeypatch):
    assert MAX_ENTRIES > 10_000
    monkeypatch.setattr(reading, "MAX_ENTRIES", 2)
    read_declaration(model(VERSION), name="r.toml")
    with pytest.raises(RegistryFileInvalid, match="3 entries; 2 are the most"):
        read_declaration(model(VERSION, VERSION), name="r.toml")


# --- the plan


def digest(tag: str) -> Digest:
    return Digest(tag * 64)


def standing_model(
    *tags: str, retired: tuple[int, ...] = (), aliases: dict[str, int] | None = None, **given
) -> Standing:
    """The model `m` with a version a tag, and the servers `local` and `s`."""
    found = ModelId("m")
    versions = tuple(
        Version(model=found, number=number, spec=PYTHON, package=digest(tag), created_at=NOW)
        for number, tag in enumerate(tags, 1)
    )
    placement = Placement(model=found, server=ServerId("s"), created_at=NOW)
    servers = {
        name: Server(id=ServerId(name), name=name, kind=kind, created_at=NOW)
        for name, kind in (("local", ServerKind.LOCAL), ("s", ServerKind.SSH))
    }
    return Standing(
        servers=servers,
        models={
            "m": StandingModel(
                model=Model(id=found, name="m", created_at=NOW, **given),
                versions=versions,
                retired=frozenset(retired),
                aliases={"default": 1} if aliases is None else aliases,
                placements={"s": placement},
            )
        },
    )


def planned(text: str, standing: Standing, *, prune: bool = False) -> tuple[list[str], list[str]]:
    """The steps and the faults; content is there for every digest."""
    declaration, _, faults = read_declaration("format = 1\n" + text, name="r.toml")
    assert not faults
    contents = Contents(
        versions={
            version.path: VersionContent(spec=version.spec or PYTHON, package=version.digest)
            for each in declaration.models.values()
            for version in each.versions
        }
    )
    plan, refused = make_plan(declaration, standing, contents, prune=prune, faulty=frozenset())
    return [str(line) for line in plan.lines()], list(map(str, refused))


def version(tag: str, *lines: str) -> str:
    return "\n".join(["[[models.m.versions]]", f'digest = "{tag * 64}"', *lines, ""])


PLACED = '[[models.m.placements]]\nserver = "s"\n'


def test_what_stands_already_needs_no_step():
    assert planned(version("a") + PLACED, standing_model("a"), prune=False) == ([], [])


def test_changed_content_becomes_the_next_version_and_its_alias_moves():
    steps, faults = planned(version("b", 'aliases = ["default"]'), standing_model("a"))
    assert not faults
    assert [step.partition(":")[0] for step in steps] == ["create version m", "move alias m@default"]
    assert steps[1].endswith("to version 2, 1 before")


def test_content_of_an_older_version_is_that_version():
    assert planned(version("a", 'aliases = ["x"]'), standing_model("a", "b"))[0] == ["move alias m@x: to version 1"]


def test_content_of_a_retired_version_becomes_a_new_one():
    steps, _ = planned(version("a"), standing_model("a", retired=(1,)))
    assert steps[0].startswith("create version m:2")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (version("b", "number = 1"), "models.m.versions[0].number is 1, which is registered with other content"),
        (version("b", "number = 3"), "models.m.versions[0].number is 3, but the next version is 2"),
        (version("b") + version("b"), "models.m.versions[1] consists of the same as version 2 of this file"),
        (version("a") + '[[models.m.placements]]\nserver = "x"', "models.m.placements[0].server is x, which is not in"),
        (version("a") + PLACED + "version = 7", "models.m.placements[0].version is 7, and there is no such version"),
        (version("b", 'weights = "w"'), "models.m.versions[0].weights cannot be used: the weights w are not in"),
        ("[models.new]", "models.new has no versions"),
    ],
)
def test_what_cannot_be_is_a_fault(text, fault):
    _, faults = planned(text, standing_model("a"))
    assert any(each.startswith(fault) for each in faults), faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (version("a", "number = 1"), "models.m.versions[0] is version 1, which was retired, and stays so"),
        (
            version("a", "number = 1", "retired = true", 'aliases = ["x"]'),
            "models.m.versions[0].aliases cannot move x to 1, which was retired",
        ),
        (
            version("a", "number = 1", "retired = true") + PLACED + "version = 1",
            "models.m.placements[0].version is 1, which was retired",
        ),
    ],
)
def test_a_retired_version_stays_retired(text, fault):
    _, faults = planned(text, standing_model("a", retired=(1,)))
    assert faults == [fault]


def test_a_retired_model_stays_retired():
    _, faults = planned(version("a"), standing_model("a", retired_at=NOW))
    assert len(faults) == 1
    assert faults[0].startswith("models.m was retired on 2026-01-01; its name stays taken")


def test_labels_that_the_file_no_longer_has_are_taken_away():
    steps, _ = planned(
        '[models.m]\nlabels = { a = "2" }\n' + version("a"), standing_model("a", labels={"a": "1", "b": "1"})
    )
    assert steps == ["change model m: labels a, b"]


def test_what_the_file_does_not_speak_of_stays():
    assert planned(version("a"), standing_model("a", labels={"a": "1"}, description="x")) == ([], [])


def test_without_prune_nothing_is_taken_away():
    assert planned("", standing_model("a", aliases={"default": 1, "x": 1})) == ([], [])


def test_prune_takes_away_what_the_file_does_not_name():
    standing = standing_model("a", "b", aliases={"default": 1, "x": 1})
    steps, _ = planned(version("a"), standing, prune=True)
    assert steps == ["remove alias m@x: it means version 1", "unplace m on s", "retire server s"]


def test_prune_retires_models_and_never_the_local_server():
    assert planned("", standing_model("a"), prune=True)[0] == ["retire model m", "retire server s"]


def test_prune_leaves_a_server_that_a_placement_names():
    assert planned(version("a") + PLACED, standing_model("a"), prune=True) == ([], [])


def test_a_model_is_retired_after_everything_else_was_done_with_it():
    text = "[models.m]\nretired = true\n" + version("a", 'aliases = ["x"]') + version("b") + "[servers.s]\n"
    steps, _ = planned(text + 'address = "h"\nretired = true', standing_model("a"))
    assert [step.split()[0] for step in steps] == ["change", "create", "move", "retire", "retire"]
    assert steps[-2:] == ["retire model m", "retire server s"]
