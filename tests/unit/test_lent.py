"""Versions that somebody else has: what their specs must say, and what they are known by."""

from __future__ import annotations

from pathlib import Path

import pytest

from mer.core.carton import spec_faults
from mer.core.errors import NotFound, PackageInvalid
from mer.core.lent import known_by
from mer.core.records import Digest
from mer.core.specs import VersionSpec
from mer.meal.failing import error_of
from tests.support import records
from tests.support.registry import ADA
from tests.support.running import X, running

PACKAGE, WEIGHTS = "ab" * 32, "cd" * 32


def lent(**options: str | int) -> VersionSpec:
    return VersionSpec(runner="lent", options=dict(options), inputs=(X,))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "options.package is missing"),
        ({"package": "AB" * 32}, "64 lower-case hex digits"),
        ({"package": PACKAGE, "weights": 7}, "options.weights is 7"),
        ({"package": PACKAGE, "entry": "x"}, "options.entry"),
    ],
)
def test_digests_are_all_that_it_has_for_options(options: dict[str, str | int], fault: str) -> None:
    [told] = spec_faults(lent(**options))
    assert fault in told
    assert spec_faults(lent(package=PACKAGE, weights=WEIGHTS)) == []


def test_any_version_is_known_by_digests_wherever_its_content_is() -> None:
    model = records.model("far")
    far = records.version(model, 1, spec=lent(package=PACKAGE, weights=WEIGHTS), package=None)
    here = records.version(model, 2, package=Digest(PACKAGE), weights=Digest(WEIGHTS))
    assert known_by(far) == known_by(here) == (PACKAGE, WEIGHTS)


def test_what_is_not_lent_is_not_found() -> None:
    error = error_of(kind="load", code="not-lent", message="no version of these digests", traceback=None)
    assert (type(error), error.message) == (NotFound, "no version of these digests")


async def test_it_goes_through_a_registry_file_and_runs_nowhere_else(tmp_path: Path) -> None:
    async with running(tmp_path) as m:
        await m.register_model("far", spec=lent(package=PACKAGE))
        text = await m.declared.export()
        with pytest.raises(PackageInvalid, match="no runner 'lent'"):
            await m.run("far", {"x": [1.0]})
    (tmp_path / "registry.toml").write_text(text)
    (tmp_path / "other").mkdir()
    async with running(tmp_path / "other") as m:
        await m.declared.apply(ADA, await m.declared.plan(tmp_path / "registry.toml"))
        [version] = (await m.models.show("far")).versions.items
        assert version.spec == lent(package=PACKAGE)
        assert await m.declared.export() == text
