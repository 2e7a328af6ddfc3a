"""The other half of the pages, so that two workers share them, and what is asked at the width of a telephone alone."""

import pytest
from browsing import CHAPTERS, NARROW, PAGES, SETTLE, STEPS, address, beside, report, tab, visit

NARROWEST = 320
TOO_WIDE = """name => {
  const room = document.documentElement.clientWidth;
  return document.documentElement.scrollWidth > room ? [`${name}: ${document.documentElement.scrollWidth} px of ${room}`] : [];
}"""


@pytest.fixture(scope="module")
def page():
    with tab(NARROW) as page:
        yield page


@pytest.mark.parametrize("name", PAGES[1::2])
def test_page_at_both_widths(page, name):
    found = visit(page, address(name), *STEPS)
    assert not found, report(found)


def test_a_wide_formula_is_reached_by_tab_and_moved_by_arrow_keys(page):
    page.goto(address(CHAPTERS[-1]))
    page.evaluate(SETTLE)
    page.locator("div.math:has(.eqno a)").first.evaluate("formula => { formula.style.width = '5rem'; }")
    wide = page.locator("mjx-container[data-scrolls]")
    wide.first.wait_for(state="attached", timeout=5000)
    # From just before the formula, as if the reader had come that far.
    wide.first.evaluate("formula => (formula.closest('.math').querySelector('.eqno a') ?? formula.closest('.math')).focus()")
    page.keyboard.press("Tab")
    assert wide.first.evaluate("formula => formula === document.activeElement"), (
        "Tab passes by a wide formula; book.js should stop it"
    )
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0", timeout=5000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_what_scrolls_says_so_until_its_end(page):
    page.goto(address(CHAPTERS[-1]))
    page.evaluate(SETTLE)
    table = page.locator("table[data-scrolls]").first
    table.wait_for(state="attached", timeout=5000)
    mask = "table => getComputedStyle(table).maskImage"
    assert "gradient" in table.evaluate(mask)
    table.evaluate("table => { table.scrollLeft = table.scrollWidth; }")
    page.wait_for_function("table => table.hasAttribute('data-end')", arg=table.element_handle(), timeout=5000)
    assert table.evaluate(mask) == "none", "the last column is faded although nothing follows it"


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_error_stands_in_the_line_of_its_number(page, name):
    page.goto(address(name))
    text = (
        "[...document.querySelectorAll('article :is(p, li, td)')].filter(one => !one.closest('pre')).map(one => one.textContent)"
    )
    loose = page.evaluate(f"{text}.filter(text => text.includes(' ± '))")
    assert not loose and page.evaluate(f"{text}.some(text => text.includes('\u00a0±\u00a0'))")


def test_every_page_but_the_chapters_fits_the_narrowest_telephone(page):
    wide = []
    with beside(page, NARROWEST) as page:
        for name in PAGES:
            if name not in CHAPTERS:
                page.goto(address(name))
                page.evaluate(SETTLE)
                wide += page.evaluate(TOO_WIDE, name)
    assert not wide, report(wide)


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_first_screen_of_a_chapter_fits_the_narrowest_telephone(page, name):
    with beside(page, NARROWEST) as page:
        page.goto(address(name))
        page.evaluate(SETTLE)
        assert page.evaluate(TOO_WIDE, name) == []
        assert page.locator(".hero-figure img").bounding_box()["width"] <= NARROWEST


def test_displays_are_smaller_and_claims_become_a_list(page):
    page.goto(address(CHAPTERS[0]))
    text, display = (
        page.locator(f"article {which}").first.evaluate("one => parseFloat(getComputedStyle(one).fontSize)")
        for which in ("section > p", "div.math")
    )
    assert display < text
    row = page.locator("table.claims tbody tr").first
    tops = row.locator("td").evaluate_all("cells => cells.map((cell) => cell.getBoundingClientRect().top)")
    assert tops == sorted(set(tops)) and len(tops) == 4
