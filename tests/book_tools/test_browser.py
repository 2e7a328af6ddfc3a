"""Every other page of the built book in a real browser, and what is asked once of the whole site; ``browsing`` says what is looked at."""

import random

import pytest
from browsing import (
    CHAPTERS,
    PAGES,
    SETTLE,
    STEPS,
    WEIGHT,
    WIDE,
    Journal,
    address,
    beside,
    heavy,
    report,
    slow,
    tab,
    visit,
)
from playwright.sync_api import TimeoutError


@pytest.fixture(scope="module")
def page():
    with tab(WIDE) as page:
        yield page


@pytest.mark.parametrize("name", PAGES[::2])
def test_page_at_both_widths(page, name):
    found = visit(page, address(name), *STEPS)
    assert not found, report(found)


SEARCHES = {
    "exposure bias": "generation/exposure_bias",
    "rotary": "attention/rope",
    "旋转式位置编码": "attention/rope",
    "遗忘": "probability/vae_bottleneck",
}


@pytest.mark.parametrize(("words", "chapter"), SEARCHES.items())
def test_search_finds_a_chapter_from_disk(page, words, chapter):
    with Journal(page) as journal:
        page.goto(address(f"search.html?q={words}"))
        hits = page.locator(f"#search-results a[href*='chapters/{chapter}.html']")
        try:
            hits.first.wait_for(timeout=5000)
        except TimeoutError:
            pytest.fail(
                f"{words} does not lead to {chapter}; the page says: {page.locator('#search-results').inner_text()[:300]}"
            )
    assert not journal.complaints, report(journal.complaints)


IN_VIEW = """async () => {
  await window.MathJax?.startup?.promise;
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
    page.evaluate(SETTLE)
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


SEEN = """selector => [...document.querySelectorAll(`article ${selector}`)].filter((one) => one.checkVisibility()).length"""
PARTS = {
    "code": "div.cell > div.cell_input",
    "folded": "details.code > div.cell_input",
    "checks": "p.executed a",
    "bars": "details.code > summary",
}
DEPTHS = {
    "text": {"code": False, "folded": False, "checks": False, "bars": False},
    "checks": {"code": True, "folded": False, "checks": True, "bars": True},
    "code": {"code": True, "folded": True, "checks": True, "bars": True},
}


def shown(page):
    return {part: page.evaluate(SEEN, selector) > 0 for part, selector in PARTS.items()}


def test_the_switch_shows_more_or_less_is_worked_by_keys_and_remembered(page):
    first, second, *_ = CHAPTERS
    with beside(page, WIDE) as page:
        page.goto(address(first))
        assert page.evaluate("document.documentElement.dataset.depth") == "checks"
        assert shown(page) == DEPTHS["checks"]
        figures = page.evaluate(SEEN, "figure img")
        page.locator(".depth input[value=checks]").focus()
        page.keyboard.press("ArrowLeft")
        assert shown(page) == DEPTHS["text"]
        assert page.evaluate(SEEN, "figure img") == figures
        page.goto(address(second))
        assert shown(page) == DEPTHS["text"]
        assert page.locator(".depth input[value=text]").is_checked()
        page.locator(".depth label", has_text="all code").click()
        assert shown(page) == DEPTHS["code"]
        page.reload()
        assert shown(page) == DEPTHS["code"]


def test_without_a_script_everything_is_open_and_there_is_no_switch(page):
    with beside(page, WIDE, java_script_enabled=False) as page:
        page.goto(address(CHAPTERS[0]))
        assert page.locator("details.fold").count() == page.locator("details.fold[open]").count() > 3
        assert not page.locator(".depth").is_visible()


def test_a_page_that_may_not_remember_still_switches(page):
    with beside(page, WIDE) as page:
        page.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); }")
        page.goto(address(CHAPTERS[0]))
        page.locator(".depth label", has_text="text only").click()
        assert shown(page) == DEPTHS["text"]


@pytest.mark.parametrize("way", ["p.executed a", ".bd-article a.term", "ul.chapter-meta a[href='#symbols']"])
def test_links_into_a_fold_open_it(page, way):
    page.goto(address(CHAPTERS[0]))
    link = page.locator(way).first
    fragment = link.get_attribute("href").split("#")[1]
    link.click()
    page.wait_for_url(f"**#{fragment}")
    in_view = "id => { const { top } = document.getElementById(id)?.getBoundingClientRect() ?? {}; return top > 0 && top < innerHeight; }"
    page.wait_for_function(in_view, arg=fragment, timeout=5000)
    assert page.evaluate("id => !document.getElementById(id).closest('details:not([open])')", fragment)
    if fragment == "symbols":
        assert page.locator("#symbols td").first.is_visible()


def test_the_tex_of_a_display_is_copied(page):
    page.goto(address(CHAPTERS[0]))
    page.evaluate(SETTLE)
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    button = page.locator("button.copy-tex").first
    button.wait_for(state="attached", timeout=5000)
    assert page.locator("button.copy-tex").count() == page.locator("article div.math").count()
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("window.copied")
    text = page.evaluate("window.copied")
    assert text and not text.startswith("\\[") and "<" not in text.replace("<=", "")
    assert button.inner_text() == "copied"


def test_copy_buttons_stand_at_code_and_leave_prompts_and_outputs_out(page):
    page.goto(address(CHAPTERS[0]))
    assert page.locator(".cell_input button.copybtn").count() > 3
    assert page.locator(".cell_output button.copybtn").count() == 0
    page.goto(address("pages/reference/kexue.generation.repetition.html"))
    page.evaluate(
        "addEventListener('copy', () => { window.copied = String(getSelection()) || document.activeElement.value; }, true)"
    )
    box = page.locator("div.highlight:has(.gp):has(.go)").first
    box.hover()
    box.locator("button.copybtn").click()
    page.wait_for_function("window.copied !== undefined")
    code = page.evaluate("window.copied")
    printed = box.locator(".go").first.inner_text()
    assert code.strip() and ">>>" not in code and printed not in code.splitlines()


def test_line_figures_turn_over_in_dark_mode_and_pictures_do_not(page):
    filters = """[...document.querySelectorAll("article img")].map(
      (one) => [!!one.closest(".tag_picture, .picture"), getComputedStyle(one).filter])"""
    for name in CHAPTERS:
        page.emulate_media(color_scheme="dark")
        page.goto(address(name))
        for picture, how in page.evaluate(filters):
            assert ("invert" in how) is not picture, (name, how)
        page.emulate_media(color_scheme="light")
        page.reload()
        assert {how for _, how in page.evaluate(filters)} == {"none"}


BAD = """<!doctype html><html lang="en"><title>Bad</title><script>
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { document.documentElement.dataset.theme = scheme.matches ? "dark" : "light"; };
  scheme.onchange = follow; follow(); console.error("a message"); console.warn("harmless?"); setTimeout(() => lost());
</script><link rel="stylesheet" href="missing.css">
<main><article><h2>Two</h2><h4>Four</h4><p>中文 and \\(x\\) and <span lang="zh">中文</span></p>
<p style="color: #999">pale</p><img alt="none" src="missing.png"><img alt="far" src="https://example.invalid/far.png">
<span class="math">raw</span><span class="math"><mjx-container><mjx-merror>?</mjx-merror></mjx-container></span>
<span class="math"><mjx-container><mjx-math><mjx-mtext style="color: red">macro</mjx-mtext></mjx-math></mjx-container></span>
<span class="math" style="display: block; overflow: hidden; width: 50px">
<mjx-container><mjx-math style="display: inline-block; width: 90px">long</mjx-math></mjx-container></span>
<p style="width: 20px; overflow: auto; white-space: nowrap">a line that scrolls</p><p style="width: 3000px">wide</p></article></main>"""


def test_a_bad_page_meets_every_complaint(page, tmp_path):
    (tmp_path / "bad.html").write_text(BAD, encoding="utf-8")
    said = report(visit(page, (tmp_path / "bad.html").as_uri(), *STEPS[:2]))
    for word in (
        "not loaded: file:///",
        "asks another machine for https://example.invalid/far.png",
        "console error: a message",
        "console warning: harmless?",
        "script error: lost is not defined",
        "a formula is not set",
        "TeX error",
        "a formula has a colour of its own (an unknown macro is red): macro",
        "a formula is cut off by 40 px",
        "the page scrolls sideways",
        "Tab does not reach what scrolls",
        "a picture is not loaded",
        "exactly one h1",
        "a heading of level 2 follows level 0",
        "a heading of level 4 follows level 2",
        'Chinese outside lang="zh": <p>中文 and',
        "TeX stands in the text as it is",
        "light: axe color-contrast",
        "dark: axe scrollable-region-focusable",
    ):
        assert word in said, f"not found: {word}\n{said}"
    assert said.count("Chinese outside") == 2  # once a scheme, and not for the marked one


@pytest.mark.parametrize(("paint", "typeset", "words"), [(300, 900, ""), (900, 300, "comes after"), (None, 900, "comes after")])
def test_a_page_that_waits_for_its_formulas_is_told(paint, typeset, words):
    class Stopwatch:
        def evaluate(self, script):
            return paint, typeset

    assert words in "".join(slow(Stopwatch())) and bool(slow(Stopwatch())) == bool(words)


def test_a_heavy_chapter_is_told(tmp_path):
    (tmp_path / "noise").write_bytes(random.Random(0).randbytes(WEIGHT * 1001))
    assert "largest: noise 70" in heavy([tmp_path / "noise"])[0]
    assert not heavy([])
