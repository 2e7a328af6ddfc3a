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
