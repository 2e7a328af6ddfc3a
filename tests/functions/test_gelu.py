"""GELU against SciPy, mpmath and PyTorch's own; min-max fits against closed forms and brute force."""

from __future__ import annotations

import itertools
import math
import pickle

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from kexue.functions.gelu import GELU, gelu, minimax_fit

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
FORMS = ("none", "tanh", "sigmoid")
INF = float("inf")


def exact(x: Tensor) -> Tensor:
    """x Phi(x) by SciPy, whose ndtr keeps its relative accuracy in the lower tail."""
    values = x.double().numpy()
    return torch.from_numpy(values * scipy.special.ndtr(values))


def by_mpmath(x: float, approximate: str, cubic: float = 0.044715, scale: float = 1.702) -> mpmath.mpf:
    with mpmath.workdps(50):
        t = mpmath.mpf(x)
        if approximate == "none":
            return t * mpmath.ncdf(t)
        if approximate == "sigmoid":
            return t / (1 + mpmath.exp(-mpmath.mpf(scale) * t))
        inner = mpmath.sqrt(2 / mpmath.pi) * (t + mpmath.mpf(cubic) * t**3)
        return t / 2 * (1 + mpmath.tanh(inner))


def relative(value: Tensor, right: Tensor) -> float:
    return float(((value.double() - right) / right)[right != 0].abs().max())


def slope(x: Tensor, approximate: str = "none") -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(gelu(x, approximate).sum(), x)[0]


# --- values -----------------------------------------------------------------------------------------------------------


def test_the_exact_form_keeps_its_relative_accuracy_in_the_lower_tail():
    x = torch.linspace(-37, 37, 20_001, dtype=F64)
    assert relative(gelu(x), exact(x)) < 1e-11
    x = torch.linspace(-12, 6, 20_001)
    assert relative(gelu(x), exact(x)) < 2e-5


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_every_form_keeps_its_relative_accuracy_in_float32(approximate, requires_grad):
    x = torch.linspace(-12, 6, 1001).requires_grad_(requires_grad)
    right = torch.tensor([float(by_mpmath(v, approximate)) for v in x.tolist()], dtype=F64)
    value = gelu(x, approximate).detach().double()
    small = (right.abs() < 1e-36) & (right != 0)  # the tanh form leaves the normal numbers of float32 at -10.3
    assert relative(value[~small], right[~small]) < 2e-5
    assert (value - right)[small].abs().sum() <= 1e-36 * 100 and int(small.sum()) <= 100 * (approximate == "tanh")


def test_the_usual_tanh_form_loses_what_the_logistic_form_keeps():
    x = torch.tensor([-6.0])
    right = torch.tensor([float(by_mpmath(-6.0, "tanh"))], dtype=F64)
    naive = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert relative(naive, right) > 0.5 > 2e-5 > relative(gelu(x, "tanh"), right)


def test_the_values_of_the_usual_kernels_come_out():
    x = torch.linspace(-4, 9, 4001, dtype=F64)
    torch.testing.assert_close(gelu(x), F.gelu(x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gelu(x, "tanh"), F.gelu(x, approximate="tanh"), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(gelu(x, "sigmoid", scale=1.0), F.silu(x), rtol=1e-13, atol=0)


@given(st.floats(-37, 37), st.sampled_from(FORMS))
def test_reflection_leaves_the_argument(x, approximate):
    both = gelu(torch.tensor([x, -x], dtype=F64), approximate)
    assert abs(float(both[0] - both[1]) - x) <= 1e-13 * max(1.0, abs(x))


@given(st.floats(0, 6), st.floats(0.3, 3), st.floats(0, 0.2))
def test_options_enter_where_they_should(x, scale, cubic):
    t = torch.tensor(-x, dtype=F64)
    assert gelu(t, "sigmoid", scale=scale).item() == pytest.approx(float(by_mpmath(-x, "sigmoid", scale=scale)), rel=1e-13)
    assert gelu(t, "tanh", cubic=cubic).item() == pytest.approx(float(by_mpmath(-x, "tanh", cubic=cubic)), rel=1e-12, abs=1e-300)
    assert gelu(t, "none", cubic=cubic, scale=scale).item() == gelu(t).item()


def test_gelu_is_the_expected_argument_that_passes_a_normal_gate():
    draws = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=F64)
    for x in (-1.3, 0.4, 2.0):
        passed = x * (draws <= x)
        z = (passed.mean() - gelu(torch.tensor(x, dtype=F64))) / (passed.std() / math.sqrt(len(draws)))
        assert abs(z) < 4


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # PyTorch's own forward derivatives
@pytest.mark.parametrize("approximate", FORMS)
def test_both_derivatives_are_right(approximate):
    x = torch.tensor([-3.1, -0.7517, -0.2, 0.0, 0.6, 1.4142, 4.0], dtype=F64, requires_grad=True)
    assert gradcheck(lambda t: gelu(t, approximate), x, check_forward_ad=True)
    assert gradgradcheck(lambda t: gelu(t, approximate), x)


def test_the_exact_slope_is_the_distribution_plus_x_times_the_density():
    x = torch.linspace(-37, 8, 3001, dtype=F64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    right = torch.from_numpy(scipy.special.ndtr(x.numpy())) + x * density
    torch.testing.assert_close(slope(x), right, rtol=1e-9, atol=0)


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16])
def test_the_gradient_is_finite_at_every_finite_argument(approximate, dtype):
    large = [6e4, 1e4, 1e3, 100.0, 12.0] + [torch.finfo(dtype).max, 1e30] * (dtype != F16)
    x = torch.tensor([0.0, *large, *(-v for v in large)], dtype=dtype)
    expected = torch.cat((torch.tensor([0.5]), torch.ones(len(large)), torch.zeros(len(large)))).to(dtype)
    torch.testing.assert_close(slope(x, approximate), expected, rtol=1e-6, atol=1e-6)
    assert slope(torch.tensor([INF, -INF], dtype=dtype), approximate).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("approximate", FORMS)
def test_an_upstream_gradient_of_any_size_makes_no_nan(approximate):
    x = torch.tensor([-1e30, -50.0, 0.3, 50.0, 1e30], requires_grad=True)
    (grad,) = torch.autograd.grad(gelu(x, approximate), x, torch.full((5,), 1e20))
    assert grad.isfinite().all()


@pytest.mark.parametrize("approximate", FORMS)
def test_second_derivatives_are_finite_far_out(approximate):
    x = torch.tensor([-1e10, -300.0, 300.0, 1e10], requires_grad=True)
    (first,) = torch.autograd.grad(gelu(x, approximate).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [0.0] * 4


# --- extremes and dtypes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_ends_of_the_line(approximate, dtype, requires_grad):
    most = torch.finfo(dtype).max
    x = torch.tensor([-INF, -most, -0.0, 0.0, most, INF], dtype=dtype).requires_grad_(requires_grad)
    assert gelu(x, approximate).tolist() == [0.0, 0.0, 0.0, 0.0, most, INF]
    assert gelu(torch.tensor([math.nan], dtype=dtype), approximate).isnan().all()


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("options", [{"cubic": 0.0, "scale": 1e-6}, {"cubic": 1e6, "scale": 1e6}])
def test_the_ends_of_the_options(approximate, options):
    for dtype, requires_grad in itertools.product((F64, F32), (False, True)):
        big = torch.finfo(dtype).max
        x = torch.tensor([-INF, -big, -1e-3, 1e-3, big, INF], dtype=dtype).requires_grad_(requires_grad)
        value = gelu(x, approximate, **options)
        assert value[:2].tolist() == [0.0, 0.0] and value[4:].tolist() == [big, INF]
        right = [float(by_mpmath(v, approximate, **options)) for v in x[2:4].tolist()]
        assert value[2:4].tolist() == pytest.approx(right, rel=1e-5, abs=1e-40)


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", [F16, BF16])
def test_half_precision_is_float32_rounded_once(approximate, dtype):
    x = torch.linspace(-9, 9, 2001).to(dtype)
    result = gelu(x, approximate)
    assert result.dtype == dtype and torch.equal(result, gelu(x.float(), approximate).to(dtype))


@pytest.mark.parametrize("approximate", FORMS)
def test_with_and_without_a_gradient_the_values_agree(approximate):
    for dtype, tolerance in ((F64, 1e-14), (F32, 1e-5)):
        x = torch.linspace(-11, 11, 2001, dtype=dtype)
        with_graph = gelu(x.clone().requires_grad_(), approximate).detach()
        torch.testing.assert_close(gelu(x, approximate), with_graph, rtol=tolerance, atol=1e-37)
        with torch.no_grad():
            assert torch.equal(gelu(x.clone().requires_grad_(), approximate), gelu(x, approximate))


@pytest.mark.parametrize("approximate", FORMS)
def test_layout_and_argument_are_left_alone(approximate):
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=F64)
    before = x.clone()
    torch.testing.assert_close(gelu(x.t()[::2], approximate), gelu(x, approximate).t()[::2])
    assert torch.equal(x, before)
    assert gelu(torch.empty(0, 3), approximate).shape == (0, 3) and gelu(x[0, 0], approximate).shape == ()
    assert gelu(torch.empty(2, 3, device="meta"), approximate).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # PyTorch's own forward derivatives
@pytest.mark.parametrize("approximate", FORMS)
def test_forward_mode_sees_every_step(approximate):
    x = torch.linspace(-3, 3, 7, dtype=F64)
    with forward_ad.dual_level():
        dual = gelu(forward_ad.make_dual(x, torch.ones_like(x)), approximate)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope(x, approximate))
        torch.testing.assert_close(gelu(x, approximate), forward_ad.unpack_dual(dual).primal)


@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")
@pytest.mark.parametrize("approximate", FORMS)
def test_transforms_see_the_same_function(approximate):
    x = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=F64)
    each = torch.func.vmap(torch.func.grad(lambda t: gelu(t, approximate)))(x)
    torch.testing.assert_close(each, slope(x, approximate))
    value, tangent = torch.func.jvp(lambda t: gelu(t, approximate), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(value, gelu(x, approximate))
    torch.testing.assert_close(tangent, each)


@pytest.mark.parametrize("dynamic", [None, True])
def test_two_layers_compile_to_one_graph_each_at_three_batch_sizes(dynamic):
    torch.compiler.reset()
    layers = [GELU("tanh"), GELU("tanh", cubic=0.05), GELU("sigmoid"), GELU("sigmoid", scale=1.5), GELU()]
    for layer in layers:
        compiled = torch.compile(layer, backend="eager", fullgraph=True, dynamic=dynamic)
        for size in (3, 4, 7):
            x = torch.linspace(-3, 3, size).requires_grad_()
            value = compiled(x)
            torch.testing.assert_close(value, layer(x))
            torch.testing.assert_close(torch.autograd.grad(value.sum(), x), torch.autograd.grad(layer(x).sum(), x))


@pytest.mark.filterwarnings("ignore")  # what torch.jit says of its own end
@pytest.mark.parametrize("approximate", FORMS)
def test_a_trace_of_ordinary_numbers_holds_at_the_ends_of_the_line(approximate):
    ends = torch.tensor([-1.0, INF, -INF])
    for traced in (
        torch.jit.trace(GELU(approximate), torch.ones(3)),
        make_fx(lambda x: gelu(x, approximate))(torch.ones(3)),
    ):
        torch.testing.assert_close(traced(ends), gelu(ends, approximate))


# --- the layer --------------------------------------------------------------------------------------------------------


def test_the_layer_is_the_function_and_survives_pickling():
    x = torch.linspace(-3, 3, 50, dtype=F64)
    layer = GELU("tanh", cubic=0.05)
    copy = pickle.loads(pickle.dumps(layer))  # noqa: S301
    assert torch.equal(layer(x), gelu(x, "tanh", cubic=0.05)) and torch.equal(copy(x), layer(x))
    assert not list(layer.parameters()) and not layer.state_dict()
    assert repr(layer) == "GELU(approximate='tanh', cubic=0.05)" and repr(GELU()) == "GELU(approximate='none')"
    assert repr(GELU("sigmoid")) == "GELU(approximate='sigmoid', scale=1.702)"


BAD_OPTIONS = [
    ({"approximate": "erf"}, ValueError, "approximate"),
    ({"approximate": None}, TypeError, "approximate"),
    ({"approximate": True}, TypeError, "approximate"),
    ({"cubic": -0.1}, ValueError, "cubic"),
    ({"cubic": 2e6}, ValueError, "cubic"),
    ({"cubic": math.nan}, ValueError, "cubic"),
    ({"cubic": "0.04"}, TypeError, "cubic"),
    ({"scale": 0.0}, ValueError, "scale"),
    ({"scale": -1.7}, ValueError, "scale"),
    ({"scale": INF}, ValueError, "scale"),
    ({"scale": True}, TypeError, "scale"),
]


@pytest.mark.parametrize(("options", "error", "name"), BAD_OPTIONS)
def test_bad_options_are_refused_by_name(options, error, name):
    with pytest.raises(error, match=f"^{name}"):
        gelu(torch.ones(2), **options)
    with pytest.raises(error, match=f"^{name}"):
        GELU(**options)


@pytest.mark.parametrize("x", [torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), [1.0], 1.0])
def test_what_is_not_floating_point_is_refused(x):
    with pytest.raises(TypeError, match=r"^x"):
        gelu(x)
    with pytest.raises(TypeError, match=r"^x"):
        GELU()(x)


# --- min-max fits -----------------------------------------------------------------------------------------------------


def constant(x: Tensor, theta: float) -> Tensor:
    return torch.full_like(x, theta)


def test_the_best_constant_for_the_exponential_is_the_middle():
    theta, error = minimax_fit(torch.exp, constant, (0, 5), interval=(0, 1))
    assert theta == pytest.approx((math.e + 1) / 2, abs=1e-9) and error == pytest.approx((math.e - 1) / 2, abs=1e-12)


@given(st.floats(-3, 3), st.floats(0.1, 2))
def test_the_best_constant_for_any_curve_is_the_middle_of_its_range(centre, width):
    ends = centre - width, centre + width

    def curve(x):
        return (x - centre) ** 2 - torch.sin(7 * x)

    values = curve(torch.linspace(*ends, 100_001, dtype=F64))
    theta, error = minimax_fit(curve, constant, (-100, 100), interval=ends)
    assert theta == pytest.approx(float(values.max() + values.min()) / 2, abs=1e-8)
    assert error == pytest.approx(float(values.max() - values.min()) / 2, abs=1e-8)


def test_the_best_line_through_zero_for_a_square_is_known():
    # x^2 - t x on [0, 1]: t^2/4 below, 1 - t above; equal at t = 2 sqrt 2 - 2
    theta, error = minimax_fit(torch.square, lambda x, t: t * x, (0, 1), interval=(0, 1))
    assert theta == pytest.approx(2 * math.sqrt(2) - 2, abs=1e-9) and error == pytest.approx(3 - 2 * math.sqrt(2), abs=1e-9)


ROOT = math.sqrt(2 / math.pi)


def erf(x: Tensor) -> Tensor:
    return torch.erf(x / math.sqrt(2))


def cubic_tanh(x: Tensor, b: float) -> Tensor:
    return torch.tanh(ROOT * x + b * x**3)


def logistic(x: Tensor, scale: float) -> Tensor:
    return torch.sigmoid(scale * x)


@pytest.mark.parametrize(
    ("target", "model", "bracket"),
    [
        (erf, cubic_tanh, (0.03, 0.04)),
        (torch.special.ndtr, logistic, (1.5, 2.0)),
        (gelu, lambda x, c: gelu(x, "tanh", cubic=c), (0.03, 0.06)),
    ],
)
def test_the_fit_balances_its_errors_and_any_other_parameter_is_worse(target, model, bracket):
    x = torch.linspace(0, 8, 400_001, dtype=F64)
    theta, error = minimax_fit(target, model, bracket)
    difference = target(x) - model(x, theta)
    assert difference.max() == pytest.approx(error, rel=1e-7) and -difference.min() == pytest.approx(error, rel=1e-7)
    for moved in (theta - 1e-5, theta + 1e-5):
        assert (target(x) - model(x, moved)).abs().max() > error * (1 + 1e-6)


def test_the_constants_of_gelu_come_out():
    b, error = minimax_fit(erf, cubic_tanh, (0.03, 0.04))
    assert b == pytest.approx(0.0356773373, abs=1e-10) and error == pytest.approx(3.578426e-4, abs=1e-10)
    assert round(b / ROOT, 6) == 0.044715
    scale, error = minimax_fit(torch.special.ndtr, logistic, (1.5, 2.0))
    assert scale == pytest.approx(1.7017449253, abs=1e-9) and error == pytest.approx(9.4573092e-3, abs=1e-9)
    assert round(scale, 3) == 1.702


def test_the_fit_does_not_depend_on_the_bracket_or_on_the_sense_of_the_parameter():
    first = minimax_fit(erf, cubic_tanh, (0.03, 0.04))
    for bracket in ((-0.5, 1.0), [0.0356, 7], np.array([0.0, 0.1]), iter((0.03, 0.04))):
        assert minimax_fit(erf, cubic_tanh, bracket) == pytest.approx(first, abs=1e-10)
    turned = minimax_fit(erf, lambda x, b: cubic_tanh(x, -b), (-0.04, -0.03))
    assert turned == pytest.approx((-first[0], first[1]), abs=1e-10)


def test_a_balance_at_an_end_of_the_bracket_is_found():
    theta, error = minimax_fit(lambda x: x, constant, (0.5, 3.0), interval=(0, 1))
    assert theta == pytest.approx(0.5, abs=1e-9) and error == pytest.approx(0.5, abs=1e-9)


def test_callables_see_float64_of_more_than_one_shape_and_no_graph():
    shapes = []

    def watched(x: Tensor) -> Tensor:
        assert x.dtype == F64 and not torch.is_grad_enabled()
        shapes.append(x.shape)
        return x**2

    leaf = torch.ones((), dtype=F64, requires_grad=True)
    theta, error = minimax_fit(watched, lambda x, t: t * leaf * x, (0, 1), interval=(0, 1))
    assert type(theta) is float and type(error) is float and len(set(shapes)) > 1


def test_callables_that_work_in_place_change_nothing_for_each_other():
    def line(x: Tensor, t: float) -> Tensor:
        return x.mul_(t)

    right = minimax_fit(torch.tanh, lambda x, t: t * x, (0.1, 1.0), interval=(0, 2))
    assert minimax_fit(torch.tanh_, line, (0.1, 1.0), interval=(0, 2)) == right


BAD_FITS = [
    ({"bracket": (0.04, 0.03)}, ValueError, "bracket"),
    ({"bracket": (0.04, 0.04)}, ValueError, "bracket"),
    ({"bracket": (0.04, 0.05)}, ValueError, "bracket"),
    ({"bracket": (0.03, math.nan)}, ValueError, "bracket"),
    ({"bracket": (0.03, 0.04, 0.05)}, ValueError, "bracket"),
    ({"bracket": ()}, ValueError, "bracket"),
    ({"bracket": itertools.count()}, ValueError, "bracket"),
    ({"bracket": 0.03}, TypeError, "bracket"),
    ({"bracket": torch.tensor(0.03)}, TypeError, "bracket"),
    ({"bracket": np.array(0.03)}, TypeError, "bracket"),
    ({"bracket": ((0.03, 1.0), 0.04)}, TypeError, "bracket"),
    ({"bracket": "ab"}, TypeError, "bracket"),
    ({"bracket": (0.03, "a")}, TypeError, "bracket"),
    ({"interval": (1.0, 1.0)}, ValueError, "interval"),
    ({"interval": (2.0, 1.0)}, ValueError, "interval"),
    ({"interval": (0.0, INF)}, ValueError, "interval"),
    ({"interval": None}, TypeError, "interval"),
    ({"target": 3.0}, TypeError, "target"),
    ({"target": lambda x: x.sum()}, ValueError, "target"),
    ({"target": lambda x: float(x.sum())}, TypeError, "target"),
    ({"target": lambda x: x / 0}, ValueError, "target"),
    ({"target": lambda x: x.to("meta")}, ValueError, "target"),
    ({"model": None}, TypeError, "model"),
    ({"model": lambda x, b: b}, TypeError, "model"),
    ({"model": lambda x, b: x[..., :1]}, ValueError, "model"),
    ({"model": lambda x, b: x * math.nan}, ValueError, "model"),
]


@pytest.mark.parametrize(("changes", "error", "name"), BAD_FITS)
def test_bad_fits_are_refused_by_name(changes, error, name):
    arguments = {"target": erf, "model": cubic_tanh, "bracket": (0.03, 0.04), "interval": (0.0, 8.0)} | changes
    with pytest.raises(error, match=f"^{name}"):
        minimax_fit(arguments["target"], arguments["model"], arguments["bracket"], interval=arguments["interval"])


def test_the_error_of_the_fit_agrees_with_a_search_by_scipy():
    grid = np.linspace(0, 8, 80_001)
    right = scipy.special.erf(grid / math.sqrt(2))

    def largest(b):
        return np.abs(right - np.tanh(ROOT * grid + b * grid**3)).max()

    found = scipy.optimize.minimize_scalar(largest, bounds=(0.03, 0.04), method="bounded", options={"xatol": 1e-11})
    theta, error = minimax_fit(erf, cubic_tanh, (0.03, 0.04))
    assert theta == pytest.approx(found.x, abs=1e-8) and error == pytest.approx(found.fun, abs=1e-9)
