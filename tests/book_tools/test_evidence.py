"""The pages of measurements show what is stored, and nothing that is not."""

import json

import pytest

from benchmarks import book
from book_tools import evidence, state

ROWS = [
    {"size": "n64", "dtype": "float32", "mode": "forward", "ratio": [0.1, 0.25, 0.5], "memory_ratio": 0.5, "floor_ratio": 3.0}
    | {"target": {"must": 0.7}, "met": True},
    {"size": "n64", "dtype": "bfloat16", "mode": "forward+backward", "ratio": [1.5, 2.0, 2.5], "memory_ratio": None}
    | {"floor_ratio": None, "target": {"must": 1.0}, "met": False},
    {"size": "n128", "dtype": "float32", "mode": "forward", "status": "failed", "reason": "no compiler"},
]
CPU = {
    "date": "2026-01-02T03:04:05Z",
    "machine": {"processor": "Abacus", "cores": 2, "threads": 1, "load": [0.5, 0.5, 0.5]},
    "versions": {"python": "3.11", "peer": None},
    "without_peer": {"attention.rope.decay_bound": "of the theory"},
    "cases": [
        {"function": "attention.rope.apply_rotary", "variant": "", "peer": "peer 1.0", "against": "rotate<q>", "exponent": 1.1}
        | {"why": "rounds once", "rows": ROWS},
        {"function": "generation.repetition.top_k", "variant": "", "peer": "other (missing)", "against": "warp"}
        | {"rows": [{"size": "n1", "dtype": "float64", "mode": "forward", "status": "missing", "reason": "not installed"}]},
    ],
}
MUTATION = {
    "date": "2026-01-02",
    "python": "3.11",
    "torch": "2.13",
    "equations": {
        "labels": 3,
        "labels_sharp": 2,
        "mutants": 12,
        "noticed": 11,
        "explained": 1,
        "points": 5,
        "points_noticed": 4,
        "labels_elsewhere": [],
    }
    | {"survivors": [{"cell": 3, "labels": ["eq-a"], "change": "a | b -> a", "reason": reason} for reason in ("", "b is empty")]},
    "functions": {"mutants": 10, "killed": 9, "results": 3, "results_killed": 3}
    | {"survivors": [{"where": "kexue/a.py:1", "mutation": "a | b -> a"}]},
}
HELPER = {name: MUTATION[name] for name in ("date", "python", "torch")}
HELPER["functions"] = {"mutants": 0, "killed": 0, "results": 0, "results_killed": 0, "survivors": []}
ROPE, TOP_K = "attention/rope", "generation/repetition"


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Stores results; those of chapters are of the present state unless it is said otherwise."""
    monkeypatch.setattr(state, "RESULTS", tmp_path)

    def store(kind, name, content):
        state.save(kind, name, content)

    return store


@pytest.fixture
def whole(monkeypatch, tmp_path):
    monkeypatch.setattr(state, "RESULTS", tmp_path)
    return lambda name, content: (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def cpu(results):
    for post, case in zip((ROPE, TOP_K), CPU["cases"], strict=True):
        reasons = CPU["without_peer"] if post == ROPE else {}
        results("bench", post, CPU | {"cases": [case], "without_peer": reasons})


def test_without_results_the_pages_claim_nothing(results):
    assert evidence.trust_markdown([]) == ""
    assert evidence.speed_markdown([]) == ""


def test_speed_shows_every_measurement_and_every_miss(cpu):
    text = evidence.speed_markdown([])
    assert "Measured on 2026-01-02 on an Abacus (2 cores, 1 thread), load 0.5" in text
    assert "2 measurements against 1 libraries: the package is faster in 1, slower in 1. Targets: 2, of which missed: 1." in text
    assert "Peers that were not installed: other." in text
    assert "| n64 | float32, forward | 0.25 (0.1–0.5) | 0.5 | 3 | must 0.7 met |" in text
    assert "| n64 | bfloat16, forward+backward | 2 (1.5–2.5) |  |  | must 1.0 **missed** |" in text
    assert "| n128 | float32, forward | failed: no compiler |" in text
    assert "- {py:obj}`~kexue.attention.rope.decay_bound`: of the theory." in text
    assert text.count("<circle") == 2
    assert "Time grows like the power 1.1 of the size." in text
    assert "**rope**\n\n:::{dropdown} apply_rotary against rotate<q> (peer 1.0)" in text
    assert "- **apply_rotary** against rotate<q>, at worst 2: rounds once." in text


def test_a_yardstick_is_no_race_and_explains_nothing(results):
    cases = [CPU["cases"][0] | {"differs": "a yardstick: what it adds", "why": ""}, CPU["cases"][0]]
    results("bench", ROPE, CPU | {"cases": cases})
    text = evidence.speed_markdown([])
    assert "2 measurements against 1 libraries: the package is faster in 1, slower in 1. 2 more are yardsticks" in text
    assert text.count("- **apply_rotary** against") == 1


def test_what_is_slower_than_its_peer_says_what_for():
    for case in (case for each in evidence.results("bench").values() for case in each["cases"]):
        worst = max((row["ratio"][1] for row in evidence.measured(case)), default=0)
        assert worst <= evidence.SLOWER or case.get("why") or case.get("differs"), (case["function"], case["against"], worst)


def test_slower_stands_to_the_right(cpu):
    faster, slower = (float(part.split('"')[0]) for part in evidence.speed_markdown([]).split('cx="')[1:])
    assert faster < slower


def test_trust_lists_counts_and_survivors(results):
    results("mutate", ROPE, MUTATION)
    results("mutate", "_check", HELPER)
    results("abuse", ROPE, {"functions": 2, "cases": 2000, "refused": 1000, "answered": 999, "exempt": 1})
    results("abuse", TOP_K, {"functions": 1, "cases": 1000, "refused": 0, "answered": 1000, "exempt": 0})
    row = {"numbers": 20, "most digits": 4, "fewest further digits": 3, "ratios at an edge": [{}, {}], "doubtful": [{}]}
    results("digits", ROPE, row)
    results("portable", ROPE, {"variants": {"two threads": {"cells": 40, "failed": 1}}, "failed": 1})
    text = evidence.trust_markdown([])
    assert "**11 of 12 changes of formulas** were noticed; 1 more change nothing" in text
    assert "Of 3 labelled equations, 2 notice every change, and 0 compare numbers whose code is not changed" in text
    assert "Of 5 changes of the points of comparison 4 were noticed." in text
    assert "| `eq-a` (attention/rope, cell 3) | `a \\| b -> a` | b is empty |" in text
    assert "| `rope` | 9 of 10 (90%) | 3 of 3 |" in text and "| `_check` | 0 of 0 (0%) | 0 of 0 |" in text
    assert "| `kexue/a.py:1` | `a \\| b -> a` |" in text
    assert "**3 public names, 3,000 calls**" in text
    assert "| {doc}`/chapters/attention/rope` | 20 | 4 | 3 | 2 | 1 |" in text
    assert "| {doc}`/chapters/attention/rope` | 39 of 40 cells |" in text


def test_results_of_an_earlier_state_and_missing_ones_are_named(results, monkeypatch):
    monkeypatch.setattr(evidence, "contents", lambda: [ROPE, TOP_K, "probability/vae_bottleneck"])
    count = {"functions": 1, "cases": 1000, "refused": 0, "answered": 1000, "exempt": 0}
    results("abuse", ROPE, count | {"date": "2026-01-03"})
    results("abuse", TOP_K, count | {"date": "2026-01-05", "of": "something else"})
    text = evidence.trust_markdown([])
    assert "*2026-01-03 to 2026-01-05.* 1 of 3 chapters are measured as they are now; " in text
    assert "the results are of an earlier state for {doc}`/chapters/generation/repetition`; " in text
    assert "not measured: {doc}`/chapters/probability/vae_bottleneck`. " in text
    monkeypatch.setattr(evidence, "contents", lambda: [ROPE])
    assert "*2026-01-03.* All chapters are measured as they are now." in evidence.trust_markdown([])


def test_trust_lists_versions_and_properties(whole):
    entry = {
        "date": "2026-01-05",
        "python": "3.11.7",
        "torch": "2.6.0",
        "numpy": "2.0.0",
        "scipy": "1.13.0",
        "what": "unit tests",
    }
    whole("versions", {"date": "2026-01-05", "entries": [entry | {"passed": 9, "failed": 0, "skipped": 1}]})
    whole("properties", {"date": "2026-01-06", "tests": 3, "examples": 30000})
    text = evidence.trust_markdown([])
    assert "| 3.11.7 | 2.6.0 | 2.0.0 | 1.13.0 | unit tests | 9 | 0 | 1 |" in text
    assert "3 tests state a property" in text and "**30,000 examples**" in text


def test_the_cost_of_the_book_shows_its_goals(whole):
    times = {kind: {"wall_s": 3.4} for kind in ("cold", "unchanged", "page", "edited")}
    goals = {
        "page_s": {"value": 3.4, "must": 10.0, "met": True},
        "print_gb": {"value": None, "must": 6.0, "met": False},
        "overhead_of_chapters": {"value": 0.4, "must": 0.35, "met": False},
    }
    whole("book", {name: CPU[name] for name in ("date", "machine", "versions")} | {"builds": {"5": times}, "goals": goals})
    text = evidence.trust_markdown([])
    assert "| 5 | 3 s | 3 s | 3 s | 3 s |" in text and "printed, GB | failed | 6 | **missed** |" in text
    assert "its execution apart (CPU) | 3.4 | 10 | met |" in text
    assert "kernels and imports (CPU) | 0.4 | 0.35 | **missed** |" in text


def test_speed_is_summed_by_part_and_long_charts_are_folded(cpu, monkeypatch):
    text = evidence.speed_markdown([])
    assert "| Attention | 2 | 1 | 1 | 1 |" in text
    assert text.count("<svg") == 1 and "a dot for each measurement" not in text
    assert '<details class="fold part" open><summary>Attention</summary>\n\n**rope**' in text
    monkeypatch.setattr(evidence, "LONGEST", 0)
    assert "<summary>Attention: a dot for each measurement</summary>" in evidence.speed_markdown([])


def test_trust_is_summed_by_part_as_far_as_it_was_measured(results):
    results("mutate", ROPE, MUTATION)
    assert "| Part | Changes of formulas noticed | Code changes noticed |" in evidence.trust_markdown([])
    results("abuse", ROPE, {"functions": 2, "cases": 3000, "refused": 1000, "answered": 1999, "exempt": 1, "date": "2026-01-03"})
    text = evidence.trust_markdown([])
    assert text.startswith("| Part | Changes of formulas noticed | Code changes noticed | Hostile calls survived |\n")
    assert "| Attention | 11 of 12 | 9 of 10 | 3,000 |" in text
    assert "| Generation |  |  |  |" in text


def test_long_tables_are_folded_by_part(monkeypatch):
    rows = {"attention/a": "| a | 1 |", "attention/b": "| b | 2 |", "generation/c": "| c | 3 |"}
    assert evidence.tabled("| Chapter | n |", rows) == ["| Chapter | n |", "|---|---|", *rows.values()]
    monkeypatch.setattr(evidence, "FEW", 2)
    text = "\n".join(evidence.tabled("| Chapter | n |", rows))
    assert "<summary>Attention (2)</summary>\n\n| Chapter | n |\n|---|---|\n| a | 1 |\n| b | 2 |\n\n</details>" in text
    assert "<summary>Generation (1)</summary>" in text


def test_every_goal_of_the_book_has_its_words():
    assert evidence.GOALS.keys() == book.GOALS.keys()
