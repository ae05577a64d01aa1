"""What an auditor asks of the log, over every store."""

import pytest

from mer.audit.log import AuditLog
from mer.core.errors import RecordNotFound
from mer.dal.base import Store


@pytest.mark.parametrize("which", ["0", "7", "abc", "", "\x00", "x" * 300, "0193b2f0-1111-7000-8000-000000000001"])
async def test_what_names_no_record_is_not_found(store: Store, which: str) -> None:
    with pytest.raises(RecordNotFound):
        await AuditLog(store).show(which)
