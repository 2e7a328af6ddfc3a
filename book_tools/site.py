"""What the site ships so that it reads offline, and how it can be found, launched, edited and shared where its addresses are known.

The addresses come from the environment of the build: ``KEXUE_REPOSITORY`` (https://github.com/owner/name) and ``KEXUE_SITE`` (where the
pages will stand). Without them no page shows a button that leads nowhere.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import textwrap
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.search import languages
from sphinx.search.en import SearchEnglish

from book_tools import opening, reader
from book_tools.chapter import ROOT, Chapter, contents

LAUNCH = ROOT / "_build" / "launch"  # the chapters for the branch that Colab reads
MATHJAX_FILES = ("tex-chtml-full.js", "ui/safe.js", "output/chtml/fonts/woff-v2/*.woff")
# Whose files stand in _static, and what these files hold in turn.
SHIPPED = (
    *("Sphinx", "myst-nb", "pydata-sphinx-theme", "sphinx-book-theme", "sphinx-copybutton", "sphinx-design"),
    *("sphinx-exercise", "sphinx-proof", "sphinx-togglebutton"),
)
INSIDE = {
    "MIT.txt": (
        "Bootstrap (scripts/bootstrap.js, styles): Copyright 2011-2024 The Bootstrap Authors, https://getbootstrap.com",
        "clipboard.js (clipboard.min.js): Copyright Zeno Rocha, https://clipboardjs.com",
    ),
    "OFL-1.1.txt": ("Font Awesome Free (vendor/fontawesome): Copyright Fonticons, Inc., https://fontawesome.com",),
}
ABOUT = "Posts of Su Jianlin's blog Scientific Spaces retold in English, with every equation executed."


def repository() -> str:
    """The address of the repository, or nothing."""
    return os.environ.get("KEXUE_REPOSITORY", "").rstrip("/")


def address() -> str:
    """The address of the site with a slash at its end, or nothing."""
    place = os.environ.get("KEXUE_SITE", "").rstrip("/")
    return place and place + "/"


def ship_editions(app: Sphinx, exception: Exception | None) -> None:
    """What readers download is the reader's edition; where the repository is known, Colab opens it from a branch of its own."""
    if exception is None and app.builder.format == "html":
        reader.write_all(Path(app.outdir) / "_sources", repository())
        shutil.rmtree(LAUNCH, ignore_errors=True)
        if repository():
            reader.write_all(LAUNCH, repository())


def add_buttons(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Where the repository is known: "suggest an edit" on every page that has a source, Colab on every chapter."""
    if not repository() or doctree is None:
        return
    source = Path(app.env.doc2path(pagename)).resolve().relative_to(ROOT).as_posix()
    if source.startswith("pages/reference/"):
        module = Path(*Path(source).stem.split("."))
        source = (module / "__init__.py" if (ROOT / module).is_dir() else module.with_suffix(".py")).as_posix()
    buttons = {"edit": ("Suggest an edit", "fas fa-pencil", f"{repository()}/edit/main/{source}")}
    if source.startswith("chapters/"):
        colab = f"https://colab.research.google.com/github/{'/'.join(repository().split('/')[-2:])}/blob/notebooks/{source}"
        buttons["colab"] = ("Open in Colab", "fas fa-rocket", colab)
    for label, (text, icon, url) in buttons.items():
        context["header_buttons"].insert(
            0, {"type": "link", "text": "", "tooltip": text, "icon": icon, "url": url, "label": f"{label}-button"}
        )


def add_meta(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Description of the page for search engines and for whoever shares it, with the chapter's cover."""
    title, cover = html.unescape(re.sub(r"<[^>]+>", "", context.get("title", ""))), contents()[0]
    about = next((text.astext() for text in doctree.findall(nodes.paragraph)), ABOUT) if doctree else ABOUT
    if pagename.startswith("chapters/"):
        cover = pagename.removeprefix("chapters/")
        title, about = Chapter.load(cover).title, re.sub(r"[*`$]", "", Chapter.load(cover).question)
    about = textwrap.shorten(about, 200, placeholder=" …")
    tags = {"description": about, "og:type": "article", "og:title": title, "og:description": about}
    tags["og:site_name"] = app.config.html_title
    if address():
        tags["og:url"], tags["twitter:card"] = f"{address()}{pagename}.html", "summary_large_image"
        tags["og:image"] = f"{address()}_images/{cover.replace('/', '-')}.png"
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n<meta {"name" if ":" not in key or key.startswith("twitter") else "property"}="{key}" content="{html.escape(value)}">'
        for key, value in tags.items()
    )


def drop_stale(app: Sphinx, exception: Exception | None) -> None:
    """Remove the pages of chapters and modules that are gone."""
    if exception is None and app.builder.format == "html":
        for folder in ("chapters", "pages"):
            for path in (Path(app.outdir) / folder).rglob("*.html"):
                if path.relative_to(app.outdir).with_suffix("").as_posix() not in app.env.found_docs:
                    path.unlink()


def ship_sitemap(app: Sphinx, exception: Exception | None) -> None:
    """The list of pages for search engines, where the address of the site is known."""
    if exception is None and app.builder.format == "html" and address():
        pages = sorted(f"{address()}{name}.html" for name in app.env.found_docs)
        urls = "".join(f"<url><loc>{html.escape(page)}</loc></url>\n" for page in pages)
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
        (Path(app.outdir) / "sitemap.xml").write_text(text, encoding="utf-8")
        (Path(app.outdir) / "robots.txt").write_text(f"User-agent: *\nSitemap: {address()}sitemap.xml\n", encoding="utf-8")


def ship_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy from the pinned wheel the few files of MathJax that a page needs, with the licence they come under."""
    if exception is not None or app.builder.format != "html":
        return
    files = distribution("sphinx-mathjax-offline").files or []
    root = next(Path(str(file.locate())).parent for file in files if file.name == "tex-chtml-full.js")
    target = Path(app.outdir) / "_static" / "mathjax"
    for pattern in MATHJAX_FILES:
        for path in root.glob(pattern):
            destination = target / path.relative_to(root)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)
    shutil.copyfile(ROOT / "LICENSES" / "Apache-2.0.txt", target / "LICENSE")


def ship_licences(app: Sphinx, exception: Exception | None) -> None:
    """The licences of everything in the site that others made, in one file."""
    if exception is not None or app.builder.format != "html":
        return
    parts = ["Parts of this site made by others, and their licences.\n\nMathJax: mathjax/LICENSE"]
    parts.append(
        "Icons drawn by icons.css: Font Awesome Free, Fonticons, Inc., CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
    )
    for licence, owners in INSIDE.items():
        parts += ["\n".join(owners), (ROOT / "LICENSES" / licence).read_text(encoding="utf-8")]
    for name in SHIPPED:
        texts = [file for file in distribution(name).files or [] if file.stem == "LICENSE" and ".dist-info" in str(file)]
        if not texts:
            raise ExtensionError(f"{name} brings no licence")
        parts += [name, *(Path(str(file.locate())).read_text(encoding="utf-8") for file in texts)]
    rule = f"\n\n{'-' * 80}\n\n"
    (Path(app.outdir) / "_static" / "licences.txt").write_text(rule.join(part.strip() for part in parts) + "\n", encoding="utf-8")


def without_icon_script(page: str) -> str:
    head, end, body = page.partition("</head>")
    return re.sub(r"\s*<(?:link|script)[^>]*fontawesome[^>]*>(?:</script>)?", "", head) + end + body


def ship_icons(app: Sphinx, exception: Exception | None) -> None:
    """The two dozen icons that the pages show, as masks in a small style sheet, instead of the theme's script with two thousand."""
    if exception is not None or app.builder.format != "html":
        return
    files = distribution("pydata-sphinx-theme").files or []
    scripts = [Path(str(file.locate())) for file in files if file.match("static/scripts/fontawesome.js")]
    library = scripts[0].read_text(encoding="utf-8")
    used: set[str] = set()
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        used.update(re.findall(r"\bfa-([a-z-]+)", page))
        lighter = without_icon_script(page)
        if lighter != page:
            path.write_text(lighter, encoding="utf-8")
    rules = [
        "/*! Icons: Font Awesome Free 6 by @fontawesome - https://fontawesome.com, CC BY 4.0 */",
        ":is(.fa-solid, .fas, .fa-brands, .fab)::before { content: ''; display: inline-block; width: 1.25em; height: 1em; "
        "vertical-align: -0.125em; background: currentcolor; mask: var(--icon) center / contain no-repeat; }",
        ".fa-lg { font-size: 1.25em; }",
    ]
    for name in sorted(used - {"solid", "brands", "regular", "lg"}):
        match = re.search(rf'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]', library)
        if match is None:
            raise ExtensionError(f"the icon {name} is not in the theme's library")
        svg = f"%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {match[1]} {match[2]}'%3E%3Cpath d='{match[3]}'/%3E%3C/svg%3E"
        rules.append(f'.fa-{name} {{ --icon: url("data:image/svg+xml,{svg}"); }}')
    static = Path(app.outdir) / "_static"
    (static / "icons.css").write_text("\n".join(rules) + "\n", encoding="utf-8")
    for leftover in [*static.rglob("*.map"), *static.rglob("fontawesome.js*")]:
        leftover.unlink(missing_ok=True)


class SearchBoth(SearchEnglish):
    """English as ever; Chinese text, and what is asked for in Chinese, by its pairs of neighbouring characters."""

    js_splitter_code = r"""
function splitQuery(query) {
  const words = query.split(/[^\p{Letter}\p{Number}_\p{Emoji_Presentation}]+/gu).filter((term) => term);
  const runs = words.flatMap((word) => word.match(/[\u4e00-\u9fff]+|[^\u4e00-\u9fff]+/g));
  return runs.flatMap((run) => (/^[\u4e00-\u9fff]{3}/.test(run) ? [...run].slice(1).map((sign, i) => run[i] + sign) : [run]));
}
"""

    def split(self, input: str) -> list[str]:
        runs = re.findall(r"[\u4e00-\u9fff]{2,}", input)
        return [*super().split(input), *(run[i : i + 2] for run in runs for i in range(len(run) - 1))]


EQUATION = re.compile(r'<span class="eqno">(\([^<)]+\))<a class="headerlink" href="(#[^"]+)" title="([^"]+)">#</a></span>')
SIZE = re.compile(r'style="width: (\d+)px; height: (\d+)px;?"')
NAME = re.compile(r'<span class="pre">[^<]*</span>|<h1>kexue\.[^<]+')
PART = re.compile(r'(?=<p aria-level="2" class="caption")')
MANY = 20  # pages in the sidebar, above which only the part that is read stands open there


def finish(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """The last touches: a link on each number of an equation, long names that may break, the switch of a chapter, a sidebar that folds."""
    if "body" in context:
        # The role that docutils gives to the entries of a bibliography is deprecated.
        body = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        body = EQUATION.sub(r'<span class="eqno"><a href="\2" title="\3">\1</a></span>', body)
        body = SIZE.sub(r'width="\1" height="\2"', body)  # which keeps the room of a figure that is yet to come
        body = NAME.sub(lambda name: re.sub(r"(?<=\w)([._])(?=\w)", r"\1<wbr>", name[0]), body)
        context["body"] = opening.switch() * pagename.startswith("chapters/") + body
    if "generate_toctree_html" in context:
        make = context["generate_toctree_html"]
        context["generate_toctree_html"] = lambda *args, **settings: by_part(str(make(*args, **settings)))


def shorten_contents(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Make the sidebar from the titles of pages alone. Sphinx copies all headings of all pages for each page, and then drops them: a fifth
    of the time that a book of 35 chapters takes."""
    if "toctree" not in context:
        return
    if not hasattr(app.env, "titles_alone"):
        app.env.titles_alone = {page: _title_alone(tree) for page, tree in app.env.tocs.items()}  # type: ignore[attr-defined]
    make, whole = context["toctree"], app.env.tocs

    def toctree(**settings: Any) -> Any:
        if not settings.get("titles_only"):
            return make(**settings)
        app.env.tocs = app.env.titles_alone  # type: ignore[attr-defined]
        try:
            return make(**settings)
        finally:
            app.env.tocs = whole

    context["toctree"] = toctree


def _title_alone(tree: nodes.bullet_list) -> nodes.bullet_list:
    """The entry of a page without its sections, unless other pages stand among them."""
    if next(tree.findall(addnodes.toctree), None) is not None:
        return tree
    found: nodes.bullet_list = tree.deepcopy()
    for item in found.children:
        item[:] = [child for child in item.children if not isinstance(child, nodes.bullet_list)]
    return found


def by_part(sidebar: str) -> str:
    """The contents in the sidebar, a fold for each part."""
    before, *parts = PART.split(sidebar)
    few = sidebar.count("toctree-l1") <= MANY
    found = [before]
    for part in parts:
        caption, _, pages = part.partition("</p>")
        opened = " open" if few or re.search(r'class="[^"]*\bcurrent\b', pages) else ""
        found.append(f'<details class="part"{opened}><summary>{caption}</p></summary>{pages}</details>')
    return "".join(found)


def setup(app: Sphinx) -> None:
    languages["en"] = SearchBoth
    if address():
        app.config.html_baseurl = address()
    app.connect("html-page-context", add_buttons, priority=900)
    app.connect("html-page-context", shorten_contents)
    app.connect("html-page-context", add_meta)
    app.connect("html-page-context", finish, priority=900)
    for ship in (drop_stale, ship_mathjax, ship_licences, ship_icons, ship_editions, ship_sitemap):
        app.connect("build-finished", ship)
