"""The reader's edition: nothing that only the book understands, folded where the book folds, the same code and outputs."""

import copy
import json
import re
import sys

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from samples import BEFORE, chapter, code, markdown

from book_tools import figures, notebooks, reader
from book_tools.building import SITE
from book_tools.chapter import FOLDED, Chapter, book, contents

EVERYTHING = [*BEFORE, chapter()]


def shown(text, **changes):
    """A Markdown cell of the sample chapter in the edition."""
    return reader.plain(text, chapter(**changes), EVERYTHING, reader.numbering(EVERYTHING))


@pytest.mark.parametrize("name", contents())
def test_an_edition_is_plain_and_complete(name):
    source = Chapter.load(name)
    edition = reader.edition(source)
    assert reader.strange(edition) == []
    own = [cell for cell in edition["cells"] if cell["cell_type"] == "code"][1:]
    stored = notebooks.code_cells(source.notebook)
    assert [notebooks.source(cell) for cell in own] == [notebooks.source(cell) for cell in stored]
    assert [cell["outputs"] for cell in own] == [cell["outputs"] for cell in stored]
    folded = [bool(cell["metadata"].get("jupyter", {}).get("source_hidden")) for cell in own]
    assert folded == [bool(FOLDED & set(cell["metadata"].get("tags", []))) for cell in stored]
    text = "\n".join(notebooks.source(cell) for cell in edition["cells"] if cell["cell_type"] == "markdown")
    assert text.count("\\tag{") == len(set(source.labels))
    assert len(re.findall(r"<summary>Solution", text)) == source.markdown.count("{solution}")
    captions = [cell["metadata"]["mystnb"]["figure"]["caption"] for cell in source.drawings]
    assert len(re.findall(r"^\*\*Fig\. \d+\.\d+\.\*\* ", text, re.MULTILINE)) == len(captions)
    assert json.loads(reader.dumps(edition)) == edition


@pytest.mark.parametrize("name", contents())
def test_the_numbers_are_those_of_the_page(name):
    page = SITE / f"chapters/{name}.html"
    if not page.exists():
        pytest.skip("the book is not built: make book")
    number = r'<span class="eqno"><a href="#equation-([\w-]+)"[^>]*>\((\d+\.\d+)\)</a>'
    found = re.findall(number, page.read_text(encoding="utf-8"))
    numbers = reader.numbering(book())
    assert found and all(numbers[f"{name}#{label}"] == number for label, number in found)


def test_a_copy_runs_and_prints_what_is_stored(tmp_path):
    name = "generation/repetition"
    path = tmp_path / "copy.ipynb"
    path.write_text(reader.dumps(reader.edition(Chapter.load(name))), encoding="utf-8")
    before = notebooks.code_cells(notebooks.read(path))
    notebooks.execute(path)
    for old, new in zip(before, notebooks.code_cells(notebooks.read(path)), strict=True):
        texts = [["".join(output.get("text", "")) for output in cell["outputs"]] for cell in (old, new)]
        assert texts[0] == texts[1]
        assert figures.complaint(old["outputs"], new["outputs"]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so $$ x=1 $$", "so $$ x=1 $$"),  # found by strange()
        ("$$ x=1 $$ (eq-a-b)", '<a id="eq-a-b"></a>\n\n$$\nx=1 \\tag{3.1}\n$$'),
        ("- one\n\n  $$ x $$\n", "- one\n\n  $$\n  x\n  $$"),
        (
            "{eq}`eq-a-b` and {doc}`first` and {doc}`that </chapters/generation/second>`",
            "[(3.1)](#eq-a-b) and [A title](first.ipynb) and [that](../generation/second.ipynb)",
        ),
        ("{py:func}`~kexue.a.b.c` of {py:mod}`kexue.a.b`", "`c` of `kexue.a.b`"),
        ("{footcite:t}`alemi2017deep`", "[Alemi et al. (2017)](https://arxiv.org/abs/1612.00410)"),
        ("{footcite:p}`alemi2017deep`", "([Alemi et al., 2017](https://arxiv.org/abs/1612.00410))"),
        ("````{exercise} Count\n:label: ex-a\nHow many?\n````", "**Exercise 3.1: Count.** How many?"),
        (
            "````{solution} ex-a\n:class: dropdown\n\n$$ y $$\n````",
            "<details><summary>Solution of exercise 3.1</summary>\n\n$$\ny\n$$\n\n</details>",
        ),
        (":::{admonition} Look\nHere.\n:::", "> **Look**\n>\n> Here."),
        ('<div lang="zh">\n\n- 一\n\n</div>', "<details><summary>中文摘要</summary>\n\n- 一\n\n</details>"),
        ("(here)=\n% a comment\ntext", "text"),
    ],
)
def test_each_form_of_the_book_becomes_plain(text, expected):
    assert shown(text) == expected


def test_a_reference_to_a_section_shows_its_heading():
    own = chapter(edit=lambda cells: cells[1].update(source=cells[1]["source"] + "\n\n(here)=\n## A section\n"))
    everything = [*BEFORE, own]
    numbers = reader.numbering(everything)
    assert reader.plain("{ref}`here`, {ref}`that one <here>`", own, everything, numbers) == "“A section”, that one"


def test_what_the_edition_cannot_show_is_named():
    with pytest.raises(ValueError, match="no form for the directive figure"):
        shown("```{figure} a.png\n```")
    with pytest.raises(ValueError, match="no form for the role kbd"):
        shown("{kbd}`x`")
    with pytest.raises(ValueError, match="eq-z labels nothing"):
        shown("{eq}`eq-z`")
    raw = {"cells": [markdown("a {eq}`b`"), markdown("x $$ y $$"), markdown("$$\ny"), markdown("$$\ny\n$$"), code("{eq}`b`")]}
    assert [line.partition(":")[0] for line in reader.strange(raw)] == ["cell 0", "cell 1", "cell 1", "cell 2"]


def first(repository=""):
    cells = reader.edition(chapter(), EVERYTHING, repository)["cells"]
    return next(cell for cell in cells if cell["cell_type"] == "code")


def test_the_first_cell_names_what_is_missing_and_the_command(monkeypatch, capsys):
    source = notebooks.source(first())
    assert source.startswith("# This notebook needs: pip install '.[notebooks]' in a clone")
    exec(compile(source, "first", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"missing: kexue; run in a clone of the book's repository: pip install '\.\[notebooks\]'"
    ):
        exec(compile(source, "first", "exec"), {})  # noqa: S102


def test_in_colab_the_first_cell_installs_what_is_missing_and_nothing_else(monkeypatch):
    code = TransformerManager().transform_cell(notebooks.source(first("https://github.com/a/b")))
    installed = []
    shell = type("Shell", (), {"run_line_magic": lambda self, *line: installed.append(line)})()
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(code, {"get_ipython": lambda: shell})  # noqa: S102
    assert not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(code, {"get_ipython": lambda: shell})  # noqa: S102
    assert installed == [("pip", 'install --quiet "kexue[notebooks] @ git+https://github.com/a/b"')]


def test_other_versions_are_told_once(capsys):
    from kexue.lab import begin

    begin(versions={"numpy": "0.1", "no-such-package": "1.0"}, equations={})
    told = capsys.readouterr().out
    assert told.startswith("Stored outputs may differ") and "(stored with 0.1)" in told and "no-such-package missing" in told
    assert told.count("\n") == 1


def test_every_edition_is_written(tmp_path):
    paths = reader.write_all(tmp_path)
    assert sorted(str(path.relative_to(tmp_path / "chapters").with_suffix("")) for path in paths) == sorted(contents())


def test_copies_that_the_reader_changed_are_kept(tmp_path):
    assert reader.lay_out(tmp_path) == []
    changed, other = (tmp_path / f"{name}.ipynb" for name in contents()[:2])
    for path in (changed, other):
        path.write_text(path.read_text(encoding="utf-8").replace('"nbformat": 4', '"nbformat":  4'), encoding="utf-8")
    other.unlink()
    assert reader.lay_out(tmp_path) == [changed]
    assert '"nbformat":  4' in changed.read_text(encoding="utf-8") and other.is_file()


def test_the_source_is_left_as_it_was():
    sample = chapter()
    before = copy.deepcopy(sample.notebook)
    reader.edition(sample, EVERYTHING)
    assert sample.notebook == before
    assert "book_tools.reader" in sys.modules
