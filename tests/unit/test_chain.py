"""The chain, against the test vectors of docs/access-log.md, and every way to tamper with it."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from mer.audit.export import ExportedRecord, export_line, read_export
from mer.core.chain import EMPTY, Checkpoint, Head, Verifier, derived, digest
from mer.core.errors import LogNotVerified, UsageError
from tests.support.documents import blocks

CHAIN = "0193b2f0-0000-7000-8000-000000000001"
[VECTORS] = blocks("docs/access-log.md", "jsonl")


def records() -> list[ExportedRecord]:
    return list(read_export(io.BytesIO(VECTORS.encode())))


def faults(links: list[ExportedRecord], checkpoint: Checkpoint | None = None) -> list[tuple[int, str]]:
    verifier = Verifier(chain=CHAIN, checkpoint=checkpoint)
    verifier.feed(links)
    return [(fault.seq, fault.what) for fault in verifier.finish()]


def test_the_vectors_of_the_page_verify() -> None:
    assert faults(records()) == []


def test_the_pages_checkpoint_is_their_head() -> None:
    page = next(block for block in blocks("docs/access-log.md", "text") if block.startswith("mer-checkpoint"))
    last = records()[-1]
    assert Checkpoint.parse(page) == Checkpoint(chain=CHAIN, seq=last.seq, digest=last.digest)
    assert str(Checkpoint.parse(page)) == page.strip()


def test_the_pages_own_verifier_agrees() -> None:
    [code] = blocks("docs/access-log.md", "python")
    page: dict[str, Callable[[list[str]], str]] = {}
    exec(code.split("if __name__")[0], page)
    lines = VECTORS.splitlines(keepends=True)
    assert page["verify"](lines).startswith("3 records hold")
    assert page["verify"]([lines[0], lines[2]]) == "record 2 is missing or out of place"
    assert page["verify"]([lines[0].replace("ada", "bob")]) == "record 1 was changed"


def test_an_export_reads_back_to_the_same_lines() -> None:
    assert "".join(map(export_line, records())) == VECTORS


def test_a_changed_body_is_named() -> None:
    one, two, three = records()
    forged = replace(two, body=two.body.replace("ada", "bob"))
    assert faults([one, forged, three]) == [(2, "its body does not have its digest: it was changed")]


def test_a_record_that_was_changed_together_with_its_digest_breaks_the_next_one() -> None:
    one, two, three = records()
    body = two.body.replace("ada", "bob")
    forged = replace(two, body=body, digest=digest(two.previous, body, 2))
    assert [seq for seq, _ in faults([one, forged, three])] == [3]


def test_a_removed_record_is_named() -> None:
    one, _, three = records()
    assert faults([one, three]) == [(2, "record 2 missing")]


def test_swapped_records_are_named() -> None:
    one, two, three = records()
    swapped = [replace(one, body=two.body), replace(two, body=one.body), three]
    assert [seq for seq, _ in faults(swapped)] == [1, 2]


def test_an_inserted_record_is_named() -> None:
    one, two, three = records()
    inserted = replace(one, seq=2, previous=one.digest, digest=digest(one.digest, one.body, 2))
    moved = replace(two, seq=3), replace(three, seq=4)
    assert [seq for seq, _ in faults([one, inserted, *moved])] == [3, 3, 4]


def test_a_record_of_another_log_is_named() -> None:
    one = records()[0]
    body = one.body.replace(CHAIN, CHAIN.replace("0193", "0194"))
    foreign = replace(one, body=body, digest=digest(one.previous, body, 1))
    assert "belongs to chain 0194" in faults([foreign])[0][1]


def test_a_body_that_is_no_json_is_named() -> None:
    one = records()[0]
    assert faults([replace(one, body="[]", digest=digest(one.previous, "[]", 1))]) == [
        (1, "its body is no JSON object")
    ]


def test_a_cut_tail_shows_only_with_a_checkpoint() -> None:
    all_three = records()
    checkpoint = Checkpoint(chain=CHAIN, seq=3, digest=all_three[2].digest)
    assert faults(all_three[:2]) == []
    assert faults(all_three[:2], checkpoint) == [
        (3, "the checkpoint names record 3, the log ends at 2: its tail was cut")
    ]


def test_a_tail_that_was_rewritten_with_all_its_digests_shows_only_with_a_checkpoint() -> None:
    one, two, three = records()
    checkpoint = Checkpoint(chain=CHAIN, seq=2, digest=two.digest)
    body = two.body.replace("ada", "bob")
    forged = replace(two, body=body, digest=digest(one.digest, body, 2))
    after = replace(three, previous=forged.digest, digest=digest(forged.digest, three.body, 3))
    assert faults([one, forged, after]) == []
    assert faults([one, forged, after], checkpoint) == [
        (2, "is not the record of the checkpoint: the log was rewritten")
    ]


def test_a_checkpoint_of_another_chain_is_told() -> None:
    checkpoint = Checkpoint(chain=CHAIN.replace("0193", "0194"), seq=1, digest=records()[0].digest)
    assert faults(records(), checkpoint)[0][0] == 0


def test_verifying_can_go_on_from_a_head() -> None:
    one, two, three = records()
    verifier = Verifier(chain=CHAIN, after=Head(seq=1, digest=one.digest))
    verifier.feed([two, three])
    assert verifier.finish() == []


def test_a_part_that_begins_right_behind_the_checkpoint_is_tied_to_it_by_its_first_record() -> None:
    one, two, three = records()
    for digest_of_one, sound in ((one.digest, True), ("0" * 64, False)):
        checkpoint = Checkpoint(chain=CHAIN, seq=1, digest=digest_of_one)
        verifier = Verifier(chain=CHAIN, after=Head(seq=1, digest=one.digest), checkpoint=checkpoint)
        verifier.feed([two, three])
        assert (verifier.finish() == []) is sound


def test_a_part_that_begins_later_than_the_checkpoint_proves_nothing_about_it() -> None:
    one, two, three = records()
    checkpoint = Checkpoint(chain=CHAIN, seq=1, digest=one.digest)
    verifier = Verifier(chain=CHAIN, after=Head(seq=2, digest=two.digest), checkpoint=checkpoint)
    verifier.feed([three])
    assert [fault.seq for fault in verifier.finish()] == [1]


def test_a_body_that_is_nested_too_deep_to_be_read_is_named() -> None:
    one = records()[0]
    deep = "[" * 200_000
    assert faults([replace(one, body=deep, digest=digest(one.previous, deep, 1))]) == [(1, "its body is no JSON")]


def test_an_empty_log_verifies() -> None:
    verifier = Verifier(chain=CHAIN)
    assert (verifier.finish(), verifier.head) == ([], EMPTY)


def test_faults_are_bounded() -> None:
    verifier = Verifier(chain=CHAIN, most_faults=3)
    verifier.feed(replace(records()[0], body="{}") for _ in range(10))
    assert len(verifier.finish()) == 3


@pytest.mark.parametrize(
    "text",
    ["", "mer-checkpoint:1:x:1:y", f"mer-checkpoint:2:{CHAIN}:1:{'0' * 64}", f"mer-checkpoint:1:{CHAIN}:-1:{'0' * 64}"],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Checkpoint.parse(text)


@pytest.mark.parametrize("line", ["{}\n", "\n", VECTORS.splitlines()[0].replace('"seq":1', '"seq":0'), "é\xff"])
def test_a_line_that_is_no_record_is_told_by_its_number(line: str) -> None:
    with pytest.raises(LogNotVerified, match="line 4"):
        list(read_export(io.BytesIO((VECTORS + line).encode("latin-1"))))


def test_columns_come_from_the_body() -> None:
    body = {"kind": "started", "actor": {"user": "ada"}, "version": 3, "model": ["no", "text"], "other": 1}
    assert derived(body) == {
        "kind": "started", "at": None, "invocation": None, "lease": None, "actor": "ada", "model": None,
        "version": 3, "server": None, "outcome": None, "action": None,
    }  # fmt: skip
