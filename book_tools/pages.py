"""Sphinx extension: the pages and marks that the book generates from its stored chapters, and the files it ships for offline reading.

Directives (each is Markdown made by one function below and parsed in place): ``{chapters}``, ``{totals}``, ``{ledger}``, ``{verdicts}``.
Beside each labelled equation stands a mark that leads to its row in the ledger.
"""

from __future__ import annotations

import shutil
from collections import Counter
from importlib.metadata import distribution
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from book_tools.chapter import ROOT, VERDICTS, Chapter, book, contents
from kexue.lab.verification import Record

LEDGER = "pages/ledger"
BRIEF = dict(zip(VERDICTS, ("confirmed", "conditional", "not reproduced", "corrected"), strict=True))
MATHJAX_FILES = ("tex-chtml-full.js", "ui/safe.js", "output/chtml/fonts/woff-v2/*.woff")


def chapters_markdown(chapters: list[Chapter]) -> str:
    """The chapters by part: title, question, size, verdicts."""
    lines = []
    for part, group in groupby(chapters, key=lambda chapter: chapter.name.split("/")[0]):
        lines += [f"**{part.capitalize()}**", ""]
        for chapter in group:
            equations, time = len(set(chapter.labels)), chapter.card["Runs in"]
            lines += [
                f"- {{doc}}`{chapter.title} </chapters/{chapter.name}>`  ",
                f"  {chapter.card['Question']}  ",
                f"  <small>{equations} equations · {time} · claims: {_judged([chapter])}</small>",
            ]
        lines.append("")
    return "\n".join(lines)


def _judged(chapters: list[Chapter]) -> str:
    counts = Counter(verdict.verdict for chapter in chapters for verdict in chapter.verdicts)
    return ", ".join(f"{counts[word]} {BRIEF[word]}" for word in VERDICTS if counts[word])


def totals_markdown(chapters: list[Chapter]) -> str:
    """One line: what has been executed in the whole book."""
    labels = sum(len(set(chapter.labels)) for chapter in chapters)
    checks = sum(len(chapter.checks) for chapter in chapters)
    claims = sum(len(chapter.verdicts) for chapter in chapters)
    figures = sum(len(chapter.drawings) for chapter in chapters)
    return (
        f"**{len(chapters)} chapters** · **[{labels} labelled equations]({LEDGER}.md)**, every one executed, by {checks} checks · "
        f"**{figures} figures**, redrawn and compared · **[{claims} claims judged](pages/verdicts.md)**: {_judged(chapters)}"
    )


def ledger_markdown(chapters: list[Chapter]) -> str:
    """Every labelled equation with what checked it, a row per check."""
    lines = []
    for chapter in chapters:
        lines += [*_heading(chapter), "| Equation | Label | Checked | Oracle | Executed |", "|---|---|---|---|---|"]
        for label in dict.fromkeys(chapter.labels):
            equation = f'<span id="ledger-{label}"></span>{{eq}}`{label}` | `{label}`'
            checks = dict.fromkeys(check for check in chapter.checks if check.label == label)
            for check in checks or [Record(label, "", "")]:
                lines.append(f"| {equation} | {check.check} | {check.oracle} | {'✓' if check.check else 'no'} |")
                equation = " | "
        lines.append("")
    return "\n".join(lines)


def verdicts_markdown(chapters: list[Chapter]) -> str:
    """All verdicts, the corrections (the errata) first."""
    lines = [
        "## Errata",
        "",
        "Statements of posts and papers that we correct; each correction is derived and executed in its chapter.",
    ]
    lines += ["", "| Statement | What is true |", "|---|---|"]
    for chapter in chapters:
        link = f"({{doc}}`chapter </chapters/{chapter.name}>`)"
        lines += [f"| {row.claim} {link} | {row.evidence} |" for row in chapter.verdicts if row.verdict == "corrected"]
    for chapter in chapters:
        lines += [
            "",
            *_heading(chapter),
            f"The post: {chapter.card['Post']}.",
            "",
            "| Claim | Verdict | What decides |",
            "|---|---|---|",
        ]
        lines += [f"| {row.claim} | {row.verdict} | {row.evidence} |" for row in chapter.verdicts]
    return "\n".join(lines)


def _heading(chapter: Chapter) -> list[str]:
    return [f"## {chapter.title}", "", f"{{doc}}`Read the chapter </chapters/{chapter.name}>`", ""]


class Generated(SphinxDirective):
    """A directive whose content is Markdown made from all chapters."""

    def run(self) -> list[nodes.Node]:
        make = {
            "chapters": chapters_markdown,
            "totals": totals_markdown,
            "ledger": ledger_markdown,
            "verdicts": verdicts_markdown,
        }[self.name]
        self.env.note_reread()  # whatever chapters there are by then
        container = nodes.container()
        container.document = self.state.document
        lines = StringList(make(book()).splitlines(), source=self.name)
        self.state.nested_parse(lines, 0, container, match_titles=True)
        return list(container.children)


def mark_equations(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Beside each labelled equation of a chapter: a mark that leads to its row in the ledger."""
    if app.builder.format != "html" or not docname.startswith("chapters/"):
        return
    checks = {check.label: check for check in Chapter.load(docname.removeprefix("chapters/")).checks}
    page = app.builder.get_relative_uri(docname, LEDGER)
    for equation in list(doctree.findall(nodes.math_block)):
        check = checks.get(equation.get("label") or "")
        if check is not None:
            title = f"Executed: {check.check}" + (f", {check.oracle}" if check.oracle else "")
            mark = f'<p class="executed"><a href="{page}#ledger-{check.label}" title="{title}">✓ executed</a></p>'
            equation.parent.insert(equation.parent.index(equation) + 1, nodes.raw("", mark, format="html"))


def ship_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy from the pinned wheel the few files of MathJax that a page needs, with the licence they come under."""
    if exception is not None or app.builder.format != "html":
        return
    files = distribution("sphinx-mathjax-offline").files or []
    root = next(Path(str(file.locate())).parent for file in files if file.name == "tex-chtml-full.js")
    target = Path(app.outdir) / "_static" / "mathjax"
    for pattern in MATHJAX_FILES:
        for path in root.glob(pattern):
            destination = target / path.relative_to(root)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)
    shutil.copyfile(ROOT / "LICENSES" / "Apache-2.0.txt", target / "LICENSE")


def link_chapter(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """At the head of a module's reference page: a link to the chapter that explains it."""
    chapter = name.removeprefix("kexue.").replace(".", "/")
    if what == "module" and chapter in contents():
        lines += ["", f"Explained in :doc:`/chapters/{chapter}`."]


def skip_field(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a record are described in its docstring; Python's own line about each says nothing."""
    return True if str(getattr(thing, "__doc__", "")).startswith("Alias for field number") else None


def drop_stale_reference(app: Sphinx, config: Any) -> None:
    """Remove the generated reference pages of modules that are gone."""
    for page in (ROOT / "pages" / "reference").glob("kexue.*.rst"):
        module = ROOT.joinpath(*page.stem.split("."))
        if not module.is_dir() and not module.with_suffix(".py").is_file():
            page.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    for name in ("chapters", "totals", "ledger", "verdicts"):
        app.add_directive(name, Generated)
    app.connect("doctree-resolved", mark_equations)
    app.connect("build-finished", ship_mathjax)
    app.connect("config-inited", drop_stale_reference)
    app.connect("autodoc-process-docstring", link_chapter)
    app.connect("autodoc-skip-member", skip_field)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
