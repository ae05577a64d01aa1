"""The account of the embedded server: what is told of a program of its that failed."""

import os

import pytest

from mer.core.errors import DatabaseUnreachable
from mer.dal.postgres.account import Account


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "running bootstrap script\\nFATAL:  could not write: No space left\\ninitdb: removing contents",
            "No space left",
        ),
        ("initdb: error: could not create directory\\nCONTEXT:  writing block 0", "could not create directory"),
        ("only this", "only this"),
        ("", "it said nothing"),
    ],
)
def test_a_program_that_fails_is_told_with_its_reason(tmp_path, printed, told):
    program = tmp_path / "initdb"
    program.write_text(f"#!/bin/sh\nprintf '{printed}'\nexit 3\n")
    program.chmod(0o755)
    account = Account(uid=os.geteuid(), gid=os.getegid())
    with pytest.raises(DatabaseUnreachable, match=rf"initdb of the embedded PostgreSQL failed \(3\): .*{told}$"):
        account.run([program], seconds=10)
