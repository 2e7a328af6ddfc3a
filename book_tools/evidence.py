"""The pages *Speed* and *Trust*: Markdown made from stored measurements, each with its date; what was not measured is not shown."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from itertools import groupby

from book_tools import state
from book_tools.chapter import Chapter, contents
from book_tools.state import Json

ROW, LEFT, WIDTH = 20, 330, 700  # of the chart, in pixels
GOALS = {  # at the largest book of the table; of the tests, at the smallest
    "build_s": "Seconds of a whole build (CPU; it is one process)",
    "unchanged_s": "Seconds of a build with nothing changed (CPU)",
    "page_s": "Seconds from an edited chapter to its page, its execution apart (CPU)",
    "check_beyond_execution_s": "Seconds to prove one chapter alone, beyond those of its execution",
    "print_s": "Seconds to print the whole book",
    "print_gb": "Memory while it is printed, GB",
    "print_mb": "Size of the printed book, MB",
    "overhead_of_chapters": "Share of the chapters' run that goes into kernels and imports (CPU)",
    "overhead_of_unit_tests": "Share of the unit tests' run that goes into starting and collecting (CPU)",
}
FEW = 12  # rows of a table that stands open
LONGEST = 80  # rows of a chart that stands open
SLOWER = 1.05  # a ratio above it asks for a reason
YARDSTICK = "a yardstick"  # how the reason begins where the peer is no rival
SLOWEST, FASTEST = 8.0, 1 / 64  # ratios at the ends of its axis

Results = dict[str, Json]


def results(kind: str) -> Results:
    """The stored results of a kind: of the chapters in the order of the book, then of the modules behind them."""
    folder = state.RESULTS / kind
    helpers = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("_*.json"))
    return {name: found for name in [*contents(), *helpers] if (found := state.stored(kind, name))}


def whole(name: str) -> Json:
    """The result of the book as a whole, empty where there is none."""
    path = state.RESULTS / f"{name}.json"
    found: Json = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def dates(found: Sequence[Json]) -> str:
    """The day on which the results were measured, or the first and the last."""
    days = sorted({each["date"][:10] for each in found})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def standing(kind: str, found: Results, *more: str) -> str:
    """When the chapters were measured, which results belong to an earlier state, and which chapters were not measured."""
    chapters = contents()
    earlier = [name for name in chapters if name in found and not state.is_present(kind, name)]
    missing = [name for name in chapters if name not in found]
    head = f"*{', '.join([dates([*found.values()]), *more])}.* "
    if not earlier and not missing:
        return head + "All chapters are measured as they are now. "
    parts = [f"{len(chapters) - len(earlier) - len(missing)} of {len(chapters)} chapters are measured as they are now"]
    parts += [f"the results are of an earlier state for {_listed(earlier)}"] if earlier else []
    parts += [f"not measured: {_listed(missing)}"] if missing else []
    return head + "; ".join(parts) + ". "


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{{doc}}`/chapters/{name}`" for name in names) if len(names) <= FEW else f"{len(names)} chapters"


def machine_line(found: Json) -> str:
    """When, on what and with which versions something was measured."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    where = f"{machine['processor']} ({machine['cores']} cores, {machine['threads']} thread{'s' * (machine['threads'] != 1)})"
    return f"Measured on {found['date']} on an {where}, load {machine['load'][0]:g} at the beginning; {versions}."


def by_machine(found: Results) -> list[Json]:
    """What was measured on the same processor or accelerator in one: days, the highest load, all versions, all cases."""

    def name(each: Json) -> str:
        return str(each["machine"].get("accelerator", each["machine"]["processor"]))

    merged = []
    for which in dict.fromkeys(map(name, found.values())):
        some = [each for each in found.values() if name(each) == which]
        last = max(some, key=lambda each: str(each["date"]))
        merged.append(
            {
                "date": dates(some),
                "machine": last["machine"] | {"load": max(each["machine"]["load"] for each in some)},
                "versions": {key: number for each in [*some, last] for key, number in each["versions"].items()},
                "cases": [case for each in some for case in each["cases"]],
                "without_peer": {key: why for each in some for key, why in each.get("without_peer", {}).items()},
            }
        )
    return merged


def folded(name: str, lines: list[str], kind: str = "part") -> list[str]:
    """Markdown under a bar; open where no script folds it."""
    return [f'<details class="fold {kind}" open><summary>{name}</summary>', "", *lines, "", "</details>", ""]


def tabled(head: str, rows: dict[str, str]) -> list[str]:
    """A table with a row per chapter; of a large book one for each part, folded."""
    top = [head, "|---" * (head.count("|") - 1) + "|"]
    if len(rows) <= FEW:
        return [*top, *rows.values()]
    parts = [(part, list(names)) for part, names in groupby(rows, lambda name: name.split("/")[0])]
    return [
        line
        for part, names in parts
        for line in folded(f"{part.capitalize()} ({len(names)})", [*top, *(rows[name] for name in names)])
    ]


def trust_summary(chapters: list[Chapter]) -> list[str]:
    """What each part was put through, as far as it was measured."""
    found = {kind: results(kind) for kind in ("mutate", "abuse", "digits")}

    def total(part: str, kind: str, *keys: str) -> str:
        some = [each for name, each in found[kind].items() if name.startswith(f"{part}/")]
        for key in keys[:-1]:
            some = [each[key] for each in some if key in each]
        counts = [each[keys[-1]] for each in some if keys[-1] in each]
        return f"{sum(count if isinstance(count, int) else len(count) for count in counts):,}" if counts else ""

    def share(part: str, noticed: tuple[str, ...], tried: tuple[str, ...]) -> str:
        of = total(part, "mutate", *tried)
        return f"{total(part, 'mutate', *noticed)} of {of}" if of else ""

    parts = dict.fromkeys(name.split("/")[0] for name in contents())
    rows = [
        [
            part.capitalize(),
            share(part, ("equations", "noticed"), ("equations", "mutants")),
            share(part, ("functions", "killed"), ("functions", "mutants")),
            total(part, "abuse", "cases"),
            total(part, "digits", "numbers"),
            total(part, "digits", "doubtful"),
        ]
        for part in parts
    ]
    heads = [
        "Part",
        "Changes of formulas noticed",
        "Code changes noticed",
        "Hostile calls survived",
        "Digits followed",
        "Doubtful",
    ]
    kept = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    if len(kept) < 2:
        return []
    lines = [[head for place, head in enumerate(heads) if place in kept], ["---", *["---:"] * (len(kept) - 1)]]
    lines += [[cell for place, cell in enumerate(row) if place in kept] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def measured(case: Json) -> list[Json]:
    return [row for row in case["rows"] if "ratio" in row]


def speed_markdown(chapters: list[Chapter]) -> str:
    """Ratios to the peers: a chart with a dot per measurement, and tables."""
    lines = []
    measurements = [(kind, stored) for kind in ("bench", "bench-cuda") if (stored := results(kind))]
    for kind, found in ((kind, found) for kind, stored in measurements for found in by_machine(stored)):
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
            standing(kind, results(kind)).partition(".* ")[2],
            "",
            f"{len(races)} measurements against {len({case['peer'] for case, _ in races})} libraries: the package is faster in "
            f"{len(races) - slower}, slower in {slower}."
            + (f" {yardsticks} more are yardsticks: what a position costs beside attention without it." * bool(yardsticks))
            + f" Targets: {len(bound)}, of which missed: {sum(not row['met'] for row in bound)}."
            + (f" Peers that were not installed: {', '.join(absent)}." if absent else ""),
            "",
            *summary(cases),
            "",
            *charts(cases),
            "",
            *reasons(cases),
            "### All measurements",
            "",
        ]
        for part, members in groupby(cases, part_of):
            tables: list[str] = []
            for module, group in groupby(members, module_of):
                tables += [f"**{module}**", "", *(line for case in group for line in table(case))]
            lines += folded(part.capitalize(), tables)
        alone = [f"- {{py:obj}}`~kexue.{name}`: {why}." for name, why in found.get("without_peer", {}).items()]
        lines += ["### Without a peer", "", *alone, ""] if alone else []
    return "\n".join(lines)


def part_of(case: Json) -> str:
    """``attention`` of ``attention.rope.apply_rotary``."""
    return str(case["function"].split(".")[0])


def summary(cases: list[Json]) -> list[str]:
    """What came of the measurements of each part."""
    lines = ["| Part | Measurements | Faster | Slower | Targets missed |", "|---|---:|---:|---:|---:|"]
    for part, group in groupby(cases, part_of):
        rows = [row for case in group if not case.get("differs", "").startswith(YARDSTICK) for row in measured(case)]
        slower = sum(row["ratio"][1] > 1 for row in rows)
        missed = sum(not row.get("met", True) for row in rows)
        lines.append(f"| {part.capitalize()} | {len(rows)} | {len(rows) - slower} | {slower} | {missed} |")
    return lines


def charts(cases: list[Json]) -> list[str]:
    """One chart, or one for each part, folded, where one would be long."""
    if len(cases) <= LONGEST:
        return chart(cases)
    parts = [(part, list(group)) for part, group in groupby(cases, part_of)]
    return [line for part, group in parts for line in folded(f"{part.capitalize()}: a dot for each measurement", chart(group))]


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
    return (
        ["### What is slower, and what for", "", *(rows if len(rows) <= FEW else folded(f"{len(rows)} functions", rows)), ""]
        if rows
        else []
    )


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


def mutation_lines(found: Results) -> list[str]:
    checks = {name: each["equations"] for name, each in found.items() if "equations" in each}
    modules = {name: each["functions"] for name, each in found.items() if "functions" in each}
    last = max(found.values(), key=lambda each: str(each["date"]))

    def total(key: str) -> int:
        return sum(each[key] if isinstance(each[key], int) else len(each[key]) for each in checks.values())

    lines = [
        "## Checks that can fail",
        "",
        f"{standing('mutate', found, *(f'{name} {last[name.lower()]}' for name in ('Python', 'torch')))}"
        "A check that accepts everything proves nothing. So the code of the cells that check an equation is changed, a piece at a time "
        "(operators, constants, axes, reductions, transposes, the order of arguments), and the cell runs again: noticed is what a check "
        "or an assertion refuses, or what changes another checked output. Code that feeds one side of a check is a formula; code that "
        "feeds both sides chooses where they are compared, and a change of it may pass. That the displayed formula and this code say "
        "the same is ensured by reading, not by machine. The code of the package is changed likewise while its unit tests run, and the "
        "result of each public function is scaled, shifted and negated.",
        "",
        f"**{total('noticed'):,} of {total('mutants'):,} changes of formulas** were noticed; {total('explained')} more change nothing, for "
        f"a reason that their cell states. Of {total('labels')} labelled equations, {total('labels_sharp')} notice every change, and "
        f"{total('labels_elsewhere')} compare numbers whose code is not changed (it trains, or both sides share it). Of "
        f"{total('points'):,} changes of the points of comparison {total('points_noticed'):,} were noticed.",
        "",
    ]
    rows = {}
    for name, module in modules.items():
        share = f"{module['killed']} of {module['mutants']} ({module['killed'] / max(1, module['mutants']):.0%})"
        rows[name] = f"| `{name.rpartition('/')[2]}` | {share} | {module['results_killed']} of {module['results']} |"
    lines += tabled("| Module | Code changes noticed | Changed results noticed |", rows)
    alive = [(name, each) for name in checks for each in checks[name]["survivors"]]
    for head, chosen in (
        ("Changes of formulas that nothing notices", [(name, each) for name, each in alive if not each["reason"]]),
        ("Changes that cannot be noticed, and why", [(name, each) for name, each in alive if each["reason"]]),
    ):
        if chosen:
            lines += ["", f":::{{dropdown}} {head}", "| Equation | Change | Reason |", "|---|---|---|"]
            lines += [f"| {_labels(name, each)} | `{_barred(each['change'])}` | {each['reason']} |" for name, each in chosen]
            lines += [":::"]
    survivors = [each for module in modules.values() for each in module["survivors"]]
    if survivors:
        lines += ["", ":::{dropdown} Code changes that no unit test notices", "| Where | Change |", "|---|---|"]
        lines += [f"| `{each['where']}` | `{_barred(each['mutation'])}` |" for each in survivors]
        lines += [":::"]
    return [*lines, ""]


def _labels(name: str, survivor: Json) -> str:
    return ", ".join(f"`{label}`" for label in survivor["labels"]) + f" ({name}, cell {survivor['cell']})"


def _barred(code: str) -> str:
    """Code for a cell of a table."""
    return code.replace("|", "\\|").replace("`", "'")


def abuse_lines(found: Results) -> list[str]:
    total = {key: sum(each[key] for each in found.values()) for key in ("functions", "cases", "answered", "refused", "exempt")}
    return [
        "## A package that survives abuse",
        "",
        f"{standing('abuse', found)}**{total['functions']} public names, {total['cases']:,} calls**, derived from signatures and from "
        "one valid call each: wrong types, dtypes, ranks and shapes, empty and single entries, NaN and infinities, huge and tiny "
        "numbers, strided, "
        "transposed and read-only memory, half precision, extra and empty batches, scalars out of range, another device. "
        f"{total['answered']:,} were answered rightly, {total['refused']:,} refused by a TypeError or ValueError that names the argument; "
        f"{total['exempt']} are exempt for a stated reason. None ended otherwise; the unit tests run them all.",
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


def digits_lines(found: Results) -> list[str]:
    lines = [
        "## Digits that survive another processor",
        "",
        f"{standing('digits', found)}Every number that a chapter prints is followed under other instruction sets, thread counts and matrix "
        "kernels. "
        "Doubtful is a number of which not even one further digit is the same everywhere, or that lies near the edge of its rounding. "
        "A ratio of counts may lie on that edge (7/8, printed as 0.88): no arithmetic moves it, only another count would.",
        "",
    ]
    rows = {}
    for name, chapter in found.items():
        row = [chapter[key] for key in ("numbers", "most digits", "fewest further digits")]
        row += [len(chapter.get(key, [])) for key in ("ratios at an edge", "doubtful")]
        rows[name] = f"| {{doc}}`/chapters/{name}` | {' | '.join(str(number) for number in row)} |"
    head = "| Chapter | Numbers printed | Most digits | Fewest further digits that agree | Ratios on an edge | Doubtful |"
    return [*lines, *tabled(head, rows), ""]


def portable_lines(found: Results) -> list[str]:
    variants = list(dict.fromkeys(variant for each in found.values() for variant in each["variants"]))
    lines = [
        "## The same characters elsewhere",
        "",
        f"{standing('portable', found)}Every cell is executed under other instruction sets, thread counts and matrix kernels, and must "
        "print what is stored, character by character.",
        "",
    ]
    rows = {}
    for name, each in found.items():
        ends = [each["variants"].get(variant) for variant in variants]
        told = [f"{end['cells'] - end['failed']} of {end['cells']} cells" if end else "" for end in ends]
        rows[name] = f"| {{doc}}`/chapters/{name}` | {' | '.join(told)} |"
    return [*lines, *tabled(f"| Chapter | {' | '.join(variants)} |", rows), ""]


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
        machine_line(found | {"date": found["date"][:10]}),
        "",
        "| Chapters | Whole build | Nothing changed | One chapter edited: its page | and the overviews |",
    ]
    lines += ["|---|---|---|---|---|"]
    for number, builds in found["builds"].items():
        rows = (builds.get(kind, {}) for kind in ("cold", "unchanged", "page", "edited"))
        times = " | ".join(f"{row['wall_s']:.0f} s" if row else "" for row in rows)
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
        value = "failed" if goal["value"] is None else f"{goal['value']:g}"
        lines.append(f"| {GOALS.get(name, name)} | {value} | {goal['must']:g} | {'met' if goal['met'] else '**missed**'} |")
    return [*lines, ""]


# Of results kept by chapter, and of the book as a whole.
BY_CHAPTER: tuple[tuple[Callable[[Results], list[str]], str], ...] = (
    (mutation_lines, "mutate"),
    (abuse_lines, "abuse"),
    (digits_lines, "digits"),
    (portable_lines, "portable"),
)
OF_THE_BOOK: tuple[tuple[Callable[[Json], list[str]], str], ...] = (
    (properties_lines, "properties"),
    (versions_lines, "versions"),
    (surroundings_lines, "surroundings"),
    (cost_lines, "book"),
)


def trust_markdown(chapters: list[Chapter]) -> str:
    """What was tried to make the book and the package fail, and what came of it; nothing of what was not measured."""
    lines = [*trust_summary(chapters), ""]
    lines += [line for section, kind in BY_CHAPTER if (found := results(kind)) for line in section(found)]
    lines += [line for section, name in OF_THE_BOOK if (one := whole(name)) for line in section(one)]
    return "\n".join(lines).strip("\n")
