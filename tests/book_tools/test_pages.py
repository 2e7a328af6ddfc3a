"""What the build makes of the chapters: cards, maps, neighbours, links to the glossary, launchable notebooks, metadata."""

import ast
import re

import pytest
from docutils import nodes
from IPython.core.inputtransformer2 import TransformerManager
from samples import BEFORE, chapter

from book_tools import enrich, notebooks, pages, site

BOOK = [*BEFORE, chapter()]


@pytest.fixture
def known_addresses(monkeypatch):
    monkeypatch.setenv("KEXUE_REPOSITORY", "https://github.com/owner/name/")
    monkeypatch.setenv("KEXUE_SITE", "https://owner.github.io/name")


def test_a_card_carries_what_the_notebook_says(monkeypatch, tmp_path):
    monkeypatch.setattr(enrich, "ROOT", tmp_path)
    monkeypatch.setattr(enrich, "COVERS", tmp_path / "covers")
    card = pages.cards_markdown(BOOK).split("grid-item-card} ")[3]
    assert card.startswith("3. A title\n:link: /chapters/attention/third\n")
    assert ":img-top: /covers/attention-third.png\n:img-alt: A line that rises" in card
    assert '<span lang="zh">《标题》</span>' in card
    assert "Why?" in card
    assert "Attention · 1 equations · about 5 s" in card
    assert "5 confirmed" in card
    assert (tmp_path / "covers" / "attention-third.png").read_bytes().startswith(b"\x89PNG")


def test_the_map_draws_an_arc_and_a_row_for_each_prerequisite():
    text = pages.map_markdown(BOOK)
    assert text.count("builds on A title</title>") == 2
    assert text.count('<a href="../chapters/') == 3
    rows = re.findall(r"^- .*$", text, re.MULTILINE)
    third = "{doc}`/chapters/attention/third` builds on {doc}`/chapters/attention/first` · {doc}`/chapters/generation/second`."
    assert rows == [f"- {third}"]


def test_letters_are_listed_where_chapters_differ_in_meaning():
    def other(cells):
        cells[7]["source"] = cells[7]["source"].replace(
            "| $x$ | a number | number | |", "| $x_i$, $y$ | a vector | $d$ | |\n| $z$ | depth | number | |"
        )

    rows = pages.letters_markdown([BEFORE[0], chapter(edit=other)]).splitlines()[2:]
    assert rows == ["| $x$ | a number ({doc}`1 </chapters/attention/first>`) · a vector ({doc}`2 </chapters/attention/third>`) |"]


def test_the_card_gains_its_neighbours_and_the_end_a_citation():
    middle = notebooks.canonical(BEFORE[1].notebook)
    enrich.complete(middle, BEFORE[1], BOOK)
    opening = middle["cells"][0]["source"]
    assert "| Runs in | about 5 s |\n| Used by | {doc}`/chapters/attention/third` |\n" in opening
    assert "| Read on | ← {doc}`/chapters/attention/first` · {doc}`/chapters/attention/third` → |" in opening
    assert (
        "**Cite this chapter** as: The kexue authors, “A title”, in *Scientific Spaces, executed*, version"
        in (middle["cells"][-1]["source"])
    )
    last = notebooks.canonical(BOOK[2].notebook)
    enrich.complete(last, BOOK[2], BOOK)
    assert "Used by" not in last["cells"][0]["source"]
    assert last["cells"][0]["source"].count("→") == 0


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


@pytest.mark.usefixtures("known_addresses")
def test_a_launched_chapter_installs_kexue_only_where_it_is_missing(monkeypatch):
    notebook = site.launchable(BOOK[2].notebook)
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    first = notebook["cells"][kinds.index("code")]
    assert "kexue @ git+https://github.com/owner/name" in first["source"]
    assert len(notebook["cells"]) == len(BOOK[2].notebook["cells"]) + 1
    code = TransformerManager().transform_cell(first["source"])
    assert isinstance(ast.parse(code).body[-1], ast.If)
    installed = []
    shell = type("Shell", (), {"run_line_magic": lambda self, *line: installed.append(line)})()
    exec(code, {"get_ipython": lambda: shell})  # noqa: S102
    assert not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(code, {"get_ipython": lambda: shell})  # noqa: S102
    assert installed[0][0] == "pip"


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
    assert '<meta name="description" content="Can an operation on single vectors' in context["metatags"]
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
