"""Sphinx extension: the pages that the book generates from its stored chapters.

Each directive is Markdown made by one function below and parsed in place: ``{cards}``, ``{totals}``, ``{map}``, ``{letters}``,
``{ledger}``, ``{verdicts}``; of stored measurements, ``{speed}`` and ``{trust}`` (``evidence``). What is added to the chapters' own pages
stands in ``enrich``, what the site ships and links in ``site``.
"""

from __future__ import annotations

import functools
import hashlib
import html
import re
from collections import Counter
from typing import Any

import pybtex.plugin
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from book_tools import enrich, evidence, site
from book_tools.chapter import ROOT, VERDICTS, Chapter, book
from book_tools.form import letters
from kexue.lab.verification import Record

LEDGER = "pages/ledger"
BRIEF = dict(zip(VERDICTS, ("confirmed", "conditional", "not reproduced", "corrected"), strict=True))
STEP, LANE = 34, 22  # of the map: pixels from chapter to chapter, and from arc to arc


def cards_markdown(chapters: list[Chapter]) -> str:
    """The chapters, a card each: figure, titles, question, part, size, time, verdicts."""
    lines = ["::::::{grid} 1 2 2 3", ":gutter: 3", ":class-container: chapters", ""]
    for place, chapter in enumerate(chapters, 1):
        lines += [
            f":::::{{grid-item-card}} {place}. {chapter.title}",
            f":link: /chapters/{chapter.name}",
            ":link-type: doc",
            f":img-top: {enrich.cover_path(chapter)}",
            f":img-alt: {chapter.cover_text}",
            "",
            f'<span lang="zh">《{chapter.chinese_title}》</span>',
            "",
            chapter.card["Question"],
            "",
            "::::{card-footer}",
            f"{chapter.name.split('/')[0].capitalize()} · {len(set(chapter.labels))} equations · {chapter.card['Runs in']}  ",
            _judged([chapter]),
            "::::",
            ":::::",
            "",
        ]
    return "\n".join([*lines, "::::::"])


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


def map_markdown(chapters: list[Chapter]) -> str:
    """Which chapter builds on which: an arc from each chapter down to those that use it, and the same as a list."""
    names = [chapter.name for chapter in chapters]
    arcs = [(names.index(before), names.index(chapter.name)) for chapter in chapters for before in chapter.builds_on]
    left = 24 + LANE * max((b - a for a, b in arcs), default=0)
    rows = [
        '<div class="map" role="group" aria-label="Chapters, and what builds on what" tabindex="0">',
        f'<svg viewBox="0 0 {left + 600} {STEP * len(names)}">',
        '<marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker>',
    ]
    for a, b in arcs:
        reach, top, end = left - 12 - LANE * (b - a), STEP * a + 18, STEP * b + 14
        rows.append(
            f'<path d="M{left - 8} {top} C{reach} {top} {reach} {end} {left - 8} {end}" marker-end="url(#tip)">'
            f"<title>{html.escape(chapters[b].title)} builds on {html.escape(chapters[a].title)}</title></path>"
        )
    for place, chapter in enumerate(chapters):
        rows.append(
            f'<a href="../chapters/{chapter.name}.html"><circle cx="{left}" cy="{STEP * place + 16}" r="5"/>'
            f'<text x="{left + 14}" y="{STEP * place + 21}">{place + 1}. {html.escape(chapter.title)}</text></a>'
        )
    lines = ["```{raw} html", *rows, "</svg>", "</div>", "```", ""]
    lines += [f"- {{doc}}`/chapters/{c.name}` builds on {enrich.linked(c.builds_on)}." for c in chapters if c.builds_on]
    return "\n".join(lines)


def letters_markdown(chapters: list[Chapter]) -> str:
    """The letters that mean different things in different chapters, each meaning with the numbers of its chapters."""
    uses: dict[str, dict[str, list[int]]] = {}
    for place, chapter in enumerate(chapters):
        for row in chapter.symbols:
            named, parts = letters(row.symbol), row.meaning.split("; ")
            meanings_of = parts if len(parts) == len(named) else [row.meaning] * len(named)
            for letter, meaning in dict.fromkeys(zip(named, meanings_of, strict=True)):
                uses.setdefault(letter, {}).setdefault(meaning, []).append(place)
    lines = ["| Letter | Meaning, and the chapters where it has it |", "|---|---|"]
    for letter, meanings in sorted(uses.items(), key=lambda item: (item[0].lstrip("\\").lower(), item[0])):
        if len(meanings) > 1 and len({place for places in meanings.values() for place in places}) > 1:
            told = (
                f"{meaning} ({', '.join(f'{{doc}}`{n + 1} </chapters/{chapters[n].name}>`' for n in dict.fromkeys(places))})"
                for meaning, places in meanings.items()
            )
            lines.append(f"| ${letter}$ | {' · '.join(told)} |")
    return "\n".join(lines)


def ledger_markdown(chapters: list[Chapter]) -> str:
    """Every labelled equation with what checked it, a row per check."""
    lines = []
    for place, chapter in enumerate(chapters, 1):
        lines += [*_heading(place, chapter), "| Equation | Label | Checked | Oracle |", "|---|---|---|---|"]
        for label in dict.fromkeys(chapter.labels):
            equation = f'<span id="ledger-{label}"></span>{{eq}}`{label}` | `{label}`'
            checks = dict.fromkeys(check for check in chapter.checks if check.label == label)
            for check in checks or [Record(label, "", "")]:
                lines.append(f"| {equation} | {check.check or 'not executed'} | {check.oracle} |")
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
        link = f"({{doc}}`ch. {chapters.index(chapter) + 1} </chapters/{chapter.name}>`)"
        lines += [f"| {row.claim} {link} | {row.evidence} |" for row in chapter.verdicts if row.verdict == "corrected"]
    for place, chapter in enumerate(chapters, 1):
        lines += [
            "",
            *_heading(place, chapter),
            f"The post: {chapter.card['Post']}.",
            "",
            "| Claim | Verdict | What decides |",
            "|---|---|---|",
        ]
        lines += [f"| {row.claim} | {_marked(row.verdict)} | {row.evidence} |" for row in chapter.verdicts]
    return "\n".join(lines)


def _marked(verdict: str) -> str:
    brief = BRIEF.get(verdict, verdict)
    return f'<span class="verdict verdict-{brief.replace(" ", "-")}">{verdict}</span>'


def _heading(place: int, chapter: Chapter) -> list[str]:
    return [f"## {place}. {chapter.title}", "", f"{{doc}}`Read the chapter </chapters/{chapter.name}>`", ""]


class Generated(SphinxDirective):
    """A directive whose content is Markdown made from all chapters."""

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        container.document = self.state.document
        lines = StringList(PAGES[self.name](book()).splitlines(), source=self.name)
        self.state.nested_parse(lines, 0, container, match_titles=True)
        return list(container.children)


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
    "letters": letters_markdown,
    "ledger": ledger_markdown,
    "verdicts": verdicts_markdown,
    "speed": evidence.speed_markdown,
    "trust": evidence.trust_markdown,
}


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
    app.connect("config-inited", drop_stale_reference)
    # Asked at every citation, and each time all installed packages are searched for the answer.
    pybtex.plugin.entry_points = functools.cache(pybtex.plugin.entry_points)
    app.connect("env-get-outdated", outdated)
    enrich.setup(app)
    site.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
