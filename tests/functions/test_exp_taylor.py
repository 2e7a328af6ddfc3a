"""Taylor polynomials of exp against exact fractions, mpmath, SciPy, sums of squares and explicit loops."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sympy
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kexue.functions import exp_taylor as module
from kexue.functions.exp_taylor import (
    exp_taylor,
    exp_taylor_features,
    exp_taylor_minimum,
    log_exp_taylor,
    log_taylor_softmax,
    taylor_cross_entropy,
    taylor_softmax,
)

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
EVEN = (2, 4, 6, 12, 24, 60)
seeds = st.integers(0, 2**32 - 1)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)).to(dtype)


def exact(x: float, order: int) -> Fraction:
    """The polynomial of a float, without any rounding."""
    return sum((Fraction(x) ** k / math.factorial(k) for k in range(order + 1)), Fraction(0))


def exact_softmax(logits: list[float], order: int) -> list[float]:
    weights = [exact(x, order) for x in logits]
    return [float(w / sum(weights)) for w in weights]


# --- the polynomial ---------------------------------------------------------------------------------------------------


@given(st.floats(-30, 30), st.integers(0, 30))
def test_the_polynomial_is_the_sum_of_powers_over_factorials(x, order):
    got, want, size = exp_taylor(torch.tensor(x, dtype=F64), order).item(), exact(x, order), exact(abs(x), order)
    assert abs(Fraction(got) - want) <= Fraction(1, 10**14) * size


@pytest.mark.parametrize("order", range(1, 9))
def test_its_derivative_is_the_polynomial_of_one_order_less(order):
    x = torch.linspace(-6, 4, 41, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(exp_taylor(x, order).sum(), x)
    torch.testing.assert_close(slope, exp_taylor(x.detach(), order - 1), rtol=1e-11, atol=1e-12)
    assert gradcheck(lambda t: exp_taylor(t, order), (x,)) and gradgradcheck(lambda t: exp_taylor(t, order), (x,))


def test_order_zero_is_one_with_gradient_zero():
    x = torch.tensor([0.0, -2.0, math.inf], requires_grad=True)
    for value in (exp_taylor(x, 0), log_exp_taylor(x, 0) + 1):
        assert value.tolist() == [1.0, 1.0, 1.0]
        assert torch.autograd.grad(value.sum(), x)[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("order", range(1, 12))
def test_even_orders_have_no_real_zero_and_odd_ones_have_one(order):
    t = sympy.Symbol("t")
    polynomial = sympy.Poly(sum(t**k / sympy.factorial(k) for k in range(order + 1)), t)
    assert polynomial.count_roots() == order % 2  # Sturm, exact
    if order <= 8:
        assert sympy.discriminant(polynomial) != 0


@given(st.floats(-1e6, 1e6), st.sampled_from([0, 2, 4, 6, 8, 10, 12]), st.sampled_from([F32, F64]))
def test_even_orders_up_to_twelve_are_positive_in_floating_point(x, order, dtype):
    assert exp_taylor(torch.tensor(x, dtype=dtype), order) > 0


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("order", range(0, 13, 2))
def test_even_orders_up_to_twelve_are_positive_near_their_minimum_and_far_away(order, dtype):
    largest = torch.finfo(dtype).max
    x = torch.cat((torch.linspace(-1.5 * order - 1, 1, 20001), torch.tensor([1e10, -1e10]))).to(dtype)
    assert (exp_taylor(x, order) > 0).all()
    assert (exp_taylor(torch.tensor([largest, -largest], dtype=dtype), order) > 0).all()


@given(st.floats(0.01, 20), st.integers(0, 12))
def test_left_of_zero_even_orders_lie_above_exp_and_odd_ones_below(size, order):
    with mpmath.workdps(60):
        gap = mpmath.mpf(exact(-size, order).numerator) / exact(-size, order).denominator - mpmath.exp(-mpmath.mpf(size))
        assert (gap > 0) == (order % 2 == 0)
        assert mpmath.exp(size) > mpmath.mpf(exact(size, order).numerator) / exact(size, order).denominator


def test_right_of_zero_it_is_exp_times_an_incomplete_gamma_function():
    x = np.linspace(0.1, 30, 50)
    for order in (2, 5, 9):
        want = np.exp(x) * scipy.special.gammaincc(order + 1, x)
        np.testing.assert_allclose(exp_taylor(torch.from_numpy(x), order), want, rtol=1e-12)


# --- its logarithm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [*EVEN, 100])
def test_the_pairs_of_zeros_multiply_to_the_polynomial(order):
    pairs = module._zero_pairs(order)
    assert len(pairs) == order // 2 and all(b > 0.5 for _, b in pairs)
    with mpmath.workdps(120):
        for x in (-1.5 * order, -0.28 * order, 0.0, 0.7, float(order)):
            product = mpmath.fprod((x - mpmath.mpf(a)) ** 2 + mpmath.mpf(b) ** 2 for a, b in pairs)
            want = exact(x, order) * math.factorial(order)
            assert abs(product * want.denominator / want.numerator - 1) < 1e-13 * order


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("order", EVEN)
def test_the_logarithm_is_right_wherever_the_polynomial_is_small_or_large(order, dtype):
    near = torch.linspace(-2 * order, 2 * order, 201, dtype=F64)
    x = torch.cat((near, torch.tensor([1e-30, -1e-5, 0.5, -0.5, 0.501, -0.501, 1e8, -1e30, 3e38], dtype=F64))).to(dtype)
    got = log_exp_taylor(x, order)
    with mpmath.workdps(100):
        want = [mpmath.log(mpmath.mpf(e.numerator) / e.denominator) for e in (exact(v.item(), order) for v in x)]
        size = [abs(w) if abs(v) <= 0.5 else max(abs(w), math.lgamma(order + 1)) for v, w in zip(x.tolist(), want, strict=True)]
        error = [abs(g - w) / s if s else abs(g) for g, w, s in zip(got.tolist(), want, size, strict=True)]
    assert max(error) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("order", EVEN)
def test_the_logarithm_and_its_gradient_are_finite_everywhere(order, dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor(
        [largest, -largest, 1e20, -1e20, 0.0, -0.0, exp_taylor_minimum(order)[0], 1e-40], dtype=dtype, requires_grad=True
    )
    value = log_exp_taylor(x, order)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all() and slope.isfinite().all()
    torch.testing.assert_close(slope[2:4], torch.tensor([order / 1e20, -order / 1e20], dtype=dtype), rtol=1e-5, atol=0)
    assert abs(slope[6]) < 1e-5 * order and slope[4] == 1


@pytest.mark.parametrize("order", [2, 4, 12])
def test_the_slope_of_the_logarithm_is_a_ratio_of_two_polynomials(order):
    x = torch.linspace(-9, 9, 37, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_exp_taylor(x, order).sum(), x)
    torch.testing.assert_close(slope, exp_taylor(x, order - 1) / exp_taylor(x, order), rtol=1e-10, atol=1e-10)
    assert gradcheck(lambda t: log_exp_taylor(t, order), (x,)) and gradgradcheck(lambda t: log_exp_taylor(t, order), (x,))


# --- its minimum ------------------------------------------------------------------------------------------------------

# Digits of the sheet of the chapter, computed apart from this package.
MINIMA = {
    2: (-1.0, 0.5),
    4: (-1.5960716380, 0.2703947652),
    6: (-2.1806071240, 0.1493248417),
    8: (-2.7590027100, 0.0832715202),
    10: (-3.3335514853, 0.0466991136),
    20: (-6.1775340783, 2.692640541e-3),
    60: (-17.42068736930, 3.4973763627e-8),
}


@pytest.mark.parametrize("order", MINIMA)
def test_the_minimum_is_where_it_is_known_to_be(order):
    place, value = exp_taylor_minimum(order)
    assert isinstance(place, float) and isinstance(value, float)
    assert place == pytest.approx(MINIMA[order][0], rel=1e-9) and value == pytest.approx(MINIMA[order][1], rel=1e-8)


@pytest.mark.parametrize("order", range(2, 61, 2))
def test_the_minimum_is_the_zero_of_the_order_below_to_ten_digits(order):
    place, value = exp_taylor_minimum(order)
    with mpmath.workdps(80):
        root = mpmath.findroot(lambda t: mpmath.fsum(t**k / mpmath.factorial(k) for k in range(order)), place)
        assert abs(place / root - 1) < 1e-15 and abs(value * mpmath.factorial(order) / root**order - 1) < 1e-13
    assert abs(exact(place, order) / Fraction(value) - 1) < Fraction(1, 10**12)


@pytest.mark.parametrize("order", [2, 4, 8, 12])
def test_no_search_finds_a_smaller_value(order):
    found = scipy.optimize.minimize_scalar(
        lambda t: float(exact(t, order)), bounds=(-order, 0), method="bounded", options={"xatol": 1e-9}
    )
    place, value = exp_taylor_minimum(order)
    assert found.x == pytest.approx(place, abs=1e-6) and found.fun == pytest.approx(value, rel=1e-9)


def test_the_minimum_moves_left_in_proportion_to_the_order():
    limit = -scipy.special.lambertw(1 / math.e).real
    ratios = [exp_taylor_minimum(n)[0] / n for n in (2, 6, 10, 20, 40, 60, 200)]
    gaps = [abs(r - limit) for r in ratios]
    assert gaps == sorted(gaps, reverse=True) and gaps[-2] < 0.012 and gaps[-1] < 0.005


# --- softmax ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("order", [0, *EVEN, 100])
def test_probabilities_are_the_polynomials_over_their_sum(order, monotone):
    logits = [*draw(9, seed=order, scale=3.0).tolist(), -0.3 * order, float(order)]
    lowest = exp_taylor_minimum(order)[0] if monotone and order else -math.inf
    want = torch.tensor(exact_softmax([max(v, lowest) for v in logits], order), dtype=F64)
    x = torch.tensor([logits], dtype=F64)
    torch.testing.assert_close(taylor_softmax(x, order, monotone=monotone)[0], want, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_taylor_softmax(x, order, monotone=monotone)[0].exp(), want, rtol=1e-11, atol=0)
    torch.testing.assert_close(taylor_softmax(x.float(), order, monotone=monotone)[0].double(), want, rtol=2e-5, atol=1e-36)


@given(seeds, st.sampled_from([0, 2, 4, 8]), st.booleans(), st.integers(0, 2), st.floats(0, 6))
def test_rows_sum_to_one_along_any_axis(seed, order, monotone, dim, magnitude):
    x = draw(3, 4, 5, seed=seed, scale=10.0**magnitude)
    for given_dim in (dim, dim - 3):
        p = taylor_softmax(x, order, dim=given_dim, monotone=monotone)
        assert (p >= 0).all() and p.shape == x.shape
        torch.testing.assert_close(p.sum(given_dim), torch.ones_like(p.sum(given_dim)))
        torch.testing.assert_close(log_taylor_softmax(x, order, dim=given_dim, monotone=monotone).exp(), p, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(taylor_softmax(x.movedim(dim, 0), order, dim=0, monotone=monotone), p.movedim(dim, 0))


def test_a_high_order_is_softmax():
    x = draw(20, 5).clamp(-3, 3)
    assert (taylor_softmax(x, 24) - x.softmax(-1)).abs().max() < 1e-12
    torch.testing.assert_close(log_taylor_softmax(x, 24), x.log_softmax(-1), rtol=0, atol=1e-12)
    assert torch.equal(taylor_softmax(x, 0), torch.full_like(x, 0.2))


def test_far_away_only_the_sizes_of_the_logits_count():
    x = draw(7, 5)
    for order in (2, 4):
        want = x.abs() ** order / (x.abs() ** order).sum(-1, keepdim=True)
        torch.testing.assert_close(taylor_softmax(1e8 * x, order), want, rtol=1e-5, atol=1e-7)


def test_a_common_shift_changes_the_answer_and_a_permutation_moves_it():
    x = draw(4, 6)
    assert (taylor_softmax(x + 1) - taylor_softmax(x)).abs().max() > 0.01
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(taylor_softmax(x[:, order]), taylor_softmax(x)[:, order])


def test_minus_five_weighs_as_much_as_three_unless_monotone():
    assert exp_taylor(torch.tensor([-5.0, 3.0]), 2).tolist() == [8.5, 8.5]
    x = torch.tensor([-5.0, 2.0, 0.0])
    assert taylor_softmax(x).argmax() == 0 and taylor_softmax(x, monotone=True).argmax() == 1


@given(seeds, st.sampled_from([2, 4, 8]))
def test_monotone_probabilities_keep_the_order_of_the_logits(seed, order):
    x = draw(8, seed=seed, scale=4.0).sort().values
    assert (taylor_softmax(x, order, monotone=True).diff() >= -1e-15).all()


@pytest.mark.parametrize("order", [2, 4])
def test_left_of_the_minimum_a_monotone_logit_is_dead_and_the_seam_is_smooth(order):
    lowest = exp_taylor_minimum(order)[0]
    for softmax in (taylor_softmax, log_taylor_softmax):
        x = torch.tensor([[lowest - 1, 0.5, 2.0]], dtype=F64, requires_grad=True)
        (slope,) = torch.autograd.grad(softmax(x, order, monotone=True)[0, 1], x)
        assert slope[0, 0] == 0 and (slope[0, 1:] != 0).all()
        seam = torch.tensor([[lowest, 0.5, 2.0]], dtype=F64, requires_grad=True)
        assert torch.autograd.grad(softmax(seam, order, monotone=True)[0, 1], seam)[0][0, 0].abs() < 1e-12


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("order", [0, 2, 4])
def test_gradients_of_both_softmaxes_agree_with_differences(order, monotone):
    x = draw(3, 4, scale=2.0).requires_grad_()
    for softmax in (taylor_softmax, log_taylor_softmax):
        for dim in (0, 1):
            assert gradcheck(lambda t, f=softmax, d=dim: f(t, order, dim=d, monotone=monotone), (x,))
            assert gradgradcheck(lambda t, f=softmax, d=dim: f(t, order, dim=d, monotone=monotone), (x,))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("order", [2, 4, 12])
def test_huge_logits_neither_overflow_nor_lose_the_gradient(order, dtype):
    x = torch.tensor([[1e30, -2e30, 5.0], [3e17, -1e17, 0.0], [1.0, 2.0, -1.0]], dtype=dtype, requires_grad=True)
    p = taylor_softmax(x, order)
    want = torch.tensor([exact_softmax(row, order) for row in x.tolist()], dtype=dtype)
    torch.testing.assert_close(p, want, rtol=1e-5, atol=1e-36)
    (slope,) = torch.autograd.grad(p[:, 0].sum(), x)
    assert slope.isfinite().all()
    ratio = torch.tensor([float(exact(v, order - 1) / exact(v, order)) for v in x[:, 0].tolist()], dtype=dtype)
    torch.testing.assert_close(slope[:, 0], want[:, 0] * (1 - want[:, 0]) * ratio, rtol=1e-4, atol=0)
    largest = torch.tensor([[3e38, -3e38, 1.0]], dtype=dtype)
    assert taylor_softmax(largest, order)[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("order", [0, 2, 4])
def test_minus_infinity_marks_an_absent_entry(order, monotone):
    x = torch.tensor([[1.0, -math.inf, -2.0], [-math.inf] * 3], dtype=F64, requires_grad=True)
    p, log_p = taylor_softmax(x, order, monotone=monotone), log_taylor_softmax(x, order, monotone=monotone)
    torch.testing.assert_close(p[0, [0, 2]], taylor_softmax(x[0, [0, 2]], order, monotone=monotone))
    assert p[0, 1] == 0 and p[1].tolist() == [0.0] * 3
    torch.testing.assert_close(log_p.exp(), p)
    slopes = [torch.autograd.grad(p[:, 0].sum(), x, retain_graph=True)[0], torch.autograd.grad(log_p[0, 0], x)[0]]
    for slope in slopes:
        assert slope.isfinite().all() and slope[0, 1] == 0 and (slope[1] == 0).all()


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_half_precision_is_float32_rounded_once(dtype):
    x = draw(5, 40, dtype=dtype, scale=3.0)
    for order in (2, 4):
        assert torch.equal(taylor_softmax(x, order), taylor_softmax(x.float(), order).to(dtype))
        assert torch.equal(log_taylor_softmax(x, order), log_taylor_softmax(x.float(), order).to(dtype))
        assert torch.equal(log_exp_taylor(x, order), log_exp_taylor(x.float(), order).to(dtype))
        assert torch.equal(exp_taylor(x, order), exp_taylor(x.float(), order).to(dtype))
    assert taylor_softmax(torch.tensor([6e4, 5e4], dtype=dtype)).isfinite().all()


def test_under_autocast_what_was_computed_in_float32_comes_back_in_float32():
    x = draw(3, 4, dtype=BF16)
    with torch.autocast("cpu", dtype=BF16):
        results = [
            taylor_softmax(x),
            log_taylor_softmax(x, 4),
            taylor_cross_entropy(x, torch.tensor([0, 1, 2])),
            exp_taylor(x, 3),
        ]
    assert all(r.dtype == F32 for r in results)


def test_shapes_without_rows_and_scalars_pass():
    assert taylor_softmax(torch.zeros(0, 3)).shape == (0, 3) and log_taylor_softmax(torch.zeros(0, 3), 4).shape == (0, 3)
    assert taylor_softmax(torch.tensor(-7.0)) == 1 and log_taylor_softmax(torch.tensor(-7.0), 4) == 0
    assert exp_taylor(torch.zeros(0), 3).shape == (0,) and log_exp_taylor(torch.zeros(2, 0), 2).shape == (2, 0)


# --- cross entropy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize(("order", "margin"), [(2, 0.0), (2, 0.6), (4, 0.3), (0, 0.5)])
def test_the_loss_is_an_explicit_loop_with_the_margin_at_the_target(order, margin, monotone):
    z, target = draw(6, 4, scale=2.0), torch.tensor([0, 3, 1, 2, 2, 0])
    lowest = exp_taylor_minimum(order)[0] if monotone and order else -math.inf
    want = []
    for row, t in zip(z.tolist(), target.tolist(), strict=True):
        weights = [exact(max(v - margin * (j == t), lowest), order) for j, v in enumerate(row)]
        want.append(-math.log(weights[t] / sum(weights)))
    options = {"margin": margin, "monotone": monotone}
    torch.testing.assert_close(taylor_cross_entropy(z, target, order, reduction="none", **options), torch.tensor(want, dtype=F64))
    torch.testing.assert_close(taylor_cross_entropy(z, target, order, **options).item(), float(np.mean(want)))
    torch.testing.assert_close(taylor_cross_entropy(z, target, order, reduction="sum", **options).item(), sum(want))


def test_at_a_high_order_the_loss_is_that_of_pytorch():
    z, target = draw(5, 4), torch.tensor([3, 0, 1, 2, 1])
    torch.testing.assert_close(taylor_cross_entropy(z, target, 24), F.cross_entropy(z, target), rtol=0, atol=1e-12)


def test_the_gradient_of_the_loss_is_probability_minus_target_times_the_slope_of_the_logarithm():
    z, target = draw(5, 4, scale=3.0).requires_grad_(), torch.tensor([3, 0, 1, 2, 1])
    for order in (2, 4):
        (slope,) = torch.autograd.grad(taylor_cross_entropy(z, target, order, reduction="sum"), z)
        want = (taylor_softmax(z, order) - F.one_hot(target, 4)) * exp_taylor(z, order - 1) / exp_taylor(z, order)
        torch.testing.assert_close(slope, want, rtol=1e-10, atol=1e-12)
        for reduction in ("mean", "none"):

            def loss(t, order=order, reduction=reduction):
                return taylor_cross_entropy(t, target, order, margin=0.3, reduction=reduction)

            assert gradcheck(loss, (z,)) and gradgradcheck(loss, (z,))


def test_a_dominant_wrong_logit_is_pushed_with_a_force_that_fades():
    for z, forces in ((3.0, (0.309, 0.242)), (6.0, (0.0218, 0.0741)), (12.0, (5.5e-5, 0.0146))):
        logits = torch.tensor([[z] + [0.0] * 9], dtype=F64, requires_grad=True)
        target = torch.tensor([0])
        losses = F.cross_entropy(logits, target), taylor_cross_entropy(logits, target)
        pulls = [-torch.autograd.grad(loss, logits)[0][0, 0].item() for loss in losses]
        assert pulls == pytest.approx(forces, rel=0.01)


def test_an_absent_target_costs_infinity_and_no_rows_cost_nothing():
    z = torch.tensor([[0.0, -math.inf], [0.0, 1.0], [-math.inf, -math.inf]], requires_grad=True)
    loss = taylor_cross_entropy(z, torch.tensor([1, 0, 0]), reduction="none")
    assert loss[0] == loss[2] == math.inf and loss[1].isfinite()
    assert not torch.autograd.grad(loss[1], z)[0].isnan().any()
    assert taylor_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), margin=0.5).isfinite()
    empty = torch.zeros(0, 3, requires_grad=True)
    nothing = taylor_cross_entropy(empty, torch.zeros(0, dtype=torch.int64))
    nothing.backward()
    assert nothing == 0 and empty.grad.shape == (0, 3)


@given(seeds, st.sampled_from([2, 4]))
def test_features_multiply_to_the_polynomial_of_order_two(seed, d):
    q, k = draw(3, 5, d, seed=seed), draw(3, 6, d, seed=seed + 1)
    scores = exp_taylor_features(q) @ exp_taylor_features(k).mT
    assert exp_taylor_features(q).shape == (3, 5, 1 + d + d * d)
    torch.testing.assert_close(scores, exp_taylor(q @ k.mT, 2), rtol=1e-11, atol=1e-12)


def test_features_of_half_precision_and_without_entries():
    x = draw(4, 3, dtype=F16)
    assert torch.equal(exp_taylor_features(x), exp_taylor_features(x.float()).half())
    assert exp_taylor_features(torch.zeros(2, 0)).tolist() == [[1.0], [1.0]]
    assert gradcheck(exp_taylor_features, (draw(2, 3).requires_grad_(),))


# --- in a network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("monotone", [False, True])
def test_compiled_in_one_graph_everything_is_as_before(monotone, dynamic):
    torch.compiler.reset()

    def everything(x, target, order):
        return (
            taylor_softmax(x, order, monotone=monotone),
            log_taylor_softmax(x, order, monotone=monotone),
            taylor_cross_entropy(x, target, order, margin=0.3, monotone=monotone),
            log_exp_taylor(x, order),
            exp_taylor(x, order),
            exp_taylor_features(x),
        )

    compiled = torch.compile(everything, backend="eager", fullgraph=True, dynamic=dynamic)
    for order in (2, 4):
        for rows in (2, 3, 7):
            x, target = draw(rows, 4, seed=rows, dtype=F32), torch.arange(rows) % 4
            for got, want in zip(compiled(x, target, order), everything(x, target, order), strict=True):
                torch.testing.assert_close(got, want)
    x = draw(3, 4, dtype=F32).requires_grad_()
    slopes = [torch.autograd.grad(f(x, torch.tensor([0, 1, 2]), 2)[2], x)[0] for f in (compiled, everything)]
    torch.testing.assert_close(*slopes)


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # PyTorch's own, at its first jvp
def test_transforms_of_functions_apply():
    x, v = draw(3, 4), draw(3, 4, seed=1)
    torch.testing.assert_close(torch.vmap(taylor_softmax)(x), taylor_softmax(x))
    jacobian = torch.func.jacrev(taylor_softmax)(x[0])
    torch.testing.assert_close(jacobian, torch.func.jacfwd(taylor_softmax)(x[0]))
    want = torch.stack(
        [torch.autograd.functional.jvp(taylor_softmax, row, direction)[1] for row, direction in zip(x, v, strict=True)]
    )
    torch.testing.assert_close(torch.func.jvp(taylor_softmax, (x,), (v,))[1], want)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(taylor_softmax(dual)).tangent, want)
    hessian = torch.func.hessian(lambda t: taylor_cross_entropy(t[None], torch.tensor([1]), 4))(x[0])
    torch.testing.assert_close(hessian, hessian.mT)


def test_the_written_out_gradient_is_that_of_autograd():
    for monotone in (False, True):
        x, g = draw(4, 5, scale=2.0).requires_grad_(), draw(4, 5, seed=2)
        (got,) = torch.autograd.grad(taylor_softmax(x, monotone=monotone), x, g)
        (want,) = torch.autograd.grad(module._any_order(x, 2, 1, monotone), x, g)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_many_gradients_at_once_are_those_one_by_one():
    for order in (2, 4):
        x = draw(3, 4)
        at_once = torch.autograd.functional.jacobian(lambda t, n=order: taylor_softmax(t, n), x, vectorize=True)
        torch.testing.assert_close(at_once, torch.autograd.functional.jacobian(lambda t, n=order: taylor_softmax(t, n), x))


def test_arguments_are_left_alone():
    x = draw(3, 4)
    before = copy.deepcopy(x)
    (
        taylor_softmax(x),
        taylor_softmax(x, monotone=True),
        taylor_cross_entropy(x, torch.tensor([0, 1, 2]), margin=1.0),
        exp_taylor(x, 4),
    )
    assert torch.equal(x, before)


def test_no_float64_is_made_for_narrower_logits():
    x = torch.zeros(2, 3, device="meta")
    assert taylor_softmax(x).dtype == taylor_softmax(x, 4, monotone=True).dtype == log_taylor_softmax(x, 4).dtype == F32
    assert taylor_cross_entropy(x, torch.zeros(2, dtype=torch.int64, device="meta")).device.type == "meta"
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(t.dtype for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor))
            return out

    with Watch():
        for order in (2, 4):
            logits = torch.ones(2, 3, requires_grad=True)
            (
                taylor_softmax(logits, order).sum() + taylor_cross_entropy(logits, torch.tensor([0, 1]), order, margin=0.5)
            ).backward()
            exp_taylor_features(logits), log_exp_taylor(logits, order)
    assert F64 not in seen


X, Z, T = torch.zeros(3), torch.zeros(2, 3), torch.tensor([0, 2])
BAD = [
    (exp_taylor, ([1.0], 2), {}, TypeError, "x"),
    (exp_taylor, (torch.zeros(3, dtype=torch.int64), 2), {}, TypeError, "x"),
    (exp_taylor, (X, 2.0), {}, TypeError, "order"),
    (exp_taylor, (X, True), {}, TypeError, "order"),
    (exp_taylor, (X, -1), {}, ValueError, "order"),
    (log_exp_taylor, (X, 3), {}, ValueError, "order"),
    (log_exp_taylor, (X, -2), {}, ValueError, "order"),
    (log_exp_taylor, (X, 102), {}, ValueError, "order"),
    (log_exp_taylor, (X.long(), 2), {}, TypeError, "x"),
    (log_exp_taylor, (X, "2"), {}, TypeError, "order"),
    (exp_taylor_minimum, (0,), {}, ValueError, "order"),
    (exp_taylor_minimum, (3,), {}, ValueError, "order"),
    (exp_taylor_minimum, (1002,), {}, ValueError, "order"),
    (exp_taylor_minimum, (2.0,), {}, TypeError, "order"),
    (exp_taylor_features, (torch.tensor(1.0),), {}, ValueError, "x"),
    (exp_taylor_features, (X.long(),), {}, TypeError, "x"),
    (taylor_cross_entropy, (X, T), {}, ValueError, "logits"),
    (taylor_cross_entropy, (torch.zeros(2, 0), T), {}, ValueError, "logits"),
    (taylor_cross_entropy, (Z.long(), T), {}, TypeError, "logits"),
    (taylor_cross_entropy, (Z, T[:1]), {}, ValueError, "target"),
    (taylor_cross_entropy, (Z, T.double()), {}, TypeError, "target"),
    (taylor_cross_entropy, (Z, T + 1), {}, ValueError, "target"),
    (taylor_cross_entropy, (Z, T - 1), {}, ValueError, "target"),
    (taylor_cross_entropy, (Z, T, 3), {}, ValueError, "order"),
    (taylor_cross_entropy, (Z, T), {"margin": math.inf}, ValueError, "margin"),
    (taylor_cross_entropy, (Z, T), {"margin": "1"}, TypeError, "margin"),
    (taylor_cross_entropy, (Z, T), {"monotone": 1}, TypeError, "monotone"),
    (taylor_cross_entropy, (Z, T), {"reduction": "max"}, ValueError, "reduction"),
    (taylor_cross_entropy, (Z, T), {"reduction": None}, TypeError, "reduction"),
    *(
        (softmax, (x, order), options, error, name)
        for softmax in (taylor_softmax, log_taylor_softmax)
        for x, order, options, error, name in (
            (Z, 3, {}, ValueError, "order"),
            (Z, -2, {}, ValueError, "order"),
            (Z, 2.0, {}, TypeError, "order"),
            (Z.long(), 2, {}, TypeError, "logits"),
            ([0.0], 2, {}, TypeError, "logits"),
            (torch.zeros(2, 0), 2, {}, ValueError, "logits"),
            (Z, 2, {"dim": 2}, ValueError, "dim"),
            (Z, 2, {"dim": -3}, ValueError, "dim"),
            (Z, 2, {"dim": 1.0}, TypeError, "dim"),
            (Z, 2, {"monotone": "yes"}, TypeError, "monotone"),
        )
    ),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "error", "name"), BAD)
def test_bad_arguments_are_refused_by_name(function, args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name}"):
        function(*args, **kwargs)
