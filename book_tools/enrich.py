"""What the build adds to the chapters and to the reference: neighbours in the card, marks beside equations, links to the glossary.

The stored notebooks stay as their authors wrote them; everything here is derived from them, and so never out of date.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import yaml
from docutils import nodes
from PIL import Image
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from book_tools import cells, notebooks, opening, site
from book_tools.chapter import ROOT, Chapter, book, contents
from book_tools.form import CHINESE

COVERS = ROOT / "_build" / "covers"
COVER_WIDTH = 660  # twice what a card shows
GLOSSARY = "pages/glossary"
OPENING, CLOSING = re.compile(r"[(\[“‘]*$"), re.compile(r"[)\],.;:!?”’…%]*(?:-\w+)?")  # what touches a formula in a line
MANY_USES = 4  # chapters under an entry of the glossary, above which they are folded
CLOSED = (  # no term is linked in here
    *(nodes.table, nodes.reference, nodes.literal, nodes.math, nodes.title, nodes.footnote, nodes.citation, nodes.raw),
    *(addnodes.pending_xref, nodes.caption),
)


def linked(names: Iterable[str]) -> str:
    """Links to chapters, as Markdown."""
    return " · ".join(f"{{doc}}`/chapters/{name}`" for name in names)


def used_by(chapter: Chapter, chapters: list[Chapter]) -> list[str]:
    return [other.name for other in chapters if chapter.name in other.builds_on]


def complete(notebook: notebooks.Notebook, chapter: Chapter, chapters: list[Chapter]) -> None:
    """Set the first screen, with who uses the chapter and what stands before and after it; at the end, how to cite it."""
    names = [other.name for other in chapters]
    place = names.index(chapter.name)
    users = used_by(chapter, chapters)
    more = f" and {{doc}}`{len(users) - 3} more </pages/map>`" if len(users) > 3 else ""
    rows = {"Used by": linked(users[:3]) + more, "Read on": ""}
    before, after = names[place - 1 : place] if place else [], names[place + 1 : place + 2]
    rows["Read on"] = " · ".join([f"← {linked(before)}"] * bool(before) + [f"{linked(after)} →"] * bool(after))
    first = notebook["cells"][0]
    first["source"] = opening.arranged(notebooks.source(first), chapter, rows)
    last = notebook["cells"][-1]
    last["source"] = notebooks.source(last) + "\n\n" + citation(chapter)


def citation(chapter: Chapter) -> str:
    """How to cite the chapter, and where to tell of a mistake."""
    book_ = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors, year = ", ".join(author["name"] for author in book_["authors"]), str(book_["date-released"])[:4]
    address = f", <{site.address()}chapters/{chapter.name}.html>" if site.address() else ""
    return (
        f"**Cite this chapter** as: {authors}, “{chapter.title}”, in *{book_['title'].split(':')[0]}*, "
        f"version {book_['version']}, {year}{address}. **Found a mistake?** {{ref}}`Tell us <mistakes>`."
    )


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    if docname.startswith("chapters/"):
        notebook = json.loads(content[0])
        complete(notebook, Chapter.load(docname.removeprefix("chapters/")), book())
        content[0] = json.dumps(notebook)


def cover_path(chapter: Chapter) -> str:
    """The chapter's figure for the front page, made small; its path from the root of the book."""
    path = COVERS / f"{chapter.name.replace('/', '-')}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(chapter.cover)) as image:
        size = COVER_WIDTH, round(image.height * COVER_WIDTH / image.width)
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(128).save(path, optimize=True)
    return f"/{path.relative_to(ROOT).as_posix()}"


def glossary_terms(env: BuildEnvironment) -> dict[str, str]:
    """The terms of the glossary in small letters, and the anchor of their entry there."""
    entries = env.get_doctree(GLOSSARY).findall(nodes.definition_list_item)
    named = [list(entry.findall(nodes.term)) for entry in entries]
    return {term.astext().lower(): str(terms[0]["ids"][0]) for terms in named for term in terms}


def first_uses(doctree: nodes.document, terms: dict[str, str]) -> list[tuple[nodes.Text, list[tuple[re.Match[str], str]]]]:
    """Where each entry of the glossary is first used in running text: the texts, and in each the matches with their anchors."""
    found: list[tuple[nodes.Text, list[tuple[re.Match[str], str]]]] = []
    seen: set[str] = set()
    words = "|".join(re.escape(term).replace(r"\ ", r"\s+") for term in sorted(terms, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])({words})s?(?![\w-])", re.IGNORECASE)
    for paragraph in doctree.findall(nodes.paragraph):
        if (
            _inside(paragraph, doctree)
            or CHINESE.search(paragraph.astext())
            or paragraph.astext().startswith("Cite this chapter")
        ):
            continue
        _join_lines(paragraph)
        for text in paragraph.findall(nodes.Text):
            matches = []
            for match in () if _inside(text, paragraph) else pattern.finditer(text.astext()):
                anchor = terms[" ".join(match[1].lower().split())]
                matches += [(match, anchor)] * (anchor not in seen)
                seen.add(anchor)
            found += [(text, matches)] * bool(matches)
    return found


def _join_lines(paragraph: nodes.paragraph) -> None:
    """MyST makes a text of each line; a term may run over the end of one."""
    for parent in (paragraph, *paragraph.findall(nodes.strong), *paragraph.findall(nodes.emphasis)):
        joined: list[nodes.Node] = []
        for child in parent.children:
            if joined and isinstance(child, nodes.Text) and isinstance(joined[-1], nodes.Text):
                joined[-1] = nodes.Text(joined[-1].astext() + child.astext())
            else:
                joined.append(child)
        parent.children = []
        parent += joined


def _inside(node: nodes.Node, top: nodes.Node) -> bool:
    while node is not top and node is not None:
        if isinstance(node, CLOSED):
            return True
        node = node.parent
    return False


def link_glossary(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """In chapters: the first use of each term leads to the glossary. In the glossary: each entry leads to these places."""
    if app.builder.format != "html" or not (docname.startswith("chapters/") or docname == GLOSSARY):
        return
    terms = glossary_terms(app.env)
    if docname.startswith("chapters/"):
        page = app.builder.get_relative_uri(docname, GLOSSARY)
        for text, matches in first_uses(doctree, terms):
            pieces: list[nodes.Node] = []
            end = 0
            for match, anchor in matches:
                link = {"refuri": f"{page}#{anchor}", "classes": ["term"], "ids": [f"use-{anchor}"]}
                pieces += [nodes.Text(text.astext()[end : match.start()]), nodes.reference("", match[0], internal=True, **link)]
                end = match.end()
            text.parent.replace(text, [*pieces, nodes.Text(text.astext()[end:])])
    elif docname == GLOSSARY:
        uses: dict[str, list[Chapter]] = {}
        for chapter in book():
            for _, matches in first_uses(app.env.get_doctree(f"chapters/{chapter.name}"), terms):
                for _, anchor in matches:
                    uses.setdefault(anchor, []).append(chapter)
        arrange_glossary(doctree, terms, uses, lambda name: app.builder.get_relative_uri(docname, f"chapters/{name}"))


def arrange_glossary(
    doctree: nodes.document, terms: dict[str, str], uses: dict[str, list[Chapter]], address: Callable[[str], str]
) -> None:
    """The terms by the part that uses them first, as links; then the entries, a fold for each letter, with the chapters that use them."""
    parts: dict[str, list[nodes.reference]] = {name.split("/")[0]: [] for name in contents()}
    for listing in list(doctree.findall(nodes.definition_list)):
        letters: dict[str, list[nodes.Node]] = {}
        for entry in list(listing.children):
            term = first_term(entry)
            anchor = terms[term.lower()]
            line = nodes.paragraph("", "", nodes.Text("In: "), classes=["uses"])
            for chapter in uses.get(anchor, []):
                line += [nodes.Text(" · ")] * (len(line.children) > 1)
                line += nodes.reference("", chapter.title, internal=True, refuri=f"{address(chapter.name)}#use-{anchor}")
            many = len(uses.get(anchor, [])) > MANY_USES
            next(entry.findall(nodes.definition)).append(
                cells.Fold("", line, name=f"In {len(uses[anchor])} chapters") if many else line
            )
            if uses.get(anchor):
                link = nodes.reference("", term, internal=True, refuri=f"#{anchor}")
                parts.setdefault(uses[anchor][0].name.split("/")[0], []).append(link)
            letters.setdefault(term[0].upper(), []).append(entry)
        folds = [
            cells.Fold(
                "",
                nodes.definition_list("", *entries, classes=listing["classes"]),
                name=f"{letter}: {', '.join(map(first_term, entries))}",
            )
            for letter, entries in letters.items()
        ]
        listing.parent.replace(listing, [*by_part(parts), nodes.paragraph("", "All terms:"), *folds])


def first_term(entry: nodes.definition_list_item) -> str:
    return str(next(entry.findall(nodes.term)).astext())


def by_part(parts: dict[str, list[nodes.reference]]) -> list[nodes.Node]:
    """Links to the terms that each part of the book uses first, folded."""
    found: list[nodes.Node] = [nodes.paragraph("", "By the part that uses a term first:")]
    for part, links in parts.items():
        line = nodes.paragraph()
        for link in links:
            line += [nodes.Text(" · ")] * bool(line.children)
            line += link
        found.append(cells.Fold("", line, name=f"{part.capitalize()} ({len(links)})"))
    return found


def link_chapters(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """In the reference: a module leads to the chapter that explains it, a function or class to the chapters that use it."""
    module, _, short = name.rpartition(".")
    if what == "module":
        chapter = name.removeprefix("kexue.").replace(".", "/")
        lines += ["", f"Explained in :doc:`/chapters/{chapter}`."] if chapter in contents() else []
    else:
        users = [
            chapter.name
            for chapter in book()
            if any(short in taken and owns(module, of) for of, taken in chapter.imports.items())
        ]
        lines += ["", "Used in " + ", ".join(f":doc:`/chapters/{name}`" for name in users) + "."] if users else []


def owns(module: str, source: str) -> bool:
    """Whether ``from source import`` reaches the module itself, or the package that re-exports it."""
    return module == source or (source == "kexue.lab" and module.startswith("kexue.lab."))


def skip_field(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a record are described in its docstring; Python's own line about each says nothing."""
    return True if str(getattr(thing, "__doc__", "")).startswith("Alias for field number") else None


def hold_together(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """``1.3 ± 0.3`` stays in one line, and so do a formula in a line and the punctuation that touches it."""
    if app.builder.format != "html":
        return
    for text in [text for text in doctree.findall(nodes.Text) if " ± " in text]:
        if not isinstance(text.parent, (nodes.literal, nodes.literal_block)):
            text.parent.replace(text, nodes.Text(text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")))
    for formula in list(doctree.findall(nodes.math)):
        line = formula.parent
        place = line.index(formula)
        around = []
        for neighbour, pattern in ((place - 1, OPENING), (place + 1, CLOSING)):
            text = line[neighbour] if 0 <= neighbour < len(line) else None
            touching = ""
            if isinstance(text, nodes.Text) and (found := pattern.search(text)):
                touching = found[0]
                line[neighbour] = nodes.Text(text[: found.start()] + text[found.end() :])
            around.append(nodes.Text(touching))
        if any(around):
            line[place] = nodes.inline("", "", around[0], formula, around[1], classes=["held"])


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_source)
    cells.setup(app)
    app.connect("doctree-resolved", opening.place_cover)
    app.connect("doctree-resolved", link_glossary)
    app.connect("doctree-resolved", hold_together)
    app.connect("autodoc-process-docstring", link_chapters)
    app.connect("autodoc-skip-member", skip_field)
