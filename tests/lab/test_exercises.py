"""The checks of exercises: right passes, and each kind of wrong is named."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue.lab import exercise


def said(capsys, check, attempt):
    check(attempt)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 88 for line in lines)
    return " ".join(line.strip() for line in lines)


def turn(x, angle):
    c, s = math.cos(angle), math.sin(angle)
    return x @ torch.tensor([[c, s], [-s, c]], dtype=x.dtype)


CASES = [(torch.tensor([[1.0, 0.0], [0.5, 2.0]]), 0.3), (torch.tensor([[1.0, 1.0]]), -1.0)]


@pytest.mark.parametrize(
    ("answer", "attempt", "line"),
    [
        (2.0, ..., "ex-a: put your number in place of the dots"),
        (2.0, 2.0 + 1e-9, "✓ ex-a: right"),
        (2.0, torch.tensor([2.0]), "✓ ex-a: right"),
        (2.0, -2.0, "ex-a: not yet: the sign is wrong"),
        (2.0, 0.5, "ex-a: not yet: it is the reciprocal of the right answer"),
        (2.0, 2.2, "ex-a: not yet: 2.2 is too large"),
        (2.0, 1.9, "ex-a: not yet: 1.9 is too small"),
        (2.0, 1j, "ex-a: not yet: it is complex"),
        (2.0, math.nan, "ex-a: not yet: it is NaN"),
        (2.0, None, "ex-a: not yet: a NoneType where a number is asked for"),
        (2.0, "two", "ex-a: not yet: a str where a number is asked for"),
        (2.0, math.sin, "ex-a: not yet: a function where a number is asked for"),
        (0.0, 0.1, "ex-a: not yet: 0.1 is too large"),
        (math.inf, 3.0, "ex-a: not yet: 3 is too small"),
        ([1.0, 2.0], ..., "ex-a: put your array of shape (2,) in place of the dots"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "ex-a: not yet: the shape is (3,) instead of (2,)"),
        ([1.0, 2.0], [0.0, 0.0], "ex-a: not yet: all entries are 0"),
        ([1.0, 2.0], [3.0, 6.0], "ex-a: not yet: every entry is 3 times the right one"),
        ([1.0, 2.0], [1.0, 5.0], "ex-a: not yet: 1 of 2 entries differs, the first at index 1"),
        ([1.0, 0.0], [2.0, 0.0], "ex-a: not yet: 1 of 2 entries differs, the first at index 0"),
        ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 3.0], [2.0, 4.0]], "ex-a: not yet: it is transposed"),
        ([[1.0, 2.0, 3.0]], [[1.0], [2.0], [3.0]], "ex-a: not yet: the shape is (3, 1) instead of (1, 3); is it transposed?"),
        ([1.0, 2.0], [1.0, math.nan], "ex-a: not yet: it holds NaN"),
    ],
)
def test_numbers(capsys, answer, attempt, line):
    assert said(capsys, exercise("ex-a", answer), attempt) == line


def broken(x, angle):
    raise KeyError("angle")


def in_place(x, angle):
    result = turn(x, angle)
    x.zero_()
    return result


@pytest.mark.parametrize(
    ("attempt", "line"),
    [
        (..., "ex-turn: put your function of (x, angle) in place of the dots"),
        (turn, "✓ ex-turn: right in 2 cases"),
        (lambda x, angle: turn(x.double(), angle).float(), "✓ ex-turn: right in 2 cases"),
        (lambda x, angle: turn(x, -angle), "ex-turn: not yet: it turns clockwise"),
        (
            lambda x, angle: -turn(x, angle),
            "ex-turn: not yet: the sign is wrong, -0.9553 instead of 0.9553 (in case 1 of 2: x of shape (2, 2), angle = 0.3)",
        ),
        (3, "ex-turn: not yet: a function of (x, angle) is asked for, this is an int"),
        (broken, "ex-turn: not yet: it raises KeyError: 'angle' (in case 1 of 2: x of shape (2, 2), angle = 0.3)"),
        (
            in_place,
            "ex-turn: not yet: it changes its argument x; work on a copy (in case 1 of 2: x of shape (2, 2), angle = 0.3)",
        ),
        (
            lambda x, angle: None,
            "ex-turn: not yet: it returns nothing; is a return missing? (in case 1 of 2: x of shape (2, 2), angle = 0.3)",
        ),
        (
            lambda x, angle: turn(x, abs(angle)),
            "ex-turn: not yet: 2 of 2 entries differ, the first at index (0, 0), -0.3012 instead of 1.382 "
            "(in case 2 of 2: x of shape (1, 2), angle = -1.0)",
        ),
    ],
)
def test_functions(capsys, attempt, line):
    check = exercise("ex-turn", turn, *CASES, mistakes=[(lambda x, angle: turn(x, -angle), "it turns clockwise")])
    assert said(capsys, check, attempt) == line
    assert torch.equal(CASES[1][0], torch.tensor([[1.0, 1.0]])), "the reader's function saw a copy"


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
def test_right_is_right_and_wrong_is_wrong_at_every_size(answer, shift):
    import contextlib
    import io

    for attempt, right in ((answer, True), (answer + shift * max(1, abs(answer)), False)):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exercise("ex-size", answer)(attempt)
        assert out.getvalue().startswith("✓") == right


def test_a_known_mistake_is_named_before_anything_else(capsys):
    check = exercise("ex-sum", 5050, mistakes=[(4950, "the last number is missing"), (-5050, "the sum runs backwards")])
    assert said(capsys, check, np.float32(4950)) == "ex-sum: not yet: the last number is missing"
    assert said(capsys, check, -5050) == "ex-sum: not yet: the sum runs backwards"


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("eq-sum", 1.0), {}, "label"),
        (("ex-sum", 1.0, (1,), (2,)), {}, "cases"),
        (("ex-sum", abs), {}, "cases"),
        (("ex-sum", abs, (1,)), {}, "cases"),
        (("ex-sum", 1.0), {"mistakes": [(1.0 + 1e-9, "far off")]}, "passes as right"),
        (("ex-sum", abs, (1,), (2,)), {"mistakes": [(lambda x: x, "forgot the sign")]}, "passes as right"),
    ],
)
def test_a_check_that_could_not_fail_is_refused(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        exercise(*arguments, **settings)


class Hostile:
    """An object that answers nothing."""

    def __array__(self, *_, **__):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


ODD = [
    *(
        "text",
        b"bytes",
        "",
        {},
        {"a": 1},
        {1, 2},
        [],
        [[1, 2], [3]],
        [1, "a"],
        None,
        object,
        object(),
        Hostile(),
        iter([1]),
        range(3),
    ),
    *(
        True,
        1 + 2j,
        math.inf,
        -math.inf,
        10**400,
        np.array(["a"]),
        np.array([None]),
        np.array(1, dtype="datetime64[s]"),
        np.zeros((0, 3)),
    ),
    *(
        torch.zeros(2, 2),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(2, device="meta"),
        [torch.zeros(2)],
    ),
    *(NotImplemented, slice(3), type, math, [[]], (1,), np.ma.masked_array([1.0], mask=[True])),
]


@pytest.mark.parametrize("answer", [2.0, np.arange(6.0).reshape(2, 3)])
@pytest.mark.parametrize("attempt", ODD, ids=lambda thing: type(thing).__name__)
def test_a_check_answers_whatever_it_is_given(capsys, answer, attempt):
    assert said(capsys, exercise("ex-a", answer), attempt).startswith("ex-a: not yet: ")


@pytest.mark.parametrize("result", ODD, ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("right", [lambda x: x * 2.0, lambda x: np.full((2, 2), x * 2.0)])
def test_a_check_answers_whatever_a_function_returns(capsys, right, result):
    check = exercise("ex-a", right, (1.0,), (2.0,))
    assert said(capsys, check, lambda x: result).startswith("ex-a: not yet: ")
    check(result) if not callable(result) else None


@pytest.mark.parametrize("attempt", [lambda: 1, lambda x, y: 1, int, print, len, functools.partial(int, 3), lambda x: {}[x]])
def test_a_check_answers_a_function_of_another_kind(capsys, attempt):
    check = exercise("ex-a", lambda x: x * 2.0, (1.0,), (2.0,))
    check(attempt)
    assert "ex-a: not yet: " in capsys.readouterr().out
