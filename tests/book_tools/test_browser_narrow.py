"""The built book in a real browser at the width of a telephone; a file of its own, so that two workers share the pages."""

import pytest
from browsing import NARROW, PAGES, TAGS, address, needed, opened, report, visit

from book_tools import browser

pytestmark = needed


@pytest.fixture(scope="module")
def chromium():
    with browser.launch() as running:
        yield running


@pytest.mark.parametrize("name", PAGES)
def test_page_at_telephone_width(chromium, name):
    page = opened(chromium, NARROW)
    found = visit(page, address(name), NARROW, ("dark", None), ("light", TAGS))
    page.context.close()
    assert not found, report(found)
