from pathlib import Path

import pytest

from benchmarks.tables import DOCS, PAGES

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_generated_from_the_results(page):
    assert (DOCS / page).read_text() == PAGES[page]()


def test_the_readme_names_what_is_there():
    text = README.read_text()
    for path in ("configs/tiny.py", "configs/parts.py", "mmfuse/build.py", "mmfuse/types.py", "mmfuse/experiment.py"):
        assert path in text and (README.parent / path).exists()
