"""The built book, as files. ``make test`` builds it first; without a build these tests say so and are skipped."""

import re
from html.parser import HTMLParser
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from book_tools.building import SITE
from book_tools.chapter import ROOT, Chapter, contents
from book_tools.site import SHIPPED

pytestmark = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the book is not built: run make book")


class Page(HTMLParser):
    """What a page holds: ids, links, loaded files, pictures."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.pictures: list[dict[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload", "shortcut icon"):
            self.loads.append(found["href"])
        if tag == "img":
            self.pictures.append(found)


@pytest.fixture(scope="module")
def site():
    return {path: Page(path) for path in SITE.rglob("*.html") if "_static" not in path.parts}


def test_every_chapter_has_its_page(site):
    assert all(SITE / "chapters" / f"{name}.html" in site for name in contents())


def test_no_page_loads_anything_from_another_host(site):
    foreign = {(path.name, load) for path, page in site.items() for load in page.loads if urlparse(load).netloc}
    assert not foreign


def test_loaded_files_exist(site):
    missing = {
        (path.name, load)
        for path, page in site.items()
        for load in page.loads
        if not load.startswith("data:") and not (path.parent / unquote(urlparse(load).path)).exists()
    }
    assert not missing


def test_internal_links_land(site):
    broken = []
    for path, page in site.items():
        for link in page.links:
            url = urlparse(link)
            if url.scheme or url.netloc or link in ("", "#"):
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            lost = url.fragment and target in site and unquote(url.fragment) not in site[target].ids
            if not target.exists() or lost:
                broken.append((path.name, link))
    assert not broken


def test_every_picture_says_what_it_shows(site):
    silent = [
        (path.name, picture.get("src")) for path, page in site.items() for picture in page.pictures if not picture.get("alt")
    ]
    assert not silent
    hashed = re.compile(r"[0-9a-f]{32}")
    assert not [picture for page in site.values() for picture in page.pictures if hashed.search(picture["alt"])]


def test_ledger_and_equations_point_at_each_other(site):
    ledger = site[SITE / "pages" / "ledger.html"]
    for name in contents():
        page = site[SITE / "chapters" / f"{name}.html"]
        for label in Chapter.load(name).labels:
            assert f"ledger-{label}" in ledger.ids
            assert f"equation-{label}" in page.ids
            assert any(link.endswith(f"pages/ledger.html#ledger-{label}") for link in page.links), (
                f"{name}: no mark beside {label}"
            )
            assert any(link.endswith(f"{name}.html#equation-{label}") for link in ledger.links)


def test_chapters_and_reference_link_to_each_other(site):
    for name in contents():
        module = f"kexue.{name.replace('/', '.')}"
        assert any(f"{module}.html" in link for link in site[SITE / "chapters" / f"{name}.html"].links)
        assert any(link.endswith(f"chapters/{name}.html") for link in site[SITE / "pages" / "reference" / f"{module}.html"].links)


def test_every_part_that_others_made_comes_with_its_licence():
    licences = (SITE / "_static" / "licences.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}\n" in licences for name in SHIPPED)
    assert licences.count("Permission is hereby granted, free of charge") >= 5 and "SIL OPEN FONT LICENSE" in licences
    covered = [file.name for name in SHIPPED for file in distribution(name).files]
    covered += [path.name for path in (ROOT / "book_tools" / "assets").iterdir()] + ["icons.css", "pygments.css", "licences.txt"]
    for path in (SITE / "_static").rglob("*"):
        if path.is_file() and "mathjax" not in path.parts:
            source = re.sub(r"\.[0-9a-f]{64}", "", path.name)
            assert any(name.startswith(source) for name in covered), f"{path.name}: whose is it? (SHIPPED in book_tools/site.py)"


def test_formulas_are_set_by_a_local_mathjax_that_brings_its_licence():
    mathjax = SITE / "_static" / "mathjax"
    assert (mathjax / "tex-chtml-full.js").stat().st_size > 1_000_000
    assert (mathjax / "ui" / "safe.js").exists()
    assert len(list((mathjax / "output" / "chtml" / "fonts" / "woff-v2").glob("*.woff"))) >= 20
    assert "Apache License" in (mathjax / "LICENSE").read_text(encoding="utf-8")
