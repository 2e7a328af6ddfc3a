"""``python -m book_tools.quick part/slug ARGUMENTS``: Jupyter Book with ARGUMENTS, for the page of one chapter in a stage that was whole.

Left out is what only the rest of the book needs: the overviews that show the chapter, stubs of the reference, figure numbers of other
chapters, editions and licences. The next whole build does it all. Sphinx has no options for these, so its functions are replaced here,
in this process alone.
"""

from __future__ import annotations

import functools
import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jupyter_book.sphinx
import sphinx.ext.autosummary
from jupyter_book.cli.main import main
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors.toctree import TocTreeCollector
from sphinx.util.docutils import new_document

from book_tools import pages, reader, site
from book_tools.chapter import Chapter, book

LEFT_OUT: dict[ModuleType, tuple[str, ...]] = {
    sphinx.ext.autosummary: ("process_generate_options",),
    pages: ("outdated", "drop_stale_reference"),
    site: ("drop_stale", "ship_mathjax", "ship_licences", "ship_sitemap"),
}
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

    def nothing(*_: Any) -> Any:
        return []

    setattr(TocTreeCollector, "assign_figure_numbers", number_one)  # noqa: B010
    setattr(site, "ship_editions", ship_edition)  # noqa: B010
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
