"""What a chapter carries, read from its stored notebook: card, summary, equations, checks, verdicts, symbols, figures, neighbours."""

from __future__ import annotations

import ast
import base64
import functools
import posixpath
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
CARD = ("Post", "Papers", "Before this", "Package")
VERDICTS = ("confirmed", "holds under a condition", "not reproduced at this scale", "corrected", "not tested here")
VERDICT_SECTION = "## What the post gets right, and where we differ"
ENDS = (VERDICT_SECTION, "## Since then", "## Exercises", "## Deeper", "## Symbols", "## References")  # what follows the spine
FOLDED = {"hide-input", "hide-cell"}
# What takes a reader how long: words, displays and lines of code in a minute.
WORDS, DISPLAYS, LINES = 150, 5, 50

LABEL = re.compile(r"\$\$[ \t]*\(([^()\s]+)\)[ \t]*$|\{math\}[^\n]*\n:label:\s*(\S+)", re.MULTILINE)
CHECK = re.compile(r"^✓ (eq-[\w-]+): (.+?)(?: · (.+))?$", re.MULTILINE)
ROW = re.compile(r"^\|(.+)\|\s*$", re.MULTILINE)
SUMMARY = re.compile(r'^<div lang="zh">\n\n((?:- .+\n)+)\n</div>$', re.MULTILINE)
IN_SHORT = re.compile(r"^\*\*In short\*\*\n\n((?:- .+(?:\n  .+)*\n)+)", re.MULTILINE)
DISPLAY = re.compile(r"\$\$(.+?)\$\$|```\{math\}.*?```", re.DOTALL)
UNCOUNTED = re.compile(
    r'\$\$.*?\$\$(?:[ \t]*\([^()\s]+\))?|```\{math\}.*?```|<div lang="zh">.*?</div>|^\|.*$', re.DOTALL | re.MULTILINE
)
SYMBOLS = ("Symbol", "Meaning", "Shape", "In `kexue`")


class Verdict(NamedTuple):
    """What became of one claim of a post, made at a place of it."""

    claim: str
    where: str
    verdict: str
    evidence: str


class Length(NamedTuple):
    """What a reader meets on the spine of a chapter, its Deeper part left aside."""

    words: int
    displays: int
    lines: int

    @property
    def minutes(self) -> int:
        """How long the spine takes, to five minutes."""
        return max(5, 5 * round((self.words / WORDS + self.displays / DISPLAYS + self.lines / LINES) / 5))


class Symbol(NamedTuple):
    """A letter (or several with one meaning) as a chapter uses it."""

    symbol: str
    meaning: str
    shape: str
    where: str


def contents() -> list[str]:
    """The chapters in the order of the table of contents, as ``part/slug``."""
    toc = ROOT / "_toc.yml"
    return list(_contents(toc, toc.stat().st_mtime_ns))


@functools.cache
def _contents(toc: Path, changed: int) -> list[str]:
    parts = yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]
    files = [chapter["file"] for part in parts for chapter in part["chapters"]]
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
    def code(self) -> str:
        return "\n\n".join(notebooks.source(cell) for cell in notebooks.code_cells(self.notebook))

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
    def chinese_title(self) -> str:
        """The title of the post, without its marks."""
        return re.search(r"《(.+?)》", self.card["Post"])[1]  # type: ignore[index]

    @cached_property
    def summary(self) -> list[str]:
        """What the chapter is about, in Chinese, line by line."""
        match = SUMMARY.search(self.markdown)
        return [line.removeprefix("- ") for line in match[1].splitlines()] if match else []

    @cached_property
    def opening(self) -> str:
        """The paragraphs between the title and *In short*: question, answer, why it matters."""
        text = notebooks.source(self.notebook["cells"][0])
        return re.split(r"^(?:\*\*In short|\||<div)", text.partition("\n")[2], maxsplit=1, flags=re.MULTILINE)[0].strip()

    @cached_property
    def question(self) -> str:
        """The sentence of the opening that asks."""
        match = re.search(r"[^.?!:]*\?", " ".join(self.opening.split()))
        return match[0].strip() if match else ""

    @cached_property
    def in_short(self) -> list[str]:
        """The bullets with the deciding numbers, as Markdown."""
        match = IN_SHORT.search(notebooks.source(self.notebook["cells"][0]) + "\n")
        return [" ".join(bullet.split()) for bullet in re.split(r"^- ", match[1], flags=re.MULTILINE)[1:]] if match else []

    @cached_property
    def spine(self) -> list[dict[str, Any]]:
        """The cells before the table of verdicts; of the cell in which it begins, what stands before it."""
        found = []
        for cell in self.notebook["cells"]:
            text, end, _ = notebooks.source(cell).partition(VERDICT_SECTION)
            if cell["cell_type"] != "markdown" or not end:
                found.append(cell)
                continue
            return [*found, cell | {"source": text}]
        return found

    @cached_property
    def length(self) -> Length:
        """Words, displays and open lines of code on the spine; displays, tables and the Chinese summary hold no words."""
        prose = [notebooks.source(cell) for cell in self.spine if cell["cell_type"] == "markdown"]
        code = [cell for cell in self.spine if cell["cell_type"] == "code" and not FOLDED & set(cell["metadata"].get("tags", []))]
        return Length(
            sum(len(UNCOUNTED.sub(" ", text).split()) for text in prose),
            sum(len(DISPLAY.findall(text)) for text in prose),
            sum(len(notebooks.source(cell).splitlines()) for cell in code),
        )

    @property
    def seconds(self) -> int:
        """What the chapter takes to execute, in seconds of one processor, kernel and imports included; 0 if never measured."""
        return int(self.notebook.get("metadata", {}).get("kexue", {}).get("seconds", 0))

    @cached_property
    def sections(self) -> list[str]:
        """The headings of the second level, in order."""
        return [f"## {title}" for title in re.findall(r"^## (.+?)\s*$", self.markdown, re.MULTILINE)]

    @cached_property
    def symbols(self) -> list[Symbol]:
        _, _, section = self.markdown.partition("\n## Symbols\n")
        table = self._table(section)
        return [Symbol(*row) for row in table[1:] if len(row) == 4] if table and tuple(table[0]) == SYMBOLS else []

    @cached_property
    def builds_on(self) -> list[str]:
        """The chapters that the card asks to be read before, as ``part/slug``."""
        targets = re.findall(r"\{doc\}`(?:[^`<]*<)?([^`<>]+)>?`", self.card.get("Before this", ""))
        here = f"/chapters/{self.name}"
        return [posixpath.normpath(posixpath.join(posixpath.dirname(here), to)).removeprefix("/chapters/") for to in targets]

    @cached_property
    def imports(self) -> dict[str, list[str]]:
        """The modules of ``kexue`` that the chapter imports from, and what it takes from each."""
        found: dict[str, list[str]] = {}
        for cell in notebooks.code_cells(self.notebook):
            for node in ast.walk(ast.parse(notebooks.source(cell))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kexue"):
                    found.setdefault(str(node.module), []).extend(name.name for name in node.names)
        return found

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
        return [Verdict(*row) for row in self._table(section)[1:] if len(row) == len(Verdict._fields)]

    @cached_property
    def drawings(self) -> list[dict[str, Any]]:
        """The cells that show a figure."""
        return [cell for cell in notebooks.code_cells(self.notebook) if figures.pngs(cell["outputs"])]

    @cached_property
    def covers(self) -> list[dict[str, Any]]:
        """The figure cells tagged for the front page; a chapter has one."""
        return [cell for cell in self.drawings if "cover" in cell["metadata"].get("tags", [])]

    @property
    def cover(self) -> bytes:
        """The figure of the front page, a PNG."""
        return base64.b64decode(figures.pngs(self.covers[0]["outputs"])[0])

    @property
    def cover_text(self) -> str:
        """What the figure of the front page shows."""
        return str(self.covers[0]["metadata"]["mystnb"]["image"]["alt"])

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


def ancestors(name: str, builds_on: dict[str, list[str]]) -> set[str]:
    """All chapters that ``name`` builds on, directly or through others; ``ValueError`` where they run in a circle."""
    found: set[str] = set()
    path: list[str] = []

    def visit(chapter: str) -> None:
        if chapter in path:
            raise ValueError(f"prerequisites run in a circle: {' -> '.join([*path[path.index(chapter) :], chapter])}")
        path.append(chapter)
        for before in builds_on.get(chapter, []):
            visit(before)
            found.add(before)
        path.pop()

    visit(name)
    return found
