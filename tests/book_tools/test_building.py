"""Builds do again what has changed, and only that."""

import pytest

from book_tools import building

PAGES = ("chapters/part/one.html", "pages/ledger.html")


@pytest.fixture
def book(monkeypatch, tmp_path):
    """A small book whose Sphinx writes each page anew; a list of the commands that were started."""
    inputs = (
        "chapters/part/one.ipynb",
        "_config.yml",
        "requirements.txt",
        "book_tools/enrich.py",
        "results/a.json",
        "tests/test_a.py",
    )
    for name in inputs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1", encoding="utf-8")
    monkeypatch.setattr(building, "ROOT", tmp_path)
    monkeypatch.setattr(building, "SITE", tmp_path / "_build" / "html")
    monkeypatch.setattr(building, "STAGE", tmp_path / "_build" / "stage")
    monkeypatch.setattr(building, "faults", list)
    monkeypatch.setattr(building, "faults_of", lambda name: [])
    monkeypatch.setattr(building, "warnings", list)
    monkeypatch.setattr(building, "contents", lambda: ["part/one"])
    started = []

    def sphinx(command, **_):
        quick = "book_tools.quick" in command
        started.append("page" if quick else "all" if (building.STAGE / "_build").exists() else "afresh")
        for page in ("index.html", *PAGES)[slice(1, 2) if quick else slice(None)]:
            path = building.STAGE / "_build" / "html" / page
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"build {len(started)}", encoding="utf-8")
        doctree = building.STAGE / "_build" / ".doctrees" / "chapters" / "part" / "one.doctree"
        doctree.parent.mkdir(parents=True, exist_ok=True)
        doctree.touch()
        return int((tmp_path / "results" / "a.json").read_text(encoding="utf-8") == "fails")

    monkeypatch.setattr(building.subprocess, "call", sphinx)
    return started


def change(name, text="2"):
    (building.ROOT / name).write_text(text, encoding="utf-8")


def site(page):
    return (building.SITE / page).read_text(encoding="utf-8")


def test_what_has_not_changed_is_not_built(book, capsys):
    assert [building.build(), building.build()] == [0, 0]
    assert book == ["afresh"] and "Nothing has changed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chapters/part/one.ipynb", "results/a.json", "tests/test_a.py"])
def test_any_input_that_changes_is_built(book, name):
    building.build()
    change(name)
    assert building.build() == 0 and book == ["afresh", "all"]


@pytest.mark.parametrize("name", ["book_tools/enrich.py", "_config.yml", "requirements.txt"])
def test_pages_of_an_older_machinery_are_not_kept(book, name):
    building.build()
    change(name)
    assert building.build() == 0 and book == ["afresh", "afresh"]


def test_a_site_that_was_touched_is_built_again(book):
    building.build()
    (building.SITE / "index.html").unlink()
    assert building.build() == 0 and book == ["afresh", "all"] and site("index.html") == "build 2"


def test_addresses_are_an_input(book, monkeypatch):
    building.build()
    monkeypatch.setenv("KEXUE_SITE", "https://example.invalid")
    assert building.build() == 0 and book == ["afresh", "afresh"]


def test_a_page_is_renewed_alone_and_the_overviews_by_the_next_build(book):
    building.build()
    assert building.build_page("part/one") == 0
    assert [site(page) for page in ("index.html", *PAGES)] == ["build 1", "build 2", "build 1"]
    assert not list(building.SITE.rglob(".*"))
    assert building.build() == 0 and book == ["afresh", "page", "all"] and site(PAGES[1]) == "build 3"


def test_a_page_without_a_built_book_builds_the_book(book):
    assert building.build_page("part/one") == 0 and book == ["afresh"]
    change("book_tools/enrich.py")
    assert building.build_page("part/one") == 0 and book == ["afresh", "afresh"]


def test_a_page_that_fails_is_read_again(book, capsys):
    building.build()
    change("results/a.json", "fails")
    assert building.build_page("part/one") == 1 and site(PAGES[0]) == "build 1"
    assert not list((building.STAGE / "_build" / ".doctrees").rglob("*.doctree"))
    assert "the page was not built" in capsys.readouterr().err


def test_a_chapter_with_faults_is_not_built(book, monkeypatch, capsys):
    building.build()
    monkeypatch.setattr(building, "faults_of", lambda name: [f"chapters/{name}.ipynb: no title"])
    assert building.build_page("part/one") == 1 and "part/one.ipynb: no title" in capsys.readouterr().err
    assert book == ["afresh"]


def test_one_chapter_is_looked_at_with_those_it_builds_on(monkeypatch):
    looked = []

    def faults(chapters):
        looked.extend(chapter.name for chapter in chapters)
        return [f"chapters/{name}.ipynb: a fault" for name in looked]

    monkeypatch.setattr(building, "faults", faults)
    name = "attention/position_encodings"
    assert building.faults_of(name) == [f"chapters/{name}.ipynb: a fault"]
    assert looked[-1] == name and "attention/rope" in looked and len(looked) < len(building.contents())
