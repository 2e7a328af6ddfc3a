"""The benchmarks: what is measured, how ratios are formed, and what counts as worse."""

import copy
import importlib
import json
import statistics

import numpy as np
import pytest
import torch

from benchmarks import __main__ as commands
from benchmarks import cases, results, timing
from benchmarks.cases import BOTH, FORWARD, Case, Lab, Pair, Setting, Target, measure
from book_tools import state
from book_tools.chapter import contents


class FakeClock:
    """Functions that take the time they are told, on a clock that only they move."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def function(self, name, seconds):
        durations = iter(seconds) if isinstance(seconds, list) else None

        def run():
            self.calls.append(name)
            self.now += next(durations, seconds[-1]) if durations else seconds

        return run

    @property
    def clock(self):
        return timing.clock_of(lambda: self.now)


LAB = Lab(
    "cpu",
    timing.clock_of(iter(range(10**9)).__next__),
    timing.Limits({4096: 1e9}, dict.fromkeys(("float32", "bfloat16"), 1e9)),
    0.0,
)


def pair_of(ours=torch.exp, peer=torch.exp, **more):
    def build(setting):
        x = setting.randn(setting["n"])
        return Pair(lambda: ours(x), lambda: peer(x), scale=setting["n"], moved=2 * x.nbytes, leaves=(x,), **more)

    return build


def case_of(build, peer="torch", **more):
    return Case("part.post.function", peer, "its peer", build, ({"n": 8}, {"n": 16}, {"n": 32}), **more)


def test_the_ratio_is_that_of_the_two_durations():
    fake = FakeClock()
    found = timing.compare(fake.function("ours", 0.3), fake.function("peer", 0.6), fake.clock, seconds=9.0)
    assert found.ours == pytest.approx(0.3)
    assert found.peer == pytest.approx(0.6)
    assert found.ratio == pytest.approx((0.5, 0.5, 0.5))


def test_pairs_are_interleaved_in_alternating_order():
    fake = FakeClock()
    timing.compare(fake.function("a", 0.1), fake.function("b", 0.1), fake.clock, seconds=1.6)
    pairs = fake.calls[6:]  # after warming up and counting
    assert pairs == ["a", "b", "b", "a"] * 4


def test_a_disturbance_moves_a_quartile_and_not_the_median():
    fake = FakeClock()
    quiet, disturbed = [0.1] * 3, [0.1] * 5 + [0.5] * 2
    found = timing.compare(fake.function("ours", quiet + disturbed), fake.function("peer", 0.1), fake.clock, seconds=0.0)
    assert found.ratio.median == pytest.approx(1.0)
    assert found.ratio.high == pytest.approx(3.0)
    assert found.ratio.low == pytest.approx(1.0)


def test_a_quick_function_is_called_often_enough_for_the_clock():
    fake = FakeClock()
    timing.compare(fake.function("ours", 1e-5), fake.function("peer", 1.0), fake.clock, seconds=0.0)
    calls = fake.calls.count("ours") - 2 - timing.SAMPLE / 1e-5
    assert calls == pytest.approx(timing.PAIRS[0] * timing.SAMPLE / 1e-5, rel=0.01)


def test_quartiles_are_those_of_the_sample():
    assert timing.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert timing.quartiles([2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
def test_the_exponent_is_fitted_over_three_sizes(power):
    sizes = [64, 256, 1024]
    assert timing.exponent(sizes, [3e-6 * size**power for size in sizes]) == pytest.approx(power)
    assert timing.exponent(sizes[:2], [1.0, 2.0]) is None
    assert timing.exponent([64, 64, 64], [1.0, 2.0, 3.0]) is None


def test_the_limit_is_the_slower_of_copying_and_multiplying():
    limits = timing.Limits({1000: 10.0, 100_000: 20.0}, {"float32": 5.0, "bfloat16": 2.0, "float64": 1.0})
    assert limits.seconds(1000, 0, "float32") == 100.0
    assert limits.seconds(100_000, 0, "float32") == 5000.0
    assert limits.seconds(1000, 5000, "float32") == 1000.0
    assert limits.seconds(0, 5000, "bfloat16") == 1000.0  # float32 multiplies faster here
    assert limits.seconds(0, 5000, "float64") == 5000.0


def test_memory_is_the_peak_of_what_a_call_holds():
    x, array = torch.ones(250_000), np.ones(250_000)
    assert timing.peak_bytes(lambda: (x + 1).sum()) == pytest.approx(1e6, rel=0.01)
    assert timing.peak_bytes(lambda: (x + 1) + (x + 2)) == pytest.approx(3e6, rel=0.01)
    assert timing.peak_bytes(lambda: float((array + 1).sum())) == pytest.approx(2e6, rel=0.05)


def test_a_measurement_holds_what_was_asked_for():
    row = measure(case_of(pair_of(), targets={"float32 forward": Target(2.0, 0.5)}), {"n": 16}, "float32", FORWARD, LAB)
    assert row["error"] == 0.0
    assert row["ratio"] == [1.0, 1.0, 1.0]
    assert row["memory_ratio"] == 1.0
    assert row["target"] == {"must": 2.0, "reach": 0.5}
    assert row["met"] is True
    assert row["reached"] is False
    assert row["floor_ratio"] > 0


def test_gradients_are_compared_where_they_are_timed():
    row = measure(case_of(pair_of(peer=lambda x: x.detach().exp() + 0 * x)), {"n": 16}, "float32", BOTH, LAB)
    assert row["status"] == "unequal"
    assert "ratio" in measure(case_of(pair_of()), {"n": 16}, "float32", BOTH, LAB)


def test_a_view_of_the_peer_is_undone_for_its_gradients():
    def build(setting):
        x, weights = setting.randn(2, setting["n"]), setting.randn(2, setting["n"])
        return Pair(lambda: x * weights, lambda: (x * weights).mT.contiguous(), scale=1, leaves=(x,), view=lambda y: y.mT)

    assert measure(case_of(build), {"n": 3}, "float32", BOTH, LAB)["error"] == 0.0


def test_unequal_results_are_not_timed():
    row = measure(case_of(pair_of(peer=torch.sin)), {"n": 16}, "float32", FORWARD, LAB)
    assert row["status"] == "unequal"
    assert "ratio" not in row
    said = measure(case_of(pair_of(peer=torch.sin), same="another function"), {"n": 16}, "float32", FORWARD, LAB)
    assert said["ratio"] == [1.0, 1.0, 1.0]


def test_a_missing_peer_is_reported():
    def build(setting):
        import no_such_package_of_a_peer  # noqa: F401

    assert measure(case_of(build, peer="no-such-package-of-a-peer"), {"n": 8}, "float32", FORWARD, LAB) == {
        "size": "n8",
        "dtype": "float32",
        "mode": "forward",
        "status": "missing",
        "reason": "no-such-package-of-a-peer is not installed",
    }
    assert measure(case_of(build), {"n": 8}, "float32", FORWARD, LAB)["status"] == "missing"


def test_a_peer_that_breaks_is_reported():
    row = measure(case_of(pair_of(peer=lambda x: x.no_such_method())), {"n": 8}, "float32", FORWARD, LAB)
    assert row["status"] == "failed"
    assert "no_such_method" in row["reason"]


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Two posts with a case each, on a clock that costs nothing, and an empty folder for results."""
    first, second = case_of(pair_of()), case_of(pair_of(), peer="no-such-package-of-a-peer", also=("bfloat16 forward",))
    monkeypatch.setattr(cases, "posts", lambda: ["a/b", "c/d"])
    monkeypatch.setattr(state, "contents", cases.posts)
    monkeypatch.setattr(cases, "all_cases", lambda posts: [{"a/b": first, "c/d": second}[post] for post in posts])
    monkeypatch.setattr(cases, "without_peer", lambda posts: {})
    monkeypatch.setattr(timing, "limits", lambda clock, device: LAB.limits)
    monkeypatch.setattr(timing, "cpu_clock", lambda threads: (LAB.clock, "fake"))
    monkeypatch.setattr(timing, "SAMPLE", 1e-9)
    monkeypatch.setattr(timing, "peak_bytes", lambda call, device: 1)
    monkeypatch.setattr(state, "RESULTS", tmp_path)
    return tmp_path / "bench"


def test_a_run_stores_every_measurement_and_never_fails(toy, capsys):
    assert commands.main(["run", "--seconds", "0"]) == 0
    stored = [results.read(toy / f"{post}.json") for post in ("a/b", "c/d")]
    assert [len(each["cases"][0]["rows"]) for each in stored] == [3, 4]
    assert stored[0]["cases"][0]["exponent"] == pytest.approx(0.0)
    assert {row["status"] for row in stored[1]["cases"][0]["rows"]} == {"missing"}
    assert "4 of 4: measurements without their peer" in capsys.readouterr().out
    assert commands.main(["check", str(toy / "a" / "b.json"), str(toy / "a" / "b.json")]) == 0
    assert commands.main(["check", str(toy), str(toy)]) == 0


def test_a_run_repeats_only_what_has_changed(toy, capsys):
    assert commands.main(["run", "--seconds", "0"]) == 0
    before = (toy / "a" / "b.json").stat().st_mtime_ns
    assert commands.main(["run", "--seconds", "0"]) == 0
    assert "0 of 2 chapters to measure, 2 unchanged" in capsys.readouterr().out
    assert (toy / "a" / "b.json").stat().st_mtime_ns == before
    assert commands.main(["run", "a/b", "--seconds", "0"]) == 0
    assert (toy / "a" / "b.json").stat().st_mtime_ns != before


def test_a_chosen_case_is_measured_and_not_stored(toy):
    assert commands.main(["run", "--only", "nothing has this name"]) == 2
    assert commands.main(["run", "--only", "function", "--seconds", "0"]) == 0
    assert not toy.exists()


def result(*rows, peer="torch 2.0"):
    return {"cases": [{"function": "part.post.function", "variant": "", "peer": peer, "against": "its peer", "rows": list(rows)}]}


def row(low, median, high, size="n8"):
    return {"size": size, "dtype": "float32", "mode": "forward", "ratio": [low, median, high], "ours_s": 1.0, "peer_s": 1.0}


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ((0.45, 0.50, 0.55), (0.65, 0.70, 0.75), True),
        ((0.45, 0.50, 0.55), (0.54, 0.70, 0.90), False),  # noise: the quartiles overlap
        ((0.49, 0.50, 0.51), (0.52, 0.54, 0.55), False),  # a tenth is not reached
        ((0.45, 0.50, 0.55), (0.20, 0.21, 0.22), False),
    ],
)
def test_check_names_what_became_worse(tmp_path, capsys, before, after, worse):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results.write(old, result(row(*before), row(1, 1, 1, "n9")))
    results.write(new, result(row(*after), row(1, 1, 1, "n9"), peer="torch 3.0"))
    assert commands.main(["check", str(old), str(new)]) == int(worse)
    out = capsys.readouterr().out
    assert ("part.post.function, its peer (torch), n8, float32 forward: 0.5 -> 0.7 times the peer (+40%)" in out) is worse
    assert "n9" not in out


def test_check_sees_what_broke_and_what_vanished(tmp_path, capsys):
    old = result(row(1, 1, 1), row(1, 1, 1, "n9"), row(1, 1, 1, "n10"))
    new = copy.deepcopy(old)
    rows = new["cases"][0]["rows"]
    rows[0] = {"size": "n8", "dtype": "float32", "mode": "forward", "status": "failed", "reason": "it broke"}
    rows[1] = {"size": "n9", "dtype": "float32", "mode": "forward", "status": "missing", "reason": "not installed"}
    del rows[2]
    assert len(results.regressions(old, new)) == 1
    assert "it broke" in results.regressions(old, new)[0]
    assert [gone.split(", ")[2] for gone in results.gone(old, new)] == ["n9", "n10"]


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"cases": [1]}', '{"cases": [{"peer": "torch"}]}'])
def test_check_refuses_what_is_no_result_file(tmp_path, capsys, text):
    broken, good = tmp_path / "broken.json", tmp_path / "good.json"
    broken.write_text(text, encoding="utf-8")
    results.write(good, result(row(1, 1, 1)))
    assert commands.main(["check", str(good), str(broken)]) == 2
    assert "broken.json is no result file of the benchmarks" in capsys.readouterr().err
    assert commands.main(["check", str(good), str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_results_are_replaced_in_one_step(tmp_path):
    path = tmp_path / "cpu.json"
    results.write(path, result(row(1, 1, 1)))
    with pytest.raises(ValueError, match="JSON compliant"):
        results.write(path, result(row(1, float("nan"), 1)))
    assert results.read(path) == result(row(1, 1, 1))
    assert list(tmp_path.iterdir()) == [path]


def test_stored_results_are_small_and_name_no_machine():
    for path in state.RESULTS.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert len(text) < 60_000, path
        assert not any(folder in text for folder in ("/home/", "/tmp/", "/root/", "/work/", "/Users/"))
        json.loads(text)


@pytest.mark.parametrize("post", contents(), ids="{}:".format)
def test_every_function_of_the_package_is_measured_or_has_no_peer(post):
    assert post in cases.posts(), f"benchmarks/{post}.py is missing: CASES, NO_PEER and NAMED"
    measured, reasons = {case.function for case in cases.all_cases([post])}, cases.without_peer([post])
    dotted = post.replace("/", ".")
    module = importlib.import_module(f"kexue.{dotted}")
    public = {f"{dotted}.{thing}" for thing in module.__all__ if not _record(getattr(module, thing))}
    left = public - measured - set(reasons)
    assert not left, f"give {', '.join(sorted(left))} a Case in benchmarks/{post}.py, or a sentence in NO_PEER there"
    assert measured <= public
    assert not measured & set(reasons)
    assert set(reasons) <= public


def _record(thing):
    return isinstance(thing, type) and issubclass(thing, tuple)


@pytest.mark.parametrize("post", cases.posts(), ids="{}:".format)
def test_what_the_goals_for_speed_name_has_a_case(post):
    measured = {case.function.rpartition(".")[2] for case in cases.all_cases([post])}
    assert set(cases.pairs(post).NAMED) <= measured


def test_cases_are_well_formed():
    seen = set()
    for case in cases.all_cases():
        plan = list(case.plan("cpu"))
        rows = {(case.name, case.peer, case.against, cases.label(size), dtype, mode) for size, dtype, mode in plan}
        assert len(rows) == len(plan)
        assert not rows & seen
        seen |= rows
        planned = {f"{dtype} {mode}" for _, dtype, mode in plan}
        assert {" ".join(key.split(" ")[:2]) for key in case.targets} <= planned, case.name
        used = {case.target(size, dtype, mode) for size, dtype, mode in plan} - {Target()}
        assert used == set(case.targets.values()), case.name
    assert len(seen) > 100


def test_random_data_is_never_zero_and_repeats():
    first, again = (Setting({"n": 1000}, torch.float32, "cpu").randn(1000) for _ in range(2))
    assert torch.equal(first, again)
    assert statistics.stdev(first.tolist()) == pytest.approx(1.0, rel=0.1)
    assert (first != 0).all()
