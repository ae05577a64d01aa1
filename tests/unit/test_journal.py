"""The journal of finishes that wait for the database."""

from pathlib import Path

from mer.core.canonical import canonical
from mer.core.records import InvocationId
from mer.execution.journal import Journal


def test_what_is_kept_waits_for_its_own_chain_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for invocation, chain in (("b", "one"), ("a", "one"), ("c", "two")):
        journal.keep(InvocationId(invocation), "{}", chain=chain)
    assert [path.stem for path in journal.waiting(chain="one")] == ["a", "b"]


def test_keeping_twice_keeps_the_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    bodies = [
        canonical({"chain": "one", "invocation": "a", "kind": "finished", "outcome": outcome})
        for outcome in ("failed", "succeeded")
    ]
    for body in bodies:
        journal.keep(InvocationId("a"), body, chain="one")
    assert [journal.read(path, chain="one") for path in journal.waiting(chain="one")] == bodies[-1:]


def test_an_empty_journal_has_no_folder(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    assert not journal.holds_any
    assert journal.waiting(chain="one") == []
    assert not (tmp_path / "journal").exists()


def test_one_that_holds_something_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.keep(InvocationId("a"), "1", chain="one")
    assert journal.holds_any


def test_it_is_private(tmp_path: Path) -> None:
    path = Journal(tmp_path / "journal").keep(InvocationId("a"), "1", chain="one")
    assert [p.stat().st_mode & 0o077 for p in (path.parent, path.parent.parent)] == [0, 0]
