"""``make mutate``: does the book notice when it is wrong? Wrong right-hand sides against its checks, wrong code against its tests."""

from __future__ import annotations

import ast
import os
import platform
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from typing import Any

from book_tools import state, system
from book_tools.chapter import ROOT, Chapter, contents
from trials import forks
from trials.equations import MISSED, NOTICED, Trial, chapter_trials
from trials.forks import IDLE, SURVIVED, Target
from trials.mutants import Mutant, result_mutants, source_mutants

KIND = "mutate"
SAMPLE = 400  # source mutants of one module; of a longer list a fixed sample is run
# Modules of no chapter, and the file of their tests.
HELPERS = {"_check": "test_check.py", "attention/_mask": "attention/test_position_encodings.py"}

Json = dict[str, Any]


def equations(names: list[str], jobs: int = 2) -> dict[str, Json]:
    """Try every executed check of the chapters with wrong right-hand sides."""
    found: dict[str, Json] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name, (trials, seconds) in zip(names, pool.map(_afresh, names), strict=True):
            found[name] = _tally({name: trials}, {name: Chapter.load(name).labels}) | {"seconds": round(seconds)}
            print(f"{name}: {_share(trials)}, {seconds:.0f} s", flush=True)
    return found


def _afresh(name: str) -> tuple[list[Trial], float]:
    """The trials of a chapter, from a process of its own."""
    begun = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(chapter_trials, name).result(), time.perf_counter() - begun


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
        tried = equations(chapters, jobs)
        for name, digest in of.items():
            checks = {"equations": tried[name]} if name in tried else {}
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
        f"equations: {total('equations', 'noticed')} of {total('equations', 'mutants')} wrong right-hand sides noticed in "
        f"{total('equations', 'calls')} checks; {sharp} of {labels} labels notice every kind\n"
        f"code: {killed} of {ran} source mutants ({killed / max(ran, 1):.0%}) and {total('functions', 'results_killed')} of "
        f"{total('functions', 'results')} changed results noticed\nthe survivors stand in results/{KIND}"
    )


def _share(trials: list[Trial]) -> str:
    real = [trial for trial in trials if trial.outcome in (NOTICED, MISSED)]
    return f"{sum(trial.outcome == NOTICED for trial in real)} of {len(real)} wrong right-hand sides noticed"


def _tally(found: dict[str, list[Trial]], labels: dict[str, list[str]]) -> Json:
    """The counts, and what no check noticed: call by call, and label by label where every call of the label missed it."""
    every = [(chapter, trial) for chapter, trials in found.items() for trial in trials]
    real = [(chapter, trial) for chapter, trial in every if trial.outcome in (NOTICED, MISSED)]
    kinds = {(chapter, trial.label, trial.mutant) for chapter, trial in real}
    seen = {(chapter, trial.label, trial.mutant) for chapter, trial in real if trial.outcome == NOTICED}
    tried = {(chapter, label) for chapter, label, _ in kinds}
    blunt = {(chapter, label) for chapter, label, _ in kinds - seen}
    blunt |= {(chapter, label) for chapter, listed in labels.items() for label in listed} - tried
    return {
        "labels": sum(map(len, labels.values())),
        "labels_sharp": sum(map(len, labels.values())) - len(blunt),
        "calls": len({(chapter, trial.label, trial.call) for chapter, trial in every}),
        "mutants": len(real),
        "noticed": sum(trial.outcome == NOTICED for _, trial in real),
        "not_applicable": [{"chapter": c, **t._asdict()} for c, t in every if t.outcome not in (NOTICED, MISSED)],
        "labels_blunt": [{"chapter": chapter, "label": label} for chapter, label in sorted(blunt)],
        "survivors": [{"chapter": c, **t._asdict()} for c, t in real if t.outcome == MISSED],
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
