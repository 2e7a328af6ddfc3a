"""What every chapter must carry. A failure names the chapter, the cell or label, and the remedy."""

import re
import subprocess
import sys

import pytest

from book_tools import figures, notebooks
from book_tools.chapter import CARD, LABEL, ROOT, VERDICT_SECTION, VERDICTS, Chapter, contents
from kexue.lab.verification import LABEL as EQUATION

ESCAPES = re.compile(r"nbval|raises-exception|skip-execution|remove-output", re.IGNORECASE)


@pytest.fixture(params=contents())
def chapter(request):
    return Chapter.load(request.param)


def cells(chapter):
    return list(enumerate(chapter.notebook["cells"]))


def test_stored_form_is_canonical(chapter):
    stored = Chapter.path_of(chapter.name).read_text(encoding="utf-8")
    assert stored == notebooks.dumps(chapter.notebook), f"run: make execute CHAPTER={chapter.name}"


def test_every_code_cell_has_run_in_order(chapter):
    counts = [cell["execution_count"] for cell in notebooks.code_cells(chapter.notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"run: make execute CHAPTER={chapter.name}"


def test_no_cell_escapes_the_comparison(chapter):
    for number, cell in cells(chapter):
        tags = " ".join(cell["metadata"].get("tags", []))
        assert not ESCAPES.search(tags), f"{chapter.name}, cell {number}: remove the tag {tags!r}"
        if cell["cell_type"] == "code":
            assert not re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)", notebooks.source(cell)), "remove the comment"


def test_outputs_are_plain_text_and_png_only(chapter):
    for number, cell in cells(chapter):
        for output in cell.get("outputs", []):
            where = f"{chapter.name}, cell {number}"
            assert output["output_type"] in ("stream", "display_data"), f"{where}: print what it shows, or end the line with ';'"
            assert output.get("name", "stdout") == "stdout", f"{where}: a warning or error was stored: {output['text']}"
            assert set(output.get("data", {})) <= {"text/plain", "image/png"}, f"{where}: outputs are text and PNG"


def test_printed_text_depends_on_no_machine(chapter):
    volatile = re.search(r"0x[0-9a-f]{6,}|/(home|root|tmp|work|Users)/|-0\.0+\b|\bnan\b|<[\w.]+ object", chapter.printed)
    assert not volatile, f"{chapter.name}: the output holds {volatile[0]!r}"


def test_every_figure_has_alternative_text_and_a_caption(chapter):
    for number, cell in cells(chapter):
        pictures = figures.pngs(cell.get("outputs", []))
        if pictures:
            settings = cell["metadata"].get("mystnb", {})
            assert len(pictures) == 1, f"{chapter.name}, cell {number}: one figure per cell"
            assert len(settings.get("image", {}).get("alt", "")) >= 40, f"{chapter.name}, cell {number}: set mystnb.image.alt"
            assert settings.get("figure", {}).get("caption"), f"{chapter.name}, cell {number}: set mystnb.figure.caption"


def test_every_labelled_equation_is_executed_and_every_check_names_one(chapter):
    labels, checked = chapter.labels, {check.label for check in chapter.checks}
    assert labels, f"{chapter.name}: no labelled equation"
    odd = [label for label in labels if not EQUATION.fullmatch(label)]
    assert not odd, f"{chapter.name}: name them eq-...: {odd}"
    assert len(labels) == len(set(labels)), f"{chapter.name}: a label stands twice"
    assert set(labels) - checked == set(), f"{chapter.name}: never executed: {sorted(set(labels) - checked)}; add a verify"
    assert checked - set(labels) == set(), f"{chapter.name}: no such equation: {sorted(checked - set(labels))}"


def test_an_equation_is_checked_in_the_code_that_follows_it(chapter):
    """The label stands in the text before its first ``verify``."""
    seen = set()
    for number, cell in cells(chapter):
        if cell["cell_type"] == "markdown":
            seen |= {a or b for a, b in LABEL.findall(notebooks.source(cell))}
        else:
            early = set(re.findall(r"verify\w*\(\s*\"(eq-[\w-]+)\"", notebooks.source(cell))) - seen
            assert not early, f"{chapter.name}, cell {number}: {sorted(early)} executed before it is stated"


def test_the_card_is_complete(chapter):
    assert tuple(chapter.card) == CARD, f"{chapter.name}: the card needs the rows {CARD}"
    assert re.search(
        r'\[<span lang="zh">《.+》</span>\]\(https://kexue\.fm/archives/\d+\), \d{1,2} \w+ 20\d\d', chapter.card["Post"]
    )
    assert f"{{py:mod}}`kexue.{chapter.name.replace('/', '.')}`" in chapter.card["Package"]
    assert re.fullmatch(r"about \d+ s", chapter.card["Runs in"])


def test_the_verdicts_use_the_four_words_and_quote_printed_numbers(chapter):
    assert VERDICT_SECTION in chapter.markdown, f"{chapter.name}: add the section {VERDICT_SECTION!r}"
    assert len(chapter.verdicts) >= 5, f"{chapter.name}: the verdict table has three columns and a row per claim"
    for row in chapter.verdicts:
        assert row.verdict in VERDICTS, f"{chapter.name}: {row.verdict!r} is none of {VERDICTS}"
        assert row.evidence, f"{chapter.name}: nothing decides {row.claim!r}"
        for number in re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", re.sub(r"\{\w+\}`[^`]*`", "", row.evidence)):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", chapter.printed), (
                f"{chapter.name}: {number} is printed nowhere"
            )


def test_prose_is_spelt_correctly(chapter):
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", chapter.markdown, flags=re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "-"], input=prose, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, f"{chapter.name}: {result.stdout}"


def test_exercises_come_with_folded_solutions_and_the_chapter_with_references(chapter):
    exercises = re.findall(r"\{exercise\}[^\n]*\n:label: (ex-[\w-]+)", chapter.markdown)
    solutions = re.findall(r"\{solution\} (ex-[\w-]+)\n:class: dropdown", chapter.markdown)
    assert exercises, f"{chapter.name}: no exercise"
    assert exercises == solutions, f"{chapter.name}: each exercise needs a folded solution"
    assert "## References" in chapter.markdown


def test_a_chapter_is_light():
    for name in contents():
        assert Chapter.path_of(name).stat().st_size <= 400_000, f"{name}: fewer or lighter figures"
