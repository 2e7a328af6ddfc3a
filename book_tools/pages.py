"""Sphinx extension: the pages that the book generates from its stored chapters.

Each directive is Markdown made by one function below and parsed in place: ``{cards}``, ``{totals}``, ``{map}``, ``{ledger}``,
``{verdicts}``; of stored measurements, ``{speed}`` and ``{trust}`` (``evidence``). What is added to the chapters' own pages
stands in ``enrich``, what the site ships and links in ``site``.
"""

from __future__ import annotations

import functools
import hashlib
import html
import re
from typing import Any

import pybtex.plugin
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from book_tools import enrich, evidence, opening, site
from book_tools.chapter import ROOT, VERDICTS, Chapter, book
from kexue.lab.verification import Record

LEDGER = "pages/ledger"
STEP, LANE, WIDEST = 34, 22, 260  # of the map: pixels from chapter to chapter, from arc to arc at most, and of the widest arc
FEW = 12  # chapters whose map needs no fold
INTRODUCED = {
    "probability": "What noise buys and what it costs, and how far one gets with exact laws before anything is trained.",
    "functions": "A function approximated, smoothed or replaced by a cheaper one, and where the difference shows.",
    "losses": "What a loss asks for can be read off its formula and its gradient; here both are.",
    "optimization": "From a gradient to a step: what is remembered, what is rescaled, and what that does to training.",
    "representation": "How words and sentences become vectors, and what the wiring between them adds.",
    "generation": "From the probabilities of the next word to a text: what decoding, sampling and training make of them.",
    "attention": "Attention by itself sees no order and pays for every pair: how it is told where things are, and how it is made cheaper.",
}


def by_part(chapters: list[Chapter]) -> list[tuple[str, list[Chapter]]]:
    """The chapters of each part, in the order of the book."""
    parts: dict[str, list[Chapter]] = {}
    for chapter in chapters:
        parts.setdefault(chapter.name.split("/")[0], []).append(chapter)
    return list(parts.items())


def cards_markdown(chapters: list[Chapter]) -> str:
    """The chapters part by part, a card each: figure, titles, question, size, verdicts."""
    lines = []
    for part, members in by_part(chapters):
        lines += [
            f"## {part.capitalize()}",
            "",
            INTRODUCED[part],
            "",
            "::::::{grid} 1 2 2 3",
            ":gutter: 3",
            ":class-container: chapters",
            "",
        ]
        for chapter in members:
            lines += [
                f":::::{{grid-item-card}} {chapters.index(chapter) + 1}. {chapter.title}",
                f":link: /chapters/{chapter.name}",
                ":link-type: doc",
                f":img-top: {enrich.cover_path(chapter)}",
                f":img-alt: {chapter.cover_text}",
                *[":class-card: picture"] * ("picture" in chapter.covers[0]["metadata"]["tags"]),
                "",
                f'<span lang="zh">《{chapter.chinese_title}》</span>',
                "",
                chapter.question,
                "",
                "::::{card-footer}",
                f"about {chapter.length.minutes} min · {len(set(chapter.labels))} equations  ",
                opening.judged([chapter]),
                "::::",
                ":::::",
                "",
            ]
        lines += ["::::::", ""]
    return "\n".join(lines)


def totals_markdown(chapters: list[Chapter]) -> str:
    """One line: what has been executed in the whole book."""
    labels = sum(len(set(chapter.labels)) for chapter in chapters)
    checks = sum(len(chapter.checks) for chapter in chapters)
    claims = sum(len(chapter.verdicts) for chapter in chapters)
    figures = sum(len(chapter.drawings) for chapter in chapters)
    return (
        f"**{len(chapters)} chapters** · **[{labels} labelled equations]({LEDGER}.md)**, every one executed, by {checks} checks · "
        f"**{figures} figures**, redrawn and compared · **[{claims} claims judged](pages/verdicts.md)**: {opening.judged(chapters)}"
    )


def map_markdown(chapters: list[Chapter]) -> str:
    """Where to begin in each part; then which chapter builds on which, as arcs and as a list."""
    lines = ["| Part | Begin with | Then |", "|---|---|---|"]
    for part, members in by_part(chapters):
        begin = "<br>".join(numbered(chapters, chapter) for chapter in members if not chapter.builds_on)
        then = ", ".join(numbered(chapters, chapter, "") for chapter in members if chapter.builds_on)
        lines.append(f"| {part.capitalize()} | {begin} | {then} |")
    drawn = [*arcs(chapters), ""]
    lines += [
        "",
        *(drawn if len(chapters) <= FEW else evidence.folded(f"All {len(chapters)} chapters, and an arc for each step", drawn)),
    ]
    built = [f"- {{doc}}`/chapters/{c.name}` builds on {enrich.linked(c.builds_on)}." for c in chapters if c.builds_on]
    return "\n".join([*lines, *evidence.folded("The same as a list", built)])


def arcs(chapters: list[Chapter]) -> list[str]:
    """An arc from each chapter down to those that build on it."""
    names = [chapter.name for chapter in chapters]
    steps = [(names.index(before), names.index(chapter.name)) for chapter in chapters for before in chapter.builds_on]
    longest = max((b - a for a, b in steps), default=0)
    lane = min(LANE, WIDEST / max(1, longest))
    left = round(24 + lane * longest)
    rows = [
        '<div class="map" role="group" aria-label="Chapters, and what builds on what" tabindex="0">',
        f'<svg viewBox="0 0 {left + 600} {STEP * len(names)}">',
        '<marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker>',
    ]
    for a, b in steps:
        reach, top, end = round(left - 12 - lane * (b - a)), STEP * a + 18, STEP * b + 14
        rows.append(
            f'<path d="M{left - 8} {top} C{reach} {top} {reach} {end} {left - 8} {end}" marker-end="url(#tip)">'
            f"<title>{html.escape(chapters[b].title)} builds on {html.escape(chapters[a].title)}</title></path>"
        )
    for place, chapter in enumerate(chapters):
        rows.append(
            f'<a href="../chapters/{chapter.name}.html"><circle cx="{left}" cy="{STEP * place + 16}" r="5"/>'
            f'<text x="{left + 14}" y="{STEP * place + 21}">{place + 1}. {html.escape(chapter.title)}</text></a>'
        )
    return ["```{raw} html", *rows, "</svg>", "</div>", "```"]


def ledger_markdown(chapters: list[Chapter]) -> str:
    """How much each part checks; then, folded, every labelled equation with what checked it, a row per check."""
    lines = ["| Part | Chapters | Equations | Checks |", "|---|---:|---:|---:|"]
    for part, members in by_part(chapters):
        counts = len(members), sum(len(set(c.labels)) for c in members), sum(len(c.checks) for c in members)
        lines.append(f"| [{part.capitalize()}](#ledger-{part}) | {' | '.join(map(str, counts))} |")
    for part, members in by_part(chapters):
        lines += ["", f"(ledger-{part})=", f"## {part.capitalize()}", ""]
        for chapter in members:
            rows = ["| Equation | Label | Checked | Oracle |", "|---|---|---|---|"]
            for label in dict.fromkeys(chapter.labels):
                equation = f'<span id="ledger-{label}"></span>{{eq}}`{label}` | `{label}`'
                checks = dict.fromkeys(check for check in chapter.checks if check.label == label)
                for check in checks or [Record(label, "", "")]:
                    rows.append(f"| {equation} | {check.check or 'not executed'} | {check.oracle} |")
                    equation = " | "
            name = f"{_name(chapters, chapter)}: {len(set(chapter.labels))} equations, {len(chapter.checks)} checks"
            lines += evidence.folded(name, [f"Chapter {numbered(chapters, chapter)}", "", *rows], "chapter")
    return "\n".join(lines)


def verdicts_markdown(chapters: list[Chapter]) -> str:
    """How many claims of each part got which verdict; then, folded, the corrections (the errata) and all verdicts."""
    parts = by_part(chapters)
    lines = [f"| Part | Claims | {' | '.join(opening.BRIEF.values())} |", f"|---|---:|{'---:|' * len(VERDICTS)}"]
    for part, members in parts:
        rows = [row.verdict for chapter in members for row in chapter.verdicts]
        lines.append(
            f"| [{part.capitalize()}](#verdicts-{part}) | {len(rows)} | {' | '.join(str(rows.count(word)) for word in VERDICTS)} |"
        )
    lines += ["", "## Errata", ""]
    lines += ["Statements of posts and papers that we correct; each correction is derived and executed in its chapter.", ""]
    for part, members in parts:
        rows = []
        for chapter in members:
            link = f"{{doc}}`ch. {chapters.index(chapter) + 1} </chapters/{chapter.name}>`"
            rows += [
                f"| {row.claim} | {row.where}, {link} | {row.evidence} |"
                for row in chapter.verdicts
                if row.verdict == "corrected"
            ]
        name = f"{part.capitalize()}: {len(rows)} corrections"
        lines += evidence.folded(name, ["| Statement | Where | What is true |", "|---|---|---|", *rows]) if rows else []
    for part, members in parts:
        lines += ["", f"(verdicts-{part})=", f"## {part.capitalize()}", ""]
        for chapter in members:
            rows = ["| Claim | Where | Verdict | What decides |", "|---|---|---|---|"]
            rows += [f"| {row.claim} | {row.where} | {row.verdict} | {row.evidence} |" for row in chapter.verdicts]
            link = f"Chapter {numbered(chapters, chapter)}, on {chapter.card['Post']}."
            name = f"{_name(chapters, chapter)}: {opening.judged([chapter])}"
            lines += evidence.folded(name, [link, "", *rows], "chapter")
    return "\n".join(lines)


def numbered(chapters: list[Chapter], chapter: Chapter, title: str | None = None) -> str:
    """A link to a chapter that shows its number, and its title unless another is given."""
    number = chapters.index(chapter) + 1
    told = f"{number}. {chapter.title}" if title is None else f"{number}{title}"
    return f"{{doc}}`{told} </chapters/{chapter.name}>`"


def _name(chapters: list[Chapter], chapter: Chapter) -> str:
    return html.escape(f"{chapters.index(chapter) + 1}. {chapter.title}")


class Generated(SphinxDirective):
    """A directive whose content is Markdown made from all chapters."""

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        container.document = self.state.document
        text = PAGES[self.name](book())
        # What stands before the first heading would come after the last section: that is for {summary}.
        if self.name in SUMMED:
            text = "".join(f"\n{text}".partition("\n## ")[1:])
        self.state.nested_parse(StringList(text.splitlines(), source=self.name), 0, container, match_titles=True)
        return list(container.children)


class Summary(SphinxDirective):
    """``{summary} ledger``: what a generated page says before its first heading."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        container = nodes.container(classes=["summary"], is_div=True, design_component="div")
        text, _, _ = f"\n{PAGES[self.arguments[0]](book())}".partition("\n## ")
        self.state.nested_parse(StringList(text.splitlines(), source=self.name), 0, container)
        return [container]


def mistakes_markdown(chapters: list[Chapter]) -> str:
    """Where a reader tells of a mistake."""
    posts = "Mistakes of the posts that we found are listed under {doc}`/pages/verdicts`."
    if site.repository():
        where = f"[open an issue]({site.repository()}/issues/new) that names the page and the equation, or suggest an edit"
        return f"Please {where}. {posts}"
    return (
        "Please tell whoever gave you this copy, with the page and the equation; or, in a clone of the repository, correct the "
        f"notebook, run `make test` and propose the change as CONTRIBUTING.md describes. {posts}"
    )


PAGES = {
    "mistakes": mistakes_markdown,
    "cards": cards_markdown,
    "totals": totals_markdown,
    "map": map_markdown,
    "ledger": ledger_markdown,
    "verdicts": verdicts_markdown,
    "speed": evidence.speed_markdown,
    "trust": evidence.trust_markdown,
}


SUMMED = ("ledger", "verdicts", "trust")


def outdated(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The pages to be read again although their own text is as it was: what they show of other chapters has changed."""
    chapters = book()
    terms = (ROOT / f"{enrich.GLOSSARY}.md").read_text(encoding="utf-8")
    shown: dict[str, Any] = {}
    for docname in env.found_docs:
        source = ROOT / f"{docname}.md"
        if docname == "index":  # its cards show figures too
            shown[docname] = [(chapter.name, chapter.markdown, chapter.code, chapter.printed) for chapter in chapters]
        elif docname == enrich.GLOSSARY:
            shown[docname] = [(chapter.name, chapter.title, chapter.markdown) for chapter in chapters]
        elif docname.startswith("pages/reference/"):
            shown[docname] = [(chapter.name, chapter.title, chapter.imports) for chapter in chapters]
        elif docname.startswith("pages/") and source.is_file():
            directives = re.findall(r"(?m)^```\{(\w+)\}$", source.read_text(encoding="utf-8"))
            shown[docname] = [PAGES[name](chapters) for name in directives if name in PAGES]
    around = [(other.name, other.title, other.builds_on) for other in chapters]
    shown |= {f"chapters/{chapter.name}": (around, terms, enrich.citation(chapter)) for chapter in chapters}
    fresh = {docname: hashlib.sha256(repr(what).encode()).hexdigest() for docname, what in shown.items()}
    known = getattr(env, "kexue_shown", {})
    env.kexue_shown = fresh  # type: ignore[attr-defined]
    return [docname for docname, digest in fresh.items() if known.get(docname) != digest]


def drop_stale_reference(app: Sphinx, config: Any) -> None:
    """Remove the generated reference pages of modules that are gone."""
    for page in (ROOT / "pages" / "reference").glob("kexue.*.rst"):
        module = ROOT.joinpath(*page.stem.split("."))
        if not module.is_dir() and not module.with_suffix(".py").is_file():
            page.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    for name in PAGES:
        app.add_directive(name, Generated)
    app.add_directive("summary", Summary)
    app.connect("config-inited", drop_stale_reference)
    # Asked at every citation, and each time all installed packages are searched for the answer.
    pybtex.plugin.entry_points = functools.cache(pybtex.plugin.entry_points)
    app.connect("env-get-outdated", outdated)
    enrich.setup(app)
    site.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
