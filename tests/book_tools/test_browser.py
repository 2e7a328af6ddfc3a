"""The built book in a real browser at desktop width, and what is asked once of the whole site; ``browsing`` says what is looked at."""

import pytest
from browsing import CHAPTERS, COLOURS, NARROW, PAGES, SETTLE, TAGS, WIDE, Journal, address, needed, opened, report, visit
from playwright.sync_api import TimeoutError

from book_tools import browser

pytestmark = needed


@pytest.fixture(scope="module")
def chromium():
    with browser.launch() as running:
        yield running


@pytest.fixture
def page(chromium, request):
    page = opened(chromium, getattr(request, "param", WIDE))
    yield page
    page.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_at_desktop_width(page, name):
    found = visit(page, address(name), WIDE, ("light", COLOURS), ("dark", TAGS))
    assert not found, report(found)


SEARCHES = {
    "exposure bias": "generation/exposure_bias",
    "rotary": "attention/rope",
    "旋转式位置编码": "attention/rope",
    "遗忘": "probability/vae_bottleneck",
}


@pytest.mark.parametrize(("words", "chapter"), SEARCHES.items())
def test_search_finds_a_chapter_from_disk(page, words, chapter):
    journal = Journal(page)
    page.goto(address(f"search.html?q={words}"))
    hit = page.locator(f"#search-results a[href*='chapters/{chapter}.html']").first
    try:
        hit.wait_for(timeout=5000)
    except TimeoutError:
        pytest.fail(f"search for {words} does not list {chapter}; it says: {page.locator('#search-results').inner_text()[:300]}")
    assert not journal.complaints, report(journal.complaints)


IN_VIEW = """async () => {
  await MathJax.startup.promise;
  await document.fonts.ready;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const equation = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const box = equation?.getBoundingClientRect();
  if (!box) return "there is no such element";
  if (!box.width || !box.height) return "it is not visible";
  if (box.top < 0 || box.top > innerHeight - 20) return `it is out of view, at ${Math.round(box.top)} px of ${innerHeight}`;
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + Math.min(box.height, innerHeight - box.top) / 2);
  return equation.contains(top) ? "" : `it is covered by ${top?.outerHTML.slice(0, 100)}`;
}"""


@pytest.mark.parametrize("name", CHAPTERS)
def test_links_of_the_ledger_land_on_their_equations(page, name):
    page.goto(address("pages/ledger.html"))
    links = page.locator(f"article a[href*='{name}#equation-']")
    fragments = dict.fromkeys(link.split("#")[1] for link in links.evaluate_all("links => links.map((link) => link.href)"))
    assert fragments, f"the ledger has no link into {name}"
    # The last one as a reader follows it, into a page whose formulas are yet to be set; the others in the page as it then stands.
    links.last.click()
    page.wait_for_url(f"**/{name}#*")
    lost = [f"{name}#{fragments.popitem()[0]}: {page.evaluate(IN_VIEW)}"]
    for fragment in fragments:
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        lost.append(f"{name}#{fragment}: {page.evaluate(IN_VIEW)}")
    lost = [line for line in lost if not line.endswith(": ")]
    assert not lost, report(lost)


@pytest.mark.parametrize("page", [NARROW], indirect=True)
@pytest.mark.parametrize("name", CHAPTERS)
def test_wide_formulas_are_reached_by_tab_and_moved_by_arrow_keys(page, name):
    page.goto(address(name))
    page.evaluate(SETTLE)
    wide = page.locator("mjx-container[data-scrolls]")
    assert wide.count(), "no formula is wider than a telephone; this test then needs another page"
    wide.first.evaluate(
        "formula => { formula.scrollIntoView(); getSelection().collapse(formula.closest('.math').parentElement, 0); }"
    )
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('mjx-container')"):
            break
    else:
        pytest.fail("Tab does not reach the first wide formula: does book.js run?")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0", timeout=5000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')")
