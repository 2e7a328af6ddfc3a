"""Each mistake in a chapter is found, and the message names the file, the cell or label, and the remedy."""

import json
import re

import pytest
from samples import BEFORE, FIGURE, OPENING, chapter

from book_tools.chapter import CARD, ancestors
from book_tools.form import faults, letters, warnings


def replaced(number, old, new):
    def edit(cells):
        assert old in cells[number]["source"]
        cells[number]["source"] = cells[number]["source"].replace(old, new)

    return edit


def test_a_complete_chapter_has_no_fault():
    assert faults([*BEFORE, chapter()]) == []


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (replaced(0, "# A title", "A title"), ", cell 0: begin with the title, '# ...'"),
        (replaced(0, "| Papers | none |\n", ""), ", cell 0: the card needs the rows Post, Papers"),
        (replaced(0, "Which of them?", "All of them."), ", cell 0: the opening asks nothing"),
        (replaced(0, "- So is the third.\n", ""), ", cell 0: In short has 2 bullets, not 3"),
        (
            replaced(0, "The first is 1.", "The first is one."),
            ", cell 0: In short has 3 bullets, not 3 with the deciding numbers",
        ),
        (replaced(0, "https://kexue.fm", "https://example.org"), ", cell 0: the row Post reads"),
        (replaced(0, "{py:mod}", ""), ", cell 0: the row Package links {py:mod}`kexue.attention.third`"),
        (replaced(0, "- 第二行\n", ""), ', cell 0: the summary in Chinese has 2 lines, not 3; write <div lang="zh">'),
        (replaced(0, "- 第二行\n", "- second line\n"), ", cell 0: the summary in Chinese"),
        (replaced(0, "`first`", "`nowhere`"), ", cell 0: Before this names attention/nowhere, which is no chapter of the book"),
        (replaced(0, "`first`", "`third`"), ", cell 0: prerequisites run in a circle: attention/third -> attention/third"),
        (
            lambda cells: cells[3]["metadata"]["mystnb"]["image"].update(alt="a line"),
            ", cell 3: say in its metadata mystnb.image.alt what the figure shows",
        ),
        (
            lambda cells: cells[3]["metadata"]["mystnb"].pop("figure"),
            ", cell 3: give the figure a caption, its metadata mystnb.figure.caption",
        ),
        (lambda cells: cells[3]["outputs"].append(FIGURE), ", cell 3: 2 figures; draw one figure per cell"),
        (lambda cells: cells[3]["metadata"].pop("tags"), ": 0 figures carry the tag 'cover'; tag the one"),
        (lambda cells: cells[2]["metadata"].update(tags=["nbval-skip"]), ", cell 2: remove the tag 'nbval-skip'"),
        (replaced(2, "verify", "# NBVAL_SKIP\nverify"), ", cell 2: remove the comment"),
        (lambda cells: cells[2]["outputs"][0].update(name="stderr"), ", cell 2: a warning or error was stored"),
        (
            lambda cells: cells[2]["outputs"].append({"output_type": "execute_result", "data": {}}),
            ", cell 2: print what it shows, or end the line with ';'",
        ),
        (lambda cells: cells[3]["outputs"][0]["data"].update({"text/html": "<b>"}), ", cell 3: outputs are text and PNG figures"),
        (lambda cells: cells[2].update(execution_count=None), ": cells that never ran, or not in order; run: make execute"),
        (lambda cells: cells[2]["outputs"][0]["text"].append("at 0x7f3a2b1c"), ": the output holds '0x7f3a2b1c'"),
        (replaced(1, "(eq-a-b)", "(eq-a-c)"), ": eq-a-c is never executed; add a verify under it"),
        (replaced(1, "(eq-a-b)", "(eq-a-c)"), ": a verify names eq-a-b, which labels no equation"),
        (replaced(1, "$$ x=1 $$ (eq-a-b)", "$$ x=1 $$ (eq-a-b)\n\n$$ x=2 $$ (eq-a-b)"), ": the label eq-a-b stands 2 times"),
        (replaced(1, "$$ x=1 $$ (eq-a-b)", "$$ x=1 $$ (eq-a-b)\n\n$$ x=2 $$ (Eq_B)"), ": the label Eq_B must read eq-..."),
        (lambda cells: cells.insert(1, cells.pop(2)), ", cell 1: eq-a-b is executed before it is stated; move the cell down"),
        (replaced(7, "| claim 0 |", "claim 0"), ": the section '## What the post gets right, and where we differ' needs a table"),
        (replaced(7, "eq. (0) | confirmed", "eq. (0) | true"), ": the verdict 'true' of 'claim 0' is none of confirmed"),
        (replaced(7, "| {eq}`eq-a-b` |\n| claim 1", "| |\n| claim 1"), ": nothing decides 'claim 0'; fill the fourth column"),
        (replaced(7, "| eq. (0) |", "| |"), ": 'claim 0' has no place; name the section or equation of the post"),
        (
            replaced(7, "eq. (0) | confirmed |", "eq. (0) | holds under a condition |"),
            ": 'claim 0' holds under a condition; begin its last column with the condition",
        ),
        (
            replaced(7, "## Since then", "## Later"),
            ": '## Later' stands after the verdicts; move it before them, or under ## Deeper",
        ),
        (replaced(7, "- It stayed so.\n", ""), ": the section ## Since then has 2 lines '- ...'; three to six"),
        (
            replaced(7, "### A side claim", "### Deeper: a side claim"),
            ": the heading 'Deeper: a side claim'; write ### and the title",
        ),
        (replaced(7, "## References", "## Deeper\n\n## References"), ": the sections stand in the order"),
        (
            replaced(1, "$$ x=1 $$", "$$ y=1 $$\n\n$$ x=1 $$"),
            ", cell 1: a display without a label; label and execute it, or say in the cell's metadata kexue.notation",
        ),
        (
            lambda cells: cells.insert(
                1,
                {"cell_type": "markdown", "metadata": {"kexue": {"notation": "introduces letters"}}, "source": "$$ x $$\n\n" * 3},
            ),
            ": 3 displays without a label; at most 2 may only introduce notation",
        ),
        (lambda cells: cells[2]["metadata"].update(tags=["hide-input"]), ", cell 2: it is folded; say in its metadata mystnb"),
        (
            lambda cells: (
                cells[2].update(source=cells[2]["source"] + "\nx = 1"),
                cells[4].update(source=cells[4]["source"] + "\nx = x + 1"),
            ),
            ", cell 4: x is bound in cell 2 too and read in cell 4; give it another name",
        ),
        (replaced(7, "{eq}`eq-a-b` |\n| claim 1", "0.25 |\n| claim 1"), ": the verdicts quote 0.25, which no cell prints"),
        (
            replaced(7, "{eq}`eq-a-b` |\n| claim 1", "{footcite:t}`x` |\n| claim 1"),
            ": 'claim 0' cites; the page of verdicts has no list",
        ),
        (
            lambda cells: (
                replaced(7, "{eq}`eq-a-b` |\n| claim 1", "0.25 |\n| claim 1")(cells),
                cells[2]["outputs"][0]["text"].append("0.25 ± 0.01\n"),
            ),
            ": the verdicts quote 0.25 without its error; write 0.25 ± ..., as the cell prints it",
        ),
        (
            lambda cells: (
                cells[2].update(source=cells[2]["source"] + "\nlosses = fit(p)"),
                cells[3].update(source="plot(losses);"),
            ),
            ", cell 3: the figure shows something trained; its caption says what the bands are, or 'one seed'",
        ),
        (replaced(7, "{exercise}", "{note}"), ": no exercise; add a section ## Exercises"),
        (replaced(7, ":class: dropdown", ""), ": ex-a has 0 folded solutions"),
        (replaced(4, "ex-a", "ex-b"), ": ex-a offers no check; add exercise('ex-a', ...), or end its title with (a proof)"),
        (replaced(4, "ex-a", "ex-b"), ": a check names ex-b, which labels no exercise"),
        (lambda cells: cells[6].update(outputs=[]), ": the solution of ex-a is never handed to its check"),
        (lambda cells: cells[5].update(outputs=[]), ": ex-a has no cell for the reader's attempt"),
        (
            replaced(7, "## Symbols", "## Letters"),
            ": no table of symbols; add a section ## Symbols with the columns Symbol | Meaning",
        ),
        (replaced(7, "| $x$ |", "| x |"), ": the row 'x' of the symbols needs a formula like $x$ and a meaning"),
        (replaced(7, "## References", "## Sources"), ": no section ## References"),
    ],
)
def test_each_mistake_is_named_with_its_remedy(edit, fault):
    found = faults([*BEFORE, chapter(edit=edit)])
    assert any(line.startswith("chapters/attention/third.ipynb" + fault) for line in found), found


def test_what_is_named_by_the_build_needs_no_name():
    def edit(cells):
        for number in (3, 4):
            cells[number]["metadata"].setdefault("tags", []).append("hide-cell")
        cells.insert(1, {"cell_type": "code", "metadata": {"tags": ["hide-input"]}, "source": "import math", "outputs": []})

    assert faults([*BEFORE, chapter(edit=edit)]) == []


def test_a_long_spine_is_a_warning_and_counts_neither_displays_tables_chinese_nor_folded_code():
    def edit(cells):
        cells[1]["source"] += "\n\n" + "word " * 2700
        cells[2]["source"] += "\npass" * 310
        cells.insert(2, {"cell_type": "code", "metadata": {"tags": ["hide-input"]}, "source": "pass\n" * 500, "outputs": []})
        cells[-1]["source"] += "word " * 5000

    (line,) = warnings([chapter(edit=edit)])
    assert "third.ipynb: the spine has 27" in line and re.search(r"27\d\d words .* 31\d open lines of code", line)
    assert warnings([chapter()]) == []
    short = chapter().length
    opening = "A title Some things are one Which of them All and the answer is 1 In short"
    bullets = "- The first is 1 - The second is one as well - So is the third #"
    assert tuple(short) == (len(f"{opening} {bullets}".split()), 1, 6)
    assert short.minutes == 5


def test_question_and_bullets_are_read_from_the_opening():
    assert chapter().question == "Which of them?"
    assert chapter().in_short == ["The first is 1.", "The second is one as well.", "So is the third."]
    assert chapter().verdicts[3].where == "eq. (3)"


def test_a_proof_needs_no_check():
    def edit(cells):
        cells[7]["source"] = cells[7]["source"].replace("{exercise}", "{exercise} Twice (a proof)")
        del cells[4:7]

    assert faults([*BEFORE, chapter(edit=edit)]) == []


def test_prerequisites_come_before_and_cover_the_imports():
    late = faults([BEFORE[0], chapter(), BEFORE[1]])
    assert late == [
        "chapters/attention/third.ipynb, cell 0: it builds on generation/second, which comes later; change _toc.yml or the card"
    ]

    def imports(cells):
        cells[2]["source"] = "from kexue.generation.second import f\n" + cells[2]["source"]

    unlinked = chapter(edit=imports, opening=OPENING.replace(" and {doc}`the second </chapters/generation/second>`", ""))
    assert faults([*BEFORE, unlinked]) == [
        "chapters/attention/third.ipynb, cell 0: module or cells import from generation/second; "
        "link that chapter in the row Before this"
    ]


def test_prerequisites_of_prerequisites_count_and_circles_are_shown():
    assert ancestors("c", {"c": ["b"], "b": ["a"]}) == {"a", "b"}
    with pytest.raises(ValueError, match="b -> a -> b"):
        ancestors("c", {"c": ["b"], "b": ["a"], "a": ["b"]})


def test_the_card_of_the_sample_is_the_card_of_the_book():
    assert tuple(chapter().card) == CARD
    assert chapter().chinese_title == "标题"
    assert json.dumps(chapter().builds_on) == '["attention/first", "generation/second"]'


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("$B(m)$, $b_i$", ["B", "b"]),
        (r"$\mathcal R_m$", [r"\mathcal{R}"]),
        (r"$\mathrm{KL}$, $\theta_i$", [r"\mathrm{KL}", r"\theta"]),
        (r"$\lvert q\rvert$, $(x_0,x_1)$, $\tilde{\theta}$", ["q", "x", r"\tilde{\theta}"]),
        ("x", []),
    ],
)
def test_letters_of_the_symbol_table(cell, found):
    assert letters(cell) == found
