"""UUIDv7."""

import os
import time
import uuid

from mer.core.identifiers import uuid7


def test_it_is_version_7_of_the_rfc_variant() -> None:
    made = uuid.UUID(uuid7())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_it_begins_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(uuid7()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


def test_no_two_are_alike() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_a_fork_goes_on_with_others() -> None:
    uuid7()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, "".join(uuid7() for _ in range(100)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        theirs = told.read()
    os.waitpid(child, 0)
    assert len(theirs) == 3600
    ours = {uuid7()[15:] for _ in range(100)}  # without the time
    assert not ours & {theirs[at + 15 : at + 36] for at in range(0, 3600, 36)}
