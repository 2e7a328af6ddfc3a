"""What every chapter must carry. Each fault names the chapter, the cell or label, and the remedy; the build prints them and stops."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from book_tools import figures, notebooks
from book_tools.chapter import (
    CARD,
    DISPLAY,
    ENDS,
    FOLDED,
    LABEL,
    ROOT,
    SYMBOLS,
    VERDICT_SECTION,
    VERDICTS,
    Chapter,
    ancestors,
    book,
)
from book_tools.names import spoiled, trained
from kexue.lab.exercises import LABEL as EXERCISE
from kexue.lab.verification import LABEL as EQUATION

ESCAPES = re.compile(r"nbval|raises-exception|skip-execution|remove-output", re.IGNORECASE)
POST = re.compile(r'\[<span lang="zh">《.+》</span>\]\(https://kexue\.fm/archives/\d+\), \d{1,2} \w+ 20\d\d')
VOLATILE = re.compile(r"0x[0-9a-f]{6,}|/(home|root|tmp|work|Users)/|-0\.0+\b|\bnan\b|<[\w.]+ object")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NO_CHECK = re.compile(r"\((a proof|to discuss)\)$")
DECORATIONS = "mathcal|mathrm|mathbf|mathbb|mathsf|operatorname|boldsymbol|tilde|hat|bar|widetilde|text"
HEAVIEST = 400_000  # bytes of a chapter's file
MOST_WORDS, MOST_LINES, MOST_DISPLAYS = 2600, 300, 15  # of a spine, before the build warns
NOTATION = 2  # displays of a chapter that may go without a label
SPREAD = re.compile(r"\b(seeds?|draws?|runs|starts)\b|±|\bbands?\b|standard errors?", re.IGNORECASE)
CONDITION = re.compile(r"(if|only)\b", re.IGNORECASE)


def faults(chapters: list[Chapter] | None = None) -> list[str]:
    """Everything that is missing or wrong in the form of the chapters (of the book, if none are given)."""
    found = []
    everything = book() if chapters is None else chapters
    for chapter in everything:
        checks = (_stored,) if _unrun(chapter) else CHECKS
        found += [f"chapters/{chapter.name}.ipynb{fault}" for check in checks for fault in check(chapter)]
    return found + list(_neighbours(everything))


def warnings(chapters: list[Chapter] | None = None) -> list[str]:
    """What the build says and does not stop for: a spine that takes longer than its twenty minutes."""
    found = []
    for chapter in book() if chapters is None else chapters:
        limits = zip(
            ("words", "open lines of code", "displays"), _counts(chapter), (MOST_WORDS, MOST_LINES, MOST_DISPLAYS), strict=True
        )
        over = [f"{count} {what} (at most {most})" for what, count, most in limits if count > most]
        if over:
            found.append(
                f"chapters/{chapter.name}.ipynb: the spine has {', '.join(over)}; move side claims to Deeper, fold long cells"
            )
    return found


def _counts(chapter: Chapter) -> tuple[int, int, int]:
    return chapter.length.words, chapter.length.lines, chapter.length.displays


def _unrun(chapter: Chapter) -> bool:
    counts = [cell["execution_count"] for cell in notebooks.code_cells(chapter.notebook)]
    return counts != list(range(1, len(counts) + 1))


def _stored(chapter: Chapter) -> Iterator[str]:
    """The notebook has run, in canonical form, and nothing escapes the comparison."""
    remedy = f"; run: make execute CHAPTER={chapter.name}"
    path = Chapter.path_of(chapter.name)
    if path.is_file() and path.read_text(encoding="utf-8") != notebooks.dumps(chapter.notebook):
        yield f": not in canonical form{remedy}"
    if path.is_file() and path.stat().st_size > HEAVIEST:
        yield f": larger than {HEAVIEST // 1000} KB; draw fewer or lighter figures"
    if _unrun(chapter):
        yield f": cells that never ran, or not in order{remedy}"
    for number, cell in enumerate(chapter.notebook["cells"]):
        tags = " ".join(cell["metadata"].get("tags", []))
        if ESCAPES.search(tags):
            yield f", cell {number}: remove the tag {tags!r}, it hides the cell from the comparison"
        if cell["cell_type"] == "code" and re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)", notebooks.source(cell)):
            yield f", cell {number}: remove the comment that hides it from the comparison"
        for output in cell.get("outputs", []):
            if output["output_type"] not in ("stream", "display_data"):
                yield f", cell {number}: print what it shows, or end the line with ';'"
            elif output.get("name", "stdout") != "stdout":
                yield f", cell {number}: a warning or error was stored: {''.join(output['text'])[:80]!r}; remove its cause"
            elif not set(output.get("data", {})) <= {"text/plain", "image/png"}:
                yield f", cell {number}: outputs are text and PNG figures, not {sorted(output['data'])}"
    volatile = VOLATILE.search(chapter.printed)
    if volatile:
        yield f": the output holds {volatile[0]!r}, which another machine would print differently"


def _opening(chapter: Chapter) -> Iterator[str]:
    """Title, question and answer, In short, card and Chinese summary stand in the first cell."""
    if not re.match(r"# .+\n", notebooks.source(chapter.notebook["cells"][0])):
        yield ", cell 0: begin with the title, '# ...'"
    if not chapter.question:
        yield ", cell 0: the opening asks nothing; one of its sentences ends with '?'"
    if len(chapter.in_short) != 3 or not any(re.search(r"\d", bullet) for bullet in chapter.in_short):
        yield (
            f", cell 0: In short has {len(chapter.in_short)} bullets, not 3 with the deciding numbers; write **In short** on a line "
            "of its own under the opening, a blank line, and three lines '- ...'"
        )
    if tuple(chapter.card) != CARD:
        yield f", cell 0: the card needs the rows {', '.join(CARD)} and has {', '.join(chapter.card) or 'none'}"
        return
    if not POST.search(chapter.card["Post"]):
        yield ', cell 0: the row Post reads [<span lang="zh">《title》</span>](https://kexue.fm/archives/number), day month year'
    if f"{{py:mod}}`kexue.{chapter.name.replace('/', '.')}`" not in chapter.card["Package"]:
        yield f", cell 0: the row Package links {{py:mod}}`kexue.{chapter.name.replace('/', '.')}`"
    if len(chapter.summary) != 3 or not all(CHINESE.search(line) for line in chapter.summary):
        yield (
            f', cell 0: the summary in Chinese has {len(chapter.summary)} lines, not 3; write <div lang="zh">, a blank line, '
            "three lines '- ...', a blank line and </div> under the card"
        )


def _order(chapter: Chapter) -> Iterator[str]:
    """The spine, then verdicts, what came since, exercises, Deeper, symbols, references."""
    ends = [title for title in chapter.sections if title in ENDS]
    if ends != sorted(ends, key=ENDS.index):
        yield f": the sections stand in the order {', '.join(ends)}; the order is {', '.join(ENDS)}"
    if chapter.sections and VERDICT_SECTION in chapter.sections:
        for title in chapter.sections[chapter.sections.index(VERDICT_SECTION) :]:
            if title not in ENDS:
                yield f": {title!r} stands after the verdicts; move it before them, or under ## Deeper as a section ### ..."
    for title in re.findall(r"^#+ (Deeper[ :].*)$", chapter.markdown, re.MULTILINE):
        yield f": the heading {title!r}; write ### and the title alone, under ## Deeper"
    since = re.search(r"^## Since then\s*\n(.*?)(?=^## |\Z)", chapter.markdown, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^- ", since[1], re.MULTILINE) if since else []
    if not 3 <= len(lines) <= 6:
        yield f": the section ## Since then has {len(lines)} lines '- ...'; three to six say what later work settled"


def _folding(chapter: Chapter) -> Iterator[str]:
    """A folded bar says what it holds; figures, imports and checks of exercises are named by the build."""
    for number, cell in enumerate(chapter.notebook["cells"]):
        text, settings = notebooks.source(cell), cell["metadata"].get("mystnb", {})
        if cell["cell_type"] != "code" or not FOLDED & set(cell["metadata"].get("tags", [])):
            continue
        imports = re.match(r"(import|from) ", text)
        named = settings.get("code_prompt_show") or figures.pngs(cell["outputs"]) or imports or "exercise(" in text
        if not named:
            yield f", cell {number}: it is folded; say in its metadata mystnb.code_prompt_show what it holds"


def _names(chapter: Chapter) -> Iterator[str]:
    """Any cell can be run again: what another cell reads has one meaning, and a generator is made where it is drawn from."""
    for number, fault in spoiled(chapter.notebook):
        yield f", cell {number}: {fault}"


def _figures(chapter: Chapter) -> Iterator[str]:
    """One figure per cell, each with alternative text and a caption; one of them is the cover."""
    for number, cell in enumerate(chapter.notebook["cells"]):
        pictures, settings = figures.pngs(cell.get("outputs", [])), cell["metadata"].get("mystnb", {})
        alt = settings.get("image", {}).get("alt", "")
        if len(pictures) > 1:
            yield f", cell {number}: {len(pictures)} figures; draw one figure per cell"
        if pictures and (len(alt) < 40 or re.search(r"\w\.(png|svg)\b", alt)):
            yield f", cell {number}: say in its metadata mystnb.image.alt what the figure shows, in a sentence or two"
        if pictures and not settings.get("figure", {}).get("caption"):
            yield f", cell {number}: give the figure a caption, its metadata mystnb.figure.caption"
    of_training = trained(chapter.notebook)
    for number, cell in enumerate(chapter.notebook["cells"]):
        caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
        if number in of_training and figures.pngs(cell.get("outputs", [])) and not SPREAD.search(caption):
            yield f", cell {number}: the figure shows something trained; its caption says what the bands are, or 'one seed'"
    if len(chapter.covers) != 1:
        yield f": {len(chapter.covers)} figures carry the tag 'cover'; tag the one that is to stand on the front page"


def _equations(chapter: Chapter) -> Iterator[str]:
    """Every labelled equation is executed, after it was stated, and every check names an equation."""
    checked = {check.label for check in chapter.checks}
    if not chapter.labels:
        yield ": no labelled equation; label what the chapter executes, $$ ... $$ (eq-slug-name)"
    for label in dict.fromkeys(chapter.labels):
        if not EQUATION.fullmatch(label):
            yield f": the label {label} must read eq-..., in a-z, 0-9 and -"
        elif label not in checked:
            yield f": {label} is never executed; add a verify under it"
        if chapter.labels.count(label) > 1:
            yield f": the label {label} stands {chapter.labels.count(label)} times; rename all but one"
    bare = 0
    for number, cell in enumerate(chapter.notebook["cells"]):
        if cell["cell_type"] == "markdown":
            text = notebooks.source(cell)
            without = len(DISPLAY.findall(text)) - len(LABEL.findall(text))
            bare += max(without, 0)
            if without > 0 and len(str(cell["metadata"].get("kexue", {}).get("notation", ""))) < 10:
                yield (
                    f", cell {number}: a display without a label; label and execute it, or say in the cell's metadata kexue.notation "
                    "why it only introduces notation"
                )
    if bare > NOTATION:
        yield f": {bare} displays without a label; at most {NOTATION} may only introduce notation"
    for label in sorted(checked - set(chapter.labels)):
        yield f": a verify names {label}, which labels no equation; correct the name"
    seen: set[str] = set()
    for number, cell in enumerate(chapter.notebook["cells"]):
        if cell["cell_type"] == "markdown":
            seen |= {a or b for a, b in LABEL.findall(notebooks.source(cell))}
        else:
            for label in sorted(set(re.findall(r"verify\w*\(\s*\"(eq-[\w-]+)\"", notebooks.source(cell))) - seen):
                yield f", cell {number}: {label} is executed before it is stated; move the cell down"


def _verdicts(chapter: Chapter) -> Iterator[str]:
    """The table of verdicts uses the five words, names places, states conditions and quotes only numbers that a cell prints."""
    if VERDICT_SECTION not in chapter.markdown or len(chapter.verdicts) < 5:
        yield (
            f": the section {VERDICT_SECTION!r} needs a table Claim | Where | Verdict | What decides with a row per claim, five or more"
        )
    for row in chapter.verdicts:
        if row.verdict not in VERDICTS:
            yield f": the verdict {row.verdict!r} of {row.claim!r} is none of {', '.join(VERDICTS)}"
        if not row.where:
            yield f": {row.claim!r} has no place; name the section or equation of the post in the column Where"
        if not row.evidence:
            yield f": nothing decides {row.claim!r}; fill the fourth column"
        if "footcite" in row.claim + row.evidence:
            yield f": {row.claim!r} cites; the page of verdicts has no list of papers: link the paper's page"
        if row.evidence and row.verdict == "holds under a condition" and not CONDITION.match(row.evidence):
            yield f": {row.claim!r} holds under a condition; begin its last column with the condition, 'if ...' or 'only ...'"
        for number in re.findall(
            r"(?<![\w.])\d+\.\d+(?![\w.])", re.sub(r"\{\w+\}`[^`]*`|\]\([^)]*\)|\$[^$]*\$", "", row.evidence)
        ):
            places = list(re.finditer(rf"(?<![\d.]){re.escape(number)}(?!\d)(?P<error> ± \d)?", chapter.printed))
            if not places:
                yield f": the verdicts quote {number}, which no cell prints"
            elif all(place["error"] for place in places) and not re.search(rf"{re.escape(number)} ±", row.evidence):
                yield f": the verdicts quote {number} without its error; write {number} ± ..., as the cell prints it"


def _exercises(chapter: Chapter) -> Iterator[str]:
    """Each exercise has a folded solution, and a check for the reader's attempt unless it is a proof or a discussion."""
    titles = {label: title for title, label in re.findall(r"\{exercise\}[ \t]*([^\n]*)\n:label: ([\w-]+)", chapter.markdown)}
    solutions = re.findall(r"\{solution\} ([\w-]+)\n:class: dropdown", chapter.markdown)
    checks = re.findall(r"\bexercise\(\s*\"([\w-]+)\"", chapter.code)
    if not titles:
        yield ": no exercise; add a section ## Exercises"
    for label, title in titles.items():
        if not EXERCISE.fullmatch(label):
            yield f": the label {label} must read ex-..., in a-z, 0-9 and -"
        if solutions.count(label) != 1:
            yield f": {label} has {solutions.count(label)} folded solutions; it needs one {{solution}} with :class: dropdown"
        if not NO_CHECK.search(title) and label not in checks:
            yield f": {label} offers no check; add exercise({label!r}, ...), or end its title with (a proof) or (to discuss)"
        elif label in checks and not re.search(rf"^✓ {label}: right", chapter.printed, re.MULTILINE):
            yield f": the solution of {label} is never handed to its check; end the solution's code with it"
        elif label in checks and not re.search(rf"^{label}: put your ", chapter.printed, re.MULTILINE):
            yield f": {label} has no cell for the reader's attempt; add 'attempt = ...' and hand it to the check"
    for label in sorted(set(checks) - set(titles)):
        yield f": a check names {label}, which labels no exercise; correct the name"
    if "## References" not in chapter.markdown:
        yield ": no section ## References"


def _symbols(chapter: Chapter) -> Iterator[str]:
    """A table of symbols, each written as a formula."""
    if not chapter.symbols:
        yield f": no table of symbols; add a section ## Symbols with the columns {' | '.join(SYMBOLS)} before the references"
    for row in chapter.symbols:
        if not letters(row.symbol) or not row.meaning:
            yield f": the row {row.symbol!r} of the symbols needs a formula like $x$ and a meaning"


def letters(symbol: str) -> list[str]:
    """The letters of a cell of the symbol table, without indices, arguments and brackets: ``$B(m)$, $b_i$`` gives B and b."""
    found = []
    for formula in re.findall(r"\$([^$]+)\$", symbol):
        bare = re.sub(r"^(?:\\left|\\[lr]?[vV]ert|\\langle|[\s({\[|])+", "", formula)
        match = re.match(rf"(\\(?:{DECORATIONS}))\s*\{{?\s*(\\?[A-Za-z]+)|(\\[A-Za-z]+|[A-Za-z])", bare)
        if match:
            found.append(f"{match[1]}{{{match[2]}}}" if match[1] else match[3])
    return found


CHECKS = (_stored, _opening, _order, _folding, _names, _figures, _equations, _verdicts, _exercises, _symbols)


def _neighbours(chapters: list[Chapter]) -> Iterator[str]:
    """What the chapters build on exists, comes before them, runs in no circle, and covers what their modules and cells import."""
    names = [chapter.name for chapter in chapters]
    graph = {chapter.name: chapter.builds_on for chapter in chapters}
    for chapter in chapters:
        where = f"chapters/{chapter.name}.ipynb"
        for before in chapter.builds_on:
            if before not in names:
                yield f"{where}, cell 0: Before this names {before}, which is no chapter of the book; correct it or add the chapter"
            elif names.index(before) > names.index(chapter.name):
                yield f"{where}, cell 0: it builds on {before}, which comes later; change _toc.yml or the card"
        try:
            known = ancestors(chapter.name, graph) | {chapter.name}
        except ValueError as error:
            yield f"{where}, cell 0: {error}"
            continue
        module = ROOT / "kexue" / f"{chapter.name}.py"
        nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if module.is_file() else ()
        imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)} | set(chapter.imports)
        for name in sorted(name for name in names if f"kexue.{name.replace('/', '.')}" in imported and name not in known):
            yield f"{where}, cell 0: module or cells import from {name}; link that chapter in the row Before this"
