"""What the build makes of the chapters: first screen, cards, overviews, glossary, metadata."""

import re

import pytest
from docutils import nodes
from samples import BEFORE, OPENING, chapter, plain

from book_tools import cells, enrich, notebooks, opening, pages, site
from book_tools.chapter import PARTS, Chapter

BOOK = [*BEFORE, chapter()]


@pytest.fixture
def known_addresses(monkeypatch):
    monkeypatch.setenv("KEXUE_REPOSITORY", "https://github.com/owner/name/")
    monkeypatch.setenv("KEXUE_SITE", "https://owner.github.io/name")


def test_a_card_carries_what_the_notebook_says_under_the_sentence_of_its_part(monkeypatch, tmp_path):
    monkeypatch.setattr(enrich, "ROOT", tmp_path)
    monkeypatch.setattr(enrich, "COVERS", tmp_path / "covers")
    text = pages.cards_markdown(BOOK)
    assert re.findall("^## .*$", text, re.MULTILINE) == ["## Attention", "## Generation"]
    assert f"## Generation\n\n{pages.INTRODUCED['generation']}\n" in text
    card = text[text.index("card} 3.") :]
    assert card.startswith("card} 3. A title\n:link: /chapters/attention/third\n")
    assert ":img-top: /covers/attention-third.png\n:img-alt: A line that rises" in card
    assert '<span lang="zh">《标题》</span>' in card
    assert "Which of them?" in card
    assert "about 5 min · 1 equations" in card
    assert "5 confirmed" in card
    assert (tmp_path / "covers" / "attention-third.png").read_bytes().startswith(b"\x89PNG")


def test_every_part_has_its_sentence():
    assert pages.INTRODUCED.keys() == set(PARTS)
    assert all(sentence.endswith(".") and sentence.count(". ") == 0 for sentence in pages.INTRODUCED.values())


def test_the_map_tells_where_to_begin_and_draws_an_arc_for_each_prerequisite():
    text = pages.map_markdown(BOOK)
    assert "| Attention | {doc}`1. A title </chapters/attention/first>` | {doc}`3 </chapters/attention/third>` |" in text
    assert text.count("builds on A title</title>") == 2
    assert text.count('<a href="../chapters/') == 3
    rows = re.findall(r"^- .*$", text, re.MULTILINE)
    third = "{doc}`/chapters/attention/third` builds on {doc}`/chapters/attention/first` · {doc}`/chapters/generation/second`."
    assert rows == [f"- {third}"]
    assert "All 3 chapters" not in text


def test_a_large_map_is_folded_and_no_wider_than_a_page(monkeypatch):
    monkeypatch.setattr(pages, "FEW", 2)
    text = pages.map_markdown(BOOK)
    assert "<summary>All 3 chapters, and an arc for each step</summary>" in text
    many = [plain(f"attention/c{number}") for number in range(90)]
    far = re.sub(r"`first`.*? \|", "`c0` |", OPENING)
    many.append(chapter("attention/third", opening=far))
    width = int(re.search(r'viewBox="0 0 (\d+)', "\n".join(pages.arcs(many)))[1])
    assert width <= 24 + pages.WIDEST + 600


def test_overviews_open_with_a_summary_by_part_and_fold_the_rest():
    ledger, verdicts = pages.ledger_markdown(BOOK), pages.verdicts_markdown(BOOK)
    assert "| [Attention](#ledger-attention) | 2 | 2 | 2 |" in ledger
    assert ledger.count('<details class="fold chapter" open>') == 3
    assert (
        "<summary>3. A title: 1 equations, 1 checks</summary>\n\nChapter {doc}`3. A title </chapters/attention/third>`\n"
        in ledger
    )
    assert "| [Generation](#verdicts-generation) | 5 | 5 | 0 | 0 | 0 | 0 |" in verdicts
    assert "<summary>2. A title: 5 confirmed</summary>" in verdicts
    assert "| claim 1 | eq. (1) | confirmed | {eq}`eq-a-b` |" in verdicts


def test_errata_name_their_place_in_the_post():
    def corrects(cells):
        cells[-1]["source"] = cells[-1]["source"].replace("claim 1 | eq. (1) | confirmed", "claim 1 | eq. (1) | corrected")

    text = pages.verdicts_markdown([*BEFORE, chapter(edit=corrects)])
    assert "<summary>Attention: 1 corrections</summary>" in text
    assert "| claim 1 | eq. (1), {doc}`ch. 3 </chapters/attention/third>` | {eq}`eq-a-b` |" in text


def test_the_first_screen_has_length_opening_short_answer_card_and_folded_chinese():
    middle = notebooks.canonical(BEFORE[1].notebook)
    enrich.complete(middle, BEFORE[1], BOOK)
    screen = middle["cells"][0]["source"]
    places = [
        screen.index(part)
        for part in (
            "# A title\n",
            '<ul class="chapter-meta"><li>about 5 min</li>',
            "{div} hero",
            "Some things are one.",
            "{div} in-short",
            "- The second is one as well.\n",
            "{div} post-card",
            "Post\n: [<span",
            "Package\n: {py:mod}",
            "Used by\n: {doc}`/chapters/attention/third`\n",
            "Read on\n: ← {doc}`/chapters/attention/first` · {doc}`/chapters/attention/third` →",
            '<summary lang="zh">中文摘要</summary>',
            '<div lang="zh">\n\n- 第一行',
            "</details>",
        )
    ]
    assert places == sorted(places)
    assert "|---" not in screen
    assert (
        "**Cite this chapter** as: The kexue authors, “A title”, in *Scientific Spaces, executed*, version"
        in (middle["cells"][-1]["source"])
    )
    last = notebooks.canonical(BOOK[2].notebook)
    enrich.complete(last, BOOK[2], BOOK)
    assert "Used by" not in last["cells"][0]["source"]
    assert last["cells"][0]["source"].count("→") == 0


def test_a_chapter_that_many_use_names_three_of_them():
    opening_of = OPENING.replace("`first`", "`/chapters/attention/first`").split("; {doc}`the second")[0] + " |\n"
    users = [
        chapter(f"generation/user{number}", opening=opening_of + OPENING[OPENING.index("| Package") :]) for number in range(5)
    ]
    notebook = notebooks.canonical(BEFORE[0].notebook)
    enrich.complete(notebook, BEFORE[0], [BEFORE[0], *users])
    (line,) = re.findall(r"Used by\n: (.*)", notebook["cells"][0]["source"])
    assert line.count("{doc}`/chapters/") == 3
    assert line.endswith(" and {doc}`2 more </pages/map>`")


def test_the_line_of_length_is_counted_and_silent_about_what_was_not_measured():
    def measured(cells):
        cells[1]["source"] += "\n\n" + "word " * 1500

    line = opening.length(chapter(edit=measured))
    assert line.startswith(
        '<ul class="chapter-meta"><li>about 10 min</li><li><a href="../../pages/ledger.html#ledger-eq-a-b">1 equations<'
    )
    assert "of computing" not in line
    assert ">5 confirmed</a></li>" in line
    timed = chapter()
    timed.notebook["metadata"] = {"kexue": {"seconds": 12}}
    assert "<li>12 s of computing</li>" in opening.length(timed)


def test_the_hero_shows_the_first_sentence_of_the_caption():
    caption = nodes.caption(
        "", "", nodes.Text("As "), nodes.math("", "x"), nodes.Text(" falls, y rises. And more."), nodes.Text(" More.")
    )
    found = opening.first_sentence(nodes.figure("", caption))
    assert "".join(node.astext() for node in found) == "As x falls, y rises."
    assert "".join(node.astext() for node in opening.first_sentence(nodes.figure("", nodes.caption("", "One.")))) == "One."


@pytest.mark.usefixtures("known_addresses")
def test_the_citation_gives_the_address_where_it_is_known():
    assert "<https://owner.github.io/name/chapters/attention/third.html>" in enrich.citation(BOOK[2])


def document(*blocks):
    page = nodes.document(None, None)
    page += blocks
    return page


def test_terms_are_found_at_their_first_use_in_running_text_only():
    texts = [nodes.Text("A Markov"), nodes.Text("\n"), nodes.Text("chain, and attentions. A remark on entropy-like attention.")]
    emphasis = nodes.emphasis("", "", nodes.Text("Entropy"))
    page = document(
        nodes.paragraph("", "", nodes.literal("", "attention")),
        nodes.table("", nodes.paragraph("", "attention")),
        nodes.paragraph("", "", *texts),
        nodes.paragraph("", "", emphasis, nodes.Text(" and the Markov chain again; a markovian process.")),
    )
    terms = {
        "markov chain": "term-chain",
        "attention": "term-attention",
        "entropy": "term-entropy",
        "process of markov": "term-chain",
    }
    found = [(match[0], anchor) for _, matches in enrich.first_uses(page, terms) for match, anchor in matches]
    assert found == [("Markov\nchain", "term-chain"), ("attentions", "term-attention"), ("Entropy", "term-entropy")]


def test_the_glossary_lists_terms_by_part_and_folds_by_letter(monkeypatch):
    def entry(*names):
        return nodes.definition_list_item(
            "", *(nodes.term("", name) for name in names), nodes.definition("", nodes.paragraph("", "…"))
        )

    monkeypatch.setattr(enrich, "contents", lambda: [each.name for each in BOOK])
    page = document(nodes.definition_list("", entry("beam"), entry("bias", "offset"), entry("chain"), classes=["glossary"]))
    terms = {name: f"term-{name}" for name in ("beam", "chain")} | {"bias": "term-bias", "offset": "term-bias"}
    first, second, third = BOOK
    uses = {"term-beam": [first, second] * 3, "term-chain": [second, third]}
    enrich.arrange_glossary(page, terms, uses, lambda name: f"../{name}.html")
    folds = [fold["name"] for fold in page.children if isinstance(fold, cells.Fold)]
    assert folds == ["Attention (1)", "Generation (1)", "B: beam, bias", "C: chain"]
    inside = [fold["name"] for fold in page.findall(cells.Fold)][2:]
    assert inside == ["B: beam, bias", "In 6 chapters", "C: chain"]
    links = [link["refuri"] for link in page.findall(nodes.reference)]
    assert links[:2] == ["#term-beam", "#term-chain"]
    assert links[-1] == "../attention/third.html#use-term-chain"


def sidebar(number, current=""):
    caption = '<p aria-level="2" class="caption" role="heading"><span class="caption-text">{}</span></p>'
    pages = "".join(f'<li class="toctree-l1"><a href="{page}.html">{page}</a></li>' for page in range(number))
    return "".join(caption.format(part) + f'<ul class="{current * (part == "B")}nav bd-sidenav">{pages}</ul>' for part in "AB")


def test_the_sidebar_folds_by_part_and_of_a_large_book_all_but_the_part_that_is_read():
    few = site.by_part(sidebar(2))
    assert few.count('<details class="part" open><summary><p') == 2 and few.count("</p></summary><ul") == 2
    many = site.by_part(sidebar(30, "current "))
    assert many.count('<details class="part" open>') == 1
    assert (
        many.index('<details class="part">') < many.index(">A<") < many.index('<details class="part" open>') < many.index(">B<")
    )


def finished(pagename, body):
    context = {"body": body}
    site.finish(None, pagename, "page.html", context, None)
    return context["body"]


def test_numbers_of_equations_are_links_and_long_names_may_break():
    number = '<span class="eqno">(3.1)<a class="headerlink" href="#equation-eq-a" title="Link to this equation">#</a></span>'
    assert (
        finished("pages/x", number)
        == '<span class="eqno"><a href="#equation-eq-a" title="Link to this equation">(3.1)</a></span>'
    )
    assert (
        finished("pages/x", '<span class="pre">kexue.lab.top_k</span>')
        == '<span class="pre">kexue.<wbr>lab.<wbr>top_<wbr>k</span>'
    )
    assert finished("pages/x", "<h1>kexue.lab<a>#</a></h1> a_b") == "<h1>kexue.<wbr>lab<a>#</a></h1> a_b"


def test_the_switch_stands_on_chapters_only():
    assert finished("pages/map", "x") == "x"
    body = finished("chapters/attention/third", "x")
    assert body.endswith("</fieldset>x")
    assert re.findall('value="([a-z]+)"><span>([^<]+)<', body) == [
        ("text", "text only"),
        ("checks", "with the checks"),
        ("code", "all code"),
    ]


class Builder:
    """As much of Sphinx as the hooks look at."""

    def __init__(self, source):
        self.env = type("Env", (), {"doc2path": staticmethod(lambda name: site.ROOT / source)})()
        self.config = type("Config", (), {"html_title": "Book"})()


@pytest.mark.usefixtures("known_addresses")
@pytest.mark.parametrize(
    ("page", "source", "links"),
    [
        (
            "chapters/attention/rope",
            "chapters/attention/rope.ipynb",
            [
                "https://colab.research.google.com/github/owner/name/blob/notebooks/chapters/attention/rope.ipynb",
                "https://github.com/owner/name/edit/main/chapters/attention/rope.ipynb",
            ],
        ),
        ("pages/map", "pages/map.md", ["https://github.com/owner/name/edit/main/pages/map.md"]),
        (
            "pages/reference/kexue.attention.rope",
            "pages/reference/kexue.attention.rope.rst",
            ["https://github.com/owner/name/edit/main/kexue/attention/rope.py"],
        ),
        (
            "pages/reference/kexue.lab",
            "pages/reference/kexue.lab.rst",
            ["https://github.com/owner/name/edit/main/kexue/lab/__init__.py"],
        ),
    ],
)
def test_buttons_lead_to_existing_files(page, source, links):
    context = {"header_buttons": []}
    site.add_buttons(Builder(source), page, "page.html", context, nodes.document(None, None))
    assert [button["url"] for button in context["header_buttons"]] == links
    for link in links:
        assert (site.ROOT / re.split(r"/(?:main|notebooks)/", link)[1]).is_file()


def test_without_an_address_there_is_no_button_and_no_absolute_link(monkeypatch):
    monkeypatch.delenv("KEXUE_REPOSITORY", raising=False)
    monkeypatch.delenv("KEXUE_SITE", raising=False)
    context = {"header_buttons": [], "title": "Map &amp; letters"}
    site.add_buttons(Builder("pages/map.md"), "pages/map", "page.html", context, nodes.document(None, None))
    site.add_meta(Builder("pages/map.md"), "pages/map", "page.html", context, None)
    assert context["header_buttons"] == []
    assert '<meta property="og:title" content="Map &amp; letters">' in context["metatags"]
    assert "og:image" not in context["metatags"]
    assert "http" not in pages.mistakes_markdown([])


@pytest.mark.usefixtures("known_addresses")
def test_a_shared_chapter_shows_its_cover_and_its_question():
    context = {"title": "x"}
    site.add_meta(Builder(""), "chapters/attention/rope", "page.html", context, None)
    assert '<meta property="og:image" content="https://owner.github.io/name/_images/attention-rope.png">' in context["metatags"]
    assert '<meta property="og:url" content="https://owner.github.io/name/chapters/attention/rope.html">' in context["metatags"]
    assert f'<meta name="description" content="{Chapter.load("attention/rope").question[:30]}' in context["metatags"]
    assert "https://github.com/owner/name/issues/new" in pages.mistakes_markdown([])


def test_chinese_words_of_two_characters_are_searched():
    words = site.SearchBoth({}).split("论遗忘的重要性 and forgetting")
    assert {"遗忘", "重要", "forgetting"} <= set(words)


class Env:
    def __init__(self, *docnames):
        self.found_docs = set(docnames)


def test_pages_of_measurements_are_read_again_when_the_results_change(monkeypatch):
    env = Env("pages/speed", "pages/trust", "pages/how_to_read")
    monkeypatch.setattr(pages, "book", list)
    pages.outdated(None, env, set(), set(), set())
    assert pages.outdated(None, env, set(), set(), set()) == []
    monkeypatch.setitem(pages.PAGES, "speed", lambda chapters: "faster")
    assert pages.outdated(None, env, set(), set(), set()) == ["pages/speed"]


def test_pages_are_read_again_when_what_they_show_of_others_changes(monkeypatch):
    env = Env("index", "pages/ledger", "pages/glossary", "pages/bibliography", "chapters/attention/third")

    def read_again(*chapters):
        monkeypatch.setattr(pages, "book", lambda: list(chapters))
        return set(pages.outdated(None, env, set(), set(), set()))

    def prints_more(cells):
        cells[2]["outputs"][0]["text"].append("more\n")

    def checks_otherwise(cells):
        output = cells[2]["outputs"][0]
        output["text"] = ["".join(output["text"]).replace("equal", "equal within 1e-9")]

    def has_another_title(cells):
        cells[0]["source"] = cells[0]["source"].replace("# A title", "# Another title")

    everything = {"attention/first", "generation/second", "attention/third"}
    everything = {f"chapters/{name}" for name in everything} | {"index", "pages/ledger", "pages/glossary"}
    assert read_again(*BOOK) == everything | {"pages/bibliography"}
    assert read_again(*BOOK) == set()
    assert read_again(*BEFORE, chapter(edit=prints_more)) == {"index"}
    assert read_again(*BEFORE, chapter(edit=checks_otherwise)) == {"index", "pages/ledger"}
    assert read_again(*BEFORE, chapter(edit=has_another_title)) == everything
