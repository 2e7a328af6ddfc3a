"""The book's machinery, each piece shown to bite."""

import copy
import json

import numpy as np
import pytest
from pictures import png

from book_tools import figures, notebooks, pages
from book_tools.chapter import Chapter


def figure_output(picture):
    return {
        "output_type": "display_data",
        "data": {"image/png": picture, "text/plain": ["<Figure>"]},
        "metadata": {"needs": "light"},
    }


def cell(kind, source, **more):
    return {"cell_type": kind, "id": "x", "metadata": {"ExecuteTime": "now", "tags": []}, "source": source} | more


def notebook(outputs=(), text="x = 1"):
    cells = [cell("markdown", "# T\n"), cell("code", text, execution_count=7, outputs=list(outputs))]
    return {"cells": cells, "metadata": {"language_info": {"version": "3.99"}}, "nbformat": 4, "nbformat_minor": 5}


def test_canonical_form_forgets_the_machine_and_counts_from_one():
    form = notebooks.canonical(notebook())
    assert form["metadata"]["language_info"] == {"name": "python"}
    assert form["cells"][1]["execution_count"] == 1
    assert form["cells"][1]["metadata"] == {}
    assert notebooks.canonical(form) == form


def test_printed_pieces_are_one_text():
    pieces = [{"output_type": "stream", "name": "stdout", "text": text} for text in ("a\nb", "c\n", "d")]
    pieces.insert(2, figure_output(png()))
    first, _, last = notebooks.canonical(notebook(pieces))["cells"][1]["outputs"]
    assert first["text"] == ["a\n", "bc\n"]
    assert last["text"] == ["d"]


def test_identifiers_follow_the_text_and_stay_unique():
    twin = notebook()
    twin["cells"].append(copy.deepcopy(twin["cells"][1]))
    first, second, third = (c["id"] for c in notebooks.canonical(twin)["cells"])
    assert len({first, second, third}) == 3
    assert third == f"{second}-2"
    assert notebooks.canonical(notebook(text="x = 2"))["cells"][1]["id"] != second


def test_a_cell_that_never_ran_stays_visible():
    fresh = notebook()
    fresh["cells"][1]["execution_count"] = None
    assert notebooks.canonical(fresh)["cells"][1]["execution_count"] is None


def test_writing_replaces_in_one_step_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.ipynb"
    notebooks.write(path, notebook())
    before = path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        notebooks.write(path, notebook(outputs=[{"output_type": "stream", "name": "stdout", "text": object()}]))
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


def test_an_interrupt_while_writing_keeps_the_old_notebook(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    notebooks.write(path, notebook())
    before = path.read_text(encoding="utf-8")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        notebooks.write(path, notebook(text="y = 2"))
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"]


def test_executing_stores_what_the_kernel_printed(tmp_path):
    path = tmp_path / "a.ipynb"
    notebooks.write(path, notebook(text="print(6 * 7)"))
    notebooks.execute(path)
    stored = notebooks.read(path)
    assert stored["cells"][1]["outputs"][0]["text"] == ["42\n"]
    assert notebooks.dumps(stored) == path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3"


def test_a_failing_chapter_is_not_stored(tmp_path):
    path = tmp_path / "a.ipynb"
    notebooks.write(path, notebook(text="1 / 0"))
    before = path.read_text(encoding="utf-8")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.execute(path)
    assert path.read_text(encoding="utf-8") == before


def test_compact_pictures_stay_within_half_the_tolerance_and_are_left_alone_the_second_time():
    smooth = np.add.outer(np.arange(60), np.arange(80))[..., None] * np.array([1, 1, 0]) + np.array([0, 20, 120])
    picture = png(size=(80, 60), noise=smooth.astype(np.uint8))
    compact = figures.compact(picture)
    assert figures.difference(picture, compact) < figures.TOLERANCE / 2
    assert figures.compact(compact) == compact


@pytest.mark.parametrize(
    ("stored", "fresh", "words"),
    [
        ([png(200)], [png(200)], None),
        ([png(200)], [png(201)], None),
        ([png(200)], [png(210)], "differs by"),
        ([png(200)], [], "1 figure(s) stored, 0 drawn"),
        ([], [png(200)], "0 figure(s) stored, 1 drawn"),
        ([png(200)], [png(200, size=(41, 30))], "inf"),
    ],
)
def test_figures_are_compared_as_pictures(stored, fresh, words):
    complaint = figures.complaint([figure_output(p) for p in stored], [figure_output(p) for p in fresh])
    assert complaint is None if words is None else words in complaint


def test_html_outputs_are_refused():
    html = {"output_type": "display_data", "data": {"text/html": "<b>x</b>"}}
    assert "text/html" in figures.complaint([html], [html])


CHAPTER = Chapter(
    "part/slug",
    {
        "cells": [
            cell("markdown", "# A title\n\n| Post | P |\n|---|---|\n| Package | K |\n"),
            cell("markdown", "$$ a=b $$ (eq-one)\n\n$$ c $$ (eq-two)\n"),
            cell(
                "code",
                "verify()",
                execution_count=1,
                outputs=[{"output_type": "stream", "name": "stdout", "text": ["✓ eq-one: equal within 1e-12 · brute force\n"]}],
            ),
            cell(
                "markdown",
                "## What the post gets right, and where we differ\n\nText.\n\n"
                "| Claim | Where | Verdict | What decides |\n|---|---|---|---|\n"
                "| one | eq. (1) | confirmed | 1 |\n| two \\| x | eq. (2) | corrected | 2 |\n",
            ),
        ]
    },
)


def test_a_chapter_is_read_from_its_cells():
    assert CHAPTER.title == "A title"
    assert CHAPTER.card == {"Post": "P", "Package": "K"}
    assert CHAPTER.labels == ["eq-one", "eq-two"]
    assert CHAPTER.checks == [("eq-one", "equal within 1e-12", "brute force")]
    assert [row.verdict for row in CHAPTER.verdicts] == ["confirmed", "corrected"]
    assert CHAPTER.drawings == []


def test_the_ledger_shows_what_was_executed_and_what_was_not():
    ledger = pages.ledger_markdown([CHAPTER])
    assert '<span id="ledger-eq-one"></span>{eq}`eq-one` | `eq-one` | equal within 1e-12 | brute force |' in ledger
    assert "`eq-two` | not executed |  |" in ledger


def test_errata_are_the_corrected_claims():
    errata = pages.verdicts_markdown([CHAPTER]).partition("## Errata")[2].partition("\n(verdicts-part)=")[0]
    assert "two" in errata
    assert "| one |" not in errata


def test_totals_and_contents_count():
    assert "**[2 labelled equations](pages/ledger.md)**" in pages.totals_markdown([CHAPTER])
    assert "1 confirmed, 1 corrected" in pages.totals_markdown([CHAPTER])
