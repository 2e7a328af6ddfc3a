"use strict";
(() => {
  // A page opened from disk may not fetch its neighbours: search then lists titles, without excerpts.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }

  // What is wider than its column scrolls by itself; the Tab key then reaches it and the arrow keys move it.
  const SCROLLERS = {
    "mjx-container[display=true], span.math": "Formula",
    ".pst-scrollable-table-container, table": "Table",
    "figure, .cell_output > .output": "Figure",
    pre: "Code",
    "div.chart": "Chart",
  };
  const nameOf = (box) => Object.entries(SCROLLERS).find(([selector]) => box.matches(selector))[1];

  const mark = (box) => {
    // Accents overhang their letter by a pixel or two; they need no scrolling.
    const wide = box.scrollWidth > box.clientWidth + 4 && box.clientWidth > 0 && getComputedStyle(box).overflowX !== "visible";
    if (wide === (box.dataset.scrolls !== undefined)) return;
    if (wide) {
      box.dataset.scrolls = "";
      box.tabIndex = 0;
      box.setAttribute("aria-label", `${nameOf(box)}, scrolls sideways`);
      if (box.localName !== "table") box.setAttribute("role", "group"); // a table keeps its own role
    } else {
      delete box.dataset.scrolls;
      for (const name of ["tabindex", "aria-label", "role"]) box.removeAttribute(name);
    }
  };

  // Told of every change of size: a narrower window, an opened box, a font that has come.
  const watch = () => {
    const sizes = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
    const selector = Object.keys(SCROLLERS).flatMap((list) => list.split(", ")).map((one) => `article ${one}`);
    document.querySelectorAll(selector.join()).forEach((box) => sizes.observe(box));
  };
  addEventListener("load", () => Promise.resolve(window.MathJax?.startup?.promise).then(watch));

  // The arrows that unfold the table of contents have no text.
  addEventListener("DOMContentLoaded", () => {
    for (const arrow of document.querySelectorAll("summary:has(.toctree-toggle)")) {
      arrow.setAttribute("aria-label", `Pages under ${arrow.closest("li").querySelector("a").textContent.trim()}`);
    }
  });

  // Paper has nothing to click on.
  addEventListener("beforeprint", () => {
    for (const box of document.querySelectorAll("article details:not([open])")) {
      box.open = true;
      box.dataset.opened = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const box of document.querySelectorAll("details[data-opened]")) {
      box.open = false;
      delete box.dataset.opened;
    }
  });
})();
