"""``make mutate``: does the book notice when it is wrong? Wrong code in its checks, and wrong code in its package against the tests."""

from __future__ import annotations

import ast
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

from book_tools import state, system
from book_tools.chapter import ROOT, Chapter, contents
from trials import forks
from trials.cells import FORMULA, Trial, chapter_trials
from trials.forks import IDLE, SURVIVED, Target
from trials.mutants import Mutant, result_mutants, source_mutants

KIND = "mutate"
SAMPLE = 400  # source mutants of one module; of a longer list a fixed sample is run
# Modules of no chapter, and the file of their tests.
HELPERS = {"_check": "test_check.py", "attention/_mask": "attention/test_position_encodings.py"}

Json = dict[str, Any]


def equations(name: str, jobs: int = 2) -> Json:
    """Try changes of the code of a chapter's verifying cells."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # a chapter in a process of its own
        found = pool.submit(chapter_trials, name, jobs).result()
    tally = _tally(found, Chapter.load(name).labels) | {"seconds": round(time.perf_counter() - begun)}
    print(f"{name}: {tally['noticed']} of {tally['mutants']} changes of formulas noticed, {tally['seconds']} s", flush=True)
    return tally


def function(target: Target, jobs: int = 2, sample: int = SAMPLE) -> Json:
    """Run the mutants of a module against its own tests."""
    begun = time.perf_counter()
    found = _mutate(target, jobs, sample) | {"seconds": round(time.perf_counter() - begun)}
    line = "{killed} of {mutants} source mutants and {results_killed} of {results} changed results noticed, {seconds} s"
    print(f"\r{target.module}: {line.format(**found)}", flush=True)
    return found


def run(names: Sequence[str], everything: bool, jobs: int) -> int:
    """Both, for the chapters whose checks, code or tests have changed and for the helpers; survivors are a finding and no failure."""
    if not hasattr(os, "fork"):
        print("the mutation test forks and so needs Linux or macOS", file=sys.stderr)
        return 1
    for name, value in (system.ONE_THREAD | {"PYTHONHASHSEED": "0"}).items():
        os.environ.setdefault(name, value)
    os.environ["MPLBACKEND"] = "agg"
    helpers = [] if names else [name for name in HELPERS if everything or not state.is_present(KIND, name)]
    chapters = state.changed(KIND, names, everything)
    of = {name: state.digest(KIND, name) for name in [*chapters, *helpers]}
    versions = {"python": platform.python_version(), "torch": version("torch")}
    try:
        for name, digest in of.items():
            checks = {"equations": equations(name, jobs)} if name in chapters else {}
            state.save(KIND, name, versions | checks | {"functions": function(target(name), jobs)}, digest)
    except RuntimeError as error:
        print(f"what was not finished was not stored: {error}", file=sys.stderr)
        return 1
    print(summary([state.stored(KIND, name) for name in [*contents(), *HELPERS]]))
    return 0


def summary(results: Sequence[Json]) -> str:
    """The figures of the book in two or three lines."""

    def total(what: str, key: str) -> int:
        return sum(result[what][key] for result in results if what in result)

    killed, ran = total("functions", "killed"), total("functions", "mutants")
    sharp, labels = total("equations", "labels_sharp"), total("equations", "labels")
    return (
        f"equations: {total('equations', 'noticed')} of {total('equations', 'mutants')} changes of formulas noticed, "
        f"{total('equations', 'explained')} more cannot be; {sharp} of {labels} labels notice every change that can be\n"
        f"code: {killed} of {ran} source mutants ({killed / max(ran, 1):.0%}) and {total('functions', 'results_killed')} of "
        f"{total('functions', 'results')} changed results noticed\nthe survivors stand in results/{KIND}"
    )


def _tally(trials: Sequence[Trial], labels: Sequence[str]) -> Json:
    """The counts; what nothing noticed, with the reason where it could not be; the labels that notice less than all."""
    formulas = [trial for trial in trials if trial.kind == FORMULA]
    alive = [trial for trial in formulas if trial.outcome == SURVIVED]
    tried = {label for trial in formulas for label in trial.labels}
    blunt = {label for trial in alive if not trial.reason for label in trial.labels}
    points = [trial for trial in trials if trial.kind != FORMULA]
    return {
        "labels": len(labels),
        "labels_sharp": len(set(labels) & tried - blunt),
        "labels_elsewhere": [label for label in labels if label not in tried],
        "labels_blunt": [label for label in labels if label in blunt],
        "mutants": len(formulas) - sum(bool(trial.reason) for trial in alive),
        "noticed": len(formulas) - len(alive),
        "explained": sum(bool(trial.reason) for trial in alive),
        "points": len(points),
        "points_noticed": sum(trial.outcome != SURVIVED for trial in points),
        "survivors": [{"cell": t.cell, "labels": list(t.labels), "change": t.change, "reason": t.reason} for t in alive],
    }


def target(name: str) -> Target:
    """The module of a chapter or a helper, with its tests."""
    tests = HELPERS.get(name) or f"{name.replace('/', '/test_')}.py"
    return Target(f"kexue.{name.replace('/', '.')}", ROOT / "kexue" / f"{name}.py", ROOT / "tests" / tests, ROOT)


def _mutate(target: Target, jobs: int, sample: int) -> Json:
    lines = target.source.read_text(encoding="utf-8").splitlines()
    tree = ast.parse("\n".join(lines))
    exist, results = source_mutants(tree), result_mutants(tree)
    chosen = exist if len(exist) <= sample else random.Random(target.module).sample(exist, sample)
    found = [*sorted(chosen, key=exist.index), *results]
    seen = forks.survey(target)
    limit = 20 + 5 * forks.seconds_unchanged(target)
    ends = forks.outcomes(target, tree, found, seen, limit, jobs, lambda done: _progress(target.module, done, len(found)))
    source, result = ends[: len(chosen)], [end for end in ends[len(chosen) :] if end != IDLE]
    return {
        "exist": len(exist),
        "mutants": len(source),
        "killed": len(source) - source.count(SURVIVED),
        "results": len(result),
        "results_killed": len(result) - result.count(SURVIVED),
        "survivors": [_place(target, mutant, lines) for mutant, end in zip(found, ends, strict=True) if end == SURVIVED],
    }


def _place(target: Target, mutant: Mutant, lines: list[str]) -> Json:
    where = f"{target.source.relative_to(target.root).as_posix()}:{mutant.line}"
    return {"where": where, "function": mutant.function, "mutation": mutant.change, "line": lines[mutant.line - 1].strip()}


def _progress(module: str, done: int, whole: int) -> None:
    if sys.stdout.isatty():
        print(f"\r{module}: {done}/{whole}", end="", flush=True)
