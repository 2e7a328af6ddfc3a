"""Rotary position embedding against dense rotations, expm, double loops and mpmath."""

from __future__ import annotations

import copy
import io
import pickle
import sys

import mpmath
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from kexue.attention import rope
from kexue.attention.rope import (
    RotaryEmbedding,
    apply_rotary,
    decay_bound,
    linear_attention,
    permute_rotary_weight,
    rope_frequencies,
    rotary_cos_sin,
    rotary_linear_attention,
)

F64 = torch.float64
seeds = st.integers(0, 2**32 - 1)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def dense_rotation(position: float, freqs: Tensor) -> Tensor:
    angles = position * freqs
    return torch.block_diag(*(torch.stack((torch.stack((a.cos(), -a.sin())), torch.stack((a.sin(), a.cos())))) for a in angles))


def half_order(dim: int) -> list[int]:
    return [*range(0, dim, 2), *range(1, dim, 2)]


# --- frequencies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "base"), [(2, 10000.0), (8, 10000.0), (64, 500000.0), (128, 3.5), (6, 0.5), (4, 1.0)])
def test_frequencies_are_powers_of_the_base(dim, base):
    expected = [float(mpmath.power(mpmath.mpf(base), mpmath.mpf(-2 * i) / dim)) for i in range(dim // 2)]
    freqs = rope_frequencies(dim, base)
    assert freqs.dtype == F64 and freqs.shape == (dim // 2,)
    torch.testing.assert_close(freqs, torch.tensor(expected, dtype=F64), rtol=1e-14, atol=0)


@given(st.integers(1, 64), st.floats(1.5, 1e6))
def test_frequencies_fall_geometrically_from_one(half, base):
    freqs = rope_frequencies(2 * half, base)
    assert freqs[0] == 1.0
    torch.testing.assert_close(freqs[1:] / freqs[:-1], torch.full((half - 1,), base ** (-1 / half), dtype=F64))


def test_frequencies_ignore_the_default_dtype_and_follow_the_device():
    assert rope_frequencies(4, device="meta").device.type == "meta"
    torch.set_default_dtype(torch.float16)
    try:
        assert rope_frequencies(4, 10000).tolist() == [1.0, 0.01]
    finally:
        torch.set_default_dtype(torch.float32)


BAD_FREQUENCIES = [
    ((0,), {}, ValueError, "dim"),
    ((-2,), {}, ValueError, "dim"),
    ((1,), {}, ValueError, "dim"),
    ((7,), {}, ValueError, "dim"),
    ((4.0,), {}, TypeError, "dim"),
    ((True,), {}, TypeError, "dim"),
    (("4",), {}, TypeError, "dim"),
    ((4, 0.0), {}, ValueError, "base"),
    ((4, -1.0), {}, ValueError, "base"),
    ((4, float("inf")), {}, ValueError, "base"),
    ((4, float("nan")), {}, ValueError, "base"),
    ((4, None), {}, TypeError, "base"),
    ((4, True), {}, TypeError, "base"),
    ((4, 1e-310), {}, ValueError, "base"),
    ((2**64,), {}, ValueError, "dim"),
    ((4,), {"device": "nonsense"}, ValueError, "device"),
    ((4,), {"device": 0.5}, TypeError, "device"),
]


def test_the_extreme_bases_have_finite_frequencies():
    for base in (sys.float_info.min, sys.float_info.max):
        assert rope_frequencies(2**12, base).isfinite().all()


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_FREQUENCIES)
def test_bad_frequencies_are_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name}"):
        rope_frequencies(*args, **kwargs)


# --- angles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [[0, 1, -5], [10**6, 2**24, 12_345_678], [0.5, -3.25, 1e6 + 0.125]])
def test_angles_are_right_to_the_last_float32_digit(positions):
    freqs = rope_frequencies(128)
    cos, sin = rotary_cos_sin(torch.tensor(positions, dtype=torch.int64 if isinstance(positions[0], int) else F64), freqs)
    with mpmath.workdps(40):
        angles = [[mpmath.mpf(m) * mpmath.power(10000, mpmath.mpf(-2 * i) / 128) for i in range(64)] for m in positions]
        exact_cos = torch.tensor([[float(mpmath.cos(a)) for a in row] for row in angles], dtype=F64)
        exact_sin = torch.tensor([[float(mpmath.sin(a)) for a in row] for row in angles], dtype=F64)
    assert cos.dtype == sin.dtype == torch.float32
    assert (cos - exact_cos).abs().max() <= 1e-7 and (sin - exact_sin).abs().max() <= 1e-7
    wide_cos, wide_sin = rotary_cos_sin(torch.tensor(positions, dtype=F64), freqs, dtype=F64)
    assert (wide_cos - exact_cos).abs().max() < 1e-8 and (wide_sin - exact_sin).abs().max() < 1e-8


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=5), st.integers(1, 5))
def test_cosine_is_even_and_sine_is_odd_in_the_position(positions, half):
    m, freqs = torch.tensor(positions), rope_frequencies(2 * half)
    cos, sin = rotary_cos_sin(m, freqs, dtype=F64)
    back_cos, back_sin = rotary_cos_sin(-m, freqs, dtype=F64)
    assert torch.equal(cos, back_cos) and torch.equal(sin, -back_sin)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos), rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_angle_shapes_are_positions_by_planes(shape, dtype):
    cos, sin = rotary_cos_sin(torch.ones(shape, dtype=torch.int32), torch.tensor([1.0, 0.5]), dtype=dtype)
    assert cos.shape == sin.shape == (*shape, 2) and cos.dtype == sin.dtype == dtype


def test_angles_have_gradients_in_frequencies_and_real_positions():
    m, freqs = draw(2, 3).requires_grad_(), draw(4, seed=1).requires_grad_()
    assert gradcheck(lambda a, b: rotary_cos_sin(a, b, dtype=F64), (m, freqs))
    assert gradgradcheck(lambda a, b: rotary_cos_sin(a, b, dtype=F64), (m, freqs))
    narrow = torch.tensor([1.0, 0.1], requires_grad=True)
    rotary_cos_sin(torch.arange(3), narrow)[1].sum().backward()
    torch.testing.assert_close(narrow.grad, torch.stack([sum(m * torch.cos(m * f.detach()) for m in range(3)) for f in narrow]))


ONE = torch.ones(2)
BAD_ANGLES = [
    (([1, 2], ONE), {}, TypeError, "positions"),
    ((3, ONE), {}, TypeError, "positions"),
    ((torch.tensor([True]), ONE), {}, TypeError, "positions"),
    ((torch.tensor([1j]), ONE), {}, TypeError, "positions"),
    ((ONE, [1.0]), {}, TypeError, "freqs"),
    ((ONE, torch.tensor([1, 2])), {}, TypeError, "freqs"),
    ((ONE, torch.ones(2, 2)), {}, ValueError, "freqs"),
    ((ONE, torch.tensor(1.0)), {}, ValueError, "freqs"),
    ((ONE, torch.ones(2, device="meta")), {}, ValueError, "freqs"),
    ((ONE, ONE), {"dtype": torch.int64}, TypeError, "dtype"),
    ((ONE, ONE), {"dtype": torch.complex64}, TypeError, "dtype"),
    ((ONE, ONE), {"dtype": "float32"}, TypeError, "dtype"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_ANGLES)
def test_bad_angles_are_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name}"):
        rotary_cos_sin(*args, **kwargs)


# --- rotation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("n", "dim", "seed"), [(1, 2, 0), (5, 6, 1), (4, 16, 2)])
def test_rotation_is_the_block_diagonal_matrix(interleaved, n, dim, seed):
    freqs, m, x = rope_frequencies(dim, 100.0), draw(n, seed=seed) * 50, draw(2, 3, n, dim, seed=seed)
    order = list(range(dim)) if interleaved else half_order(dim)
    expected = torch.stack([torch.stack([dense_rotation(float(m[i]), freqs)[order][:, order] @ row[i] for i in range(n)])
                            for row in x.flatten(0, 1)]).view_as(x)  # fmt: skip
    got = apply_rotary(x, *rotary_cos_sin(m, freqs, dtype=F64), interleaved=interleaved)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("position", [0.0, 1.0, -7.0, 2.5, 1000.0])
def test_rotation_is_the_exponential_of_a_skew_matrix(position):
    freqs, dim = rope_frequencies(6), 6
    skew = torch.zeros(dim, dim, dtype=F64)
    for i, theta in enumerate(freqs):
        skew[2 * i + 1, 2 * i], skew[2 * i, 2 * i + 1] = theta, -theta
    expected = torch.from_numpy(scipy.linalg.expm((position * skew).numpy()))
    rotated_axes = apply_rotary(torch.eye(dim, dtype=F64), *rotary_cos_sin(torch.full((dim,), position), freqs, dtype=F64))
    torch.testing.assert_close(rotated_axes.mT, expected, rtol=0, atol=1e-11)


@given(seeds, st.integers(0, 6), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_rotation_keeps_lengths_and_is_undone_by_the_opposite_angle(seed, n, half, rest, interleaved):
    x, angles = draw(2, n, 2 * half + rest, seed=seed), draw(n, half, seed=seed + 1) * 100
    y = apply_rotary(x, angles.cos(), angles.sin(), interleaved=interleaved)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(apply_rotary(y, angles.cos(), -angles.sin(), interleaved=interleaved), x)


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_other_features_pass_bit_for_bit(interleaved):
    x = draw(3, 7, dtype=torch.float32)
    x[:, 4:] = torch.tensor([-0.0, float("inf"), float("nan")])
    y = apply_rotary(x, *rotary_cos_sin(torch.arange(3), rope_frequencies(4)), interleaved=interleaved)
    assert torch.equal(y[:, 4:].contiguous().view(torch.int32), x[:, 4:].contiguous().view(torch.int32))
    inside = apply_rotary(x[:, :4], *rotary_cos_sin(torch.arange(3), rope_frequencies(4)), interleaved=interleaved)
    assert torch.equal(y[:, :4], inside)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(interleaved, dtype):
    x, table = draw(4, 9, 8, dtype=dtype), rotary_cos_sin(torch.arange(9), rope_frequencies(8))
    wide = apply_rotary(x.float(), *table, interleaved=interleaved)
    got = apply_rotary(x, *table, interleaved=interleaved)
    assert got.dtype == dtype and torch.equal(got, wide.to(dtype))
    narrow = apply_rotary(x, *(t.to(dtype) for t in table), interleaved=interleaved)
    assert narrow.dtype == dtype


def test_the_widest_dtype_does_the_arithmetic():
    x = draw(3, 2, dtype=torch.float32)
    angles = draw(3, 1)
    exact = apply_rotary(x.double(), angles.cos(), angles.sin())
    assert torch.equal(apply_rotary(x, angles.cos(), angles.sin()), exact.float())
    assert apply_rotary(x.double(), angles.cos().float(), angles.sin().float()).dtype == F64


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16])
def test_compiled_and_eager_rotation_agree(interleaved, dtype):
    torch.compiler.reset()
    x, table = draw(2, 5, 9, dtype=dtype), rotary_cos_sin(torch.arange(5), rope_frequencies(8))
    compiled = torch.compile(lambda x, c, s: apply_rotary(x, c, s, interleaved=interleaved), backend="eager", fullgraph=True)
    tolerance = {torch.float32: 1e-6, F64: 1e-6, torch.bfloat16: 0.0}[dtype]
    torch.testing.assert_close(
        compiled(x, *table), apply_rotary(x, *table, interleaved=interleaved), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("interleaved", [True, False])
def test_memory_layout_does_not_matter_and_inputs_stay(interleaved):
    table = rotary_cos_sin(torch.arange(5), rope_frequencies(6))
    x = draw(2, 3, 5, 6, dtype=torch.float32)
    expected = apply_rotary(x, *table, interleaved=interleaved)
    odd = torch.zeros(2, 3, 5, 7)
    odd[..., 1:] = x
    layouts = [
        x.transpose(1, 2).contiguous().transpose(1, 2),
        x.mT.contiguous().mT,
        odd[..., 1:],
        torch.cat((torch.zeros(1), x.flatten()))[1:].view_as(x),
        x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    ]
    for view in layouts:
        before = view.clone()
        torch.testing.assert_close(apply_rotary(view, *table, interleaved=interleaved), expected)
        assert torch.equal(view, before)
    constant = torch.ones(1, 1, 1, 6).expand(2, 3, 5, 6)
    torch.testing.assert_close(
        apply_rotary(constant, *table, interleaved=interleaved), apply_rotary(constant.clone(), *table, interleaved=interleaved)
    )
    wide = apply_rotary(x, table[0].expand(3, 5, 3), table[1].expand(3, 5, 3), interleaved=interleaved)
    torch.testing.assert_close(wide, expected)
    torch.testing.assert_close(apply_rotary(x[0, 0, 2], table[0][2], table[1][2], interleaved=interleaved), expected[0, 0, 2])


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_has_gradients_in_everything(interleaved):
    inputs = [draw(2, 3, 5).requires_grad_(), draw(3, 2, seed=1).requires_grad_(), draw(3, 2, seed=2).requires_grad_()]

    def function(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return apply_rotary(x, cos, sin, interleaved=interleaved)

    assert gradcheck(function, inputs) and gradgradcheck(function, inputs)


@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning")  # by gradcheck itself, in torch 2.6
@pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")  # PyTorch's own derivatives of derivatives
@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_differentiates_in_every_mode(interleaved):
    x, table = draw(2, 3, 4).requires_grad_(), rotary_cos_sin(torch.arange(3), rope_frequencies(4), dtype=F64)

    def function(x: Tensor) -> Tensor:
        return apply_rotary(x, *table, interleaved=interleaved)

    assert gradcheck(function, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, x, check_fwd_over_rev=True, check_rev_over_rev=True)
    columns = torch.stack([function(unit.view(2, 3, 4)).flatten() for unit in torch.eye(24, dtype=F64)], 1)
    for jacobian in (torch.func.jacfwd, torch.func.jacrev):
        torch.testing.assert_close(jacobian(function)(x.detach()).reshape(24, 24), columns)
    torch.testing.assert_close(
        torch.func.hessian(lambda x: function(x).square().sum() / 2)(x.detach()).reshape(24, 24), torch.eye(24, dtype=F64)
    )


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_backward_pass_keeps_no_copy_of_the_input(interleaved):
    x = torch.randn(64, 512, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    table = rotary_cos_sin(torch.arange(512), rope_frequencies(16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.numel()), lambda _: None):
        apply_rotary(x, *table, interleaved=interleaved)
    assert sum(kept) <= 4 * 512 * 8


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_maps_over_positions_and_over_vectors(interleaved):
    x, m, freqs = draw(4, 3, 6), torch.arange(12).view(4, 3), rope_frequencies(6)

    def function(x: Tensor, m: Tensor) -> Tensor:
        return apply_rotary(x, *rotary_cos_sin(m, freqs, dtype=F64), interleaved=interleaved)

    torch.testing.assert_close(torch.vmap(function)(x, m), function(x, m))
    torch.testing.assert_close(torch.vmap(function, in_dims=(None, 0))(x[0], m), torch.stack([function(x[0], p) for p in m]))
    torch.testing.assert_close(torch.vmap(function, in_dims=(1, None), out_dims=1)(x.mT.contiguous().mT, m[:, 0]),
                               torch.stack([function(x[:, i], m[:, 0]) for i in range(3)], 1))  # fmt: skip


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("size", [1e30, 1e-30, 1e-42, 0.0])
def test_rotation_survives_extreme_sizes(interleaved, size):
    x = torch.full((3, 4), size)
    y = apply_rotary(x, *rotary_cos_sin(torch.arange(3), rope_frequencies(4)), interleaved=interleaved)
    expected = apply_rotary(x.double(), *rotary_cos_sin(torch.arange(3), rope_frequencies(4), dtype=F64), interleaved=interleaved)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=3e-45)
    large = apply_rotary(torch.full((3, 4), 4e4, dtype=torch.float16), *rotary_cos_sin(torch.arange(3), rope_frequencies(4)))
    assert large.isfinite().all()


X, C = torch.ones(2, 3, 4), torch.ones(3, 2)
BAD_ROTATIONS = [
    (([1.0], C, C), {}, TypeError, "x"),
    ((X.long(), C, C), {}, TypeError, "x"),
    ((X.to(torch.complex64), C, C), {}, TypeError, "x"),
    ((X, 1.0, C), {}, TypeError, "cos"),
    ((X, C.long(), C), {}, TypeError, "cos"),
    ((X, C, None), {}, TypeError, "sin"),
    ((X, C, C.double()), {}, TypeError, "sin"),
    ((X, C, C[:, :1]), {}, ValueError, "sin"),
    ((X, C[:2], C[:2]), {}, ValueError, "cos"),
    ((X, torch.ones(3, 3), torch.ones(3, 3)), {}, ValueError, "cos"),
    ((X, torch.ones(5, 2, 3, 2), torch.ones(5, 2, 3, 2)), {}, ValueError, "cos"),
    ((X[:, :1], C, C), {}, ValueError, "cos"),
    ((X, torch.tensor(1.0), torch.tensor(1.0)), {}, ValueError, "cos"),
    ((torch.tensor(1.0), C, C), {}, ValueError, "cos"),
    ((X, C.to("meta"), C.to("meta")), {}, ValueError, "cos"),
    ((X, C, C.to("meta")), {}, ValueError, "sin"),
    ((X, C, C), {"interleaved": 1}, TypeError, "interleaved"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_ROTATIONS)
def test_bad_rotations_are_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name} "):
        apply_rotary(*args, **kwargs)


# --- the module -------------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 4), st.integers(0, 3), st.integers(-1000, 1000), st.integers(-1000, 1000), st.booleans())
def test_scores_depend_on_position_differences_only(seed, half, rest, first, shift, interleaved):
    rotary = RotaryEmbedding(2 * half, interleaved=interleaved)
    q, k = draw(5, 2 * half + rest, seed=seed), draw(5, 2 * half + rest, seed=seed + 1)
    m = first + torch.arange(5)
    scores = rotary(q, m) @ rotary(k, m).mT
    torch.testing.assert_close(rotary(q, m + shift) @ rotary(k, m + shift).mT, scores, rtol=1e-9, atol=1e-9)


def test_a_score_is_the_query_against_the_key_rotated_by_the_difference():
    rotary, q, k = RotaryEmbedding(6), draw(1, 6), draw(1, 6, seed=1)
    score = rotary(q, torch.tensor([9])) @ rotary(k, torch.tensor([4])).mT
    expected = q[0] @ dense_rotation(4 - 9, rope_frequencies(6)) @ k[0]
    torch.testing.assert_close(score.squeeze(), expected, rtol=0, atol=1e-13)


def test_position_zero_is_the_identity():
    x = draw(2, 1, 8, dtype=torch.float32)
    assert torch.equal(RotaryEmbedding(8)(x), x) and torch.equal(RotaryEmbedding(6, interleaved=False)(x), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
def test_a_grown_table_is_exact_and_kept(dtype):
    rotary = RotaryEmbedding(8)
    rotary(draw(5, 8, dtype=dtype))
    x = draw(1, 8, dtype=dtype)
    far = rotary(x, offset=5000)
    assert torch.equal(far, RotaryEmbedding(8)(x, torch.tensor([5000])))
    assert far.dtype == dtype
    size = sum(table[0].shape[0] for table in rotary._tables.values())
    rotary(x, offset=5001)
    grown = sum(table[0].shape[0] for table in rotary._tables.values())
    rotary(x, offset=9000)
    assert torch.equal(rotary(x, offset=rope._TABLE_ROWS), rotary(x, torch.tensor([rope._TABLE_ROWS])))
    assert torch.equal(rotary(x, offset=2**53), rotary(x, torch.tensor([2**53])))
    assert size == 5001 and grown == 10002 == sum(table[0].shape[0] for table in rotary._tables.values())


@pytest.mark.parametrize("interleaved", [True, False])
def test_offset_batches_and_heads_are_positions_written_differently(interleaved):
    rotary = RotaryEmbedding(4, 50.0, interleaved=interleaved)
    x = draw(2, 3, 5, 6)
    torch.testing.assert_close(rotary(x, offset=7), rotary(x, torch.arange(7, 12)), rtol=0, atol=1e-13)
    m = torch.tensor([[0, 1, 2, 3, 4], [-3, 7, 7, 0, 100]])
    each = torch.stack([rotary(row, p) for row, p in zip(x, m, strict=True)])
    torch.testing.assert_close(rotary(x, m), each)
    torch.testing.assert_close(rotary(x[:, 0], m), each[:, 0])
    torch.testing.assert_close(rotary(x.unsqueeze(1), m), each.unsqueeze(1))
    torch.testing.assert_close(rotary(x, m[1].double() / 4), rotary(x, m[1] / 4))


def test_partial_rotation_uses_the_frequencies_of_the_rotated_width():
    x = draw(3, 10)
    torch.testing.assert_close(RotaryEmbedding(4)(x)[:, :4], RotaryEmbedding(4)(x[:, :4]))
    assert torch.equal(RotaryEmbedding(4)(x)[:, 4:], x[:, 4:])


def test_both_layouts_are_one_map_up_to_the_order_of_features():
    x, order = draw(3, 5, 8), half_order(8)
    torch.testing.assert_close(RotaryEmbedding(8, interleaved=False)(x[..., order]), RotaryEmbedding(8)(x)[..., order])


def test_a_key_value_cache_gives_the_scores_of_one_pass():
    rotary, q, k = RotaryEmbedding(8), draw(2, 6, 8), draw(2, 6, 8, seed=1)
    cache = [rotary(k[:, i : i + 1], offset=i) for i in range(6)]
    last = rotary(q[:, 5:], offset=5) @ torch.cat(cache, 1).mT
    torch.testing.assert_close(last, (rotary(q) @ rotary(k).mT)[:, 5:])


def test_bfloat16_input_keeps_its_positions():
    # Integers above 256 are not bfloat16 numbers: code that forms positions in the dtype of x is off by more than 1 here.
    x = torch.ones(600, 64, dtype=torch.bfloat16)
    exact = RotaryEmbedding(64)(x.double())
    assert (RotaryEmbedding(64)(x) - exact).abs().max() < 4e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (RotaryEmbedding(64)(x.float()) - exact).abs().max() < 1e-6


def test_casting_the_module_changes_nothing():
    rotary, x = RotaryEmbedding(8), draw(300, 8)
    expected = rotary(x)
    for cast in (rotary.half, rotary.bfloat16, rotary.double, lambda: rotary.to(torch.float16)):
        cast()
        assert torch.equal(rotary(x), expected)
    assert list(rotary.parameters()) == [] and list(rotary.buffers()) == [] and rotary.state_dict() == {}
    rotary.load_state_dict({})


def test_copies_and_pickles_work_and_leave_the_table_behind():
    rotary = RotaryEmbedding(8, 500.0, interleaved=False)
    x = draw(1000, 8)
    expected = rotary(x)
    stored = pickle.dumps(rotary)
    assert len(stored) < 2000
    buffer = io.BytesIO()
    torch.save(rotary.state_dict(), buffer)
    for twin in (pickle.loads(stored), copy.deepcopy(rotary), copy.copy(rotary)):  # noqa: S301
        assert torch.equal(twin(x), expected)
        assert repr(twin) == repr(rotary) == "RotaryEmbedding(8, base=500, interleaved=False)"


@pytest.mark.parametrize("interleaved", [True, False])
def test_a_table_made_in_inference_mode_serves_training(interleaved):
    rotary = RotaryEmbedding(4, interleaved=interleaved)
    with torch.inference_mode():
        rotary(draw(9, 4))
    x = draw(9, 4).requires_grad_()
    rotary(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_module_has_gradients(interleaved):
    rotary = RotaryEmbedding(4, interleaved=interleaved)
    x, m = draw(2, 3, 5).requires_grad_(), draw(3, seed=1).requires_grad_()
    assert gradcheck(rotary, (x,)) and gradcheck(rotary, (x, m)) and gradgradcheck(rotary, (x, m))


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_compiled_module_is_one_graph_and_decodes_without_recompiling(interleaved):
    torch.compiler.reset()
    rotary = RotaryEmbedding(4, interleaved=interleaved)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(rotary, backend=backend, fullgraph=True)
    x = draw(2, 3, 1, 6)
    for step in range(12):
        torch.testing.assert_close(compiled(x, offset=step), rotary(x, offset=step))
    assert len(graphs) <= 3
    for step in range(12):
        torch.testing.assert_close(compiled(x, torch.tensor([step])), rotary(x, torch.tensor([step])))
    assert len(graphs) <= 4
    m = torch.tensor([0.5], requires_grad=True, dtype=F64)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, m).sum(), m), torch.autograd.grad(rotary(x, m).sum(), m))


def test_the_operator_of_the_compiled_graph_keeps_its_promises():
    torch.library.opcheck(rope._opaque_cos_sin, (torch.arange(6).view(2, 3), rope_frequencies(4), torch.float32))


def test_the_module_maps_and_takes_empty_input():
    rotary = RotaryEmbedding(4)
    assert rotary(torch.zeros(2, 0, 4)).shape == (2, 0, 4) and rotary(torch.zeros(0, 3, 6)).shape == (0, 3, 6)
    assert rotary(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).shape == (0, 4)
    x = draw(3, 5, 4)
    torch.testing.assert_close(torch.vmap(rotary)(x), rotary(x))
    assert rotary(torch.zeros(2, 4, device="meta")).device.type == "meta"


def test_nothing_touches_the_global_generator():
    before = torch.random.get_rng_state()
    x = draw(3, 4)
    rotary_linear_attention(RotaryEmbedding(4)(x), x, x, RotaryEmbedding(4), is_causal=True)
    assert torch.equal(before, torch.random.get_rng_state())


BAD_MODULES = [
    ((0,), {}, ValueError, "dim"),
    ((5,), {}, ValueError, "dim"),
    ((4.0,), {}, TypeError, "dim"),
    ((True,), {}, TypeError, "dim"),
    ((4, 0), {}, ValueError, "base"),
    ((4, float("nan")), {}, ValueError, "base"),
    ((4, "10000"), {}, TypeError, "base"),
    ((4,), {"interleaved": None}, TypeError, "interleaved"),
]
R = torch.ones(2, 3, 4)
BAD_FORWARDS = [
    ((None,), {}, TypeError, "x"),
    ((R.int(),), {}, TypeError, "x"),
    ((torch.ones(4),), {}, ValueError, "x"),
    ((torch.ones(3, 3),), {}, ValueError, "x"),
    ((R,), {"offset": -1}, ValueError, "offset"),
    ((R,), {"offset": 1.0}, TypeError, "offset"),
    ((R,), {"offset": True}, TypeError, "offset"),
    ((R,), {"offset": None}, TypeError, "offset"),
    ((R,), {"offset": 2**53 + 1}, ValueError, "offset"),
    ((R.to_sparse(),), {}, TypeError, "x"),
    ((R, torch.arange(3)), {"offset": 2}, ValueError, "offset"),
    ((R, torch.arange(4)), {}, ValueError, "positions"),
    ((R, torch.zeros(3, 3)), {}, ValueError, "positions"),
    ((R, torch.zeros(1, 2, 3)), {}, ValueError, "positions"),
    ((R[0], torch.zeros(2, 3)), {}, ValueError, "positions"),
    ((R[0], torch.zeros(3, 3)), {}, ValueError, "positions"),
    ((R, torch.tensor(1)), {}, ValueError, "positions"),
    ((R, [0, 1, 2]), {}, TypeError, "positions"),
    ((R, torch.tensor([True, False, True])), {}, TypeError, "positions"),
    ((R, torch.zeros(3, dtype=torch.complex64)), {}, TypeError, "positions"),
    ((R, torch.zeros(3, device="meta")), {}, ValueError, "positions"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_MODULES)
def test_bad_modules_are_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name} "):
        RotaryEmbedding(*args, **kwargs)


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_FORWARDS)
def test_bad_input_of_the_module_is_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name} "):
        RotaryEmbedding(4)(*args, **kwargs)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q_heads", "k_heads", "head_dim", "rotated"), [(2, 2, 6, 6), (4, 2, 8, 4), (3, 1, 5, 2)])
def test_reordered_weights_give_the_same_scores_in_the_other_layout(q_heads, k_heads, head_dim, rotated):
    x = draw(2, 7, 9)
    weights = draw(q_heads * head_dim, 9, seed=1), draw(k_heads * head_dim, 9, seed=2)
    biases = draw(q_heads * head_dim, seed=3), draw(k_heads * head_dim, seed=4)

    def scores(weights: list[Tensor], biases: list[Tensor], interleaved: bool) -> Tensor:
        rotary = RotaryEmbedding(rotated, interleaved=interleaved)
        q, k = (
            rotary((x @ w.mT + b).unflatten(-1, (-1, head_dim)).transpose(1, 2)) for w, b in zip(weights, biases, strict=True)
        )
        return q @ k.repeat_interleave(q_heads // k_heads, 1).mT

    heads = (q_heads, k_heads)
    moved = [
        [permute_rotary_weight(t, h, rotary_dim=rotated) for t, h in zip(pair, heads, strict=True)] for pair in (weights, biases)
    ]
    torch.testing.assert_close(scores(*moved, interleaved=False), scores(weights, biases, interleaved=True))
    if rotated > 2:
        wrong = scores(weights, biases, interleaved=False) - scores(weights, biases, interleaved=True)
        assert wrong.abs().max() > 0.1


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_the_two_directions_undo_each_other_and_the_tail_stays(heads, half, rest, direction):
    weight = torch.arange(heads * (2 * half + rest) * 2).view(-1, 2)
    before = weight.clone()
    there = permute_rotary_weight(weight, heads, rotary_dim=2 * half, to_interleaved=direction)
    assert torch.equal(permute_rotary_weight(there, heads, rotary_dim=2 * half, to_interleaved=not direction), weight)
    tails = [t.view(heads, -1, 2)[:, 2 * half :] for t in (there, weight)]
    assert torch.equal(*tails) and torch.equal(weight, before)


def test_reordering_keeps_dtype_and_gradient_and_makes_a_new_tensor():
    weight = torch.ones(4, 2, dtype=torch.bfloat16, requires_grad=True)
    moved = permute_rotary_weight(weight, 2)
    assert moved.dtype == torch.bfloat16 and moved.data_ptr() != weight.data_ptr()
    moved.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
    wide = draw(8, 2).requires_grad_()
    assert all(check(lambda w: permute_rotary_weight(w, 2, rotary_dim=2), wide) for check in (gradcheck, gradgradcheck))
    assert permute_rotary_weight(torch.arange(6), 1, to_interleaved=True).tolist() == [0, 3, 1, 4, 2, 5]


W = torch.ones(12, 3)
BAD_WEIGHTS = [
    (([1.0], 1), {}, TypeError, "weight"),
    ((torch.tensor(1.0), 1), {}, ValueError, "weight"),
    ((W, 5), {}, ValueError, "num_heads"),
    ((W, 0), {}, ValueError, "num_heads"),
    ((W, 2.0), {}, TypeError, "num_heads"),
    ((W, True), {}, TypeError, "num_heads"),
    ((W, 4), {}, ValueError, "rotary_dim"),
    ((W, 2), {"rotary_dim": 3}, ValueError, "rotary_dim"),
    ((W, 2), {"rotary_dim": 8}, ValueError, "rotary_dim"),
    ((W, 2), {"rotary_dim": 0}, ValueError, "rotary_dim"),
    ((W, 2), {"rotary_dim": 2.0}, TypeError, "rotary_dim"),
    ((W, 2), {"to_interleaved": 1}, TypeError, "to_interleaved"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_WEIGHTS)
def test_bad_weights_are_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name} "):
        permute_rotary_weight(*args, **kwargs)


# --- decay bound ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "base"), [(2, 10000.0), (16, 100.0), (128, 10000.0)])
def test_the_bound_is_a_mean_of_partial_sums(dim, base):
    freqs = rope_frequencies(dim, base)
    expected = []
    for m in (0, 1, 16, 256, -3):
        total, partial = 0.0, 0j
        for theta in freqs.tolist():
            partial += complex(mpmath.expj(m * theta))
            total += abs(partial)
        expected.append(total / (dim // 2))
    got = decay_bound(torch.tensor([0, 1, 16, 256, -3]), freqs)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=F64), rtol=1e-12, atol=0)


def test_the_bound_of_the_default_frequencies():
    got = decay_bound(torch.tensor([0, 1, 16, 64, 128, 256, 1024, 65536]), rope_frequencies(128))
    expected = torch.tensor([32.5, 31.538, 15.775, 10.090, 9.273, 6.543, 4.024, 4.892], dtype=F64)
    torch.testing.assert_close(got, expected, rtol=0, atol=6e-4)
    steps = decay_bound(torch.arange(257), rope_frequencies(128)).diff()
    assert int((steps > 0).sum()) == 115


@given(seeds, st.integers(1, 8), st.integers(-(10**6), 10**6))
def test_the_bound_is_even_and_stays_between_one_half_and_its_value_at_zero(seed, half, m):
    freqs = draw(half, seed=seed)
    value = decay_bound(torch.tensor(m), freqs)
    assert value.shape == () and 0.5 - 1e-9 <= value <= (half + 1) / 2 + 1e-9
    torch.testing.assert_close(decay_bound(torch.tensor(-m), freqs), value)


def test_the_lower_end_one_half_is_reached():
    freqs = torch.pi * torch.arange(6, dtype=F64)
    torch.testing.assert_close(decay_bound(torch.tensor([1, 3]), freqs), torch.full((2,), 0.5, dtype=F64), rtol=0, atol=1e-12)


def test_the_bound_has_gradients_and_keeps_shapes():
    m, freqs = draw(2, 3).requires_grad_(), draw(4, seed=1).requires_grad_()
    assert gradcheck(decay_bound, (m, freqs)) and gradgradcheck(decay_bound, (m, freqs))
    flat = torch.zeros(3, dtype=F64, requires_grad=True)
    decay_bound(torch.tensor([0, 0]), flat).sum().backward()
    assert torch.equal(flat.grad, torch.zeros(3, dtype=F64))
    assert decay_bound(torch.zeros(2, 0, 3), rope_frequencies(4)).shape == (2, 0, 3)
    assert decay_bound(torch.tensor(2**40), torch.ones(4, dtype=torch.float16)).dtype == F64


BAD_BOUNDS = [
    ((3, ONE), TypeError, "distance"),
    (([3], ONE), TypeError, "distance"),
    ((torch.tensor([True]), ONE), TypeError, "distance"),
    ((torch.tensor([1j]), ONE), TypeError, "distance"),
    ((ONE, [1.0]), TypeError, "freqs"),
    ((ONE, torch.tensor([1])), TypeError, "freqs"),
    ((ONE, torch.ones(0)), ValueError, "freqs"),
    ((ONE, torch.ones(1, 2)), ValueError, "freqs"),
    ((ONE, torch.ones(2, device="meta")), ValueError, "freqs"),
]


@pytest.mark.parametrize(("args", "error", "name"), BAD_BOUNDS)
def test_bad_bounds_are_refused_by_name(args, error, name):
    with pytest.raises(error, match=f"^{name} "):
        decay_bound(*args)


# --- linear attention -------------------------------------------------------------------------------------------------


def by_matrix(q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor, k_norm: Tensor, is_causal: bool) -> Tensor:
    weights, norms = q @ k.mT, q_norm @ k_norm.mT
    if is_causal:
        weights, norms = weights.tril(), norms.tril()
    return (weights / norms.sum(-1, keepdim=True)) @ v


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("n", "chunk_size", "seed"), [(1, 64, 0), (7, 3, 1), (64, 64, 2), (150, 64, 3), (5, 1, 4)])
def test_linear_attention_is_the_explicit_matrix(is_causal, n, chunk_size, seed):
    m = n if is_causal else n + 2
    q, k, v = draw(2, 3, n, 4, seed=seed), draw(2, 3, m, 4, seed=seed + 10), draw(2, 3, m, 5, seed=seed + 20)
    q_norm, k_norm = draw(2, 3, n, 6, seed=seed + 30).exp(), draw(2, 3, m, 6, seed=seed + 40).exp()
    got = linear_attention(q, k, v, q_norm=q_norm, k_norm=k_norm, is_causal=is_causal, chunk_size=chunk_size)
    torch.testing.assert_close(got, by_matrix(q, k, v, q_norm, k_norm, is_causal), rtol=1e-10, atol=1e-10)
    plain = linear_attention(q.abs(), k.abs(), v, is_causal=is_causal, chunk_size=chunk_size)
    torch.testing.assert_close(plain, by_matrix(q.abs(), k.abs(), v, q.abs(), k.abs(), is_causal), rtol=1e-10, atol=1e-10)


def test_one_of_the_two_norms_may_be_left_out():
    q, k, v = draw(3, 4).abs(), draw(3, 4, seed=1).abs(), draw(3, 2, seed=2)
    other = draw(3, 4, seed=3).abs()
    torch.testing.assert_close(linear_attention(q, k, v, q_norm=other), by_matrix(q, k, v, other, k, False))
    torch.testing.assert_close(linear_attention(q, k, v, k_norm=other), by_matrix(q, k, v, q, other, False))


@given(seeds, st.integers(1, 20), st.integers(1, 25))
def test_the_chunk_size_and_the_future_do_not_change_a_row(seed, n, chunk_size):
    q, k, v = draw(n, 3, seed=seed).abs(), draw(n, 3, seed=seed + 1).abs(), draw(n, 2, seed=seed + 2)
    got = linear_attention(q, k, v, is_causal=True, chunk_size=chunk_size)
    torch.testing.assert_close(got, linear_attention(q, k, v, is_causal=True), rtol=1e-9, atol=1e-9)
    k[n // 2 :] *= 1e30
    v[n // 2 :] -= 1e30
    changed = linear_attention(q, k, v, is_causal=True, chunk_size=chunk_size)
    torch.testing.assert_close(changed[: n // 2], got[: n // 2], rtol=1e-12, atol=1e-12)


@given(seeds, st.integers(1, 9), st.floats(-5, 5), st.floats(0.1, 10))
def test_positive_features_average_the_values(seed, n, shift, factor):
    q, k, v = draw(n, 3, seed=seed).exp(), draw(n, 3, seed=seed + 1).exp(), draw(n, 2, seed=seed + 2)
    out = linear_attention(q, k, v)
    assert (out <= v.amax(0) + 1e-9).all() and (out >= v.amin(0) - 1e-9).all()
    torch.testing.assert_close(linear_attention(factor * q, k, v + shift), out + shift, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("is_causal", [False, True])
def test_a_row_without_weight_is_zero_with_finite_gradients(is_causal):
    q, k, v = (t.requires_grad_() for t in (torch.zeros(4, 3), torch.ones(4, 3), torch.ones(4, 2)))
    out = linear_attention(q, k, v, is_causal=is_causal)
    assert torch.equal(out, torch.zeros(4, 2))
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (q, k, v))
    assert torch.equal(linear_attention(torch.ones(2, 3), torch.ones(0, 3), torch.ones(0, 5)), torch.zeros(2, 5))
    assert linear_attention(torch.ones(0, 3), torch.ones(0, 3), torch.ones(0, 5), is_causal=True).shape == (0, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("is_causal", [False, True])
def test_long_half_precision_sums_do_not_overflow_or_stall(dtype, is_causal):
    # 20000 features of size 16: the sum of squares passes the largest float16, and bfloat16 stops counting at 256.
    q = k = torch.full((20000, 2), 16.0, dtype=dtype)
    v = (torch.arange(20000) % 2).unsqueeze(-1).to(dtype)
    out = linear_attention(q, k, v, is_causal=is_causal)
    assert out.dtype == dtype
    torch.testing.assert_close(out[-1].float(), torch.tensor([0.5]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_the_size_of_the_features_cancels(is_causal, size):
    q, k, v = (draw(9, 3, seed=s, dtype=torch.float32).abs() for s in range(3))
    out = linear_attention(q, k, v, is_causal=is_causal)
    torch.testing.assert_close(linear_attention(q * size, k * size, v, is_causal=is_causal), out)


@pytest.mark.parametrize("is_causal", [False, True])
def test_linear_attention_has_gradients(is_causal):
    inputs = [draw(3, 2).exp(), draw(3, 2, seed=1).exp(), draw(3, 1, seed=2), draw(3, 1, seed=3).exp(), draw(3, 1, seed=4).exp()]
    for value in inputs:
        value.requires_grad_()

    def function(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return linear_attention(q, k, v, q_norm=a, k_norm=b, is_causal=is_causal, chunk_size=2)

    assert gradcheck(function, inputs) and (not is_causal or gradgradcheck(function, inputs, fast_mode=True))


def test_a_chunk_beyond_the_sequence_takes_no_memory():
    q = draw(5, 3).abs()
    huge = linear_attention(q, q, q, is_causal=True, chunk_size=2**62)
    torch.testing.assert_close(huge, linear_attention(q, q, q, is_causal=True, chunk_size=5))


def test_leading_axes_broadcast_and_layouts_do_not_matter():
    q, k, v = draw(2, 4, 7, 3).abs(), draw(2, 1, 7, 3, seed=1).abs(), draw(2, 1, 7, 5, seed=2)
    expected = linear_attention(q, k.expand(2, 4, 7, 3), v.expand(2, 4, 7, 5), is_causal=True, chunk_size=2)
    torch.testing.assert_close(linear_attention(q, k, v, is_causal=True, chunk_size=2), expected)
    strided = (t.mT.contiguous().mT for t in (q, k, v))
    torch.testing.assert_close(linear_attention(*strided, is_causal=True, chunk_size=2), expected)
    mapped = torch.vmap(lambda q, k, v: linear_attention(q, k, v, is_causal=True, chunk_size=2))(q, k, v)
    torch.testing.assert_close(mapped, expected)


@pytest.mark.parametrize("is_causal", [False, True])
def test_linear_attention_compiles_to_one_graph(is_causal):
    torch.compiler.reset()
    q, k, v = draw(9, 4), draw(9, 4, seed=1), draw(9, 2, seed=2)
    rotary = RotaryEmbedding(4)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return rotary_linear_attention(q, k, v, rotary, is_causal=is_causal, chunk_size=4)

    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), function(q, k, v))


L, V = torch.ones(3, 2), torch.ones(3, 4)
BAD_LINEAR = [
    (([1.0], L, V), {}, TypeError, "q"),
    ((L.long(), L, V), {}, TypeError, "q"),
    ((L[0], L, V), {}, ValueError, "q"),
    ((L, None, V), {}, TypeError, "k"),
    ((L, L.double(), V), {}, TypeError, "k"),
    ((L, torch.ones(3, 5), V), {}, ValueError, "k"),
    ((L, torch.ones(4, 2), torch.ones(4, 4)), {"is_causal": True}, ValueError, "k"),
    ((L, L.to("meta"), V), {}, ValueError, "k"),
    ((L, L, V.bfloat16()), {}, TypeError, "v"),
    ((L, L, torch.ones(4, 4)), {}, ValueError, "v"),
    ((L, L, V[0]), {}, ValueError, "v"),
    ((torch.ones(2, 3, 2), L, torch.ones(4, 3, 4)), {}, ValueError, "v"),
    ((L, L, V), {"q_norm": torch.ones(2, 2)}, ValueError, "q_norm"),
    ((L, L, V), {"q_norm": torch.ones(3, 2).int()}, TypeError, "q_norm"),
    ((L, L, V), {"k_norm": torch.ones(2, 2)}, ValueError, "k_norm"),
    ((L, L, V), {"k_norm": torch.ones(3, 5)}, ValueError, "k_norm"),
    ((L, L, V), {"k_norm": L.half()}, TypeError, "k_norm"),
    ((L, L, V), {"is_causal": 1}, TypeError, "is_causal"),
    ((L, L, V), {"chunk_size": 0}, ValueError, "chunk_size"),
    ((L, L, V), {"chunk_size": 2.0}, TypeError, "chunk_size"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_LINEAR)
def test_bad_linear_attention_is_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=f"^{name} "):
        linear_attention(*args, **kwargs)


# --- rotated linear attention -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("feature_map", [None, torch.exp, torch.sigmoid])
def test_only_the_numerator_is_rotated(is_causal, feature_map):
    rotary = RotaryEmbedding(4)
    q, k, v = draw(2, 8, 4), draw(2, 8, 4, seed=1), draw(2, 8, 3, seed=2)
    mapped = feature_map or (lambda x: torch.nn.functional.elu(x) + 1)
    fq, fk = mapped(q), mapped(k)
    expected = by_matrix(rotary(fq), rotary(fk), v, fq, fk, is_causal)
    got = rotary_linear_attention(q, k, v, rotary, feature_map=feature_map, is_causal=is_causal, chunk_size=3)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@given(seeds, st.integers(0, 500), st.booleans())
def test_shifting_all_positions_changes_nothing(seed, shift, is_causal):
    rotary = RotaryEmbedding(6)
    q, k, v = draw(5, 6, seed=seed), draw(5, 6, seed=seed + 1), draw(5, 2, seed=seed + 2)
    outputs = [rotary_linear_attention(q, k, v, lambda x, s=s: rotary(x, offset=s), is_causal=is_causal) for s in (0, shift)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)


@given(seeds, st.integers(1, 9), st.floats(-3, 3), st.booleans())
def test_rotated_linear_attention_is_linear_in_the_values_and_plain_without_rotation(seed, n, factor, is_causal):
    q, k, v, w = (draw(n, 4, seed=seed + i) for i in range(4))

    def attend(values: Tensor) -> Tensor:
        return rotary_linear_attention(q, k, values, RotaryEmbedding(4), feature_map=torch.sigmoid, is_causal=is_causal)

    torch.testing.assert_close(attend(v + factor * w), attend(v) + factor * attend(w), rtol=1e-9, atol=1e-9)
    plain = rotary_linear_attention(q, k, v, lambda x: x, feature_map=torch.sigmoid, is_causal=is_causal)
    torch.testing.assert_close(plain, linear_attention(q.sigmoid(), k.sigmoid(), v, is_causal=is_causal))


def test_constant_values_do_not_stay_constant():
    # The price of a rotated numerator: its weights do not sum to 1.
    ones = torch.ones(6, 6, dtype=F64)
    assert rotary_linear_attention(ones, ones, ones, RotaryEmbedding(6))[:, 0].std() > 0.01
    torch.testing.assert_close(rotary_linear_attention(ones, ones, ones, lambda x: x), ones)


def test_features_far_below_zero_keep_their_weight():
    # elu(x) + 1 computed as written is exactly 0 below -17 in float32.
    q, k, v = torch.full((3, 4), -30.0), torch.tensor([[-30.0] * 4, [-31.0] * 4]), torch.tensor([[1.0], [0.0]])
    out = rotary_linear_attention(q, k, v, lambda x: x)
    torch.testing.assert_close(out, torch.full((3, 1), 1 / (1 + torch.tensor(-1.0).exp().item())))


def test_rotated_linear_attention_has_gradients():
    q, k, v = (draw(3, 2, seed=s).requires_grad_() for s in range(3))
    assert gradcheck(lambda *a: rotary_linear_attention(*a, RotaryEmbedding(2), is_causal=True, chunk_size=2), (q, k, v))

    def smooth(*values: Tensor) -> Tensor:
        return rotary_linear_attention(*values, RotaryEmbedding(2), feature_map=torch.sigmoid, is_causal=True, chunk_size=2)

    assert gradgradcheck(smooth, (q, k, v), fast_mode=True)


ROTARY = RotaryEmbedding(2)
BAD_ROTARY_LINEAR = [
    ((L, L, V, None), {}, TypeError, "rotary"),
    ((L, L, V, 3), {}, TypeError, "rotary"),
    ((L, L, V, ROTARY), {"feature_map": "elu"}, TypeError, "feature_map"),
    ((L, L, V, lambda x: None), {}, TypeError, "rotary"),
    ((L, L, V, lambda x: x.long()), {}, TypeError, "rotary"),
    ((L, L, V, lambda x: x.half()), {}, TypeError, "rotary"),
    ((L, L, V, lambda x: x[..., :1]), {}, ValueError, "rotary"),
    ((L, L, V, lambda x: x[None]), {}, ValueError, "rotary"),
    ((L, L, V, lambda x: x.to("meta")), {}, ValueError, "rotary"),
    ((L, L, V, ROTARY), {"feature_map": lambda x: x.tolist()}, TypeError, "feature_map"),
    ((L, L, V, ROTARY), {"feature_map": Tensor.double}, TypeError, "feature_map"),
    ((L, L, V, ROTARY), {"feature_map": Tensor.sum}, ValueError, "feature_map"),
    ((L, L, V, ROTARY), {"feature_map": lambda x: x[:-1]}, ValueError, "feature_map"),
    ((L[0], L, V, ROTARY), {}, ValueError, "q"),
    ((L, L[0], V, ROTARY), {}, ValueError, "k"),
    ((1.0, L, V, ROTARY), {}, TypeError, "q"),
    ((L.int(), L, V, ROTARY), {}, TypeError, "q"),
    ((L, [1.0], V, ROTARY), {}, TypeError, "k"),
    ((L, L.half(), V, ROTARY), {}, TypeError, "k"),
    ((L, L, V[:2], ROTARY), {}, ValueError, "v"),
    ((L, L, V, ROTARY), {"is_causal": None}, TypeError, "is_causal"),
    ((L, L, V, ROTARY), {"chunk_size": -1}, ValueError, "chunk_size"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "name"), BAD_ROTARY_LINEAR)
def test_bad_rotated_linear_attention_is_refused_by_name(args, kwargs, error, name):
    with pytest.raises(error, match=rf"^{name}\b"):
        rotary_linear_attention(*args, **kwargs)


# --- frequencies of one's own, positions of rows, two feature maps


@pytest.mark.parametrize("interleaved", [True, False])
def test_own_frequencies_rotate_as_by_hand_and_survive_casts_and_copies(interleaved):
    freqs = rope_frequencies(6) / 4
    rotary = RotaryEmbedding(6, freqs=freqs.float(), interleaved=interleaved)
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = apply_rotary(x, *rotary_cos_sin(torch.arange(5), freqs.float(), dtype=torch.float64), interleaved=interleaved)
    for twin in (rotary, rotary.half(), copy.deepcopy(rotary), pickle.loads(pickle.dumps(rotary))):  # noqa: S301
        torch.testing.assert_close(twin(x), want, rtol=0, atol=1e-15)
        torch.testing.assert_close(twin(x, torch.arange(5)), want, rtol=0, atol=1e-15)
    assert not rotary.state_dict() and "freqs" in repr(rotary)
    # Linear interpolation: a quarter of the frequencies at four times the position.
    torch.testing.assert_close(RotaryEmbedding(6, freqs=freqs)(x, torch.arange(5) * 4), RotaryEmbedding(6)(x), rtol=0, atol=1e-14)
    freqs.zero_()
    assert rotary(x)[0, 1, 0] != x[0, 1, 0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: RotaryEmbedding(4, freqs=torch.ones(3)), ValueError, r"^freqs must have shape \(2,\), got \(3,\)$"),
        (lambda: RotaryEmbedding(4, freqs=[1.0, 2.0]), TypeError, "^freqs must be a tensor, got list$"),
        (lambda: RotaryEmbedding(4, freqs=torch.tensor([1, 2])), TypeError, "^freqs must be floating point"),
        (lambda: RotaryEmbedding(4, freqs=torch.tensor([1, torch.nan])), ValueError, "^freqs must be finite"),
        (lambda: RotaryEmbedding(4, freqs=torch.ones(2, requires_grad=True)), ValueError, "^freqs must not .*apply_rotary"),
        (lambda: RotaryEmbedding(4, 500.0, freqs=torch.ones(2)), ValueError, "^base must be left out .* got 500.0$"),
        (
            lambda: RotaryEmbedding(4)(torch.ones(3, 4), 5),
            TypeError,
            "^positions must be a tensor, got int; did you mean offset=5",
        ),
        (
            lambda: RotaryEmbedding(4)(torch.ones(2, 7, 3, 4), torch.ones(2, 7)),
            ValueError,
            r"^positions must have shape \(3,\), \(1, 3\) or \(2, 3\), got \(2, 7\); heads come before rows.*transpose\(1, 2\)",
        ),
    ],
)
def test_what_goes_wrong_with_positions_and_frequencies_says_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_positions_of_one_row_serve_the_batch():
    x = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    places, rotary = torch.tensor([3, -1, 7, 0, 2]), RotaryEmbedding(4)
    for rows in (places[None], places.expand(3, 5)):
        assert torch.equal(rotary(x, rows), rotary(x, places))


def test_linear_attention_may_map_queries_and_keys_differently_and_leaves_padding_out():
    q, k, v = (torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(3))
    got = rotary_linear_attention(q, k, v, RotaryEmbedding(4), feature_map=torch.exp, key_feature_map=torch.sigmoid)
    turn = RotaryEmbedding(4)
    scores, sums = turn(q.exp()) @ turn(k.sigmoid()).mT, (q.exp() @ k.sigmoid().mT).sum(-1, keepdim=True)
    torch.testing.assert_close(got, scores @ v / sums)
    real = torch.tensor([True, True, True, False, False])
    for causal in (False, True):
        short = rotary_linear_attention(*(x[:, : 5 if x is q and not causal else 3] for x in (q, k, v)), turn, is_causal=causal)
        whole = rotary_linear_attention(q, k, v, turn, key_mask=real, is_causal=causal)
        torch.testing.assert_close(whole[:, :3], short[:, :3])
    one = torch.ones(1, 2, 2)
    padded = rotary_linear_attention(
        one, one, torch.tensor([[[1.0], [0.0]]]), RotaryEmbedding(2), key_mask=torch.tensor([True, False])
    )
    assert padded[0, 0] == 1  # one real key of value 1
    with pytest.raises(ValueError, match=r"^key_mask must broadcast to \(2, 5\), got \(4,\)$"):
        linear_attention(q, k, v, key_mask=torch.ones(4) > 0)


def test_tables_of_a_fake_call_spoil_nothing_even_when_longer():
    rotary, x = RotaryEmbedding(4), torch.ones(3, 4)
    for length in (2, 9):
        with torch._subclasses.fake_tensor.FakeTensorMode():
            assert rotary(torch.empty(length, 4)).shape == (length, 4)
        assert torch.equal(rotary(x), RotaryEmbedding(4)(x))
