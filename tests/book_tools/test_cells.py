"""What the page makes of code cells: tables, checks by number, named bars, coloured verdicts, folded symbols."""

import base64
import io
import struct
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from pictures import png
from samples import chapter

from book_tools import cells
from book_tools.chapter import VERDICTS
from kexue.lab import table
from kexue.lab.verification import Record

NUMBERS = cells.Numbers(
    SimpleNamespace(
        env=SimpleNamespace(
            toc_fignumbers={
                "page": {
                    "displaymath": {"equation-eq-a": (3, 1), "equation-eq-b": (3, 2)},
                    "figure": {"fig-a": (3, 4)},
                    "exercise": {"ex-a": (3, 2)},
                }
            }
        )
    ),
    "page",
)


def printed(rows, columns, *settings, **more):
    out = io.StringIO()
    with redirect_stdout(out):
        table(rows, columns, *settings, **more)
    return out.getvalue()


def test_what_is_printed_falls_into_text_checks_and_tables():
    text = (
        "first\n✓ eq-a: equal · brute force\n✓ eq-b: equal within 1e-9\n" + printed([["a", 1], ["b", 2]], ["x", "n"]) + "last\n"
    )
    found = list(cells.pieces(text))
    assert found == [
        "first",
        [Record("eq-a", "equal", "brute force"), Record("eq-b", "equal within 1e-9", "")],
        cells.Table(["x", "n"], [["a", "1"], ["b", "2"]], [False, False]),
        "last",
    ]


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_every_printed_table_is_read_back(columns):
    rows = [
        ["", *[None] * (columns - 1)] if columns > 1 else ["one"],
        ["long name", *[(1.5, 0.25)] * (columns - 1)],
        [-3, *[1e9] * (columns - 1)],
    ]
    (found,) = cells.pieces(printed(rows, [f"column {place}" for place in range(columns)], strong=[1]))
    assert found.columns == [f"column {place}" for place in range(columns)]
    assert found.strong == [False, True, False]
    assert found.rows[1] == ["long name", *["1.50 ± 0.25"] * (columns - 1)]
    assert found.rows[2] == ["−3", *["1000000000.00"] * (columns - 1)]
    assert found.rows[0] == ([""] * columns if columns > 1 else ["one"])


def test_two_tables_in_a_row_stay_two():
    one, other = printed([["a", 1]], ["x", "n"]), printed([["a longer name", 1.5], ["b", 2.5]], ["the second", "n"])
    for text in (one + one, one + other, other + one):
        first, second = cells.pieces(text)
        assert isinstance(first, cells.Table) and isinstance(second, cells.Table)
        assert [first.columns[1], second.columns[1]] == ["n", "n"]
        assert len(first.rows) + len(second.rows) == text.count("\n") - 4


def test_text_that_only_looks_like_a_table_stays_text():
    assert list(cells.pieces("a │ b\n1 │ 2")) == ["a │ b\n1 │ 2"]
    assert list(cells.pieces("   indented\n\n  more\n")) == ["   indented\n\n  more"]
    assert list(cells.pieces("\n\n")) == []


def test_a_table_has_heads_for_rows_numbers_to_the_right_and_the_strong_row_marked():
    (found,) = cells.pieces(printed([["plain", 0.5], ["noisy", (0.75, 0.125)]], ["model", "score"], strong=[1]))
    node = cells.table_node(found)
    assert "result" in node["classes"]
    assert [spec.get("stub") for spec in node.findall(nodes.colspec)] == [1, 0]
    assert [row["classes"] for row in node.findall(nodes.row)] == [[], [], ["strong"]]
    assert [entry["classes"] for entry in node.findall(nodes.entry)] == [["short"], ["number", "short"]] * 3
    (found,) = cells.pieces(printed([[1.5, 2.5]], ["T", "a heading of thirty characters"]))
    assert all(entry["classes"][0] == "number" for entry in cells.table_node(found).findall(nodes.entry))


def cell(code, text="", *tags, **metadata):
    box = nodes.container("", nb_element="cell_code", classes=["cell"], cell_metadata=metadata)
    source = nodes.container("", nb_element="cell_code_source")
    source += nodes.literal_block(code, code, language="python")
    box += source
    if text:
        output = nodes.container("", nb_element="cell_code_output")
        output += nodes.literal_block(text, text, classes=["output", "stream"], language="myst-ansi")
        box += output
    if "hide-cell" in tags:  # as MyST-NB does it
        fold = HideCodeCellNode(prompt_show="Show", prompt_hide="Hide")
        fold["classes"].append("above-input")
        fold.extend(box.children)
        box.children = [fold]
    return box


def page(*blocks):
    document = nodes.document(None, None)
    section = nodes.section("", nodes.title("", "Section"), *blocks)
    document += section
    return document


def equation(label):
    return nodes.math_block("", "x=1", label=label)


def raw(document):
    return [node.astext() for node in document.findall(nodes.raw)]


def test_a_box_of_checks_alone_disappears_into_the_mark_beside_its_equation():
    document = page(equation("eq-a"), cell("verify(...)", "✓ eq-a: equal within 1e-12 · brute force\n"))
    cells.dress_outputs(document, NUMBERS, "ledger.html")
    assert not cells.outputs(document)
    (mark,) = raw(document)
    assert (
        '<a href="ledger.html#ledger-eq-a" title="Executed: equal within 1e-12 · brute force">✓ equal within 1e-12 · brute force</a>'
        in mark
    )
    assert "quiet" in cells.code_cells(document)[0]["classes"]


def test_figures_are_shown_as_large_as_they_were_drawn():
    drawn = cell("plot();")
    drawn["cell_index"] = 3
    drawn += nodes.figure("", nodes.image(""))
    narrow, broad = chapter(), chapter()
    for other, size in ((narrow, (1040, 840)), (broad, (1400, 640))):
        head = base64.b64decode(png())[:16] + struct.pack(">II", *size)
        other.notebook["cells"][3]["outputs"][0]["data"]["image/png"] = base64.b64encode(head).decode()
        cells.size_figures(page(drawn), other)
        picture = next(iter(drawn.findall(nodes.image)))
        assert (picture["width"], picture["height"]) == (f"{size[0] // 2}px", f"{size[1] // 2}px")
        assert ("wide" in picture["classes"]) is (other is broad)


def test_later_checks_and_those_under_other_text_stay_with_their_cell_by_number():
    document = page(
        equation("eq-a"),
        cell("verify(...)", "✓ eq-a: equal\n"),
        cell("verify(packaged)", "✓ eq-a: equal · <library>\n✓ eq-a: equal · <library>\n"),
        equation("eq-b"),
        cell("print(1); verify(...)", "1\n✓ eq-b: equal\n"),
    )
    cells.dress_outputs(document, NUMBERS, "ledger.html")
    first, later, second, mixed = raw(document)
    assert "✓ equal and 1 more</a>" in first
    assert (
        later
        == '<ul class="ticks" aria-label="Checks"><li>✓ <a href="ledger.html#ledger-eq-a">(3.1)</a> equal · &lt;library&gt;</li></ul>'
    )
    assert "✓ equal</a>" in second
    assert '<a href="ledger.html#ledger-eq-b">(3.2)</a> equal</li>' in mixed
    assert [box["classes"][1:] for box in cells.code_cells(document)] == [["quiet"], ["only-checks"], []]


def test_a_check_far_from_its_equation_is_shown_where_it_was_made():
    document = page(equation("eq-a"))
    document += nodes.section("", nodes.title("", "Other"), cell("verify(...)", "✓ eq-a: equal\n"))
    cells.dress_outputs(document, NUMBERS, "ledger.html")
    assert len(raw(document)) == 2


def test_what_an_exercise_answers_is_marked_as_an_attempt():
    document = page(cell("check(...)", "ex-a: put your number in place of the dots\n"))
    cells.dress_outputs(document, NUMBERS, "ledger.html")
    assert "attempt" in cells.code_cells(document)[0]["classes"]


@pytest.mark.parametrize(
    ("code", "metadata", "name"),
    [
        ("import numpy as np", {}, "Imports"),
        ("import numpy as np", {"mystnb": {"code_prompt_show": "Tools"}}, "Tools"),
        ('check = exercise(\n    "ex-a", 2)', {}, "Check of exercise 3.2: holds the answer"),
        (
            'a, b, c = exercise("ex-a", 2), exercise("ex-b", 3), exercise("ex-a", 4)',
            {},
            "Checks of exercises 3.2, ex-b and 3.2: hold the answers",
        ),
        ("x = 1", {}, "Code"),
    ],
)
def test_a_folded_cell_says_what_it_holds(code, metadata, name):
    document = page(cell(code, "", "hide-cell", **metadata))
    cells.name_bars(document, NUMBERS)
    assert [fold["name"] for fold in document.findall(cells.Fold)] == [name]
    assert not list(document.findall(HideCodeCellNode))


def test_only_the_first_cell_imports_and_a_figure_gives_its_number():
    figure = cell("plot();", "", "hide-cell")
    figure.children[0] += nodes.figure("", nodes.image(""), ids=["fig-a"])
    document = page(cell("x = 1"), cell("import later", "", "hide-cell"), figure)
    cells.name_bars(document, NUMBERS)
    assert [fold["name"] for fold in document.findall(cells.Fold)] == ["Code", "Code of Fig. 3.4"]


def claims(*verdicts):
    def row(*texts):
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in texts))

    group = nodes.tgroup(
        "", nodes.thead("", row("Claim", "Verdict")), nodes.tbody("", *(row("so", word) for word in verdicts)), cols=2
    )
    return nodes.table("", group)


def test_each_of_the_five_verdicts_is_a_word_with_a_class_of_its_own():
    document = page(claims(*VERDICTS, "perhaps"))
    cells.mark_claims(document)
    marks = [node for node in document.findall(nodes.inline) if "verdict" in node["classes"]]
    assert [mark.astext() for mark in marks] == list(VERDICTS)
    assert len({mark["classes"][1] for mark in marks}) == 5
    assert [node["classes"] for node in document.findall(nodes.table)] == [["claims"]]


def test_symbols_are_folded_under_their_heading():
    document = nodes.document(None, None)
    document += nodes.section("", nodes.title("", "Symbols"), claims("x", "y"))
    cells.fold_symbols(document)
    (section,) = document.findall(nodes.section)
    assert [type(child) for child in section.children] == [nodes.title, cells.Fold]
    assert section.children[1]["name"] == "The 2 symbols of this chapter"
