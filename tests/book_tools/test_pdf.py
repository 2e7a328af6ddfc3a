"""Printing the book. The whole book is printed by ``make pdf``; here a site of three small pages is, where there is a Chromium."""

import io
import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest
from pypdf import PdfReader

from book_tools import browser, pdf
from book_tools.building import SITE
from book_tools.chapter import Chapter, contents


def lacking():
    """What this machine lacks to print, in one line."""
    if browser.find() is None:
        return browser.MISSING
    fonts = ["fc-list", ":lang=zh"]
    return "" if not shutil.which(fonts[0]) or subprocess.check_output(fonts) else pdf.NO_CHINESE


LACKING = lacking()
can_print = pytest.mark.skipif(bool(LACKING), reason=LACKING)

SIDEBAR = """
<nav class="bd-links"><p class="caption">Numbers</p><ul><li><a href="chapters/one.html">1. One &amp; all</a></li></ul>
<p class="caption">Reference</p><ul><li><a href="pages/api.html">The package</a><details><summary>+</summary><ul>
<li><a href="pages/reference/two.html">two</a></li></ul></details></li></ul></nav>"""
INDEX = f"""<html><head></head><body>{SIDEBAR}<article class="bd-article"><section id="book">
<h1>A book<a class="headerlink" href="#book">#</a></h1>
<p>It has a <a href="chapters/one.html#equation-eq-one">formula</a>.</p></section></article>
<div class="footer-item">By us</div><div class="footer-item"> </div></body></html>"""
CHAPTER = r"""<html><head><script>window.MathJax = {"options": {"enableMenu": false}}</script>
<script defer="defer" src="../_static/mathjax/tex-chtml-full.js"></script></head><body><article class="bd-article"><section id="one">
<h1>One<a class="headerlink" href="#one">#</a></h1><p>From <span lang="zh">科学空间</span>, with <span class="math">\(x\)</span>, so.</p>
<section id="why"><h2>Why <em>so</em></h2>
<div class="math" id="equation-eq-one"><span class="eqno">(1.1)</span>\[ \sum_{i=1}^n i=\tfrac12n(n+1) \]</div>
<p>See <a href="../pages/api.html#why">there</a>, <a href="#why">here</a> and <a href="https://kexue.fm">elsewhere</a>.</p></section></section>
</article></body></html>"""
API = '<article class="bd-article"><section id="api"><h1>The package</h1><section id="why"><h2>Why</h2></section></section></article>'
DEEP = '<article class="bd-article"><section id="two"><h1>two</h1><p><a href="../api.html">up</a></p></section></article>'


@pytest.fixture
def site(tmp_path):
    pages = {"index": INDEX, "chapters/one": CHAPTER, "pages/api": API, "pages/reference/two": DEEP}
    for name, text in pages.items():
        path = tmp_path / "site" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "site"


def change(site, page, old, new):
    path = site / page
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def printed(text, page="chapters/one.html", pages=("chapters/one.html",)):
    return str(pdf.article(pdf.parse(f"<article>{text}</article>"), pdf.Entry(page, depth=1), set(pages)))


def test_pages_stand_in_the_order_of_the_sidebar(site):
    entries = pdf.order(pdf.parse(INDEX))
    assert entries == [
        pdf.Entry("chapters/one.html", "1. One & all", 1, "Numbers", "Numbers"),
        pdf.Entry("pages/api.html", "The package", 1, "Reference", "Reference"),
        pdf.Entry("pages/reference/two.html", "two", 2, "", "Reference"),
    ]
    text = pdf.assemble(site)
    names = ["index", "chapters/one", "pages/api", "pages/reference/two"]
    assert re.findall(r'<article[^>]* id="([^"]+)"', text) == names


def test_ids_carry_their_page_and_links_follow_them(site):
    text = pdf.assemble(site)
    assert 'id="chapters/one:why"' in text and 'id="pages/api:why"' in text
    assert 'href="#pages/api:why">there' in text and 'href="#chapters/one:why">here' in text
    assert 'href="#pages/api">up' in text and 'href="https://kexue.fm">elsewhere' in text
    assert 'href="#chapters/one:equation-eq-one">formula' in text


def test_headings_sink_and_contents_have_the_sections_of_chapters(site):
    text = pdf.assemble(site)
    assert '<h1 class="part">Numbers</h1>' in text and "<h2>One</h2>" in text and "<h3>two</h3>" in text
    contents = text[text.index("<nav") : text.index("</nav>")]
    assert re.findall(r'class="(\w+)" href="#([^"]+)"><span>(.*?)</span>', contents) == [
        ("depth1", "chapters/one", "1. One &amp; all"),
        ("depth2", "chapters/one:why", "Why <em>so</em>"),
        ("depth1", "pages/api", "The package"),
        ("depth2", "pages/reference/two", "two"),
    ]
    assert "headerlink" not in text and ">By us</p>" in text and pdf.NOTE in text


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("../pages/none.html", "links to ../pages/none.html, which is no page"),
        ("../pages/api.html#none", "not in the book: pages/api:none"),
    ],
)
def test_a_link_to_nothing_is_refused(site, target, said):
    change(site, "chapters/one.html", "../pages/api.html#why", target)
    with pytest.raises(ValueError, match=said):
        pdf.assemble(site)


def test_a_part_and_a_chapter_are_assembled_alone(site):
    part = pdf.assemble(site, "numbers")
    assert re.findall(r'<article[^>]* id="([^"]+)"', part) == ["index", "chapters/one"]
    assert "<h1>Numbers</h1><p>A book</p>" in part and ">By us</p>" in part and 'href="#chapters/one:why"' in part
    assert 'href="#pages/api' not in part and "there</a>" not in part and "See there," in re.sub(r"<[^>]+>", "", part)
    with pytest.raises(ValueError, match="letters is neither a part nor a chapter"):
        pdf.assemble(site, "letters")


def test_files_of_the_site_are_no_links_on_paper(site):
    change(site, "chapters/one.html", "../pages/api.html#why", "../_static/licences.txt")
    text = pdf.assemble(site)
    assert "licences.txt" not in text and "See there," in re.sub(r"<[^>]+>", "", text)


def cell(tag, fold):
    source, output = '<div class="cell_input"><pre>source</pre></div>', '<div class="cell_output"><pre>shown</pre></div>'
    inside = {"input": source, "cell": source + output, "helper": source}[fold]
    return f'<div class="cell {tag}"><details><summary>Show</summary>{inside}</details>{output if fold == "input" else ""}</div>'


def test_folded_code_that_shows_something_is_open_and_other_folded_code_is_gone():
    solution = printed(cell("tag_hide-cell", "cell"))
    assert "source" in solution and "shown" in solution
    figure = printed(cell("tag_hide-input", "input"))
    assert "source" not in figure and "shown" in figure
    for helper in (cell("tag_hide-cell", "helper"), cell("tag_hide-input", "helper")):
        assert "cell" not in printed(helper)
    assert not any("Show" in text or "details" in text for text in (solution, figure))


def test_pictures_are_found_from_the_root_of_the_site():
    assert 'src="_images/a.png"' in printed('<img src="../_images/a.png"/>')


def test_a_comma_stays_on_the_line_of_its_formula():
    assert '<span class="unbroken"><span class="math">x</span>),</span> then' in printed('(<span class="math">x</span>), then')


def test_arrow_heads_keep_their_name():
    text = printed('<svg><marker id="tip"></marker><path marker-end="url(#tip)"></path></svg><p id="tip"></p>')
    assert 'marker id="tip"' in text and 'p id="chapters/one:tip"' in text


def test_without_a_browser_one_line_says_how_to_get_one(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KEXUE_CHROMIUM", str(tmp_path / "none"))
    assert browser.find() is None
    assert pdf.make(site, target=tmp_path / "book.pdf") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "apt-get install chromium fonts-noto-cjk" in said and "brew install --cask chromium" in said
    with pytest.raises(FileNotFoundError, match="no Chromium"), browser.launch():
        pass


def test_the_browser_named_by_the_environment_is_taken(tmp_path, monkeypatch):
    (tmp_path / "chrome").touch()
    monkeypatch.setenv("KEXUE_CHROMIUM", str(tmp_path / "chrome"))
    assert browser.find() == tmp_path / "chrome"


@can_print
def test_without_a_built_book_one_line_says_so(tmp_path, capsys):
    assert pdf.make(tmp_path, target=tmp_path / "book.pdf") == 1
    assert "make book comes first" in capsys.readouterr().err


@pytest.fixture
def with_mathjax(site):
    """The small site with the MathJax that the book ships."""
    files = distribution("sphinx-mathjax-offline").files or []
    root = next(Path(str(file.locate())).parent for file in files if file.name == "tex-chtml-full.js")
    (site / "_static").mkdir()
    (site / "_static" / "mathjax").symlink_to(root, target_is_directory=True)
    return site


@can_print
def test_without_a_chinese_font_one_line_names_one(with_mathjax, tmp_path, monkeypatch, capsys):
    change(with_mathjax, "chapters/one.html", "科学空间", "\U00050000")  # a character that no font has
    monkeypatch.setattr(pdf, "CHINESE", "[\U00050000]")
    assert pdf.make(with_mathjax, target=tmp_path / "book.pdf") == 1
    assert capsys.readouterr().err == pdf.NO_CHINESE + "\n" and not (tmp_path / "book.pdf").exists()


@can_print
@pytest.mark.parametrize(
    ("added", "said"),
    [
        ('<img src="https://kexue.fm/a.png">', "not in the site: https://kexue.fm/a.png"),
        ('<img src="../_images/none.png">', "not in the site: http://kexue.invalid/_images/none.png"),
        ('<p style="width: 200mm">wide</p>', "wider than a page: chapters/one: p wide"),
    ],
)
def test_strangers_and_cut_off_text_are_refused(with_mathjax, added, said):
    change(with_mathjax, "chapters/one.html", "<p>See", f"{added}<p>See")
    with pytest.raises(ValueError, match=re.escape(said)):
        pdf.render(pdf.assemble(with_mathjax), with_mathjax)


@can_print
def test_a_small_book_is_printed(with_mathjax, tmp_path, capsys):
    target = tmp_path / "book.pdf"
    assert pdf.make(with_mathjax, target=target) == 0
    assert "4 pages" in capsys.readouterr().out
    book = PdfReader(io.BytesIO(target.read_bytes()))
    title, contents, chapter, package = (page.extract_text() for page in book.pages)
    assert "A book" in title and "By us" in title and pdf.NOTE in " ".join(title.split())
    assert re.findall(r"(One & all|Why so|The package|two)\s*(\d+)", contents) == [
        *(("One & all", "3"), ("Why so", "3")),
        *(("The package", "4"), ("two", "4")),
    ]
    assert "科学空间" in chapter and "(1.1)" in chapter and "∑" in chapter
    assert "1. One & all" in chapter and "The package" in package  # running titles
    assert book.outline[0].title == "A book" and [entry.title for entry in book.outline if not isinstance(entry, list)] == [
        *("A book", "Contents", "Numbers", "Reference")
    ]

    places = pdf.places(book)
    assert places["pages/api:why"] == 4 and places["chapters/one:equation-eq-one"] == 3
    notes = [note.get_object() for page in book.pages for note in page.get("/Annots", [])]
    inside = {str(note["/Dest"]).removeprefix("/") for note in notes if "/Dest" in note}
    assert inside <= set(places) and {"pages/api:why", "chapters/one:why", "chapters/one:equation-eq-one"} <= inside
    assert {note["/A"]["/URI"] for note in notes if "/A" in note} == {"https://kexue.fm/"}

    fonts = [font.get_object() for page in book.pages for font in page["/Resources"].get("/Font", {}).values()]
    assert fonts and all(embedded(font) for font in fonts)


@pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the book is not built: run make book")
@pytest.mark.parametrize("what", ["", *dict.fromkeys(name.split("/")[0] for name in contents()), *contents()])
def test_the_real_book_its_parts_and_chapters_are_assembled(what):
    text = pdf.assemble(SITE, what)
    pages = re.findall(r'<article[^>]* id="chapters/([^"]+)"', text)
    assert pages == [name for name in contents() if name.startswith(what)]
    assert ('<nav class="book-contents">' in text) is ("/" not in what)


@can_print
@pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the book is not built: run make book")
def test_a_real_chapter_is_printed(tmp_path, capsys):
    what = contents()[0]
    assert pdf.make(SITE, what, tmp_path / "chapter.pdf") == 0, capsys.readouterr().err
    book = PdfReader(tmp_path / "chapter.pdf")
    assert len(book.pages) > 5 and Chapter.load(what).title.split()[0] in book.pages[0].extract_text()


def embedded(font):
    """Whether the shapes of a font are in the file: drawn there, or a font program."""
    if font["/Subtype"] == "/Type3":
        return bool(font["/CharProcs"])
    font = font.get("/DescendantFonts", [font])[0].get_object()
    return any(key in font["/FontDescriptor"] for key in ("/FontFile", "/FontFile2", "/FontFile3"))
