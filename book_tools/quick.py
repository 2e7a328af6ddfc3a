"""``python -m book_tools.quick part/slug ARGUMENTS``: Jupyter Book with ARGUMENTS, for the page of one chapter in a stage that was whole.

Left out is what only the rest of the book needs: the overviews that show the chapter, stubs and sources of the reference, the index,
figure numbers of other chapters, editions and licences. The next whole build does it all. Sphinx has no options for these, so its
functions are replaced here, in this process alone.
"""

from __future__ import annotations

import functools
import gc
import sys
import time
from pathlib import Path
from typing import Any

import jupyter_book.sphinx
import sphinx.ext.autosummary
import sphinx.ext.viewcode
from jupyter_book.cli.main import main
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors.toctree import TocTreeCollector
from sphinx.util.docutils import new_document

from book_tools import pages, reader, site
from book_tools.chapter import Chapter, book

LEFT_OUT: dict[Any, tuple[str, ...]] = {
    sphinx.ext.autosummary: ("process_generate_options",),
    sphinx.ext.viewcode: ("collect_pages",),
    StandaloneHTMLBuilder: ("gen_indices",),
    pages: ("outdated", "drop_stale_reference"),
    site: ("drop_stale", "ship_mathjax", "ship_licences", "ship_sitemap"),
}
START = time.time()
_number_all = TocTreeCollector.assign_figure_numbers


def only(docname: str) -> None:
    """Replace what would be done for the rest of the book."""

    def number_one(self: TocTreeCollector, env: BuildEnvironment) -> list[str]:
        """Numbers of figures and equations begin anew in each chapter, so the others keep theirs and are not looked at."""
        known, load = dict(env.toc_fignumbers), env.get_doctree
        wanted = {docname, env.config.root_doc}
        setattr(env, "get_doctree", lambda name: load(name) if name in wanted else new_document(""))  # noqa: B010
        try:
            changed = _number_all(self, env)
        finally:
            setattr(env, "get_doctree", load)  # noqa: B010
        env.toc_fignumbers = known | {docname: env.toc_fignumbers.get(docname, {})}
        return [name for name in changed if name == docname]

    def ship_edition(app: Any, exception: Exception | None) -> None:
        if exception is None:
            chapter = Chapter.load(docname.removeprefix("chapters/"))
            path = Path(app.outdir) / "_sources" / f"{docname}.ipynb"
            path.write_text(reader.dumps(reader.edition(chapter, book(), site.repository())), encoding="utf-8")

    def ship_icons(app: Any, exception: Exception | None) -> None:
        """The icons are there; a fresh page does not load the script that would draw them."""
        for path in Path(app.outdir).rglob("*.html"):
            if path.stat().st_mtime >= START:
                path.write_text(site.without_icon_script(path.read_text(encoding="utf-8")), encoding="utf-8")
        static = Path(app.outdir) / "_static"
        for leftover in [*static.rglob("*.map"), *static.rglob("fontawesome.js*")]:
            leftover.unlink(missing_ok=True)

    def nothing(*_: Any) -> Any:
        return []

    setattr(TocTreeCollector, "assign_figure_numbers", number_one)  # noqa: B010
    setattr(site, "ship_editions", ship_edition)  # noqa: B010
    setattr(site, "ship_icons", ship_icons)  # noqa: B010
    for module, names in LEFT_OUT.items():
        for name in names:
            setattr(module, name, nothing)


if __name__ == "__main__":
    gc.set_threshold(200_000, 50, 100)
    name = sys.argv.pop(1)
    only(f"chapters/{name}")
    page = [str(Chapter.path_of(name))]
    jupyter_book.sphinx.build_sphinx = functools.partial(jupyter_book.sphinx.build_sphinx, filenames=page)
    main()
