"""The shared argument checks: the right kind passes unchanged, the wrong one is refused by name."""

import math

import numpy as np
import pytest
import torch

from kexue import _check


def test_right_arguments_pass_unchanged():
    assert _check.count("n", np.int64(3)) == 3
    assert _check.count("n", 0, minimum=0) == 0
    assert _check.number("p", np.float32(0.5), 0, 1) == 0.5
    assert _check.number("p", 1, 0, 1) == 1.0
    assert _check.choice("mode", "add", ("add", "multiply")) == "add"
    assert _check.flag("on", True) is True
    assert _check.generator("g", None) is None
    x = torch.zeros(2, 3)
    assert _check.floating("x", x, ndim=2) is x
    assert _check.shape("x", x, (2, 3)) is x
    assert _check.alike("x", x, "y", x + 1) is x
    i = torch.zeros(2, dtype=torch.int32)
    assert _check.integer("i", i, ndim=1) is i
    assert _check.boolean("mask", i.bool()).dtype == torch.bool


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: _check.count("n", 1.0), TypeError, "n must be an integer, got float"),
        (lambda: _check.count("n", True), TypeError, "n must be an integer, got a bool"),
        (lambda: _check.count("n", 0), ValueError, "n must be at least 1, got 0"),
        (lambda: _check.number("p", "1"), TypeError, "p must be a real number, got str"),
        (lambda: _check.number("p", True), TypeError, "p must be a real number, got bool"),
        (lambda: _check.number("p", torch.zeros(2)), TypeError, "p must be a real number, got Tensor"),
        (lambda: _check.number("p", np.zeros(2)), TypeError, "p must be a real number, got ndarray"),
        (lambda: _check.generator("g", 3), TypeError, "g must be a torch.Generator or None, got int"),
        (lambda: _check.number("p", math.nan), ValueError, "p must be a finite number"),
        (lambda: _check.number("p", 0.0, 0, 1, open_low=True), ValueError, r"p must be a finite number in \(0, 1\], got 0.0"),
        (lambda: _check.number("p", 1.0, 0, 1, open_high=True), ValueError, r"in \[0, 1\), got 1.0"),
        (lambda: _check.choice("mode", "x", ("add",)), ValueError, "mode must be one of add, got 'x'"),
        (lambda: _check.choice("mode", 3, ("add",)), TypeError, "mode must be one of add, got int"),
        (lambda: _check.flag("on", 1), TypeError, "on must be True or False, got int"),
        (lambda: _check.tensor("x", [1.0]), TypeError, "x must be a tensor, got list"),
        (lambda: _check.floating("x", torch.zeros(2, dtype=torch.int64)), TypeError, "x must be floating point"),
        (lambda: _check.floating("x", torch.zeros(2), ndim=2), ValueError, r"x must have 2 axes, got shape \(2,\)"),
        (lambda: _check.integer("i", torch.zeros(2)), TypeError, "i must be an integer tensor"),
        (lambda: _check.integer("i", torch.zeros(2, dtype=torch.bool)), TypeError, "i must be an integer tensor"),
        (lambda: _check.real("m", torch.zeros(2, dtype=torch.bool)), TypeError, "m must hold integers or real numbers"),
        (lambda: _check.real("m", torch.zeros(2, dtype=torch.complex64)), TypeError, "m must hold integers or real numbers"),
        (lambda: _check.floating_dtype("dtype", torch.int64), TypeError, "dtype must be a floating dtype, got torch.int64"),
        (lambda: _check.floating_dtype("dtype", "float32"), TypeError, "dtype must be a floating dtype, got float32"),
        (lambda: _check.boolean("mask", torch.zeros(2)), TypeError, "mask must be a boolean tensor"),
        (lambda: _check.shape("x", torch.zeros(2), (3,)), ValueError, r"x must have shape \(3,\), got \(2,\)"),
        (lambda: _check.alike("x", torch.zeros(2), "y", torch.zeros(2).double()), TypeError, "x must have the dtype of y"),
        (
            lambda: _check.alike("x", torch.zeros(2, device="meta"), "y", torch.zeros(2)),
            ValueError,
            "x must be on the device of y",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
