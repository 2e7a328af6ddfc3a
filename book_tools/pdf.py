"""The whole book as one PDF, or a part of it, or a chapter: the built pages put together in one document, which a headless Chromium prints.

Title page, contents, then every page of the table of contents in its order (a chapter alone has neither title page nor contents). Part by
part is printed, for a browser that lays out the whole book at once needs many times the memory, and the pieces are bound; the title page
with the contents comes last, when the page numbers are known. Every id carries the name of its page, so that links between pages stay
links. What a page folds away is decided here: solutions and remarks are open, with the code that shows something; other folded code is
left out. The browser is served this document and the files of the site; any other request is an error.
"""

from __future__ import annotations

import html
import io
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag
from playwright.sync_api import Browser, Route
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, NullObject, TextStringObject

from book_tools import browser

ORIGIN = "http://kexue.invalid/"
INSIDE = "http://inside.invalid/"  # how a link to another piece is printed, until the pieces are bound
PIECE = "<!-- piece -->"  # between title page with contents, and parts
STYLE = Path(__file__).with_name("assets") / "print.css"
WIDTH = 596  # pixels: the text block of print.css, 158 mm
NO_CHINESE = "no font with Chinese characters found; Debian and Ubuntu: apt-get install fonts-noto-cjk"
NOTE = "In print, folded solutions and remarks are open; folded code (imports, drawing, helpers) is left out."
CHINESE = "[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]"
DROPPED = (
    "div.cell:has(> details):not(:has(.cell_output)), .tag_hide-input details, summary, "
    "a.headerlink, a:has(> .viewcode-link), .backrefs, .toctree-wrapper, script, button"
)
# Every tag weighs in a PDF; those of code that the style sheet leaves black are a third of all.
PLAIN = "details, pre span:is(.n, .o, .p, .w), code > span.pre"

# A character that no font has looks like one that no font can have.
UNPRINTABLE = """chinese => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const ink = c => { pen.reset(); pen.font = "24px serif"; pen.fillText(c, 9, 40); return pen.canvas.toDataURL(); };
  const nothing = ink("\\u{10ffff}");
  return [...new Set(document.body.textContent.match(new RegExp(chinese, "gu")))].filter(c => ink(c) === nothing);
}"""
# Wide formulas and tables are set smaller; what still stands out of the text block is returned.
FIT = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  const shrink = (box, inner, room) => {
    const ratio = room / inner.getBoundingClientRect().width;
    if (ratio < 1) box.style.fontSize = 0.99 * ratio * parseFloat(getComputedStyle(box).fontSize) + "px";
  };
  for (const box of document.querySelectorAll("mjx-container")) {
    if (box.hasAttribute("display")) shrink(box, box.firstElementChild, box.clientWidth);
    else shrink(box, box, box.closest("td, th, li, dd, p, div").clientWidth);
  }
  for (const table of document.querySelectorAll("table")) shrink(table, table, table.parentElement.clientWidth);
  const edge = document.body.getBoundingClientRect().right + 1;
  return [...document.querySelectorAll("article *:not(mjx-assistive-mml, mjx-assistive-mml *)")]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > edge)
    .map(e => `${e.closest("article").id}: ${e.localName} ${e.textContent.trim().slice(0, 60)}`);
}"""
FILL = """pages => document.querySelectorAll("nav.book-contents a").forEach(a => {
  a.lastElementChild.textContent = pages[decodeURIComponent(a.hash.slice(1))];
})"""

# Of the site only: on paper their names stand without a link.
ONLINE = re.compile(r"(genindex|py-modindex|search)\.html|_(static|sources|downloads|images)/.*")


class Entry(NamedTuple):
    """A page of the book: its address in the site, title, depth in the table of contents, the part that begins with it, or goes on."""

    page: str
    title: str = ""
    depth: int = 0
    part: str = ""
    within: str = ""


def parse(text: str) -> BeautifulSoup:
    return BeautifulSoup(text, "html.parser")


def order(index: BeautifulSoup) -> list[Entry]:
    """All pages after the first, in the order of the book, as its sidebar lists them."""
    entries, part, within = [], "", ""
    for tag in index.select("nav.bd-links p.caption, nav.bd-links li > a"):
        if tag.name == "p":
            part = within = tag.get_text(strip=True)
        else:
            entries.append(Entry(str(tag["href"]), tag.get_text(strip=True), len(tag.find_parents("li")), part, within))
            part = ""
    return entries


def chosen(entries: list[Entry], what: str) -> list[Entry]:
    """The pages of a part or of one chapter, ``part/slug``; all where nothing is named. ValueError where the book has no such thing."""
    if not what:
        return entries
    found = [
        entry for entry in entries if what in (entry.within.lower(), entry.page.removeprefix("chapters/").removesuffix(".html"))
    ]
    if not found:
        raise ValueError(f"{what} is neither a part nor a chapter of the built book")
    return found


def anchor(page: str, fragment: str = "") -> str:
    """The id, in the one document, of a page or of a place in it."""
    return page.removesuffix(".html") + (f":{unquote(fragment)}" if fragment else "")


def article(soup: BeautifulSoup, entry: Entry, pages: set[str], book: set[str] | None = None) -> Tag:
    """The text of a page as part of the one document: ids and links renamed, headings lowered, nothing to click or unfold.

    A link to a page of the book that is not among the ``pages`` printed with it becomes text, as does one to a file of the site.
    """
    found = soup.find("article")
    if not isinstance(found, Tag):
        raise ValueError(f"{entry.page} has no article")
    for tag in found.select(DROPPED):
        tag.decompose()
    for tag in found.select(PLAIN):
        tag.unwrap()
    for tag in found.find_all("pre"):
        if tag.get_text().count("\n") < (24 if tag.find_parent(class_="cell_output") else 12):
            tag["class"] = "short"
    for tag in found.select("span.math"):  # no line begins with the comma after a formula
        rest = tag.next_sibling
        if isinstance(rest, NavigableString) and (comma := re.match(r"[^\s\w]+", rest)):
            rest.replace_with(rest[comma.end() :])
            tag.wrap(soup.new_tag("span", attrs={"class": "unbroken"})).append(comma[0])
    for tag in found.select("[id]:not(svg *)"):
        tag["id"] = anchor(entry.page, str(tag["id"]))
    for tag in found.find_all("img"):
        tag["src"] = urljoin(entry.page, str(tag["src"]))
    for tag in found.find_all("a", href=True):
        target = urlsplit(urljoin(entry.page, str(tag["href"])))
        if not target.scheme and (ONLINE.fullmatch(target.path) or target.path in (book or pages) - pages):
            tag.unwrap()
            continue
        if not target.scheme and target.path not in pages:
            raise ValueError(f"{entry.page} links to {tag['href']}, which is no page of the book")
        if not target.scheme:
            tag["href"] = f"#{anchor(target.path, target.fragment)}"
    for tag in found.find_all(re.compile("^h[1-6]$")):
        tag.name = f"h{min(6, int(tag.name[1]) + entry.depth)}"
    found["id"] = anchor(entry.page)
    return found


def contents(entries: list[Entry], articles: list[Tag]) -> str:
    """The table of contents, with room for the page numbers: parts, pages, and of chapters the sections."""
    lines = ['<nav class="book-contents"><h1>Contents</h1>']
    for entry, tag in zip(entries, articles, strict=True):
        rows = [(entry.depth, tag["id"], html.escape(entry.title))]
        if entry.page.startswith("chapters/"):
            rows += [(2, heading.parent["id"], heading.decode_contents()) for heading in tag.find_all("h3") if heading.parent]
        lines += [f'<p class="part">{html.escape(entry.part)}</p>'] if entry.part else []
        lines += [f'<a class="depth{depth}" href="#{id}"><span>{title}</span><span>000</span></a>' for depth, id, title in rows]
    return "".join([*lines, "</nav>"])


def running_title(page: str, place: str, text: str) -> str:
    return f"@page {page} {{ @{place} {{ content: {json.dumps(text, ensure_ascii=False)} }} }}\n"


def mathjax(soup: BeautifulSoup, page: str) -> str:
    """The scripts that set the formulas of a page; nothing if it has none."""
    source = soup.select_one('script[src*="mathjax"]')
    config = "".join(str(tag) for tag in soup.find_all("script") if "window.MathJax" in tag.text)
    return f'{config}<script src="{urljoin(page, str(source["src"]))}" defer></script>' if source else ""


def assemble(site: Path, what: str = "") -> str:
    """The one document, of the book or of a part or chapter; ValueError where a link leads to nothing."""
    index = parse((site / "index.html").read_text(encoding="utf-8"))
    everything = order(index)
    entries = chosen(everything, what)
    book = {"index.html", *(entry.page for entry in everything)}
    pages = {entry.page for entry in entries} | (set() if what else {"index.html"})
    title = next(index.select_one("article").stripped_strings)  # type: ignore[union-attr]
    front = cover(index, title, book, entries[0].within if what and "/" not in what else "") if "/" not in what else None
    articles: list[Tag] = []
    name, style = "", STYLE.read_text(encoding="utf-8") + running_title("", "top-left", title)
    scripts = mathjax(index, "index.html")
    for entry in entries:
        soup = parse((site / entry.page).read_text(encoding="utf-8"))
        scripts = scripts or mathjax(soup, entry.page)
        tag = article(soup, entry, pages, book)
        if entry.depth == 1:  # what lies deeper goes on after it, under the same running title
            name = f"page{len(articles)}"
            style += running_title(name, "top-right", entry.title)
        tag["style"] = f"page: {name}"
        if entry.part:
            tag.insert(0, parse(f'<h1 class="part">{html.escape(entry.part)}</h1>'))
        articles.append(tag)
    parts = [
        f"{PIECE * bool(entry.part and (front or tag is not articles[0]))}{tag}"
        for entry, tag in zip(entries, articles, strict=True)
    ]
    body = "".join([*([str(front), contents(entries, articles)] if front else []), *parts])
    missing = set(re.findall(r'\bhref="#([^"]+)"', body)) - set(re.findall(r'\bid="([^"]+)"', body))
    if missing:
        raise ValueError(f"links to what is not in the book: {', '.join(sorted(missing))}")
    sheets = "".join(f'<link rel="stylesheet" href="{link["href"]}">' for link in index.select('link[rel="stylesheet"]'))
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"{sheets}<style>{style}</style>{scripts}</head><body>{body}</body></html>"
    )


def cover(index: BeautifulSoup, title: str, book: set[str], part: str) -> Tag:
    """The title page: the front page of the site, or of a part its name; with the imprint."""
    if part:
        page = parse(f'<article id="index"><h1>{html.escape(part)}</h1><p>{html.escape(title)}</p></article>')
        front = page.article
        assert front is not None
    else:
        front = article(index, Entry("index.html"), book)
    front["class"] = "bd-article cover"
    imprint = [*(tag.get_text(" ", strip=True) for tag in index.select(".footer-item")), NOTE]
    lines = parse("".join(f'<p class="imprint">{html.escape(line)}</p>' for line in imprint if line))
    chapters = front.select_one(".chapters, section > section")
    (chapters.insert_before if chapters else front.append)(lines)
    return front


def render(document: str, site: Path) -> bytes:
    """The document printed, with page numbers in its contents; ValueError for a request beyond the site and for what would be cut off."""
    head, _, body = document.partition("<body>")
    texts = body.removesuffix("</body></html>").split(PIECE)
    if len(texts) == 1:
        with browser.launch() as chromium:
            return printed(chromium, document, site)
    wanted = set(re.findall(r'\bhref="#([^"]+)"', body))
    title = re.search(r"<title>(.*?)</title>", head)
    usual = (
        f"@page :first {{ @top-left {{ content: {json.dumps(html.unescape(title[1] if title else ''), ensure_ascii=False)} }} "
    )
    usual += "@bottom-center { content: counter(page) } }"

    def piece(text: str, before: int) -> str:
        """A document of its own: links lead out of it, and each place that is linked to from anywhere can be found in it."""
        own = [f'<a href="#{name}"></a>' for name in dict.fromkeys(re.findall(r'\bid="([^"]+)"', text)) if name in wanted]
        style = f"<style>html {{ counter-reset: page {before} }} {usual}</style>" if before else ""
        away = text.replace('href="#', f'href="{INSIDE}#')
        return f"{head}{style}<body>{away}<nav hidden>{''.join(own)}</nav></body></html>"

    with browser.launch() as chromium:
        front = PdfReader(io.BytesIO(printed(chromium, piece(texts[0], 0), site)))
        parts, count = list[PdfReader](), len(front.pages)
        for text in texts[1:]:
            parts.append(PdfReader(io.BytesIO(printed(chromium, piece(text, count), site))))
            count += len(parts[-1].pages)
        before, numbers = len(front.pages), dict[str, int]()
        for part in parts:
            numbers |= {name: number + before for name, number in places(part).items()}
            before += len(part.pages)
        final = PdfReader(io.BytesIO(printed(chromium, piece(texts[0], 0), site, numbers)))
    if len(final.pages) != len(front.pages):
        raise ValueError("the page numbers of the contents move the pages")
    return bound([final, *parts])


def printed(chromium: Browser, document: str, site: Path, numbers: dict[str, int] | None = None) -> bytes:
    """What the browser prints of one document, with the page numbers of its contents where they are known."""
    strays: list[str] = []

    def serve(route: Route) -> None:
        path = site / unquote(urlsplit(route.request.url).path).lstrip("/")
        if route.request.url == ORIGIN:
            route.fulfill(body=document, content_type="text/html; charset=utf-8")
        elif route.request.url.startswith(ORIGIN) and path.is_file():
            route.fulfill(path=path)
        else:
            strays.append(route.request.url)
            route.abort()

    page = chromium.new_page(viewport={"width": WIDTH, "height": 1000})
    try:
        page.route("**/*", serve)
        page.emulate_media(media="print", color_scheme="light")
        page.goto(ORIGIN, timeout=0)
        if page.evaluate(UNPRINTABLE, CHINESE):
            raise ValueError(NO_CHINESE)
        cut = page.evaluate(FIT)
        if strays or cut:
            raise ValueError(
                "\n".join([*(f"not in the site: {url}" for url in strays), *(f"wider than a page: {what}" for what in cut)])
            )
        if numbers:
            page.evaluate(FILL, numbers)
        return page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
    finally:
        page.close()  # and its memory is free for the next piece


def bound(pieces: list[PdfReader]) -> bytes:
    """The pieces in one file: outlines one after the other, and links between them as links."""
    writer, before = PdfWriter(), 0
    targets: dict[str, tuple[int, Any, Any]] = {}
    for piece in pieces:
        for name, place in piece.named_destinations.items():
            number = piece.get_destination_page_number(place)
            if number is not None:
                targets[str(name).removeprefix("/")] = number + before, place.left, place.top
        writer.append(piece, import_outline=True)
        before += len(piece.pages)
    writer.get_named_dest_root().clear()  # their pages were counted in the pieces
    for name, (number, left, top) in sorted(targets.items()):
        where = [writer.pages[number].indirect_reference, NameObject("/XYZ"), left, top, NullObject()]
        writer.add_named_destination_array(TextStringObject(name), ArrayObject(where))
    for page in writer.pages:
        kept = ArrayObject()
        for each in page.get("/Annots", ()):
            note = each.get_object()
            address = str(note.get("/A", {}).get("/URI", ""))
            name = unquote(address.partition("#")[2])
            if address.startswith(INSIDE):
                del note["/A"]
                note[NameObject("/Dest")] = TextStringObject(name)
            if not address.startswith(INSIDE) or name in targets:  # what stands in folded text is on no page
                kept.append(each)
        page[NameObject("/Annots")] = kept
    writer.compress_identical_objects()
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def places(pdf: PdfReader) -> dict[str, int]:
    """The page number of every id that something links to."""
    found = {
        str(name).removeprefix("/"): pdf.get_destination_page_number(place) for name, place in pdf.named_destinations.items()
    }
    return {name: number + 1 for name, number in found.items() if number is not None}


def make(site: Path, what: str = "", target: Path | None = None) -> int:
    """Print the built book, a part or a chapter beside the site; what is in the way is said in one line."""
    start = time.monotonic()
    target = target or site.with_name(f"kexue{'-' * bool(what)}{what.replace('/', '-')}.pdf")
    try:
        if browser.find() is None:
            raise ValueError(browser.MISSING)
        if not (site / "index.html").is_file():
            raise ValueError(f"no built book in {site}: make book comes first")
        pdf = render(assemble(site, what), site)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    unfinished = target.with_suffix(".unfinished")
    unfinished.write_bytes(pdf)
    unfinished.replace(target)
    pages = len(PdfReader(io.BytesIO(pdf)).pages)
    printed = f"{what} is" if what else "The book is"
    print(f"{printed} printed: {target}, {pages} pages, {len(pdf) / 1e6:.1f} MB, {time.monotonic() - start:.0f} s.")
    return 0
