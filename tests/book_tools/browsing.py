"""The built book in a real browser, opened from disk: what a page must be like, whatever its content.

``visit`` loads one page, looks at it at both widths, in light and in dark, and returns complaints that name page, width, scheme and
element.
"""

import functools
import gzip
import os
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from book_tools import browser
from book_tools.building import SITE

PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts)
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
WIDE, NARROW = 1280, 390
WEIGHT = 700  # KB a chapter may send over the wire, MathJax apart
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
COLOURS = ["color-contrast", "link-in-text-block"]  # the rules that another scheme can break
# Both widths and schemes, and what axe looks for in each: everything once a width, what a scheme can break in the other scheme too.
STEPS = ((WIDE, "light", COLOURS), (WIDE, "dark", TAGS), (NARROW, "dark", None), (NARROW, "light", TAGS))
HARMLESS: set[str] = set()  # console messages by their exact text, each with its reason

if not PAGES:
    pytest.skip("the book is not built: run make book", allow_module_level=True)
if os.environ.get("KEXUE_REQUIRE_BROWSER") != "1" and browser.find() is None:  # required and missing: launch() fails every test
    pytest.skip(f"no browser tests: {browser.MISSING}", allow_module_level=True)

# Runs before the page's own scripts: notes when the last formula has been set.
CLOCK = """addEventListener("DOMContentLoaded", () => window.MathJax?.startup?.promise.then(() => performance.mark("typeset")))"""

# After it, everything on the page is there and open: formulas set, pictures loaded, folded boxes unfolded, fonts come, book.js done.
SETTLE = """async () => {
  await window.MathJax?.startup?.promise;
  for (const image of document.images) image.loading = "eager";
  for (const box of document.querySelectorAll("details")) box.open = true;
  for (const box of document.querySelectorAll(".toggle-hidden")) box.classList.remove("toggle-hidden");
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  await document.fonts.ready;
  // A new width reaches the page in more than one frame; book.js answers each. Two frames alike: nothing moves any more.
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const sizes = () => [innerWidth, ...[...document.querySelectorAll("article *")].map((box) => box.clientWidth)].join();
  for (let before = "", now = sizes(), frames = 0; now !== before && frames < 60; frames++) {
    await frame();
    await frame();
    [before, now] = [now, sizes()];
  }
}"""

LOOK = """() => {
  const found = [];
  const html = (element) => element.outerHTML.replace(/\\s+/g, " ").slice(0, 160);
  const say = (element, what) => found.push(`${what}: ${html(element)}`);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const article = document.querySelector("article, .bd-search-container");

  for (const source of all(".math")) {
    if (!source.querySelector("mjx-container")) say(source, "a formula is not set; is MathJax on this page?");
    const [box, set] = [source.querySelector("mjx-container"), source.querySelector("mjx-math")];
    const cut = set ? Math.round(set.getBoundingClientRect().right - source.getBoundingClientRect().right) : 0;
    if (cut > 1 && ![box, source].some((one) => /auto|scroll/.test(getComputedStyle(one).overflowX)))
      say(source, `a formula is cut off by ${cut} px and does not scroll`);
  }
  for (const box of all("div.math mjx-container")) {
    const edge = box.getBoundingClientRect().top;
    const signs = all("mjx-math *", box).map((one) => one.getBoundingClientRect()).filter((one) => one.height);
    const above = Math.round(edge - Math.min(...signs.map((one) => one.top)));
    if (above > 1) say(box, `a display is clipped at its top by ${above} px`);
  }
  for (const error of all("mjx-merror, [data-mjx-error]")) say(error.closest(".math") ?? error, "TeX error");
  for (const formula of all("mjx-container")) {
    const colour = getComputedStyle(formula.parentElement).color;
    if ([formula, ...all("*", formula)].some((part) => getComputedStyle(part).color !== colour))
      say(formula, `a formula has a colour of its own (an unknown macro is red): ${formula.textContent}`);
  }

  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) {
    const scrolls = (element) => element && element !== document.body &&
      (getComputedStyle(element).overflowX !== "visible" || scrolls(element.parentElement));
    const wide = all("body *").filter((one) => one.getBoundingClientRect().right > page.clientWidth + 1 && !scrolls(one.parentElement));
    say(wide.pop() ?? page, `the page scrolls sideways by ${page.scrollWidth - page.clientWidth} px; let this scroll or wrap`);
  }

  const stops = "a[href], button, input, summary, [tabindex='0']";
  for (const box of all(":not(mjx-container *)", article)) {
    const hidden = box.scrollWidth > box.clientWidth + 4 && /auto|scroll/.test(getComputedStyle(box).overflowX);
    if (hidden && box.clientWidth && !box.matches(stops) && !box.querySelector(stops)) say(box, "Tab does not reach what scrolls");
  }

  for (const image of document.images) if (!image.naturalWidth) say(image, "a picture is not loaded");

  const headings = all("h1, h2, h3, h4, h5, h6", article);
  if (headings.filter((heading) => heading.localName === "h1").length !== 1) say(article, "the article needs exactly one h1");
  let level = 0;
  for (const heading of headings) {
    if (heading.localName[1] - level > 1) say(heading, `a heading of level ${heading.localName[1]} follows level ${level}`);
    level = +heading.localName[1];
  }

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, parent = text.parentElement;
    if (parent.closest("script, style, noscript")) continue;
    if (/\\p{Script=Han}/u.test(text.data) && !/^zh\\b/.test(parent.closest("[lang]").lang))
      say(parent, 'Chinese outside lang="zh"');
    if (/\\\\[(\\[]/.test(text.data) && !parent.closest("pre, code, mjx-container")) say(parent, "TeX stands in the text as it is");
  }
  return found;
}"""

# Axe takes 20 s for a chapter as it stands. So it is spared what it cannot judge or has judged: the glyphs of formulas, whose box stays
# (they have the colour of the text around them, see above), pieces of code whose like stands in the same block ...
THIN = """() => {
  for (const formula of document.querySelectorAll("mjx-math")) {
    const {width, height} = formula.getBoundingClientRect();
    formula.style = `display: inline-block; width: ${width}px; height: ${height}px`;
  }
  for (const formula of document.querySelectorAll("mjx-math, mjx-assistive-mml")) formula.replaceChildren();
  for (const block of document.querySelectorAll("pre")) {
    const seen = new Set();
    for (const piece of block.querySelectorAll("span:not([id])")) {
      let kind = "";
      for (let part = piece; part !== block; part = part.parentElement) kind += part.className + "/";
      if (seen.has(kind)) piece.replaceWith(...piece.childNodes);
      seen.add(kind);
    }
  }
}"""

# ... and contrast of all texts but one of each kind: the same colour, size and weight on the same grounds.
AXE = """async (rules) => {
  const grounds = new Map([[null, ""]]), kinds = new Set();
  const ground = (element) => {
    if (!grounds.has(element)) {
      const style = getComputedStyle(element);
      const own = [style.backgroundColor, style.backgroundImage, style.opacity, style.filter].join();
      const above = ground(element.parentElement);
      grounds.set(element, above.endsWith(`|${own}`) ? above : `${above}|${own}`);
    }
    return grounds.get(element);
  };
  for (const element of document.querySelectorAll("body *")) {
    delete element.dataset.sample;
    const speaks = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!(speaks || element.matches("input, select, textarea")) || !element.checkVisibility({visibilityProperty: true})) continue;
    const style = getComputedStyle(element);
    const kind = [style.color, style.fontSize, style.fontWeight, style.textShadow, ground(element)].join();
    if (!kinds.has(kind)) element.dataset.sample = "";
    kinds.add(kind);
  }
  axe.configure({rules: [{id: "color-contrast", selector: "[data-sample]"}]});
  const found = await axe.run({runOnly: rules, resultTypes: ["violations"], preload: false});
  return found.violations.flatMap((rule) => rule.nodes.slice(0, 5).map((node) => {
    const why = [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
    const more = rule.id === "color-contrast" ? "whatever looks like it" : `${rule.nodes.length - 1} more`;
    return `axe ${rule.id}: ${why}: ${node.html.replace(/ data-sample=""/, "").replace(/\\s+/g, " ").slice(0, 160)}, and ${more}`;
  }));
}"""


class Journal:
    """What a page asks for and complains about, for the length of a ``with`` block."""

    def __init__(self, page):
        self.page = page
        self.loaded: list[Path] = []
        self.complaints: list[str] = []
        self.listeners = {
            "request": self._request,
            "requestfailed": lambda request: self.complaints.append(f"not loaded: {request.url} ({request.failure})"),
            "console": self._message,
            "pageerror": lambda error: self.complaints.append(f"script error: {error}"),
        }

    def __enter__(self):
        for event, listener in self.listeners.items():
            self.page.on(event, listener)
        return self

    def __exit__(self, *_):
        for event, listener in self.listeners.items():
            self.page.remove_listener(event, listener)

    def _request(self, request):
        parts = urlparse(request.url)
        if parts.scheme == "file":
            self.loaded.append(Path(unquote(parts.path)))
        elif parts.scheme not in ("data", "blob"):
            self.complaints.append(f"asks another machine for {request.url}; ship the file with the book")

    def _message(self, message):
        if message.type in ("error", "warning") and message.text not in HARMLESS:
            self.complaints.append(f"console {message.type}: {message.text}")


@contextmanager
def tab(width):
    """One tab of that width in a browser of its own, without animations; all pages are visited in it, which halves the time."""
    with browser.launch() as chromium:
        context = chromium.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce")
        context.add_init_script(CLOCK)
        yield context.new_page()
        context.close()


@contextmanager
def beside(page, width, **settings):
    """Another tab of the same browser, which shares no memory with the first."""
    context = page.context.browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", **settings)
    try:
        yield context.new_page()
    finally:
        context.close()


def address(page):
    """The URL of a page of the book; it may carry a query or a fragment."""
    path, mark, rest = page.partition("?")
    return (SITE / path).as_uri() + mark + rest


def visit(page, url, *steps):
    """Complaints about a page, loaded once. A step is a width, a scheme and what axe then looks for; the formulas are emptied before axe
    comes."""
    name, found, usual = url.removeprefix(SITE.as_uri() + "/"), [], page.viewport_size["width"]
    _show(page, *steps[0][:2])
    with Journal(page) as journal:
        page.goto(url)
        page.evaluate(SETTLE)
        looks = [(width, scheme, LOOK, None) for width, scheme, _ in steps]
        judgements = [(width, scheme, AXE, rules) for width, scheme, rules in reversed(steps) if rules]
        thinning = [(*looks[-1][:2], THIN, None), (*looks[-1][:2], AXE_SCRIPT + ";[]", None)]
        for width, scheme, script, argument in [*looks, *thinning, *judgements]:
            _show(page, width, scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            found += [f"{name} at {width} px, {scheme}: {complaint}" for complaint in page.evaluate(script, argument) or []]
        found += [f"{name}: {complaint}" for complaint in journal.complaints]
        if name in CHAPTERS:
            found += [f"{name}: {complaint}" for complaint in slow(page) + heavy(journal.loaded)]
    page.set_viewport_size({"width": usual, "height": 800})
    return found


def _show(page, width, scheme):
    """The page at a width and in a scheme; where the width changes, everything settles anew."""
    if page.viewport_size["width"] != width:
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("width => innerWidth === width", arg=width)
        page.evaluate(SETTLE)
    page.emulate_media(color_scheme=scheme)


def slow(page):
    """Whether a reader waits for MathJax before seeing any text."""
    paint, typeset = page.evaluate(
        """["first-contentful-paint", "typeset"].map((name) => performance.getEntriesByName(name)[0]?.startTime)"""
    )
    if paint is not None and typeset is not None and paint < typeset:
        return []
    return [f"the first paint ({paint} ms) comes after the last formula ({typeset} ms): some script in the head blocks it"]


@functools.cache
def zipped(path):
    """Size in KB as a web server would send the file."""
    return len(gzip.compress(path.read_bytes())) / 1000


def heavy(loaded):
    """Whether a chapter weighs too much, MathJax apart (it is the same for all and cached)."""
    files = {path for path in loaded if "mathjax" not in path.parts}
    total = sum(map(zipped, files))
    if total < WEIGHT:
        return []
    largest = ", ".join(f"{path.name} {zipped(path):.0f}" for path in sorted(files, key=zipped, reverse=True)[:5])
    return [f"{total:.0f} KB compressed, the limit is {WEIGHT} (largest: {largest})"]


def report(complaints):
    """All complaints as one message, equal ones once."""
    return f"{len(complaints)} complaint(s)\n" + "\n".join(dict.fromkeys(complaints))
