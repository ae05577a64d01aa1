"""docs/registry-file.md shows the example as it is."""

from mer.registry.declared.reading import MAX_BYTES, MAX_ENTRIES
from tests.support.documents import ROOT, blocks


def test_the_page_shows_the_example_as_it_is():
    assert blocks("docs/registry-file.md", "toml") == [(ROOT / "examples/registry.toml").read_text()]


def test_the_page_tells_the_bounds_as_they_are():
    page = (ROOT / "docs/registry-file.md").read_text()
    assert f"{MAX_BYTES >> 20} MiB and {MAX_ENTRIES:,} entries" in page
