from pathlib import Path

from benchmarks.tables import DOCS, benchmarks_page

README = Path(__file__).parent.parent / "README.md"


def test_tables_are_generated_from_the_results():
    assert (DOCS / "benchmarks.md").read_text() == benchmarks_page()


def test_the_readme_names_what_is_there():
    text = README.read_text()
    for path in ("configs/tiny.py", "configs/parts.py", "mmfuse/build.py", "mmfuse/types.py", "mmfuse/experiment.py"):
        assert path in text and (README.parent / path).exists()
