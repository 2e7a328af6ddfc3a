"""The first screen of a chapter: title, a line of length, the opening beside the cover figure, *In short*, the card, the Chinese summary.

The author writes the first cell as plain Markdown (``chapter`` says how); ``arranged`` sets it for the page, and ``place_cover`` puts the
tagged figure beside the opening when the figures have their numbers.
"""

from __future__ import annotations

from collections import Counter

from docutils import nodes
from sphinx.application import Sphinx

from book_tools.chapter import CARD, SUMMARY, VERDICTS, Chapter

SHORT = "**In short**"
BRIEF = {
    "confirmed": "confirmed",
    "holds under a condition": "with a condition",
    "not reproduced at this scale": "not reproduced",
    "corrected": "corrected",
    "not tested here": "not tested",
}
DEPTHS = (
    ("text", "text only", "Prose, formulas, figures and results"),
    ("checks", "with the checks", "The checks too, and the code that a reader would change"),
    ("code", "all code", "Every cell, unfolded"),
)


def arranged(text: str, chapter: Chapter, more: dict[str, str]) -> str:
    """The first cell as the page shows it; ``more`` are further rows of the card."""
    title, _, _ = text.partition("\n")
    match = SUMMARY.search(text)
    after = text[match.end() :] if match else ""
    rows = {name: chapter.card[name] for name in CARD if chapter.card.get(name)} | {
        name: row for name, row in more.items() if row
    }
    blocks = [
        title,
        f"```{{raw}} html\n{length(chapter)}\n```",
        f"::::{{div}} hero\n:::{{div}} lead-in\n{chapter.opening}\n:::\n::::",
    ]
    bullets = "\n".join(f"- {bullet}" for bullet in chapter.in_short)
    blocks += [f":::{{div}} in-short\n{SHORT}\n\n{bullets}\n:::"] if bullets else []
    blocks.append("\n\n".join([":::{div} post-card", *(f"{name}\n: {row}" for name, row in rows.items()), ":::"]))
    if match:
        blocks += ['<details class="fold zh-summary" open><summary lang="zh">中文摘要</summary>', match[0], "</details>"]
    return "\n\n".join([*blocks, after.strip()]).strip()


def length(chapter: Chapter) -> str:
    """One quiet line, counted: what reading takes, what is executed, what became of the claims."""
    first = f"../../pages/ledger.html#ledger-{chapter.labels[0]}" if chapter.labels else ""
    told = [f"about {chapter.length.minutes} min", f'<a href="{first}">{chapter.length.displays} equations</a>']
    told += [f"{chapter.seconds} s of computing"] if chapter.seconds else []
    told += [f'<a href="#what-the-post-gets-right-and-where-we-differ">{judged([chapter])}</a>'] if chapter.verdicts else []
    told += ['<a href="#symbols">symbols</a>'] if chapter.symbols else []
    return '<ul class="chapter-meta">' + "".join(f"<li>{each}</li>" for each in told) + "</ul>"


def judged(chapters: list[Chapter]) -> str:
    """How many claims got which verdict."""
    counts = Counter(verdict.verdict for chapter in chapters for verdict in chapter.verdicts)
    return ", ".join(f"{counts[word]} {BRIEF[word]}" for word in VERDICTS if counts[word])


def switch() -> str:
    """How much of a chapter to show: radio buttons, seen only where a script can follow them (``book.js``)."""
    buttons = "".join(
        f'<label title="{told}"><input type="radio" name="depth" value="{value}"><span>{name}</span></label>'
        for value, name, told in DEPTHS
    )
    return f'<fieldset class="depth"><legend>How much to show</legend>{buttons}</fieldset>'


def place_cover(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Show the cover figure beside the opening, smaller, with the first sentence of its caption; it stays where it is drawn, too."""
    hero = next((box for box in doctree.findall(nodes.container) if "hero" in box["classes"]), None)
    cover = next((box for box in doctree.findall(nodes.container) if "tag_cover" in box["classes"]), None)
    picture = cover and next(iter(cover.findall(nodes.image)), None)
    if hero is None or cover is None or picture is None:
        return
    figure = picture.parent
    while not isinstance(figure, nodes.figure):
        figure = figure.parent
    name = str(figure["ids"][0])
    number = ".".join(map(str, app.env.toc_fignumbers.get(docname, {}).get("figure", {}).get(name, ())))
    link = nodes.reference("", f"Fig. {number}".strip(), internal=True, refuri=f"#{name}")
    legend = nodes.paragraph("", "", *first_sentence(figure), nodes.Text(" "), link)
    kind = ["hero-figure", *(["picture"] if "tag_picture" in cover["classes"] else [])]
    hero += nodes.container("", picture.deepcopy(), legend, classes=kind, is_div=True, design_component="div")


def first_sentence(figure: nodes.figure) -> list[nodes.Node]:
    """The caption of a figure up to its first full stop."""
    found: list[nodes.Node] = []
    for piece in next((list(caption.children) for caption in figure.findall(nodes.caption)), []):
        sentence, stop, _ = piece.astext().partition(". ") if isinstance(piece, nodes.Text) else ("", "", "")
        if stop:
            return [*found, nodes.Text(f"{sentence}.")]
        found.append(piece.deepcopy())
    return found
