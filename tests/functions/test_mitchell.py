"""Multiplication by addition: bit patterns against exact fractions, against IEEE 754 outside the normal range, and against algebra."""

import itertools
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue.functions import mitchell
from kexue.functions.mitchell import mitchell_divide, mitchell_exp2, mitchell_log2, mitchell_matmul, mitchell_multiply

FLOATS = [np.float32, np.float64]
INTEGER = {np.float32: np.uint32, np.float64: np.uint64}
BOTH = pytest.mark.parametrize("dtype", FLOATS)


def bits(x):
    return np.asarray(x).view(INTEGER[np.asarray(x).dtype.type])


def same_bits(x, y):
    """Equal in every bit, where all NaN count as one."""
    x, y = np.asarray(x), np.asarray(y)
    assert x.dtype == y.dtype and x.shape == y.shape
    return bool(np.all((bits(x) == bits(y)) | (np.isnan(x) & np.isnan(y))))


def ends(dtype):
    """Numbers of every class, of both signs: zero, subnormal, the ends of the normal range, around 1, infinite, NaN."""
    info = np.finfo(dtype)
    tiny, one = info.tiny, dtype(1)
    sizes = [0, info.smallest_subnormal, tiny / dtype(2), np.nextafter(tiny, dtype(0)), tiny, np.nextafter(tiny, one)]
    sizes += [tiny * dtype(1.5), np.sqrt(tiny) * dtype(1.25), np.sqrt(tiny), np.nextafter(one, dtype(0)), one]
    sizes += [
        np.nextafter(one, dtype(2)),
        dtype(1.5),
        dtype(12.3),
        dtype(4.56),
        np.sqrt(info.max),
        np.sqrt(info.max) * dtype(1.5),
    ]
    sizes += [info.max / dtype(2), info.max * dtype(0.75), info.max, np.inf, np.nan]
    positive = np.array(sizes, dtype=dtype)
    return np.concatenate([positive, -positive])


def parts(p):
    """n and x of p = 2^n (1 + x), exact."""
    mantissa, exponent = math.frexp(float(p))
    return exponent - 1, 2 * Fraction(mantissa) - 1


def power(n):
    return Fraction(2) ** n


def mitchell_product(p, q):
    """The two cases of the algorithm, for positive normal numbers, as a fraction."""
    (n, x), (m, y) = parts(p), parts(q)
    return power(n + m) * (1 + x + y) if x + y < 1 else power(n + m + 1) * (x + y)


def mitchell_quotient(p, q):
    (n, x), (m, y) = parts(p), parts(q)
    return power(n - m) * (1 + x - y) if x >= y else power(n - m - 1) * (2 + x - y)


def reference(a, b, dtype, divide):
    """One product or quotient by the rules of the docstring, one number at a time."""
    info = np.finfo(dtype)
    a, b = (dtype(math.copysign(0, v)) if abs(v) < info.tiny else v for v in (a, b))
    with np.errstate(all="ignore"):
        ieee = np.divide(a, b) if divide else np.multiply(a, b)
    if any(v == 0 or not np.isfinite(v) for v in (a, b)):
        return ieee
    size = (mitchell_quotient if divide else mitchell_product)(abs(a), abs(b))
    sign = math.copysign(1, a) * math.copysign(1, b)
    if size < Fraction(float(info.tiny)):
        return dtype(sign * 0.0)
    if size >= 2 * Fraction(2) ** (info.maxexp - 1):
        return dtype(sign * math.inf)
    assert Fraction(float(dtype(float(size)))) == size  # every value of the definition is a number of the format
    return dtype(sign * float(size))


@BOTH
@pytest.mark.parametrize("divide", [False, True])
def test_numbers_of_every_class_obey_the_definition_bit_by_bit(dtype, divide):
    function = mitchell_divide if divide else mitchell_multiply
    values = ends(dtype)
    want = np.array([[reference(a, b, dtype, divide) for b in values] for a in values], dtype=dtype)
    assert same_bits(function(values[:, None], values), want)
    for i, j in itertools.product(range(len(values)), repeat=2):  # alone as well: what stands beside a number changes nothing
        alone = function(values[i], values[j])
        assert np.ndim(alone) == 0
        assert same_bits(alone, want[i, j])


@BOTH
@pytest.mark.parametrize("divide", [False, True])
@given(st.data())
def test_any_two_bit_patterns_obey_the_definition(dtype, divide, data):
    width = 8 * np.dtype(dtype).itemsize
    patterns = st.integers(0, 2**width - 1)
    a, b = (np.array(data.draw(patterns), dtype=INTEGER[dtype]).view(dtype)[()] for _ in range(2))
    function = mitchell_divide if divide else mitchell_multiply
    assert same_bits(function(a, b), reference(a, b, dtype, divide))


@BOTH
@pytest.mark.parametrize("divide", [False, True])
def test_random_patterns_in_large_arrays_obey_the_definition(dtype, divide):
    # More than a block, in which neighbours of every class meet.
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), 40_000, dtype=INTEGER[dtype]).view(dtype) for _ in range(2))
    a[::7], b[::11], a[::13], b[::17] = 0.0, -0.0, np.inf, np.nan
    function = mitchell_divide if divide else mitchell_multiply
    out = function(a, b)
    places = rng.choice(40_000, 3_000, replace=False)
    want = np.array([reference(a[i], b[i], dtype, divide) for i in places], dtype=dtype)
    assert same_bits(out[places], want)
    pieces = [function(a[i : i + 1000], b[i : i + 1000]) for i in range(0, 40_000, 1000)]
    assert same_bits(out, np.concatenate(pieces))


@BOTH
@pytest.mark.parametrize("divide", [False, True])
def test_where_the_raw_trick_begins_to_leave_the_range_nothing_changes(dtype, divide):
    half = np.finfo(dtype).maxexp // 2  # products of exponents around it come near both ends of the range
    exponents = [sign * (half + step) for sign in (-1, 1) for step in (-3, -2, -1, 0, 1)]
    mantissas = [dtype(1), dtype(1.5), np.nextafter(dtype(2), dtype(1))]
    values = [np.ldexp(m, e) for m in mantissas for e in exponents]
    function = mitchell_divide if divide else mitchell_multiply
    for a, b in itertools.product(values, repeat=2):
        assert same_bits(function(a, b), reference(a, b, dtype, divide))
        if not divide:
            assert same_bits(mitchell_matmul(np.array([[a]]), np.array([[b]]))[0, 0], mitchell_multiply(a, b) + dtype(0))


@BOTH
def test_in_the_normal_range_it_is_the_raw_trick(dtype):
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=50_000).astype(dtype) for _ in range(2))
    one = INTEGER[dtype](bits(dtype(1)))
    assert same_bits(mitchell_multiply(a, b), (bits(a) + bits(b) - one).view(dtype))
    assert same_bits(mitchell_divide(a, b), (bits(a) - bits(b) + one).view(dtype))
    assert {np.float32: 0x3F800000, np.float64: 0x3FF0000000000000}[dtype] == int(one)


@BOTH
def test_the_error_of_a_product_lies_between_minus_one_ninth_and_zero(dtype):
    rng = np.random.default_rng(2)
    a, b = (np.exp(rng.normal(size=20_000)).astype(dtype) for _ in range(2))
    exact = a.astype(np.longdouble) * b
    error = mitchell_multiply(a, b) / exact - 1
    assert error.max() <= 0
    assert error.min() >= -1 / np.longdouble(9)
    assert mitchell_multiply(dtype(1.5), dtype(1.5)) == 2  # the summit: 2 for 2.25
    assert Fraction(2) / Fraction(9, 4) == Fraction(8, 9)


@BOTH
def test_the_error_of_a_quotient_lies_between_zero_and_one_eighth(dtype):
    rng = np.random.default_rng(3)
    a, b = (np.exp(rng.normal(size=20_000)).astype(dtype) for _ in range(2))
    error = mitchell_divide(a, b) / (a.astype(np.longdouble) / b) - 1
    assert error.min() >= -1e-17
    assert error.max() <= 1 / np.longdouble(8)
    assert mitchell_divide(dtype(1), dtype(1.5)) == dtype(0.75)  # 9/8 of 2/3


@BOTH
@given(st.data())
def test_a_product_is_exact_only_with_a_power_of_two(dtype, data):
    numbers = st.floats(0.0625, 64.0, width=8 * np.dtype(dtype).itemsize)
    a, b = (dtype(data.draw(numbers)) for _ in range(2))
    exact = Fraction(float(mitchell_multiply(a, b))) == Fraction(float(a)) * Fraction(float(b))
    assert exact == (parts(a)[1] == 0 or parts(b)[1] == 0)


@BOTH
@given(st.data())
def test_the_numbers_form_a_group_of_which_division_is_the_inverse(dtype, data):
    numbers = st.floats(0.0009765625, 1024.0, width=8 * np.dtype(dtype).itemsize)
    signs = st.sampled_from([-1, 1])
    a, b, c = (dtype(data.draw(numbers) * data.draw(signs)) for _ in range(3))
    times, over = mitchell_multiply, mitchell_divide
    assert same_bits(times(a, b), times(b, a))
    assert same_bits(times(times(a, b), c), times(a, times(b, c)))
    assert same_bits(over(times(a, b), b), a)
    assert same_bits(times(over(a, b), b), a)
    assert same_bits(times(a, dtype(1)), a)
    assert same_bits(over(a, a), dtype(1))
    assert same_bits(times(-a, b), -times(a, b))


def test_it_does_not_distribute_over_addition():
    a, b, c = np.random.default_rng(4).normal(size=(3, 1000))
    apart, together = mitchell_multiply(a, b) + mitchell_multiply(a, c), mitchell_multiply(a, b + c)
    assert np.mean(abs(together - apart) > 1e-9 * abs(apart)) > 0.8
    # It is linear between the places where a digit carries: without a carry it distributes.
    assert mitchell_multiply(1.25, 1.125 + 1.5) == mitchell_multiply(1.25, 1.125) + mitchell_multiply(1.25, 1.5)


@BOTH
def test_strides_order_and_broadcasting_change_nothing(dtype):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 6, 8)).astype(dtype)
    for function, matrix in ((mitchell_multiply, False), (mitchell_divide, False), (mitchell_matmul, True)):
        other = b.T if matrix else b
        want = function(a.copy(), other.copy())
        views = [np.asfortranarray, lambda v: v[::-1].copy()[::-1], lambda v: np.stack([v, v], -1)[..., 1]]
        views += [
            lambda v: v.astype(v.dtype.newbyteorder()),
            lambda v: np.concatenate([v, v], 1)[:, : v.shape[1]],
            np.ndarray.tolist,
        ]
        for one, two in itertools.product(views, repeat=2):
            left, right = one(a), two(other)
            if dtype == np.float32 and (isinstance(left, list) or isinstance(right, list)):
                continue
            assert same_bits(function(left, right), want)
    unaligned = np.frombuffer(b"\0" + a.tobytes(), dtype=np.uint8)[1:].view(dtype).reshape(a.shape)
    assert same_bits(mitchell_multiply(unaligned, b), mitchell_multiply(a, b))
    row = np.broadcast_to(a[0], a.shape)
    assert same_bits(mitchell_multiply(row, b), mitchell_multiply(a[0], b))
    assert same_bits(mitchell_multiply(a[:, None, :1], b), np.stack([mitchell_multiply(np.repeat(v, 8), b) for v in a[:, 0]]))
    large = rng.normal(size=(300, 1, 100)).astype(dtype)
    assert same_bits(
        mitchell_divide(large, large[:7].reshape(7, 100)),
        mitchell_divide(np.repeat(large, 7, 1), np.repeat(large[None, :7, 0], 300, 0)),
    )


@BOTH
def test_inputs_stay_as_they_are(dtype):
    a, b = ends(dtype)[:, None] * np.ones((1, 3), dtype), np.ones((3, 4), dtype)
    kept = a.copy(), b.copy()
    for call in (
        lambda: mitchell_multiply(a, a),
        lambda: mitchell_divide(a, a),
        lambda: mitchell_matmul(a, b),
        lambda: mitchell_exp2(a),
    ):
        call()
        assert same_bits(a, kept[0]) and same_bits(b, kept[1])
    a.setflags(write=False)
    mitchell_multiply(a, a)


@pytest.mark.parametrize("function", [mitchell_multiply, mitchell_divide])
def test_dtypes_and_shapes_are_those_of_numpy(function):
    single, double = np.ones(3, np.float32), np.ones(3)
    assert function(single, single).dtype == np.float32
    assert function(single, double).dtype == function(double, single).dtype == np.float64
    assert function(single, np.float64(2)).dtype == np.float64
    assert function(single, 2.0).dtype == function(2.0, single).dtype == np.float32  # a plain number takes the other's dtype
    assert function(double, 2.0).dtype == function(2.0, 2.0).dtype == np.float64
    assert function(np.float32(2), np.float32(2)).dtype == np.float32
    assert function(single, [1.0, 1.0, 1.0]).dtype == np.float64
    for shape in ((), (0,), (2, 0, 3), (1,), (1, 1)):
        ones = np.ones(shape, np.float32)
        assert function(ones, ones).shape == shape
        assert function(ones, np.float32(1.5)).shape == shape
    assert function(np.ones((2, 1, 3)), np.ones((4, 1))).shape == (2, 4, 3)
    assert function(np.ones((4, 1)), np.ones((0,))).shape == (4, 0)


@pytest.mark.parametrize("axes", [32, 33, 64])
def test_as_many_axes_as_an_array_can_have(axes):
    ones = (1,) * (axes - 2)
    a, b = np.full((*ones, 2, 1), 1.5), np.full((*ones, 1, 20_000), 3.0)
    for function, value in ((mitchell_multiply, 4.0), (mitchell_divide, 0.5)):
        out = function(a, b)
        assert out.shape == (*ones, 2, 20_000) and (out == value).all()
        assert function(a, 3.0).shape == a.shape
    assert mitchell_matmul(a, b).shape == (*ones, 2, 20_000)
    assert mitchell_log2(a).shape == mitchell_exp2(a).shape == a.shape


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_is_quiet():
    single = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    double = np.array([0x7FF0000000000001, 0xFFF0000000000001], np.uint64).view(np.float64)
    for nan, other in itertools.product((single, double), repeat=2):
        for function in (mitchell_multiply, mitchell_divide):
            assert np.isnan(function(nan, other)).all() and np.isnan(function(nan, np.ones(2))).all()
        assert np.isnan(mitchell_matmul(nan[None], other[:, None])).all()
        assert np.isnan(mitchell_exp2(nan)).all()


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1.5e38])
def test_mixed_operands_are_calculated_in_float64(scale):
    a, b = np.float32(1.7) * np.float32(scale), 1.3
    assert same_bits(mitchell_multiply(a, np.float64(b)), mitchell_multiply(np.float64(a), np.float64(b)))


# --- logarithm and antilogarithm ------------------------------------------------------------------------------------------------


@BOTH
@given(st.data())
def test_the_logarithm_is_n_plus_x(dtype, data):
    info = np.finfo(dtype)
    value = dtype(data.draw(st.floats(float(info.tiny), float(info.max), width=8 * np.dtype(dtype).itemsize)))
    n, x = parts(value)
    log = mitchell_log2(value)
    assert log.dtype == np.float64
    assert log == float(n + x)  # Python rounds a fraction once, to the nearest
    if dtype is np.float32:
        assert Fraction(float(log)) == n + x
        assert mitchell_exp2(log) == value


def test_the_logarithm_is_that_of_digit_strings():
    def digits_log(text):
        before, _, after = text.partition(".")
        return Fraction(len(before) - 1) + Fraction(int("0" + before[1:] + after, 2), 2 ** (len(before) - 1 + len(after)))

    for text in ("1001.11", "1.0", "1100.0100110", "100.1000111", "11.1", "1"):
        before, _, after = text.partition(".")
        number = int(before + after, 2) / 2 ** len(after)
        assert Fraction(float(mitchell_log2(number))) == digits_log(text)


@given(st.floats(-1080.0, 1030.0))
def test_the_antilogarithm_is_the_nearest_number_to_its_formula(y):
    whole = math.floor(y)
    exact = power(whole) * (1 + Fraction(y) - whole)
    want = math.inf if exact >= Fraction(2) ** 1024 - Fraction(2) ** 970 else float(exact)
    result = float(mitchell_exp2(y))
    # Below the normal range the result is rounded a second time.
    assert result == want or (want < np.finfo(float).tiny and abs(result - want) <= 5e-324)


def test_the_antilogarithm_at_the_ends():
    y = np.array([-np.inf, -1e308, -1075.5, -1074.0, -1022.0, -0.0, 0.0, 1023.0, 1024.0, 1e308, np.inf, np.nan])
    want = [0, 0, 0, 5e-324, np.finfo(float).tiny, 1, 1, 2.0**1023, np.inf, np.inf, np.inf, np.nan]
    assert same_bits(mitchell_exp2(y), np.array(want))
    assert mitchell_exp2(np.nextafter(1024.0, 0.0)) == float(2**1024 - 2**980)
    assert mitchell_exp2(-1e-20) == 1.0
    assert mitchell_exp2(np.float32(0.1)) == 1 + float(np.float32(0.1))
    assert mitchell_exp2(np.float32(0.1)).dtype == np.float64


def test_the_error_of_the_logarithm_has_its_maximum_where_calculus_says():
    x = np.linspace(0, 1, 1_000_001)[:-1]
    gap = np.log2(1 + x) - mitchell_log2(1 + x)
    at = 1 / math.log(2) - 1
    assert gap.min() == 0 and abs(gap.max() - (math.log2(1 + at) - at)) < 1e-12
    assert abs(x[gap.argmax()] - at) < 2e-6
    ratio = mitchell_exp2(x) / 2**x
    assert ratio.min() == 1 and abs(ratio.max() - (1 + at) / 2**at) < 1e-12


def test_products_are_sums_of_logarithms():
    rng = np.random.default_rng(6)
    a, b = np.exp(rng.normal(size=(2, 2000))).astype(np.float32)
    assert np.array_equal(mitchell_exp2(mitchell_log2(a) + mitchell_log2(b)), mitchell_multiply(a, b).astype(float))
    assert np.array_equal(mitchell_exp2(mitchell_log2(a) - mitchell_log2(b)), mitchell_divide(a, b).astype(float))


@BOTH
def test_every_mantissa_of_float32_comes_back(dtype):
    values = np.arange(0x3F800000, 0x3F800000 + 2**23, 97, dtype=np.uint32).view(np.float32)
    for scale in (2.0**-126, 1.0, 2.0**127):
        scaled = values * np.float32(scale)
        assert np.array_equal(mitchell_exp2(mitchell_log2(scaled.astype(dtype))), scaled.astype(float))


# --- matrix products ------------------------------------------------------------------------------------------------------------


def summed(a, b):
    """The products of mitchell_multiply, added in float64."""
    with np.errstate(all="ignore"):
        return mitchell_multiply(a[..., :, :, None], b[..., None, :, :]).astype(float).sum(axis=-2)


@BOTH
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3, 4), (4, 5)),
        ((1, 1), (1, 1)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (6, 4, 5)),
        ((3, 4), (2, 4, 5)),
    ]
    + [((70, 40), (40, 9)), ((1, 3000), (3000, 7)), ((300, 2), (2, 90)), ((1, 2), (2, 20_000)), ((50, 1, 2, 3), (40, 3, 2))],
)
@pytest.mark.parametrize("zeros", ["none", "left", "right", "both"])
def test_a_matrix_product_adds_mitchell_products(dtype, left, right, zeros):
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=left).astype(dtype), rng.normal(size=right).astype(dtype)
    if zeros in ("left", "both"):
        a *= rng.random(left) < 0.5
    if zeros in ("right", "both"):
        b *= rng.random(right) < 0.5
    product, want = mitchell_matmul(a, b), summed(a, b)
    assert product.dtype == dtype and product.shape == np.matmul(a, b).shape == want.shape
    scale = np.matmul(abs(a).astype(float), abs(b).astype(float)) + 1e-30
    assert (abs(product - want) / scale).max() < a.shape[-1] ** 0.5 * 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("block", [1, 2, 3, 7, 12, 64, 1000])
@pytest.mark.parametrize(
    ("k", "batch", "m", "n"), [(1, 1, 1, 1), (5, 1, 1, 3), (4, 3, 5, 2), (7, 2, 3, 4), (2, 30, 2, 3), (9, 4, 1, 1)]
)
def test_blocks_hold_each_product_once_and_are_as_large_as_the_cache_allows(block, k, batch, m, n, monkeypatch):
    monkeypatch.setattr(mitchell, "_BLOCK", block)
    seen = np.zeros((k, batch, m), dtype=int)
    sizes = []
    for where in mitchell._blocks(k, batch, m, n):
        seen[where] += 1
        sizes.append(seen[where].size * n)
    assert (seen == 1).all()
    assert max(sizes) <= max(block, n)  # a row of one term is never divided
    if k * batch * m * n <= block:
        assert len(sizes) == 1
    if batch * m * n <= block:  # all matrices at once, and as many terms as fit
        assert len(sizes) == math.ceil(k / (block // (batch * m * n)))


@BOTH
@pytest.mark.parametrize("block", [1, 5, 6, 7, 29, 30, 31])
@pytest.mark.parametrize("extreme", [False, True])
def test_the_size_of_a_block_changes_no_bit(dtype, block, extreme, monkeypatch):
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(3, 5, 1)).astype(dtype), rng.normal(size=(3, 1, 6)).astype(dtype)
    if extreme:
        a[0, 0], b[1, 0, 2], b[2, 0, 3] = np.finfo(dtype).max, np.finfo(dtype).tiny, np.inf
    values = [b, np.broadcast_to(b, (2, 3, 1, 6))[..., ::-1]]
    want = [(mitchell_matmul(a, v), mitchell_multiply(a, v), mitchell_divide(a, v)) for v in values]
    monkeypatch.setattr(mitchell, "_BLOCK", block)
    for v, results in zip(values, want, strict=True):
        found = mitchell_matmul(a, v), mitchell_multiply(a, v), mitchell_divide(a, v)
        assert all(same_bits(one, other) for one, other in zip(found, results, strict=True))


@BOTH
def test_zeros_and_signs_take_the_short_way(dtype, monkeypatch):
    rng = np.random.default_rng(11)
    a, b = (rng.normal(size=size).astype(dtype) for size in ((6, 9), (9, 4)))
    cases = [(a, b), (np.maximum(a, 0), b), (a, np.minimum(b, 0)), (np.maximum(a, 0), np.maximum(b, 0)), (0 * a, b)]
    want = [summed(*case) for case in cases]
    monkeypatch.setattr(mitchell, "_combined", None)  # the way with all checks is not there
    for case, expected in zip(cases, want, strict=True):
        assert np.allclose(mitchell_matmul(*case), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="not callable"):
        mitchell_matmul(np.full_like(a, np.inf), b)


@BOTH
def test_the_raw_trick_is_tried_within_half_the_exponents_of_the_format(dtype):
    layout = mitchell._LAYOUTS[np.dtype(dtype).itemsize]
    half = {np.float32: 62, np.float64: 510}[dtype]
    low, high = np.ldexp(dtype(1), -half), np.ldexp(dtype(1), half + 1)
    inside = [low, np.nextafter(low, dtype(1)), dtype(1), dtype(3), np.nextafter(high, dtype(1))]
    outside = [high, np.nextafter(low, dtype(0)), dtype(0), np.finfo(dtype).smallest_subnormal, dtype(np.inf), dtype(np.nan)]
    for value, expected in [(v, True) for v in inside] + [(v, False) for v in outside]:
        for signed in (value, -value):
            assert mitchell._moderate(bits(np.array([dtype(1), signed])), layout) is expected
    assert mitchell._moderate(bits(np.empty(0, dtype)), layout)


@BOTH
def test_arrays_that_fit_are_not_copied(dtype):
    a, b = np.ones((2, 3), dtype), np.ones(3, dtype)
    assert mitchell._floats("a", a) is a
    assert all(one is other for one, other in zip(mitchell._operands(a, b), (a, b), strict=True))


@BOTH
def test_one_term_is_the_product_bit_by_bit(dtype):
    values = ends(dtype)
    product = mitchell_matmul(values[:, None], values[None])
    want = mitchell_multiply(values[:, None], values) + dtype(0)  # a sum that begins with 0 has no negative zero
    assert same_bits(product, want)
    finite = values[np.isfinite(values)]
    for scale in (1.0, 1e-20, 1e15):  # products within the range, below and above
        some = finite[(abs(finite) > 1e-2) & (abs(finite) < 1e2) | (finite == 0)] * dtype(scale)
        assert same_bits(mitchell_matmul(some[:, None], some[None]), mitchell_multiply(some[:, None], some) + dtype(0))


@BOTH
def test_infinities_and_nan_are_added_as_ieee_says(dtype):
    inf, nan = np.inf, np.nan
    a, b = np.array([[inf, 1.0], [inf, -inf], [nan, 0.0], [1.0, 2.0]], dtype), np.array([[1.0, 0.0], [1.0, 3.0]], dtype)
    assert same_bits(mitchell_matmul(a, b), np.array([[inf, nan], [nan, nan], [nan, nan], [3.0, 6.0]], dtype))
    largest = np.finfo(dtype).max
    assert mitchell_matmul(np.full((1, 2), largest), np.ones((2, 1), dtype)) == inf


@BOTH
def test_nothing_to_add_is_zero(dtype):
    for left, right, out in (
        ((2, 0), (0, 3), (2, 3)),
        ((4, 2, 0), (4, 0, 3), (4, 2, 3)),
        ((0, 2), (2, 3), (0, 3)),
        ((2, 3), (3, 0), (2, 0)),
    ):
        product = mitchell_matmul(np.ones(left, dtype), np.ones(right, dtype))
        assert product.shape == out and product.dtype == dtype and not product.any()
    assert mitchell_matmul(np.ones((0, 2, 3)), np.ones((3, 4))).shape == (0, 2, 4)
    assert mitchell_matmul(np.ones((0, 2, 3)), np.ones((0, 3, 4))).shape == (0, 2, 4)


def test_mixed_matrices_are_multiplied_in_float64():
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(4, 2))
    assert same_bits(mitchell_matmul(a, b), mitchell_matmul(a.astype(float), b))


def test_a_relu_network_keeps_its_zeros():
    a = np.maximum(np.random.default_rng(9).normal(size=(5, 40)), 0).astype(np.float32)
    assert np.array_equal(mitchell_multiply(a, np.float32(3e-3)) == 0, a == 0)
    assert not mitchell_matmul(np.zeros((5, 40), np.float32), np.full((40, 3), 1e10, np.float32)).any()


# --- refusals -------------------------------------------------------------------------------------------------------------------

WRONG = [
    1,
    True,
    None,
    "1.5",
    b"1",
    [1, 2],
    np.arange(3),
    np.float16(1),
    np.longdouble(1),
    1j,
    object(),
    {},
    np.array([1.5], object),
]
WRONG += [
    torch.tensor([1, 2]),
    torch.ones(2, dtype=torch.bfloat16),
    torch.ones(2, requires_grad=True),
    torch.ones(2, device="meta"),
]
CALLS = [
    *(("a", lambda v, f=f: f(v, np.ones((2, 2)))) for f in (mitchell_multiply, mitchell_divide, mitchell_matmul)),
    *(("b", lambda v, f=f: f(np.ones((2, 2)), v)) for f in (mitchell_multiply, mitchell_divide, mitchell_matmul)),
    ("x", mitchell_log2),
    ("y", mitchell_exp2),
]


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_other_dtypes_are_refused_by_name(name, call):
    for value in WRONG:
        if isinstance(value, np.longdouble) and value.itemsize == 8:
            continue
        with pytest.raises(TypeError, match=rf"^{name} "):
            call(value)
    with pytest.raises(ValueError, match=rf"^{name} .*rectangular"):
        call([[0.5], [0.5, 0.25]])


@pytest.mark.parametrize(
    "value", [0.0, -0.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, np.float32(1e-40), [1.0, -2.0], [[1.0], [np.nan]]]
)
def test_a_logarithm_wants_positive_normal_numbers(value):
    with pytest.raises(ValueError, match=r"^x must be positive, finite and normal, got \S+$"):
        mitchell_log2(value)
    assert mitchell_log2(np.ones((0, 3))).shape == (0, 3)


@BOTH
def test_the_refusal_names_the_first_wrong_number_and_no_right_one(dtype):
    info = np.finfo(dtype)
    right = [info.tiny, dtype(1), info.max]
    for wrong in (-3.0, 0.0, math.inf):
        with pytest.raises(ValueError, match=rf"^x must be positive, finite and normal, got {wrong}$"):
            mitchell_log2(np.array([*right, wrong, -7.0], dtype))


def test_shapes_that_do_not_fit_are_refused_by_name():
    ones = np.ones
    for function in (mitchell_multiply, mitchell_divide):
        with pytest.raises(ValueError, match=r"^b .*broadcasts"):
            function(ones(3), ones(4))
    for name, left, right in (
        *(("a", (3,), (3, 2)), ("a", (), (3, 2)), ("b", (2, 3), (3,)), ("b", (2, 3), ())),
        *(("b", (2, 3), (4, 2)), ("b", (2, 3), (1, 2)), ("b", (2, 1), (3, 2)), ("b", (5, 2, 3), (4, 3, 2))),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must have"):
            mitchell_matmul(ones(left), ones(right))


def test_every_public_name_is_listed_and_torch_is_not_imported():
    public = {name for name, value in vars(mitchell).items() if getattr(value, "__module__", "") == mitchell.__name__}
    assert set(mitchell.__all__) == {name for name in public if not name.startswith("_")}
    code = "import sys, kexue.functions.mitchell; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
