"""The built book in a real browser at the width of a telephone; a file of its own, so that two workers share the pages."""

import pytest
from browsing import CHAPTERS, NARROW, PAGES, SETTLE, TAGS, address, report, tab, visit


@pytest.fixture(scope="module")
def page():
    with tab(NARROW) as page:
        yield page


@pytest.mark.parametrize("name", PAGES)
def test_page_at_telephone_width(page, name):
    found = visit(page, address(name), ("dark", None), ("light", TAGS))
    assert not found, report(found)


def test_a_wide_formula_is_reached_by_tab_and_moved_by_arrow_keys(page):
    page.goto(address(CHAPTERS[-1]))
    page.evaluate(SETTLE)
    wide = page.locator("mjx-container[data-scrolls]")
    wide.first.wait_for(state="attached", timeout=5000)
    # From just before the formula, as if the reader had come that far.
    wide.first.evaluate("formula => { const before = formula.closest('.math'); before.tabIndex = -1; before.focus(); }")
    page.keyboard.press("Tab")
    assert wide.first.evaluate("formula => formula === document.activeElement"), (
        "Tab passes by a wide formula; book.js should stop it"
    )
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0", timeout=5000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')")
