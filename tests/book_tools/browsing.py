"""The built book in a real browser, opened from disk: what a page must be like, whatever its content.

``visit`` loads one page at one width, looks at it in light and in dark, and returns complaints that name page, width, scheme and element.
"""

import functools
import gzip
import os
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from book_tools import browser
from book_tools.__main__ import SITE

PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts)
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]
WIDE, NARROW = 1280, 390
WEIGHT = 700  # KB a chapter may send over the wire, MathJax apart
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
COLOURS = ["color-contrast", "link-in-text-block"]  # the rules that another scheme can break
HARMLESS: set[str] = set()  # console messages by their exact text, each with its reason

needed = [
    pytest.mark.skipif(not PAGES, reason="the book is not built: run make book"),
    pytest.mark.skipif(
        os.environ.get("KEXUE_REQUIRE_BROWSER") != "1" and browser.find() is None, reason=f"no browser tests: {browser.MISSING}"
    ),
]

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
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
}"""

LOOK = """() => {
  const found = [];
  const html = (element) => element.outerHTML.replace(/\\s+/g, " ").slice(0, 160);
  const say = (element, what) => found.push(`${what}: ${html(element)}`);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const article = document.querySelector("article, .bd-search-container");

  for (const source of all(".math")) {
    if (!source.querySelector("mjx-container")) say(source, "a formula is not set; is MathJax on this page?");
    const formula = source.querySelector(":scope > mjx-container > mjx-math")?.getBoundingClientRect();
    const cut = formula && getComputedStyle(source.firstElementChild).overflowX === "visible"
      ? Math.round(formula.right - source.getBoundingClientRect().right) : 0;
    if (cut > 1) say(source, `a formula is cut off by ${cut} px; display it or break it: ${formula.textContent}`);
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
  return found.violations.flatMap((rule) => rule.nodes.map((node) => {
    const why = [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
    const sample = rule.id === "color-contrast" ? ", and whatever looks like it" : "";
    return `axe ${rule.id}: ${why}: ${node.html.replace(/ data-sample=""/, "").replace(/\\s+/g, " ").slice(0, 160)}${sample}`;
  }));
}"""


class Journal:
    """What a page asked for and complained about while it was open."""

    def __init__(self, page):
        self.loaded: list[Path] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self._request(request.url))
        page.on("requestfailed", lambda request: self.complaints.append(f"not loaded: {request.url} ({request.failure})"))
        page.on("console", self._message)
        page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))

    def _request(self, url):
        parts = urlparse(url)
        if parts.scheme == "file":
            self.loaded.append(Path(unquote(parts.path)))
        elif parts.scheme not in ("data", "blob"):
            self.complaints.append(f"asks another machine for {url}; ship the file with the book")

    def _message(self, message):
        if message.type in ("error", "warning") and message.text not in HARMLESS:
            self.complaints.append(f"console {message.type}: {message.text}")


def opened(chromium, width, **settings):
    """A new page of that width, without animations, in its own context (close the context)."""
    context = chromium.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", **settings)
    context.add_init_script(CLOCK)
    return context.new_page()


def address(page):
    """The URL of a page of the book; it may carry a query or a fragment."""
    path, mark, rest = page.partition("?")
    return (SITE / path).as_uri() + mark + rest


def visit(page, url, width, *steps):
    """Complaints about a page. A step is a scheme and what axe then looks for; the formulas are emptied before axe comes."""
    journal, found, name = Journal(page), [], url.removeprefix(SITE.as_uri() + "/")
    page.emulate_media(color_scheme=steps[0][0])
    page.goto(url)
    page.evaluate(SETTLE)
    if name in CHAPTERS:
        found += [f"{name} at {width} px: {complaint}" for complaint in slow(page) + heavy(journal.loaded)]
    looks = [(scheme, LOOK, None) for scheme, _ in steps]
    judgements = [(scheme, AXE, rules) for scheme, rules in reversed(steps) if rules]
    for scheme, script, argument in [*looks, (None, THIN, None), (None, AXE_SCRIPT + ";[]", None), *judgements]:
        if scheme:
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        found += [f"{name} at {width} px, {scheme}: {complaint}" for complaint in page.evaluate(script, argument) or []]
    return found + [f"{name} at {width} px: {complaint}" for complaint in journal.complaints]


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
