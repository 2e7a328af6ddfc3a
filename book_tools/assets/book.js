"use strict";
(() => {
  // A page opened from disk may not fetch its neighbours: search then lists titles, without excerpts.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  }

  // How much of a chapter to show, remembered from page to page (where the browser lets a page remember). The pages come with everything
  // open; what is to be folded is folded as it is read, before it is painted.
  const root = document.documentElement;
  const DEPTHS = ["text", "checks", "code"];
  const remembered = () => {
    try {
      return localStorage.getItem("kexue-depth");
    } catch {
      return null;
    }
  };
  const fold = (box) => {
    box.open = box.matches(".code") && root.dataset.depth === "code";
  };
  const setDepth = (depth) => {
    root.dataset.depth = DEPTHS.includes(depth) ? depth : "checks";
  };
  setDepth(remembered());
  const reading = new MutationObserver((records) => {
    for (const record of records) {
      for (const node of record.addedNodes) if (node.localName === "details" && node.matches(".fold")) fold(node);
    }
  });
  reading.observe(root, { childList: true, subtree: true });

  addEventListener("change", (event) => {
    if (event.target.name !== "depth") return;
    setDepth(event.target.value);
    document.querySelectorAll("details.fold.code").forEach(fold);
    try {
      localStorage.setItem("kexue-depth", root.dataset.depth);
    } catch {
      // Then it holds for this page.
    }
  });

  // A link into a fold opens it.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const inside = target.querySelectorAll(":scope > details.fold");
    let closed = false;
    for (let box = target; box; box = box.parentElement?.closest("details")) {
      if (box.localName === "details" && !box.open) closed = box.open = true;
    }
    for (const box of inside) box.open = true;
    const solution = target.parentElement.closest(".toggle-hidden");
    if (solution) {
      solution.querySelector(".toggle-button")?.click();
      closed = true;
    }
    if (closed) target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  addEventListener("load", reveal);

  addEventListener("DOMContentLoaded", () => {
    reading.disconnect();
    const chosen = document.querySelector(`.depth input[value="${root.dataset.depth}"]`);
    if (chosen) chosen.checked = true;
  });

  // The TeX of a display, from MathJax, which read it.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = document.createElement("textarea");
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
  };
  const offerTeX = () => {
    for (const display of document.querySelectorAll("article div.math")) {
      const [formula] = window.MathJax?.startup?.document?.getMathItemsWithin?.([display]) ?? [];
      if (!formula) continue;
      let line = display.nextElementSibling;
      if (!line?.matches("p.executed")) {
        line = document.createElement("p");
        line.className = "executed";
        display.after(line);
      }
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy-tex";
      button.textContent = "copy TeX";
      button.addEventListener("click", async () => {
        await copy(formula.math.trim());
        button.textContent = "copied";
        setTimeout(() => (button.textContent = "copy TeX"), 1500);
      });
      line.prepend(button);
    }
  };

  // What is wider than its column scrolls by itself; the Tab key then reaches it and the arrow keys move it.
  const SCROLLERS = {
    "mjx-container[display=true], span.math": "Formula",
    ".pst-scrollable-table-container, table": "Table",
    "figure, .cell_output > .output": "Figure",
    pre: "Code",
    "div.chart": "Chart",
  };
  const nameOf = (box) => Object.entries(SCROLLERS).find(([selector]) => box.matches(selector))[1];

  // The mark at the right edge says that there is more: at the end there is none.
  const markEnd = (box) => box.toggleAttribute("data-end", box.scrollLeft + box.clientWidth >= box.scrollWidth - 2);

  const mark = (box) => {
    // Accents overhang their letter by a pixel or two; they need no scrolling.
    const wide = box.scrollWidth > box.clientWidth + 4 && box.clientWidth > 0 && getComputedStyle(box).overflowX !== "visible";
    if (wide) markEnd(box);
    if (wide === (box.dataset.scrolls !== undefined)) return;
    if (wide) {
      box.dataset.scrolls = "";
      box.tabIndex = 0;
      box.setAttribute("aria-label", `${nameOf(box)}, scrolls sideways`);
      if (box.localName !== "table") box.setAttribute("role", "group"); // a table keeps its own role
    } else {
      delete box.dataset.scrolls;
      for (const name of ["tabindex", "aria-label", "role", "data-end"]) box.removeAttribute(name);
    }
  };

  // Told of every change of size: a narrower window, an opened box. A font that comes may leave the box as it is and widen what is in it.
  const watch = () => {
    const sizes = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
    const selector = Object.keys(SCROLLERS).flatMap((list) => list.split(", ")).map((one) => `article ${one}`);
    const boxes = [...document.querySelectorAll(selector.join())];
    boxes.forEach((box) => sizes.observe(box));
    boxes.forEach((box) => box.addEventListener("scroll", () => markEnd(box), { passive: true }));
    document.fonts.addEventListener("loadingdone", () => boxes.forEach(mark));
  };
  addEventListener("load", () => Promise.resolve(window.MathJax?.startup?.promise).then(() => {
    watch();
    offerTeX();
  }));

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
