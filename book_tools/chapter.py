"""What a chapter carries, read from its stored notebook: card, labelled equations, executed checks, verdicts, figures."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from book_tools import figures, notebooks
from kexue.lab.verification import Record

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("probability", "functions", "losses", "optimization", "representation", "generation", "attention")
CARD = ("Post", "Question", "Papers", "Before this", "Package", "Runs in")
VERDICTS = ("confirmed", "holds under a condition", "not reproduced at this scale", "corrected")
VERDICT_SECTION = "## What the post gets right, and where we differ"

LABEL = re.compile(r"\$\$[ \t]*\(([^()\s]+)\)[ \t]*$|\{math\}[^\n]*\n:label:\s*(\S+)", re.MULTILINE)
CHECK = re.compile(r"^✓ (eq-[\w-]+): (.+?)(?: · (.+))?$", re.MULTILINE)
ROW = re.compile(r"^\|(.+)\|\s*$", re.MULTILINE)


class Verdict(NamedTuple):
    """What became of one claim of a post."""

    claim: str
    verdict: str
    evidence: str


def contents() -> list[str]:
    """The chapters in the order of the table of contents, as ``part/slug``."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [file.removeprefix("chapters/") for file in files if file.startswith("chapters/")]


@dataclass(frozen=True)
class Chapter:
    """A stored chapter, ``part/slug``."""

    name: str
    notebook: notebooks.Notebook

    @classmethod
    @functools.cache
    def load(cls, name: str) -> Chapter:
        """The stored chapter; read once, however many pages and tests ask for it."""
        return cls(name, notebooks.read(cls.path_of(name)))

    @staticmethod
    def path_of(name: str) -> Path:
        return ROOT / "chapters" / f"{name}.ipynb"

    @cached_property
    def markdown(self) -> str:
        return "\n\n".join(notebooks.source(cell) for cell in self.notebook["cells"] if cell["cell_type"] == "markdown")

    @cached_property
    def printed(self) -> str:
        outputs = [output for cell in notebooks.code_cells(self.notebook) for output in cell["outputs"]]
        return "\n".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")

    @cached_property
    def title(self) -> str:
        return re.search(r"^# (.+)$", self.markdown, re.MULTILINE)[1]  # type: ignore[index]

    @cached_property
    def card(self) -> dict[str, str]:
        """The post card: the first table of the chapter, two columns."""
        return {row[0]: row[1] for row in self._table(self.markdown) if len(row) == 2}

    @cached_property
    def labels(self) -> list[str]:
        """Labels of equations in reading order."""
        return [a or b for a, b in LABEL.findall(self.markdown)]

    @cached_property
    def checks(self) -> list[Record]:
        """The lines ``verify`` printed, in order."""
        return [Record(*match) for match in CHECK.findall(self.printed)]

    @cached_property
    def verdicts(self) -> list[Verdict]:
        _, _, section = self.markdown.partition(VERDICT_SECTION)
        return [Verdict(*row) for row in self._table(section)[1:] if len(row) == 3]

    @cached_property
    def drawings(self) -> list[dict[str, Any]]:
        """The cells that show a figure."""
        return [cell for cell in notebooks.code_cells(self.notebook) if figures.pngs(cell["outputs"])]

    @staticmethod
    def _table(text: str) -> list[list[str]]:
        """The rows of the first Markdown table in ``text``, header first, without its rule."""
        block: list[list[str]] = []
        for line in text.splitlines():
            match = ROW.match(line)
            if match:
                block.append([part.strip() for part in re.split(r"(?<!\\)\|", match[1])])
            elif block:
                break
        return [row for row in block if not all(re.fullmatch(r":?-+:?", part) for part in row)]


def book() -> list[Chapter]:
    """All chapters, in the order of the book."""
    return [Chapter.load(name) for name in contents()]
