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


def test_everything_that_is_right_in_other_guises_passes_too():
    assert [_check.count("n", v) for v in (np.uint8(3), np.array(3), torch.tensor(3), 2**63 - 1)] == [3, 3, 3, 2**63 - 1]
    assert all(type(_check.count("n", v)) is int for v in (np.uint8(3), torch.tensor(3)))
    assert [_check.number("p", v) for v in (np.float32(0.5), np.array(0.5), torch.tensor(0.5), 1)] == [0.5, 0.5, 0.5, 1.0]
    assert _check.number("p", -1, -math.inf, 0) == -1.0 and _check.position("n", 2**53) == 2**53
    assert _check.device("d", None) is None and _check.device("d", "cpu") == _check.device("d", torch.device("cpu"))
    assert _check.placement("meta", torch.float16) is None and _check.placement(None, None) is None
    g, x = torch.Generator(), torch.zeros(2)
    assert _check.generator("g", g, x.device) is g and _check.generator("g", g, torch.device("meta")) is g
    assert _check.generator("g", None, x.device) is None and _check.readable("x", x) is x
    assert _check.position("n", 0) == 0 and _check.count("n", 2, maximum=2) == 2
    halves = [x.to(dtype) for dtype in (torch.float16, torch.bfloat16)]
    assert all(_check.floating("x", half) is half and _check.real("x", half) is half for half in halves)
    counts = torch.zeros(2, dtype=torch.uint8)
    assert _check.real("x", counts) is counts
    assert _check.device("d", "meta") == torch.device("meta") and _check.placement(None, torch.bfloat16) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_may_be_off_by_the_rounding_of_dtype_and_length_and_no_more(dtype):
    eps = torch.finfo(dtype).eps
    for n in (2, 100, 50_257, 128_256):
        tolerance = _check.sum_tolerance(eps, n)
        for spread in (0.0, 5.0):
            probs = (spread * torch.randn(n, generator=torch.Generator().manual_seed(n))).to(dtype).softmax(-1)
            assert abs(probs.double().sum().item() - 1) <= tolerance
        assert tolerance < 0.1 and tolerance <= 4 * eps * math.sqrt(n)
    assert _check.sum_tolerance(eps, 2, 0.07) == 0.07


def test_only_plain_tensors_may_be_kept():
    plain = torch.zeros(2)
    assert _check.keepable(plain, plain.double()) and not _check.keepable(plain, plain.to("meta"))
    with torch.inference_mode():
        assert not _check.keepable(torch.zeros(2))
    with torch._subclasses.fake_tensor.FakeTensorMode():
        assert not _check.keepable(torch.zeros(2))
    seen = []
    torch.func.grad(lambda x: (seen.append(_check.keepable(x)), x.sum())[1])(plain)
    assert seen == [False] and not _check.keepable(torch.nn.Parameter(plain))


def test_a_prefix_mask_has_no_hole_and_any_length():
    other = torch.zeros(3, 4)
    mask = torch.arange(4) < torch.tensor([0, 4, 2])[:, None]
    assert _check.prefix_mask("mask", mask, (3, 4), "x", other) is mask
    for wrong in (mask.flip(1), ~mask, torch.tensor([True, False, True, True]).expand(3, 4)):
        with pytest.raises(ValueError, match=r"^mask must be True up to"):
            _check.prefix_mask("mask", wrong, (3, 4), "x", other)
    assert _check.prefix_mask("mask", mask.flip(1).to("meta"), (3, 4), "x", other.to("meta")).is_meta
    assert torch.func.vmap(lambda m: _check.prefix_mask("mask", m, (4,), "x", other))(mask.flip(1)).shape == (3, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: _check.count("n", 1.0), TypeError, "n must be an integer, got float"),
        (lambda: _check.count("n", True), TypeError, "n must be an integer, got a bool"),
        (lambda: _check.count("n", 0), ValueError, "n must be at least 1, got 0"),
        (lambda: _check.count("n", 1, minimum=2), ValueError, "n must be at least 2, got 1"),
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
        (lambda: _check.count("n", 2**63), ValueError, r"^n must be at most 9223372036854775807, got 9223372036854775808$"),
        (lambda: _check.count("n", 10**5000), ValueError, "^n must be at most 9223372036854775807, got one beyond 64 bits$"),
        (lambda: _check.count("n", 4, maximum=3), ValueError, "^n must be at most 3, got 4$"),
        (lambda: _check.count("n", torch.tensor(True)), TypeError, "^n must be an integer, got a bool$"),
        (lambda: _check.count("n", torch.zeros(2, device="meta")), TypeError, "^n must be an integer, got Tensor$"),
        (lambda: _check.position("n", 2**53 + 1), ValueError, "^n must be at most 9007199254740992"),
        (lambda: _check.position("n", -1), ValueError, "^n must be at least 0, got -1$"),
        (lambda: _check.number("p", 10**400), ValueError, "^p must be a finite number"),
        (lambda: _check.number("p", b"1"), TypeError, "^p must be a real number, got bytes$"),
        (lambda: _check.number("p", np.True_), TypeError, "^p must be a real number, got bool$"),
        (lambda: _check.number("p", np.complex64(1)), TypeError, "^p must be a real number, got complex64$"),
        (lambda: _check.number("p", np.ones(1)), TypeError, "^p must be a real number, got ndarray$"),
        (
            lambda: _check.number("p", torch.tensor(1.0, requires_grad=True)),
            TypeError,
            "^p must .* gradient, which would be lost$",
        ),
        (
            lambda: _check.tensor("x", torch.eye(2).to_sparse()),
            TypeError,
            "^x must be a dense tensor, got layout torch.sparse_coo$",
        ),
        (lambda: _check.floating("x", torch.zeros(2).to(torch.float8_e4m3fn)), TypeError, "^x must be floating point"),
        (lambda: _check.real("x", torch.zeros(2).to(torch.float8_e4m3fn)), TypeError, "^x must hold integers or real numbers"),
        (lambda: _check.device("device", "nonsense"), ValueError, "^device must name a device, got 'nonsense'$"),
        (lambda: _check.device("device", 1.0), TypeError, "^device must be a torch.device or name one, got float$"),
        (lambda: _check.device("device", True), TypeError, "^device must be a torch.device or name one, got bool$"),
        (lambda: _check.placement(None, torch.int64), TypeError, "^dtype must be a floating dtype"),
        (lambda: _check.placement(None, torch.float8_e4m3fn), TypeError, "^dtype must be a floating dtype of 16 bits or more"),
        (lambda: _check.placement([], None), TypeError, "^device must be"),
        (lambda: _check.readable("x", torch.zeros(2, device="meta")), ValueError, "^x must hold values"),
        (
            lambda: _check.generator("g", torch.Generator(), torch.device("cuda")),
            ValueError,
            r"^g must be on the device of the tensors \(cuda\), got cpu$",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
