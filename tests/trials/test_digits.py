"""Printed digits: how they are counted, and which are found wanting."""

import pytest

from book_tools import state
from trials import digits
from trials.digits import Notes, Shown, judge, place, significant, summary


def toy(*sources):
    return {
        "cells": [{"cell_type": "markdown", "source": "text"}, *({"cell_type": "code", "source": source} for source in sources)]
    }


def shown(source):
    return Notes(toy(source)).shown


def values(text, *numbers, spec=".2f"):
    return [Shown(1, text, number, 2.0**-52, place(text, spec)) for number in numbers]


@pytest.mark.parametrize(
    ("text", "count"),
    [("0.123", 3), ("1.2e-05", 2), ("12", 2), ("-0.50", 2), ("0.00", 0), ("1,234.5", 5), ("12%", 2), ("100", 3), ("1.0e+10", 2)],
)
def test_significant_digits_are_counted(text, count):
    assert significant(text) == count


@pytest.mark.parametrize(
    ("value", "spec", "power"),
    [
        *[
            (0.1234, ".3f", -3),
            (1.2e-5, ".1e", -6),
            (12.3, ".0f", 0),
            (12345.6, ",.1f", -1),
            (0.1234, ".1%", -3),
            (0.5, "8.3g", -3),
        ],
        *[(0.5, "g", -6), (1234.5, "#.2g", 2), (-0.5, "+.1f", -1), (0.1, "", None), (0.1, ">9s", None), (1e-7, ".3", -9)],
    ],
)
def test_the_last_digit_is_placed(value, spec, power):
    assert place(format(str(value) if spec.endswith("s") else value, spec), spec) == power


def test_every_way_to_print_a_number_is_seen():
    sources = (
        "x = 0.12345\nprint(f'{x:.2f} and {x + 1:{5}.1f}')",
        "print('{:.3f} {name}'.format(x, name='n'))",
        "print(x, end='')",
    )
    sources += ("print(format(x, '.1f'))", "print(round(x, 2))", "import numpy as np\nprint(f'{np.float32(x):.2f}')")
    notes = Notes(toy(*sources))
    texts = {cell: [each.text for each in notes.shown if each.cell == cell] for cell in range(1, 7)}
    assert texts == {1: ["0.12", "1.1"], 2: ["0.123"], 3: ["0.12345"], 4: ["0.1"], 5: ["0.12", "0.12"], 6: ["0.12"]}
    assert notes.shown[-1].precision == 2.0**-23


def test_what_is_not_printed_or_no_measured_number_is_left_out():
    assert not shown("label = f'{0.123:.2f}'")
    assert not shown('print(f\'{3:d} {True} {"word":>6s} {float("nan"):.1f}\', 4)')


def test_a_value_near_an_edge_is_found_and_one_away_from_it_is_not():
    assert judge(values("0.12", 0.125))["near an edge"]
    assert judge(values("0.12", 0.125 - 1e-12, 0.125 - 2e-12))["near an edge"]
    assert not judge(values("0.12", 0.1249, 0.1249 + 1e-9))["near an edge"]
    assert judge(values("0.12", 0.1249, 0.1249 + 1e-5))["near an edge"]


def test_a_ratio_of_counts_may_lie_on_the_edge_and_noise_beside_it_may_not():
    assert judge(values("0.88", 0.875, 0.875))["ratio"] == "7/8"
    assert judge(values("0.383", 459 / 1200))["ratio"] == "153/400"
    assert "ratio" not in judge(values("0.88", 0.875, 0.875 - 1e-16))
    assert "ratio" not in judge(values("0.009", 0.00949999999999999))
    found = summary([values("0.88", 0.875), values("0.88", 0.875)])
    assert (len(found["ratios at an edge"]), found["doubtful"]) == (1, [])


def test_further_digits_follow_from_the_spread():
    far = judge(values("0.12", 0.1210001, 0.1210002))
    assert far["further digits"] == 4
    assert far["relative spread"] == pytest.approx(1e-7 / 0.121, rel=1e-5)
    assert judge(values("0.12", 0.121))["further digits"] == 14
    assert judge(values("0.00", 0.0))["further digits"] == 16


def test_a_number_printed_with_all_its_digits_may_not_vary():
    assert judge(values("0.3", 0.3, 0.3, spec=""))["further digits"] == 16
    assert judge(values("0.3", 0.3, 0.30000000000000004, spec=""))["further digits"] == 0


def test_rounding_before_formatting_hides_no_edge():
    (inner, outer) = shown("print(f'{round(0.0125 - 1e-17, 3) + 0.0:+.3f}')")
    assert judge([inner])["near an edge"]
    assert not judge([outer])["near an edge"]


def test_numbers_in_tables_are_followed():
    found = shown(
        "from kexue.lab import table\ntable([['a', -0.1234, (12.345, 0.5)], ['b', 3, 1e-9]], ['', 'x', 'y'], [0, 2, '.1e'])"
    )
    assert [(each.text, each.value) for each in found] == [
        ("-0.12", -0.1234),
        ("1.2e+01", 12.345),
        ("5.0e-01", 0.5),
        ("1.0e-09", 1e-9),
    ]


def test_variants_run_in_their_own_processes_and_are_compared(tmp_path, monkeypatch):
    path = tmp_path / "toy.ipynb"
    notebook = toy(
        "import os\nx = 1e-9 if os.environ.get('ATEN_CPU_CAPABILITY') else 0", "print(f'{0.3 + x:.2f} {0.45 + x:.1f}')"
    )
    path.write_text(digits.json.dumps(notebook), encoding="utf-8")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    found = summary([digits.follow(path, variant) for variant in ({}, {"ATEN_CPU_CAPABILITY": "default"})])
    assert (found["numbers"], found["most digits"], found["fewest further digits"]) == (2, 2, 6)
    (doubtful,) = found["doubtful"]
    assert (doubtful["cell"], doubtful["text"], doubtful["near an edge"]) == (2, "0.5", True)


def test_a_chapter_that_fails_under_a_variant_is_named(tmp_path, capfd):
    (tmp_path / "toy.ipynb").write_text(digits.json.dumps(toy("1 / 0")), encoding="utf-8")
    with pytest.raises(ChildProcessError, match=r"toy\.ipynb does not run"):
        digits.follow(tmp_path / "toy.ipynb", {})
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_table_and_the_files_tell_the_same(tmp_path, monkeypatch, capsys):
    near, far = values("0.12", 0.1249999999999999)[0], values("0.50", 0.501)[0]
    monkeypatch.setattr(state, "RESULTS", tmp_path)
    monkeypatch.setattr(digits, "follow", lambda path, variant: [near, far] if path.stem == "b" else [far])
    assert digits.run(["a/b", "c/d"]) == 1
    stored = [state.stored("digits", name) for name in ("a/b", "c/d")]
    assert [chapter["numbers"] for chapter in stored] == [2, 1]
    assert [each["text"] for each in stored[0]["doubtful"]] == ["0.12"]
    assert "cell 1: 0.12 is 0.1249999999999999" in capsys.readouterr().out
    assert digits.run(["c/d"]) == 0
