"""The pages *Speed* and *Trust*: Markdown made from stored measurements, each with its date; what was not measured is not shown."""

from __future__ import annotations

import html
import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

from book_tools.chapter import ROOT, Chapter, contents

SPEED = ROOT / "benchmarks" / "results"
TRUST = ROOT / "results"
ROW, LEFT, WIDTH = 20, 330, 700  # of the chart, in pixels
GOALS = {
    "edited_chapter_s": "Seconds from an edited chapter to its page, its execution apart",
    "edited_chapter_of_many_s": "The same in the largest book of the table",
    "build_s_per_chapter": "Seconds of a whole build that one more chapter costs (CPU)",
    "overhead_of_chapters": "Share of the chapters' run that goes into kernels and imports (CPU)",
    "overhead_of_unit_tests": "Share of the unit tests' run that goes into starting and collecting (CPU)",
}
SLOWER = 1.05  # a ratio above it asks for a reason
YARDSTICK = "a yardstick"  # how the reason begins where the peer is no rival
SLOWEST, FASTEST = 8.0, 1 / 64  # ratios at the ends of its axis

Json = dict[str, Any]


def stored(path: Path) -> Json:
    """The content of a result file, empty where there is none."""
    found: Json = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def machine_line(found: Json) -> str:
    """When, on what and with which versions something was measured."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    where = f"{machine['processor']} ({machine['cores']} cores, {machine['threads']} thread{'s' * (machine['threads'] != 1)})"
    return f"Measured on {found['date'][:10]} on an {where}, load {machine['load'][0]:g} at the beginning; {versions}."


def measured(case: Json) -> list[Json]:
    return [row for row in case["rows"] if "ratio" in row]


def speed_markdown(chapters: list[Chapter]) -> str:
    """Ratios to the peers: a chart with a dot per measurement, and tables."""
    lines = []
    for path in sorted(SPEED.glob("*.json")):
        found = stored(path)
        if "cases" not in found:
            continue
        cases = [case for case in found["cases"] if measured(case)]
        races = [(case, row) for case in cases for row in measured(case) if not case.get("differs", "").startswith(YARDSTICK)]
        yardsticks = sum(len(measured(case)) for case in cases) - len(races)
        slower = sum(row["ratio"][1] > 1 for _, row in races)
        bound = [row for case in cases for row in measured(case) if "met" in row]
        absent = sorted(
            {case["peer"].split()[0] for case in found["cases"] for row in case["rows"] if row.get("status") == "missing"}
        )
        lines += [
            f"## {found['machine'].get('accelerator', found['machine']['processor'])}",
            "",
            machine_line(found),
            "",
            f"{len(races)} measurements against {len({case['peer'] for case, _ in races})} libraries: the package is faster in "
            f"{len(races) - slower}, slower in {slower}."
            + (f" {yardsticks} more are yardsticks: what a position costs beside attention without it." * bool(yardsticks))
            + f" Targets: {len(bound)}, of which missed: {sum(not row['met'] for row in bound)}."
            + (f" Peers that were not installed: {', '.join(absent)}." if absent else ""),
            "",
            *chart(cases),
            "",
            *reasons(cases),
            "### All measurements",
            "",
        ]
        for module, group in groupby(cases, module_of):
            lines += [f"**{module}**", "", *(line for case in group for line in table(case))]
        alone = [f"- {{py:obj}}`~kexue.{name}`: {why}." for name, why in found.get("without_peer", {}).items()]
        lines += ["### Without a peer", "", *alone, ""] if alone else []
    return "\n".join(lines)


def module_of(case: Json) -> str:
    """``rope`` of ``attention.rope.apply_rotary``."""
    return str(case["function"].split(".")[1])


def name_of(case: Json) -> str:
    return f"{case['function'].rpartition('.')[2]} {case['variant']}".strip()


def reasons(cases: list[Json]) -> list[str]:
    """What the functions that are somewhere slower than their peer give for it."""
    rows = []
    for case in cases:
        worst = max(row["ratio"][1] for row in measured(case))
        if case.get("why") and worst > SLOWER:
            rows.append(f"- **{name_of(case)}** against {case['against']}, at worst {worst:.2g}: {case['why']}.")
    return ["### What is slower, and what for", "", *rows, ""] if rows else []


def chart(cases: list[Json]) -> list[str]:
    """A row per function and peer, by module; a dot per measurement, filled for forward passes; left of the line we are faster."""
    modules = [module_of(case) for case in cases]
    height = ROW * (len(cases) + len(set(modules)) + 2)

    def across(ratio: float) -> float:
        share = (math.log(ratio) - math.log(FASTEST)) / (math.log(SLOWEST) - math.log(FASTEST))
        return round(LEFT + (WIDTH - LEFT - 10) * min(1.0, max(0.0, share)), 1)

    label = "Time of the package over time of the peer, by function, on a logarithmic axis; the tables below give the numbers"
    lines = [
        "```{raw} html",
        f'<div class="chart"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">',
    ]
    for ratio, text in ((1 / 64, "1/64"), (1 / 16, "1/16"), (1 / 4, "1/4"), (1.0, "as fast"), (4.0, "4 ×")):
        kind = "even" if ratio == 1 else "grid"
        lines.append(f'<path class="{kind}" d="M{across(ratio)} {ROW} V{height - ROW}"/>')
        lines += [f'<text class="axis" x="{across(ratio)}" y="{y}">{text}</text>' for y in (ROW - 6, height - 5)]
    y, module = 0.5 * ROW, ""
    for case in cases:
        if module_of(case) != module:
            module, y = module_of(case), y + ROW
            lines.append(f'<text class="module" x="0" y="{y + 4}">{module}</text>')
        y += ROW
        name = shortened(f"{name_of(case)} / {case['peer'].split()[0]}")
        lines.append(f'<text x="0" y="{y + 4}">{html.escape(name)}</text>')
        for row in measured(case):
            kind = "forward" if row["mode"] == "forward" else "other"
            kind += " yardstick" * case.get("differs", "").startswith(YARDSTICK)
            told = html.escape(f"{row['size']}, {row['dtype']}, {row['mode']}: {row['ratio'][1]:.2g}")
            lines.append(f'<circle class="{kind}" cx="{across(row["ratio"][1])}" cy="{y}" r="4"><title>{told}</title></circle>')
    return [*lines, "</svg></div>", "```"]


def shortened(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def table(case: Json) -> list[str]:
    """The measurements of one function against one peer, folded."""
    function = case["function"]
    lines = [f":::{{dropdown}} {name_of(case)} against {case['against']} ({case['peer']})"]
    lines += [f"{{py:obj}}`~kexue.{function}`", ""] if function.count(".") == 2 else []
    lines += [f"Not the same function: {case['differs']}.", ""] if case.get("differs") else []
    lines += [f"Where it is slower: {case['why']}.", ""] if case.get("why") else []
    if "exponent" in case:
        peer = f", the peer's like the power {case['peer_exponent']:g}" if "peer_exponent" in case else ""
        lines += [f"Time grows like the power {case['exponent']:g} of the size{peer}."]
    lines += [
        "",
        "| Size | What | Time ÷ peer's (quartiles) | Memory ÷ peer's | × machine limit | Target |",
        "|---|---|---|---|---|---|",
    ]
    for row in case["rows"]:
        what = f"{row['dtype']}, {row['mode']}"
        if "ratio" not in row:
            lines.append(f"| {row['size']} | {what} | {row['status']}: {row['reason']} | | | |")
            continue
        low, middle, high = row["ratio"]
        memory, floor = (f"{row[key]:.2g}" if row.get(key) is not None else "" for key in ("memory_ratio", "floor_ratio"))
        target = ", ".join(f"{word} {value}" for word, value in row.get("target", {}).items())
        verdict = "" if "met" not in row else " reached" if row.get("reached") else " met" if row["met"] else " **missed**"
        lines.append(f"| {row['size']} | {what} | {middle:.2g} ({low:.2g}–{high:.2g}) | {memory} | {floor} | {target}{verdict} |")
    return [*lines, ":::", ""]


def mutation_lines(found: Json) -> list[str]:
    equations, modules = found["equations"], found["functions"]
    lines = [
        "## Checks that can fail",
        "",
        f"*{found['date']}, Python {found['python']}, torch {found['torch']}, {found['minutes']:g} minutes.* "
        "A check that accepts everything proves nothing. So each executed equation is given wrong right-hand sides, off by 1 % (or by the "
        "larger change that its check declares to notice) and with the wrong sign; and the code of the package is changed, a piece at a "
        "time (signs, comparisons, constants, axes, defaults), while its unit tests run. Also the result of each public function is "
        "scaled, shifted and negated.",
        "",
        f"**{equations['noticed']:,} of {equations['mutants']:,} wrong right-hand sides** were noticed, in {equations['calls']} checks; of "
        f"{equations['labels']} labelled equations, {equations['labels_sharp']} notice every kind. {len(equations['not_applicable'])} "
        "changes change nothing that the equation says (the sign of zero, say).",
        "",
        "| Module | Code changes noticed | Changed results noticed |",
        "|---|---|---|",
    ]
    for name, module in modules.items():
        share = f"{module['killed']} of {module['mutants']} ({module['killed'] / max(1, module['mutants']):.0%})"
        lines.append(f"| `{name.rpartition('.')[2]}` | {share} | {module['results_killed']} of {module['results']} |")
    if equations["survivors"]:
        lines += ["", ":::{dropdown} Wrong right-hand sides that a check accepts", "| Equation | Change |", "|---|---|"]
        lines += [f"| `{each['label']}` ({each['chapter']}) | {each['mutant']} |" for each in equations["survivors"]]
        lines += [":::"]
    survivors = [each for module in modules.values() for each in module["survivors"]]
    if survivors:
        lines += ["", ":::{dropdown} Code changes that no unit test notices", "| Where | Change |", "|---|---|"]
        lines += [f"| `{each['where']}` | `{each['mutation'].replace('|', chr(92) + '|')}` |" for each in survivors]
        lines += [":::"]
    return [*lines, ""]


def abuse_lines(found: Json) -> list[str]:
    return [
        "## A package that survives abuse",
        "",
        f"*{found['date']}.* **{found['functions']} public names, {found['cases']:,} calls**, derived from signatures and from one valid "
        "call each: wrong types, dtypes, ranks and shapes, empty and single entries, NaN and infinities, huge and tiny numbers, strided, "
        "transposed and read-only memory, half precision, extra and empty batches, scalars out of range, another device. "
        f"{found['answered']:,} were answered rightly, {found['refused']:,} refused by a TypeError or ValueError that names the argument; "
        f"{found['exempt']} are exempt for a stated reason. None ended otherwise; the unit tests run them all.",
        "",
    ]


def properties_lines(found: Json) -> list[str]:
    return [
        "## Properties",
        "",
        f"*{found['date']}.* {found['tests']} tests state a property instead of a value (what must not change, be bounded, or add up) and "
        f"draw examples: up to 50 each in every test run, and **{found['examples']:,} examples** in this run. None was a counterexample.",
        "",
    ]


def digits_lines(found: Json) -> list[str]:
    lines = [
        "## Digits that survive another processor",
        "",
        f"*{found['date']}.* Every number that a chapter prints is followed under other instruction sets, thread counts and matrix "
        "kernels. "
        "Doubtful is a number of which not even one further digit is the same everywhere, or that lies near the edge of its rounding. "
        "A ratio of counts may lie on that edge (7/8, printed as 0.88): no arithmetic moves it, only another count would.",
        "",
        "| Chapter | Numbers printed | Most digits | Fewest further digits that agree | Ratios on an edge | Doubtful |",
        "|---|---|---|---|---|---|",
    ]
    for name in contents():
        chapter = found["chapters"].get(name)
        if chapter:
            row = [chapter[key] for key in ("numbers", "most digits", "fewest further digits")]
            row += [len(chapter.get(key, [])) for key in ("ratios at an edge", "doubtful")]
            lines.append(f"| {{doc}}`/chapters/{name}` | {' | '.join(str(number) for number in row)} |")
    return [*lines, ""]


def versions_lines(found: Json) -> list[str]:
    lines = [
        "## Other versions",
        "",
        f"*{found['date']}.* The unit tests on every Python that is promised and with the oldest versions of NumPy, SciPy, PyTorch, "
        "Matplotlib and scikit-learn that the metadata admits; the chapters character by character, on the locked versions.",
        "",
        "| Python | PyTorch | NumPy | SciPy | What | Passed | Failed | Skipped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ("python", "torch", "numpy", "scipy", "what", "passed", "failed", "skipped")
    lines += [f"| {' | '.join(str(each[key]) for key in keys)} |" for each in found["entries"]]
    return [*lines, ""]


def surroundings_lines(found: Json) -> list[str]:
    lines = ["## Hostile surroundings", "", f"*{found['date']}.* What was done to a copy of the book, and how it ended.", ""]
    lines += ["| Tried | Outcome | Message or circumstance |", "|---|---|---|"]
    lines += [f"| {each['name']}: {each['done']} | {each['outcome']} | {each['message']} |" for each in found["entries"]]
    return [*lines, ""]


def cost_lines(found: Json) -> list[str]:
    lines = [
        "## What the book costs",
        "",
        machine_line(found),
        "",
        "| Chapters | Whole build | Nothing changed | One chapter edited |",
    ]
    lines += ["|---|---|---|---|"]
    for number, builds in found["builds"].items():
        times = " | ".join(f"{builds[kind]['wall_s']:.0f} s" for kind in ("cold", "unchanged", "edited"))
        lines.append(f"| {number} | {times} |")
    lines += [
        "",
        "Wall time; the chapters beyond those of the book are copies under other names. A chapter here means a hundred cells, its page of "
        "the reference with the source, and its rows in ledger, verdicts and glossary: Sphinx spends seconds on it where an empty page "
        "takes a tenth of one.",
        "",
    ]
    lines += ["| Goal | Measured | At most | Verdict |", "|---|---|---|---|"]
    for name, goal in found["goals"].items():
        lines.append(f"| {GOALS[name]} | {goal['value']:g} | {goal['must']:g} | {'met' if goal['met'] else '**missed**'} |")
    return [*lines, ""]


SECTIONS = (
    (mutation_lines, "mutation"),
    (abuse_lines, "abuse"),
    (properties_lines, "properties"),
    (digits_lines, "digits"),
    (versions_lines, "versions"),
    (surroundings_lines, "surroundings"),
)


def trust_markdown(chapters: list[Chapter]) -> str:
    """What was tried to make the book and the package fail, and what came of it; nothing of what was not measured."""
    files = [*((section, TRUST / f"{name}.json") for section, name in SECTIONS), (cost_lines, SPEED / "book.json")]
    return "\n".join(line for section, path in files if (found := stored(path)) for line in section(found))
