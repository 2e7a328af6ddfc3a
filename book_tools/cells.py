"""What the page makes of code cells: checks by number, printed tables as tables, folded bars with names, verdicts as coloured marks.

The stored text stays as it was printed: everything here happens to the document that is about to be written.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from book_tools import figures
from book_tools.chapter import CHECK, VERDICTS, Chapter
from kexue.lab.tables import BAR, CROSS, RULE, STRONG
from kexue.lab.verification import Record

LEDGER = "pages/ledger"
SHORT = 24  # characters of a cell that stay in one line
DENSITY = 2  # pixels of a stored figure for one of the page
WIDE = 560  # pixels of the page, from which a figure scrolls on a telephone instead of shrinking
TABLE_RULE = re.compile(rf"{RULE}+(?:{CROSS}{RULE}+)*")
ATTEMPT = re.compile(r"^(?:✓ )?ex-[\w-]+: ")
NUMBER = re.compile(r"[−+-]?[\d.,∞]+(?:e[−+-]?\d+)?(?: ± [\d.,e−+-]+)?(?: ?%)?|")


class Table(NamedTuple):
    """A table as ``kexue.lab.table`` printed it."""

    columns: list[str]
    rows: list[list[str]]
    strong: list[bool]


def pieces(text: str) -> Iterator[str | Table | list[Record]]:
    """What a cell printed, in order: plain text, tables, and the lines of ``verify`` that follow each other."""
    lines, plain, checks = text.splitlines(), [], []  # type: ignore[var-annotated]
    heads = {above for above, line in enumerate(lines[1:]) if TABLE_RULE.fullmatch(line)}
    place = 0
    while place < len(lines):
        check = CHECK.fullmatch(lines[place])
        if checks and not check:
            yield checks
            checks = []
        if plain and (check or place in heads):
            yield "\n".join(plain)
            plain = []
        if check:
            checks.append(Record(*check.groups("")))
            place += 1
        elif place in heads:
            columns = cells(lines[place])
            end = place + 2
            while (
                end < len(lines)
                and end not in heads
                and len(cells(lines[end])) == len(columns)
                and lines[end][:2] in ("  ", STRONG)
            ):
                end += 1
            rows = lines[place + 2 : end]
            yield Table(columns, [cells(row) for row in rows], [row.startswith(STRONG) for row in rows])
            place = end
        else:
            plain.append(lines[place])
            place += 1
    yield from [checks] * bool(checks)
    if "".join(plain).strip():
        yield "\n".join(plain).strip("\n")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.removeprefix(STRONG).split(BAR.strip())]


def table_node(table: Table) -> nodes.table:
    """A table of results: the first column heads its row, numbers stand right."""
    group = nodes.tgroup("", cols=len(table.columns))
    group += [nodes.colspec("", colwidth=1, stub=int(place == 0)) for place in range(len(table.columns))]
    kinds = [place > 0 or all(NUMBER.fullmatch(row[place]) for row in table.rows) for place in range(len(table.columns))]

    def row(texts: list[str], strong: bool = False) -> nodes.row:
        entries = [
            nodes.entry("", nodes.paragraph("", text), classes=["number"] * number + ["short"] * (len(text) <= SHORT))
            for text, number in zip(texts, kinds, strict=True)
        ]
        return nodes.row("", *entries, classes=["strong"] * strong)

    group += nodes.thead("", row(table.columns))
    group += nodes.tbody("", *map(row, table.rows, table.strong))
    return nodes.table("", group, classes=["result"])


class Numbers:
    """The numbers that equations, figures and exercises of one page have in print."""

    def __init__(self, app: Sphinx, docname: str) -> None:
        self.found: dict[str, dict[str, tuple[int, ...]]] = app.env.toc_fignumbers.get(docname, {})

    def of(self, kind: str, name: str) -> str:
        return ".".join(map(str, self.found.get(kind, {}).get(name, ())))

    def equation(self, label: str) -> str:
        return f"({self.of('displaymath', f'equation-{label}') or label})"


def checks_node(checks: list[Record], numbers: Numbers, ledger: str) -> nodes.raw:
    """Lines of ``verify`` by the numbers of their equations, equal ones once."""
    lines = "".join(
        f'<li>✓ <a href="{ledger}#ledger-{check.label}">{numbers.equation(check.label)}</a> {html.escape(said(check))}</li>'
        for check in dict.fromkeys(checks)
    )
    return nodes.raw("", f'<ul class="ticks" aria-label="Checks">{lines}</ul>', format="html")


def said(check: Record) -> str:
    return check.check + (f" · {check.oracle}" if check.oracle else "")


def dress_outputs(doctree: nodes.document, numbers: Numbers, ledger: str) -> None:
    """Tables and checks out of the printed texts; the first check of an equation is told beside it, and a box of nothing else goes."""
    stated = {str(equation.get("label")): equation for equation in doctree.findall(nodes.math_block) if equation.get("label")}
    marked: dict[str, list[Record]] = {}
    for output in outputs(doctree):
        cell = cell_of(output)
        for printed in [text for text in output.findall(nodes.literal_block) if "stream" in text["classes"]]:
            found = list(pieces(printed.astext()))
            only_checks = all(isinstance(piece, list) for piece in found)
            fresh = []
            for piece in found:
                if isinstance(piece, str):
                    block = printed.deepcopy()
                    block.rawsource = piece
                    block.children = []
                    block += nodes.Text(piece)
                    fresh.append(block)
                elif isinstance(piece, Table):
                    fresh.append(table_node(piece))
                else:
                    beside = {check.label for check in piece if only_checks and near(stated.get(check.label), cell, marked)}
                    for check in piece:
                        marked.setdefault(check.label, []).append(check)
                    rest = [check for check in piece if check.label not in beside]
                    fresh += [checks_node(rest, numbers, ledger)] * bool(rest)
            printed.parent.replace(printed, fresh)
            if ATTEMPT.match(printed.astext()):
                cell["classes"].append("attempt")
        if not output.children:
            output.parent.remove(output)
            cell["classes"].append("quiet")
        elif all(isinstance(child, nodes.raw) for child in output.children):
            cell["classes"].append("only-checks")
    for label, checks in marked.items():
        if label in stated:
            mark(stated[label], checks, ledger)


def near(equation: nodes.math_block | None, cell: nodes.Element, marked: dict[str, list[Record]]) -> bool:
    """Whether a check need not be shown under its cell: it is the first one of an equation that the same section states."""
    return equation is not None and equation["label"] not in marked and section_of(equation) is section_of(cell)


def section_of(node: nodes.Node) -> nodes.Node | None:
    while node is not None and not isinstance(node, nodes.section):
        node = node.parent
    return node


def mark(equation: nodes.math_block, checks: list[Record], ledger: str) -> None:
    """Beside an equation: how it was executed first, linked to its row in the ledger."""
    told = list(dict.fromkeys(map(said, checks)))
    more = f" and {len(told) - 1} more" if len(told) > 1 else ""
    title = html.escape("; ".join(told))
    link = f'<a href="{ledger}#ledger-{checks[0].label}" title="Executed: {title}">✓ {html.escape(told[0])}{more}</a>'
    equation.parent.insert(equation.parent.index(equation) + 1, nodes.raw("", f'<p class="executed">{link}</p>', format="html"))


def code_cells(doctree: nodes.document) -> list[nodes.container]:
    """The code cells of a page."""
    found = [box for box in doctree.findall(nodes.container) if box.get("nb_element") == "cell_code"]
    for cell in found:
        for child in cell.children:
            child.parent = cell  # MyST-NB leaves it out where it folds a whole cell
    return found


def outputs(doctree: nodes.document) -> list[nodes.container]:
    boxes = [box for cell in code_cells(doctree) for box in cell.findall(nodes.container)]
    return [box for box in boxes if box.get("nb_element") == "cell_code_output"]


def cell_of(box: nodes.Element) -> nodes.Element:
    while box.get("nb_element") != "cell_code":
        box = box.parent
    return box


def size_figures(doctree: nodes.document, chapter: Chapter) -> None:
    """Show each figure as large as it was drawn, so that its letters are as large as the text's."""
    stored = chapter.notebook["cells"]
    for cell in code_cells(doctree):
        found = figures.pngs(stored[cell["cell_index"]]["outputs"])
        for picture, png in zip(cell.findall(nodes.image), found, strict=False):
            width, height = struct.unpack(">II", base64.b64decode(png)[16:24])
            picture["width"], picture["height"] = f"{width // DENSITY}px", f"{height // DENSITY}px"
            if width // DENSITY > WIDE:
                picture["classes"].append("wide")


class Fold(nodes.Element):  # type: ignore[misc]
    """Folded content under a bar that says what it holds; open where no script folds it."""


def visit_fold(self: HTML5Translator, node: Fold) -> None:
    self.body.append(
        f'<details class="{" ".join(["fold", *node["classes"]])}" open><summary>{html.escape(node["name"])}</summary>\n'
    )


def depart_fold(self: HTML5Translator, node: Fold) -> None:
    self.body.append("</details>\n")


def name_bars(doctree: nodes.document, numbers: Numbers) -> None:
    """Give each folded cell a bar with a name: the author's, or one made from what the cell holds."""
    imports = True
    for cell in code_cells(doctree):
        for box in [child for child in cell.children if isinstance(child, HideCodeCellNode)]:
            name = cell["cell_metadata"].get("mystnb", {}).get("code_prompt_show") or default_name(cell, numbers, imports)
            cell.replace(box, Fold("", *box.children, classes=[*box["classes"], "code"], name=name))
        imports = False


def default_name(cell: nodes.Element, numbers: Numbers, first: bool) -> str:
    code = next((block.astext() for block in cell.findall(nodes.literal_block) if block.get("language")), "")
    figure = next((figure for figure in cell.findall(nodes.figure) if figure["ids"]), None)
    exercises = [numbers.of("exercise", label) or label for label in re.findall(r"\bexercise\(\s*\"([\w-]+)\"", code)]
    if figure is not None:
        return f"Code of Fig. {numbers.of('figure', figure['ids'][0])}".removesuffix(" Fig. ") or "Code of the figure"
    if exercises:
        *others, last = exercises
        return (
            f"Checks of exercises {', '.join(others)} and {last}: hold the answers"
            if others
            else f"Check of exercise {last}: holds the answer"
        )
    if first and re.match(r"(?:import|from) ", code):
        return "Imports"
    return "Code"


def mark_claims(doctree: nodes.document) -> None:
    """Tables of claims: their verdicts as coloured marks, and a class for narrow screens."""
    for table in doctree.findall(nodes.table):
        if table.next_node(nodes.entry).astext() not in ("Claim", "Statement"):
            continue
        table["classes"].append("claims")
        for paragraph in [each for each in table.findall(nodes.paragraph) if each.astext() in VERDICTS]:
            word = paragraph.astext()
            paragraph.children = []
            paragraph += nodes.inline("", word, classes=["verdict", f"verdict-{word.replace(' ', '-')}"])


def heading_of(section: nodes.section) -> str:
    return section.children[0].astext() if section.children and isinstance(section.children[0], nodes.title) else ""


def fold_symbols(doctree: nodes.document) -> None:
    """The table of symbols under a bar: it is looked up, not read."""
    for section in list(doctree.findall(nodes.section)):
        if heading_of(section) == "Symbols":
            rows = sum(len(body.children) for body in section.findall(nodes.tbody))
            title, *rest = section.children
            section.children = []
            section += [title, Fold("", *rest, classes=["symbols"], name=f"The {rows} symbols of this chapter")]


def dress(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html" or not docname.startswith(("chapters/", "pages/")):
        return
    mark_claims(doctree)
    if docname.startswith("pages/"):
        return
    numbers = Numbers(app, docname)
    size_figures(doctree, Chapter.load(docname.removeprefix("chapters/")))
    dress_outputs(doctree, numbers, app.builder.get_relative_uri(docname, LEDGER))
    name_bars(doctree, numbers)
    fold_symbols(doctree)


def setup(app: Sphinx) -> None:
    app.add_node(Fold, html=(visit_fold, depart_fold))
    app.connect("doctree-resolved", dress)
