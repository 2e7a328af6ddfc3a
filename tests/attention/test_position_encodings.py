"""The position encodings against loops, closed forms and PyTorch's own attention."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from kexue.attention.position_encodings import (
    AbsolutePositions,
    ConvPositions,
    DebertaAttention,
    LearnedPositions,
    PositionAttention,
    RotaryAttention,
    ShawAttention,
    SinusoidalPositions,
    T5Attention,
    TransformerXLAttention,
    hierarchical,
    sinusoidal,
    t5_bucket,
)

HEADS, SIZE, REACH = 2, 4, 3
DOUBLE = torch.float64

RELATIVE: dict[str, Callable[[], PositionAttention]] = {
    "shaw": lambda: ShawAttention(SIZE, REACH, dtype=DOUBLE),
    "xl": lambda: TransformerXLAttention(HEADS, SIZE, dtype=DOUBLE),
    "t5": lambda: T5Attention(HEADS, num_buckets=12, max_distance=9, dtype=DOUBLE),
    "t5 one way": lambda: T5Attention(HEADS, num_buckets=6, max_distance=9, bidirectional=False, dtype=DOUBLE),
    "deberta": lambda: DebertaAttention(HEADS, SIZE, REACH, dtype=DOUBLE),
    "rotary": lambda: RotaryAttention(SIZE),
}
EVERY = {"plain": PositionAttention, **RELATIVE, "rotary values": lambda: RotaryAttention(SIZE, rotate_values=True)}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


def build(name: str, seed: int = 1) -> PositionAttention:
    """The encoding with parameters of order 1, so that no term can hide."""
    module = EVERY[name]()
    for i, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, generator=rng(100 * seed + i))
    return module


def heads(n: int, m: int, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(normal(batch, HEADS, rows, SIZE, seed=10 * seed + i) for i, rows in enumerate((n, m, m)))


def loop(module: PositionAttention, q: Tensor, k: Tensor, v: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Logits and output of one encoding, written as the formulas of the papers, one number at a time."""
    batch, num_heads, n, d = q.shape
    m = k.shape[2]
    logits, values = torch.zeros(batch, num_heads, n, m, dtype=DOUBLE), torch.zeros(batch, num_heads, n, m, d, dtype=DOUBLE)
    for b, h, i, j in np.ndindex(batch, num_heads, n, m):
        qi, kj, vj, distance = q[b, h, i], k[b, h, j], v[b, h, j], i + offset - j
        columns = slice(h * d, (h + 1) * d)
        if isinstance(module, ShawAttention):
            row = min(max(distance, -REACH), REACH) + REACH
            logits[b, h, i, j] = qi @ (kj + module.key_table[row]) / d**0.5
            values[b, h, i, j] = vj + module.value_table[row]
            continue
        values[b, h, i, j] = vj
        if isinstance(module, TransformerXLAttention):
            width = num_heads * d
            angle = [distance * 10000.0 ** (-2 * (c // 2) / width) for c in range(width)]
            code = torch.tensor([math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angle)], dtype=DOUBLE)
            key = (module.proj.weight @ code)[columns]
            logits[b, h, i, j] = (qi @ kj + qi @ key + module.u[h] @ kj + module.v[h] @ key) / d**0.5
        elif isinstance(module, T5Attention):
            bucket = float_bucket(-distance, module.bidirectional, module.num_buckets, module.max_distance)
            logits[b, h, i, j] = qi @ kj / d**0.5 + module.weight[bucket, h]
        elif isinstance(module, DebertaAttention):
            forth, back = (min(max(x + REACH, 0), 2 * REACH - 1) for x in (distance, -distance))
            key = (module.key_proj.weight @ module.embedding[forth])[columns]
            query = (module.query_proj.weight @ module.embedding[back])[columns]
            logits[b, h, i, j] = (qi @ kj + qi @ key + kj @ query) / (3 * d) ** 0.5
        elif isinstance(module, RotaryAttention):
            score = 0j
            for plane in range(d // 2):
                turn = np.exp(1j * distance * 10000.0 ** (-2 * plane / d))
                a, c = (complex(x[2 * plane], x[2 * plane + 1]) for x in (qi, kj))
                score += a * np.conj(c) * turn
            logits[b, h, i, j] = score.real / d**0.5
        else:
            logits[b, h, i, j] = qi @ kj / d**0.5
    return logits, torch.einsum("bhnm,bhnmd->bhnd", logits.softmax(-1), values)


def float_bucket(relative: int, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """T5's published formula; the tiny addend absorbs the rounding that a logarithm ratio has at exact borders."""
    shift = 0
    if bidirectional:
        num_buckets //= 2
        shift = num_buckets if relative > 0 else 0
        distance = abs(relative)
    else:
        distance = max(-relative, 0)
    exact = num_buckets // 2
    if distance < exact:
        return shift + distance
    ratio = math.log(distance / exact) / math.log(max_distance / exact)
    return shift + min(num_buckets - 1, exact + math.floor(ratio * (num_buckets - exact) + 1e-9))


# Absolute encodings


@pytest.mark.parametrize("dim", [2, 8, 66])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_entry_is_the_sine_or_cosine_of_position_times_frequency(dim: int, dtype: torch.dtype) -> None:
    positions = [0, 1, -3, 17, 4096, 999_983, 1_000_000]
    code = sinusoidal(torch.tensor(positions), dim, dtype=dtype)
    assert code.shape == (7, dim) and code.dtype == dtype
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    for row, k in zip(code.tolist(), positions, strict=True):
        for c, entry in enumerate(row):
            angle = k * 10000.0 ** (-2 * (c // 2) / dim)
            assert abs(entry - (math.cos(angle) if c % 2 else math.sin(angle))) <= tolerance


def test_real_positions_and_any_shape_and_base_are_allowed() -> None:
    positions = torch.tensor([[0.5, -2.25, 1e6]], dtype=DOUBLE, requires_grad=True)
    code = sinusoidal(positions, 4, 100.0, dtype=DOUBLE)
    assert code.shape == (1, 3, 4)
    torch.testing.assert_close(code[0, :, 2], (positions[0] / 10).sin())
    small = positions[:, :2].detach().requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: sinusoidal(x, 4, 100.0, dtype=DOUBLE), small)
    assert sinusoidal(torch.zeros(3, 0, dtype=torch.long), 6).shape == (3, 0, 6)


def test_the_sinusoid_solves_a_linear_differential_equation() -> None:
    omega = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    field = np.kron(np.diag(omega), [[0.0, 1.0], [-1.0, 0.0]])
    start = np.tile([0.0, 1.0], 4)
    expected = np.stack([expm(k * field) @ start for k in range(12)])
    np.testing.assert_allclose(SinusoidalPositions(8).table(12).numpy(), expected, atol=1e-12)


@given(st.integers(-2000, 2000), st.integers(-2000, 2000), st.integers(-2000, 2000))
def test_inner_products_of_sinusoids_depend_on_the_distance_only(m: int, n: int, shift: int) -> None:
    p = sinusoidal(torch.tensor([m, n, m + shift, n + shift]), 16, dtype=DOUBLE)
    assert abs(p[0] @ p[1] - p[2] @ p[3]) < 1e-10
    assert abs(p[0] @ p[0] - 8) < 1e-12


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.75, 0.999])
@pytest.mark.parametrize("length", [0, 1, 4, 5, 11, 16])
def test_a_stretched_row_is_the_weighted_sum_of_its_two_digits(alpha: float, length: int) -> None:
    table = normal(4, 3)
    stretched = hierarchical(table, length, alpha)
    u = (table - alpha * table[0]) / (1 - alpha)
    expected = torch.stack([alpha * u[k // 4] + (1 - alpha) * u[k % 4] for k in range(length)]) if length else table[:0]
    torch.testing.assert_close(stretched, expected, atol=1e-10, rtol=1e-10)
    assert torch.equal(stretched[:4], table[:length])


@given(st.integers(1, 7), st.integers(1, 5), st.floats(0.02, 0.98).filter(lambda a: abs(a - 0.5) > 1e-3), st.integers(0, 99))
def test_the_square_of_the_table_length_is_reached_without_two_equal_rows(n: int, dim: int, alpha: float, seed: int) -> None:
    table = normal(n, dim, seed=seed)
    rows = hierarchical(table, n * n, alpha)
    assert rows.shape == (n * n, dim)
    if n > 1:
        assert torch.pdist(rows).min() > 0
    for length in {0, n, n * n - 1}:
        assert torch.equal(hierarchical(table, length, alpha), rows[:length])


def test_neighbours_inside_a_block_keep_their_distance_and_alpha_scales_the_blocks() -> None:
    table = normal(5, 3)
    for alpha in (0.2, 0.4, 0.8):
        rows = hierarchical(table, 25, alpha).reshape(5, 5, 3)
        torch.testing.assert_close(rows - rows[:, :1], (table - table[0]).expand(5, 5, 3))
        torch.testing.assert_close(rows - rows[:1], (alpha / (1 - alpha) * (table - table[0]))[:, None].expand(5, 5, 3))


def test_the_stretched_table_is_differentiable_in_the_table() -> None:
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda t: hierarchical(t, 8), normal(3, 2).requires_grad_())


@given(st.integers(1, 6), st.integers(0, 36), st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 99))
def test_stretching_commutes_with_every_affine_map(n: int, length: int, scale: float, shift: float, seed: int) -> None:
    table, length = normal(n, 3, seed=seed), min(length, n * n)
    torch.testing.assert_close(hierarchical(scale * table + shift, length), scale * hierarchical(table, length) + shift)


def test_a_stretched_float16_row_overflows_only_if_it_does_not_fit() -> None:
    # The offset of the second block alone, 0.4 / 0.6 * 1.2e5, is no float16.
    rows = hierarchical(torch.tensor([[-6e4], [6e4]], dtype=torch.float16), 4)
    assert rows.flatten().tolist() == [-60000.0, 60000.0, 20000.0, math.inf]


ABSOLUTE: dict[str, Callable[..., AbsolutePositions]] = {
    "learned": lambda **options: LearnedPositions(20, 6, dtype=DOUBLE, **options),
    "hierarchical": lambda **options: LearnedPositions(5, 6, alpha=0.4, dtype=DOUBLE, **options),
    "sinusoidal": lambda **options: SinusoidalPositions(6, **options),
}


@pytest.mark.parametrize("name", ABSOLUTE)
@pytest.mark.parametrize("mode", ["add", "multiply", "concat"])
def test_a_sequence_handled_in_pieces_equals_the_sequence_handled_whole(name: str, mode: str) -> None:
    module = ABSOLUTE[name](mode=mode)
    x = normal(2, 3, 20, 9 if mode == "concat" else 6)
    whole = module(x)
    p = module.table(20).expand(2, 3, 20, 6)
    expected = {"add": x[..., :6] + p, "multiply": x[..., :6] * (1 + p), "concat": torch.cat([x, p], -1)}[mode]
    torch.testing.assert_close(whole, expected, atol=1e-14, rtol=1e-14)
    for cut in (0, 3, 7, 20):
        torch.testing.assert_close(torch.cat([module(x[..., :cut, :]), module(x[..., cut:, :], offset=cut)], -2), whole)
    torch.testing.assert_close(module(x[0, 0]), whole[0, 0])


@pytest.mark.parametrize("name", ABSOLUTE)
@given(
    st.integers(0, 12), st.integers(0, 12), st.integers(0, 8), st.sampled_from(["add", "multiply", "concat"]), st.integers(0, 99)
)
def test_any_cut_and_any_batch_give_the_same_rows(name: str, n: int, cut: int, start: int, mode: str, seed: int) -> None:
    module, x, cut = ABSOLUTE[name](mode=mode), normal(2, n, 6, seed=seed), min(cut, n)
    whole = module(x, offset=start)
    pieces = [module(x[:, :cut], offset=start), module(x[:, cut:], offset=start + cut)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    torch.testing.assert_close(torch.stack([module(row, offset=start) for row in x]), whole)
    if mode != "concat":  # affine in the content: what does not depend on it is the position
        torch.testing.assert_close(
            module(x + 1, offset=start) - whole, module(2 * x + 1, offset=start) - module(2 * x, offset=start)
        )


@pytest.mark.parametrize("mode", ["add", "multiply", "concat"])
@pytest.mark.parametrize("alpha", [None, 0.4])
def test_absolute_encodings_have_gradients_in_content_and_table(mode: str, alpha: float | None) -> None:
    module = LearnedPositions(3, 2, mode=mode, alpha=alpha, dtype=DOUBLE)
    arguments = (normal(2, 3, 2).requires_grad_(), normal(3, 2, seed=1).requires_grad_())
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, w: functional_call(module, {"weight": w}, (x,)), arguments)


@pytest.mark.parametrize("name", ABSOLUTE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_output_follows_the_dtype_of_the_input_and_the_input_is_left_alone(name: str, dtype: torch.dtype) -> None:
    module = ABSOLUTE[name]()
    x = normal(2, 8, 6).to(dtype)
    kept = x.clone()
    y = module(x)
    assert y.dtype == dtype and torch.equal(x, kept)
    torch.testing.assert_close(y, (kept.double() + module.table(8)).to(dtype), atol=8e-3, rtol=8e-3)
    assert module(x.mT.contiguous().mT).equal(y)
    assert module.to(dtype)(x).dtype == dtype


def test_multiplying_rounds_once_in_bfloat16() -> None:
    x = normal(50, 8).bfloat16()
    module = LearnedPositions(50, 8, mode="multiply", dtype=torch.bfloat16)
    exact = x.double() * (1 + module.weight.detach().double())
    half_unit = 2**-7.95 * exact.abs()
    assert ((module(x).double() - exact).abs() <= half_unit).all()
    assert ((x * (1 + module.weight) - exact).abs() > half_unit).any()
    assert LearnedPositions(4, 1, mode="multiply")(torch.full((4, 1), 1e38)).isfinite().all()


def test_a_multiplied_table_keeps_the_size_of_the_content() -> None:
    x = normal(512, 64)
    module = LearnedPositions(512, 64, mode="multiply", dtype=DOUBLE)
    nn.init.normal_(module.weight, std=0.02, generator=rng(3))
    assert 0.99 < module(x).norm() / x.norm() < 1.01
    assert 0.019 < (x * module.table(512)).norm() / x.norm() < 0.021


def test_nothing_exists_past_a_trained_table() -> None:
    module = LearnedPositions(5, 4)
    assert module(torch.zeros(5, 4)).shape == (5, 4)
    with pytest.raises(ValueError, match=r"^length must be at most max_length=5 .* got 6"):
        module(torch.zeros(6, 4))
    with pytest.raises(ValueError, match=r"^length"):
        module(torch.zeros(1, 4), offset=5)
    stretched = LearnedPositions(5, 4, alpha=0.4)
    assert stretched(torch.zeros(25, 4)).shape == (25, 4)
    with pytest.raises(ValueError, match=r"^length must be at most 5\*\*2 = 25"):
        stretched(torch.zeros(26, 4))


def test_a_subclass_supplies_only_its_table() -> None:
    class Counting(AbsolutePositions):
        def table(self, length: int) -> Tensor:
            return torch.arange(length)[:, None].float().expand(-1, self.dim)

    assert Counting(2)(torch.zeros(3, 2), offset=4)[:, 0].tolist() == [4, 5, 6]

    class Wrong(Counting):
        def table(self, length: int) -> Tensor:
            return super().table(length)[1:]

    with pytest.raises(ValueError, match=r"^table must have shape \(3, 2\), got \(2, 2\)"):
        Wrong(2)(torch.zeros(3, 2))
    with pytest.raises(NotImplementedError):
        AbsolutePositions(2).table(1)


def test_fixed_tables_are_not_in_the_checkpoint() -> None:
    assert SinusoidalPositions(4).state_dict() == {}
    assert RotaryAttention(4).state_dict() == {}
    assert set(LearnedPositions(3, 4).state_dict()) == {"weight"}
    assert set(TransformerXLAttention(1, 4).state_dict()) == {"u", "v", "proj.weight"}
    assert {name: tuple(p.shape) for name, p in ShawAttention(4, 3).state_dict().items()} == {
        "key_table": (7, 4),
        "value_table": (7, 4),
    }
    assert tuple(DebertaAttention(2, 4, 3).embedding.shape) == (6, 8)
    assert not T5Attention(2).weight.any()


# Convolution


@pytest.mark.parametrize(("kernel", "causal"), [(1, False), (3, False), (5, False), (4, True), (3, True)])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_zero_padding_is_a_cross_correlation_with_zeros_outside(kernel: int, causal: bool, n: int) -> None:
    module = ConvPositions(3, kernel, is_causal=causal, dtype=DOUBLE)
    x = normal(2, n, 3)
    left = kernel - 1 if causal else kernel // 2
    expected = x + module.bias
    for i in range(n):
        for tap in range(kernel):
            if 0 <= i - left + tap < n:
                expected[:, i] += module.weight[:, 0, tap] * x[:, i - left + tap]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_circular_padding_goes_round_as_often_as_needed(n: int) -> None:
    module = ConvPositions(2, 7, padding_mode="circular", dtype=DOUBLE)
    x = normal(n, 2)
    expected = x + module.bias + sum(module.weight[:, 0, t] * x.roll(3 - t, 0) for t in range(7))
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x.roll(1, 0)), module(x).roll(1, 0))


def test_a_stack_of_zero_padded_layers_knows_only_the_distance_from_the_border() -> None:
    generator = rng(5)
    for padding_mode, layers in (("zeros", 3), ("circular", 3)):
        x = torch.ones(24, 4, dtype=DOUBLE)
        for depth in range(1, layers + 1):
            layer = ConvPositions(4, 5, padding_mode=padding_mode, dtype=DOUBLE)
            nn.init.normal_(layer.weight, generator=generator)
            x = layer(x).tanh()
            marked = set(((x - x[12]).abs().amax(-1) > 1e-12).nonzero().flatten().tolist())
            reach = 2 * depth if padding_mode == "zeros" else 0
            assert marked == {i for i in range(24) if i < reach or i >= 24 - reach}


def test_a_symmetric_kernel_knows_distance_but_not_direction() -> None:
    module = ConvPositions(4, 5, dtype=DOUBLE)
    x = normal(20, 4)
    assert (module(x.flip(0)) - module(x).flip(0)).abs().max() > 0.01
    with torch.no_grad():
        module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
    torch.testing.assert_close(module(x.flip(0)), module(x).flip(0), atol=1e-14, rtol=0)


def test_a_causal_convolution_never_looks_ahead() -> None:
    module = ConvPositions(3, 4, is_causal=True, dtype=DOUBLE)
    x = normal(10, 3)
    changed = x.clone()
    changed[6:] += 1
    assert torch.equal(module(x)[:6], module(changed)[:6])


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_the_convolution_works_in_every_dtype_and_shape(padding_mode: str) -> None:
    module = ConvPositions(3, padding_mode=padding_mode, dtype=DOUBLE)
    x = normal(2, 5, 7, 3)
    y = module(x)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.04), (torch.float16, 5e-3)):
        assert (module(x.to(dtype)).double() - y).abs().max() < tolerance
        assert copy.deepcopy(module).to(dtype)(x.to(dtype)).dtype == dtype
    torch.testing.assert_close(module(x[1, 4]), y[1, 4])
    assert module(x[:, :, :0]).shape == (2, 5, 0, 3)
    assert module(x[:0]).shape == (0, 5, 7, 3)
    arguments = (normal(1, 4, 3).requires_grad_(), *(p.detach().clone().requires_grad_() for p in module.parameters()))
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, w, b: functional_call(module, {"weight": w, "bias": b}, (x,)), arguments)


@given(st.integers(1, 9), st.sampled_from([1, 3, 5, 7]), st.integers(-9, 9), st.integers(0, 99))
def test_a_circular_convolution_turns_with_its_input_and_is_affine(n: int, kernel: int, shift: int, seed: int) -> None:
    module = ConvPositions(2, kernel, padding_mode="circular", dtype=DOUBLE)
    x, y = normal(n, 2, seed=seed), normal(n, 2, seed=seed + 1)
    torch.testing.assert_close(module(x.roll(shift, 0)), module(x).roll(shift, 0))
    torch.testing.assert_close(module(x) + module(y), module(x + y) + module.bias)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 9), st.integers(0, 99))
def test_a_causal_convolution_of_a_prefix_is_a_prefix(n: int, kernel: int, cut: int, seed: int) -> None:
    module, x = ConvPositions(2, kernel, is_causal=True, dtype=DOUBLE), normal(n, 2, seed=seed)
    torch.testing.assert_close(module(x[:cut]), module(x)[:cut])


# Relative encodings


@pytest.mark.parametrize("name", EVERY)
def test_queries_begin_at_the_first_position_unless_told_otherwise(name: str) -> None:
    q, k, v = heads(4, 4)
    module = build(name)
    assert torch.equal(module.logits(q, k), module.logits(q, k, 0))
    weights = module.logits(q, k).softmax(-1)
    assert torch.equal(module.mix(weights, v), module.mix(weights, v, 0))
    assert torch.equal(module(q, k, v), module(q, k, v, q_offset=0))


def test_fresh_parameters_have_the_scale_of_their_docstring() -> None:
    torch.manual_seed(0)
    tables = [ShawAttention(64, 50).key_table, DebertaAttention(4, 16, 50).embedding, LearnedPositions(100, 64).weight]
    for table in tables:
        assert table.std().item() == pytest.approx(0.02, rel=0.05)
    conv = ConvPositions(2000, 4, is_causal=True)
    for parameter in (conv.weight, conv.bias):
        assert 0.48 < parameter.max().item() <= 0.5 and -0.5 <= parameter.min().item() < -0.48


def test_the_buckets_of_t5_are_those_of_the_paper_by_default() -> None:
    module, distances = T5Attention(2), torch.arange(-200, 201)
    assert module.weight.shape == (32, 2)
    expected = t5_bucket(distances, bidirectional=True, num_buckets=32, max_distance=128)
    assert torch.equal(t5_bucket(distances), expected) and (module.max_distance, module.bidirectional) == (128, True)


def test_a_trained_table_is_the_weight_itself() -> None:
    learned = LearnedPositions(5, 4)
    assert torch.equal(learned.table(3), learned.weight[:3]) and torch.equal(learned.table(5), learned.weight)


def test_tables_without_rows_are_empty() -> None:
    assert SinusoidalPositions(4).table(0).shape == (0, 4)
    assert hierarchical(torch.zeros(0, 3), 0).shape == (0, 3)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("n", "m", "offset", "seed"), [(5, 5, 0, 0), (1, 8, 7, 1), (3, 9, 2, 2), (7, 2, 0, 3)])
def test_logits_and_output_are_the_formula_of_the_paper(name: str, n: int, m: int, offset: int, seed: int) -> None:
    module = build(name, seed + 1)
    q, k, v = heads(n, m, seed, batch=1)
    with torch.no_grad():
        turned = v
        if name == "rotary values":
            angle = torch.arange(m)[:, None] * torch.tensor([1.0, 0.01], dtype=DOUBLE)
            turned = torch.view_as_real(
                torch.view_as_complex(v.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
            )
            turned = turned.flatten(-2)
        logits, output = loop(module, q, k, turned, offset)
        torch.testing.assert_close(module.logits(q, k, offset), logits, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(module(q, k, v, q_offset=offset), output, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("is_causal", [False, True])
def test_without_position_it_is_pytorchs_attention(is_causal: bool) -> None:
    q, k, v = heads(6, 6)
    mask = torch.rand(2, 1, 6, 6, generator=rng(1)) < 0.7
    mask |= torch.eye(6, dtype=torch.bool)
    module = PositionAttention()
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    torch.testing.assert_close(module(q, k, v, is_causal=is_causal), expected)
    both = mask & torch.ones(6, 6, dtype=torch.bool).tril() if is_causal else mask
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=both)
    torch.testing.assert_close(module(q, k, v, attn_mask=mask, is_causal=is_causal), expected)


def test_plain_attention_commutes_with_every_permutation_and_a_causal_mask_ends_that() -> None:
    x = normal(1, 1, 5, 4)
    module = PositionAttention()
    broken = 0.0
    for seed in range(20):
        order = torch.randperm(5, generator=rng(seed))
        shuffled = x[:, :, order]
        torch.testing.assert_close(module(shuffled, shuffled, shuffled), module(x, x, x)[:, :, order], atol=1e-12, rtol=0)
        defect = module(shuffled, shuffled, shuffled, is_causal=True) - module(x, x, x, is_causal=True)[:, :, order]
        broken = max(broken, float(defect.abs().max()))
    assert broken > 1e-3


@pytest.mark.parametrize("name", RELATIVE)
@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 6), st.integers(0, 6), st.integers(0, 50))
def test_logits_do_not_change_when_everything_moves(name: str, n: int, m: int, start: int, shift: int, seed: int) -> None:
    module = build(name)
    q, k, _ = heads(n, m + shift, seed % 5, batch=1)
    # Dropping the first keys and moving the queries back by as much leaves every distance alone.
    torch.testing.assert_close(
        module.logits(q, k, start + shift)[..., shift:], module.logits(q, k[:, :, shift:], start), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("name", RELATIVE)
def test_identical_tokens_have_logits_that_are_constant_along_diagonals_and_not_symmetric(name: str) -> None:
    q, k, _ = (x[:, :, :1].expand(-1, -1, 20, -1) for x in heads(1, 1))
    logits = build(name).logits(q, k)
    torch.testing.assert_close(logits[..., 1:, 1:], logits[..., :-1, :-1], atol=1e-10, rtol=0)
    assert (logits - logits.mT).abs().max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 4))
def test_decoding_with_a_cache_equals_the_whole_causal_pass(name: str, n: int, cut: int, seed: int) -> None:
    cut = min(cut, n)
    module = build(name)
    q, k, v = heads(n, n, seed, batch=1)
    whole = module(q, k, v, is_causal=True)
    first = module(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], is_causal=True)
    rest = module(q[:, :, cut:], k, v, is_causal=True, q_offset=cut)
    torch.testing.assert_close(torch.cat([first, rest], 2), whole, atol=1e-10, rtol=0)


def test_distances_beyond_the_clip_share_one_vector() -> None:
    q, k, _ = (x[:, :, :1].expand(-1, -1, 12, -1) for x in heads(1, 1))
    logits = build("shaw").logits(q, k)[0, 0]
    for side in (logits[:, 0], logits[0]):
        assert side[REACH:].max() - side[REACH:].min() < 1e-12
        assert (side[REACH] - side[REACH - 1]).abs() > 1e-3
    # DeBERTa's clip is asymmetric: distance K already shares the row of K - 1.
    module = build("deberta")
    nn.init.zeros_(module.query_proj.weight)
    back = module.logits(q, k)[0, 0]
    assert (back[REACH, 0] - back[REACH - 1, 0]).abs() < 1e-12
    assert (back[0, REACH] - back[0, REACH - 1]).abs() > 1e-3


def test_the_small_form_of_shaw_equals_the_tensor_of_all_pairs() -> None:
    module = build("shaw")
    q, k, v = heads(9, 11)
    index = (torch.arange(9)[:, None] - torch.arange(11)).clamp(-REACH, REACH) + REACH
    logits = torch.einsum("bhnd,bhnmd->bhnm", q, k[:, :, None] + module.key_table[index]) / SIZE**0.5
    expected = torch.einsum("bhnm,bhnmd->bhnd", logits.softmax(-1), v[:, :, None] + module.value_table[index])
    torch.testing.assert_close(module(q, k, v), expected)


def test_xl_without_its_parameters_is_plain_and_with_tied_ones_is_the_four_term_expansion() -> None:
    module = build("xl")
    q, k, _ = heads(6, 6)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(module.logits(q, k), PositionAttention().logits(q, k))
    # One head: x W_Q W_K^T x^T + x W_Q (R W_K)^T + u W_Q W_K^T x^T + v W_Q (R W_K)^T, values of the post's first step.
    single = TransformerXLAttention(1, 4, dtype=DOUBLE)
    x, wq, wk, u, v = normal(6, 4), normal(4, 4, seed=1), normal(4, 4, seed=2), normal(4, seed=3), normal(4, seed=4)
    with torch.no_grad():
        single.u.copy_((u @ wq)[None])
        single.v.copy_((v @ wq)[None])
        single.proj.weight.copy_(wk.T)
    code = sinusoidal(torch.arange(6)[:, None] - torch.arange(6), 4, dtype=DOUBLE)
    keys = x @ wk
    expected = (
        x @ wq @ keys.T
        + torch.einsum("id,ijd->ij", x @ wq, code @ wk)
        + (u @ wq) @ keys.T
        + torch.einsum("d,ijd->ij", v @ wq, code @ wk)
    )
    torch.testing.assert_close(single.logits((x @ wq)[None, None], keys[None, None])[0, 0], expected / 2)


def test_debertas_third_term_looks_up_the_pair_the_other_way_round() -> None:
    module = build("deberta")
    q, k, _ = heads(6, 6)
    nn.init.zeros_(module.key_proj.weight)
    third = module.logits(q, k) * (3 * SIZE) ** 0.5 - q @ k.mT
    rows = (module.embedding @ module.query_proj.weight.T).unflatten(-1, (HEADS, SIZE)).transpose(0, 1)
    distance = torch.arange(6)[:, None] - torch.arange(6)
    right, wrong = (
        torch.einsum("bhjd,hijd->bhij", k, rows[:, (sign * distance + REACH).clamp(0, 2 * REACH - 1)]) for sign in (-1, 1)
    )
    torch.testing.assert_close(third, right)
    assert (third - wrong).abs().max() > 0.01


def test_three_unit_variance_terms_need_the_factor_three() -> None:
    size, samples = 16, 40_000
    q, k, kr, qr = (normal(samples, size, seed=seed) for seed in range(4))
    total = (q * k + q * kr + k * qr).sum(-1)
    error = total.square().std() / samples**0.5
    assert abs(total.square().mean() - 3 * size) < 4 * error


def test_rotating_the_values_brings_the_absolute_position_back() -> None:
    q, k, v = (x[:, :, :1].expand(-1, -1, 6, -1) for x in heads(1, 1))
    assert (RotaryAttention(SIZE)(q, k, v) - v).abs().max() < 1e-9
    turned = RotaryAttention(SIZE, rotate_values=True)
    moved = torch.cat([v[:, :, :1]] + [v], 2)
    assert (turned(q, k, v)[0, 0, 0] - turned(q[:, :, :2], moved[:, :, :7], moved)[0, 0, 0]).abs().max() > 1e-3
    angle = torch.full((1, 1, 6, 6), 0.0, dtype=DOUBLE)
    angle[..., 2] = 1
    expected = turned.rotary(v[..., 2:3, :], offset=2).expand(-1, -1, 6, -1)
    torch.testing.assert_close(turned.mix(angle.expand(2, HEADS, 6, 6), v), expected)


@pytest.mark.parametrize("name", EVERY)
def test_a_query_with_nothing_to_attend_to_gives_zero_and_finite_gradients(name: str) -> None:
    module = build(name)
    q, k, v = (x.requires_grad_() for x in heads(4, 5))
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    output = module(q, k, v, attn_mask=mask)
    assert torch.equal(output[:, :, 1], torch.zeros(2, HEADS, SIZE, dtype=DOUBLE))
    output.square().sum().backward()
    for x in (q, k, v, *module.parameters()):
        assert x.grad is not None and x.grad.isfinite().all()
    assert not module(q, k[:, :, :0], v[:, :, :0]).any()
    assert module(q[:, :, :0], k, v).shape == (2, HEADS, 0, SIZE)
    assert module(q[:, :, :0], k[:, :, :0], v[:, :, :0]).shape == (2, HEADS, 0, SIZE)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_right_in_inputs_and_parameters(name: str) -> None:
    module = build(name)
    names = [key for key, _ in module.named_parameters()]
    mask = torch.tensor([True, True, False, True])

    def run(q: Tensor, k: Tensor, v: Tensor, *parameters: Tensor) -> Tensor:
        options = {"is_causal": True, "attn_mask": mask, "q_offset": 1}
        return functional_call(module, dict(zip(names, parameters, strict=True)), (q, k, v), options)

    inputs = [x[..., :2].detach() if name == "plain" else x for x in heads(3, 4, batch=1)]
    arguments = [x.clone().requires_grad_() for x in (*inputs, *(p.detach() for p in module.parameters()))]
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.08), (torch.float16, 0.01)])
def test_low_precision_stays_near_float64(name: str, dtype: torch.dtype, tolerance: float) -> None:
    module = build(name)
    q, k, v = heads(6, 8)
    kept = q.clone()
    expected = module(q, k, v)
    mixed = module(q.to(dtype), k.to(dtype), v.to(dtype))
    cast = copy.deepcopy(module).to(dtype)(q.to(dtype), k.to(dtype), v.to(dtype))
    assert mixed.dtype == cast.dtype == dtype and torch.equal(q, kept)
    assert (mixed.double() - expected).abs().max() < tolerance
    assert (cast.double() - expected).abs().max() < tolerance


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-30, 1e6, 1e100])
def test_extreme_queries_give_finite_outputs(name: str, scale: float) -> None:
    module = build(name)
    q, k, v = heads(4, 4)
    assert module(q * scale, k, v).isfinite().all()
    assert module(q, k * scale, v).isfinite().all()


def test_float16_scores_do_not_overflow_before_the_scaling() -> None:
    q = torch.full((1, 1, 2, 64), 50.0, dtype=torch.float16)
    assert PositionAttention().logits(q, q).eq(20_000).all()


@pytest.mark.parametrize("name", EVERY)
def test_modules_survive_copying_pickling_and_odd_memory_layouts(name: str) -> None:
    module = build(name)
    q, k, v = heads(4, 6)
    expected = module(q, k, v)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301
        assert torch.equal(twin(q, k, v), expected)
    fresh = EVERY[name]()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(q, k, v), expected)
    odd = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    torch.testing.assert_close(module(*odd), expected)
    assert type(module).__name__ in repr(module)


@pytest.mark.parametrize("name", [name for name in RELATIVE if name != "rotary"])
def test_stacked_models_run_under_vmap(name: str) -> None:
    modules = [build(name, seed) for seed in (1, 2, 3)]
    parameters, buffers = stack_module_state(modules)
    q, k, v = heads(4, 6)

    def run(values: dict[str, Tensor], q: Tensor) -> Tensor:
        return functional_call(modules[0], values, (q, k, v), {"is_causal": True})

    together = vmap(run)({**parameters, **buffers}, torch.stack([q, 2 * q, 3 * q]))
    alone = torch.stack([module(scale * q, k, v, is_causal=True) for scale, module in enumerate(modules, 1)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(vmap(run, in_dims=(0, None))({**parameters, **buffers}, q)[0], modules[0](q, k, v, is_causal=True))


@pytest.mark.parametrize("module", [ABSOLUTE["learned"], ABSOLUTE["hierarchical"], lambda: ConvPositions(6, 3, dtype=DOUBLE)])
def test_stacked_absolute_encodings_run_under_vmap(module: Callable[[], nn.Module]) -> None:
    modules = [module() for _ in range(3)]
    parameters, _ = stack_module_state(modules)
    x = normal(3, 2, 7, 6)
    together = vmap(lambda values, x: functional_call(modules[0], values, (x,)))(parameters, x)
    torch.testing.assert_close(together, torch.stack([f(row) for f, row in zip(modules, x, strict=True)]))


@pytest.mark.parametrize("name", ["plain", "shaw", "xl", "t5", "deberta", "rotary values"])
def test_one_graph_holds_the_whole_attention_and_decodes_without_recompiling(name: str) -> None:
    torch._dynamo.reset()
    module, graphs = build(name), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module, fullgraph=True, backend=backend)
    q, k, v = heads(1, 12)
    for step in range(5):
        options = {"is_causal": True, "q_offset": step}
        torch.testing.assert_close(compiled(q, k, v, **options), module(q, k, v, **options))
    assert len(graphs) <= 2


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("make", [np.uint8, np.int64, np.array, torch.tensor])
def test_an_offset_may_be_any_integer(name: str, make: Callable[[int], Any]) -> None:
    module = build(name)
    q, k, v = heads(2, 6)
    expected = module(q, k, v, is_causal=True, q_offset=2)
    assert torch.equal(module(q, k, v, is_causal=True, q_offset=make(2)), expected)
    assert torch.equal(module.logits(q, k, make(2)), module.logits(q, k, 2))
    with pytest.raises(ValueError, match=r"^q_offset must be at most 9007199254740992"):
        module(q, k, v, q_offset=2**53 + 1)


@pytest.mark.parametrize("name", ["shaw", "xl", "t5", "deberta"])
def test_inputs_must_be_where_the_parameters_are(name: str) -> None:
    inputs = heads(2, 2)
    with pytest.raises(ValueError, match=r"^q must be on the device of the parameters \(meta\), got cpu"):
        build(name).to("meta")(*inputs)
    with pytest.raises(ValueError, match=r"^q must be on the device of the parameters \(cpu\), got meta"):
        build(name)(*(x.to("meta") for x in inputs))
    with pytest.raises(ValueError, match=r"^attn must be on the device"):
        build(name).to("meta").mix(torch.ones(2, HEADS, 2, 2, dtype=DOUBLE), inputs[2])
    with pytest.raises(ValueError, match=r"^attn_mask must be on the device of q"):
        build(name)(*inputs, attn_mask=torch.ones(2, 2, dtype=torch.bool, device="meta"))


def test_one_graph_holds_every_absolute_encoding() -> None:
    torch._dynamo.reset()
    x = normal(2, 12, 6)
    modules = [f() for f in ABSOLUTE.values()] + [ConvPositions(6, padding_mode="circular", dtype=DOUBLE)]

    def run(x: Tensor) -> Tensor:
        return torch.stack([module(x) for module in modules])

    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="eager")(x), run(x))


def test_training_can_make_t5_copy_the_token_before() -> None:
    module = T5Attention(1, num_buckets=8, max_distance=9, dtype=DOUBLE)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.5)
    v = normal(4, 1, 10, 6)
    q = torch.zeros_like(v)
    for _ in range(60):
        loss = (module(q, q, v)[:, :, 1:] - v[:, :, :-1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3 and int(module.weight.argmax()) == 1


# Buckets


@pytest.mark.parametrize("bidirectional", [True, False])
def test_default_buckets_are_found_in_integer_arithmetic(bidirectional: bool) -> None:
    per_side = 16 if bidirectional else 32
    exact = per_side // 2
    steps = per_side - exact
    relative = torch.arange(-1500, 1501)
    bucket = t5_bucket(relative, bidirectional=bidirectional)
    assert bucket.dtype == torch.int64
    for r, got in zip(relative.tolist(), bucket.tolist(), strict=True):
        n = abs(r) if bidirectional else max(-r, 0)
        expected = n
        if n >= exact:
            k = max(k for k in range(steps) if n**steps * exact**k >= 128**k * exact**steps)
            expected = exact + k
        assert got == expected + (16 if bidirectional and r > 0 else 0)


def test_the_table_of_the_post_is_reproduced() -> None:
    table = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 9, 9, 9, 9, *[10] * 7, *[11] * 9, *[12] * 14, *[13] * 18, *[14] * 27, *[15] * 40]
    distance = torch.arange(len(table))
    assert t5_bucket(-distance).tolist() == table
    assert t5_bucket(distance[1:]).tolist() == [16 + bucket for bucket in table[1:]]


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 16), (64, 1000), (7, 20), (2, 5), (12, 9)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_agree_with_the_published_formula(num_buckets: int, max_distance: int, bidirectional: bool) -> None:
    if bidirectional and num_buckets < 4:
        num_buckets = 4
    relative = torch.arange(-1200, 1200)
    bucket = t5_bucket(relative, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    assert bucket.tolist() == [float_bucket(r, bidirectional, num_buckets, max_distance) for r in relative.tolist()]


@given(st.integers(2, 40), st.integers(1, 10_000), st.booleans())
def test_buckets_grow_with_the_distance_and_fill_their_range(per_side: int, beyond: int, bidirectional: bool) -> None:
    num_buckets, max_distance = per_side * (2 if bidirectional else 1), per_side // 2 + beyond
    options = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
    distance = torch.cat([torch.arange(200), torch.tensor([max_distance - 1, max_distance, 2**62])]).sort().values
    past = t5_bucket(-distance, **options)
    assert (past.diff() >= 0).all() and past[-1] == per_side - 1 and past[0] == 0
    assert t5_bucket(torch.tensor(-max_distance), **options) == per_side - 1
    future = t5_bucket(distance[1:], **options)
    assert torch.equal(future, past[1:] + per_side if bidirectional else torch.zeros_like(future))


@pytest.mark.parametrize("make", [np.uint8, np.int8, np.int64, torch.tensor])
def test_counts_of_narrow_types_do_not_overflow(make: Callable[[int], Any]) -> None:
    distance = torch.arange(-200, 200)
    assert torch.equal(t5_bucket(distance, num_buckets=make(32), max_distance=make(127)), t5_bucket(distance, max_distance=127))
    # One way, 127**15 is beyond int64: the search for the borders once never ended.
    one_way = {"bidirectional": False, "max_distance": make(127)}
    assert torch.equal(t5_bucket(distance, **one_way), t5_bucket(distance, bidirectional=False, max_distance=127))
    module = T5Attention(2, num_buckets=make(32), max_distance=make(127))
    assert repr(module) == repr(T5Attention(2, max_distance=127)) and type(module.num_buckets) is int


def test_the_smallest_integers_do_not_overflow() -> None:
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        info = torch.iinfo(dtype)
        assert t5_bucket(torch.tensor([info.min, info.max], dtype=dtype)).tolist() == [15, 31]
    assert t5_bucket(torch.zeros(2, 0, 3, dtype=torch.int32)).shape == (2, 0, 3)


# Errors

TABLE, IDS = torch.zeros(3, 2), torch.arange(3)
BAD_CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: sinusoidal([1, 2], 4), TypeError, "positions"),
    (lambda: sinusoidal(torch.tensor([True]), 4), TypeError, "positions"),
    (lambda: sinusoidal(torch.zeros(1, dtype=torch.complex64), 4), TypeError, "positions"),
    (lambda: sinusoidal(IDS, 5), ValueError, "dim"),
    (lambda: sinusoidal(IDS, 0), ValueError, "dim"),
    (lambda: sinusoidal(IDS, -2), ValueError, "dim"),
    (lambda: sinusoidal(IDS, 4.0), TypeError, "dim"),
    (lambda: sinusoidal(IDS, 4, 0.0), ValueError, "base"),
    (lambda: sinusoidal(IDS, 4, -1.0), ValueError, "base"),
    (lambda: sinusoidal(IDS, 4, math.inf), ValueError, "base"),
    (lambda: sinusoidal(IDS, 4, "ten"), TypeError, "base"),
    (lambda: sinusoidal(IDS, 4, dtype=torch.int64), TypeError, "dtype"),
    (lambda: sinusoidal(IDS, 4, dtype="float32"), TypeError, "dtype"),
    (lambda: hierarchical([[1.0]], 1), TypeError, "table"),
    (lambda: hierarchical(IDS[:, None], 1), TypeError, "table"),
    (lambda: hierarchical(torch.zeros(3), 1), ValueError, "table"),
    (lambda: hierarchical(TABLE, 10), ValueError, "length"),
    (lambda: hierarchical(TABLE, -1), ValueError, "length"),
    (lambda: hierarchical(TABLE, 2.0), TypeError, "length"),
    (lambda: hierarchical(TABLE, True), TypeError, "length"),
    (lambda: hierarchical(TABLE[:0], 1), ValueError, "length"),
    (lambda: hierarchical(TABLE, 2, 0.5), ValueError, "alpha"),
    (lambda: hierarchical(TABLE, 2, 0.0), ValueError, "alpha"),
    (lambda: hierarchical(TABLE, 2, 1.0), ValueError, "alpha"),
    (lambda: hierarchical(TABLE, 2, math.nan), ValueError, "alpha"),
    (lambda: hierarchical(TABLE, 2, "0.4"), TypeError, "alpha"),
    (lambda: t5_bucket([1, 2]), TypeError, "relative_position"),
    (lambda: t5_bucket(torch.zeros(2)), TypeError, "relative_position"),
    (lambda: t5_bucket(torch.tensor([True])), TypeError, "relative_position"),
    (lambda: t5_bucket(IDS, bidirectional=1), TypeError, "bidirectional"),
    (lambda: t5_bucket(IDS, num_buckets=3), ValueError, "num_buckets"),
    (lambda: t5_bucket(IDS, num_buckets=1, bidirectional=False), ValueError, "num_buckets"),
    (lambda: t5_bucket(IDS, num_buckets=32.0), TypeError, "num_buckets"),
    (lambda: t5_bucket(IDS, max_distance=8), ValueError, "max_distance"),
    (lambda: t5_bucket(IDS, max_distance=16, bidirectional=False), ValueError, "max_distance"),
    (lambda: t5_bucket(IDS, max_distance=0), ValueError, "max_distance"),
    (lambda: t5_bucket(IDS, max_distance=128.0), TypeError, "max_distance"),
    (lambda: AbsolutePositions(0), ValueError, "dim"),
    (lambda: AbsolutePositions(2.0), TypeError, "dim"),
    (lambda: AbsolutePositions(2, mode="sum"), ValueError, "mode"),
    (lambda: AbsolutePositions(2, mode=None), TypeError, "mode"),
    (lambda: LearnedPositions(0, 2), ValueError, "max_length"),
    (lambda: LearnedPositions(True, 2), TypeError, "max_length"),
    (lambda: LearnedPositions(3, 0), ValueError, "dim"),
    (lambda: LearnedPositions(3, "2"), TypeError, "dim"),
    (lambda: LearnedPositions(3, 2, mode="ADD"), ValueError, "mode"),
    (lambda: LearnedPositions(3, 2, alpha=0.5), ValueError, "alpha"),
    (lambda: LearnedPositions(3, 2, alpha=1.5), ValueError, "alpha"),
    (lambda: LearnedPositions(3, 2, alpha="x"), TypeError, "alpha"),
    (lambda: LearnedPositions(3, 2).table(4), ValueError, "length"),
    (lambda: LearnedPositions(3, 2).table(-1), ValueError, "length"),
    (lambda: LearnedPositions(3, 2).table(1.0), TypeError, "length"),
    (lambda: LearnedPositions(3, 2, alpha=0.4).table(10), ValueError, "length"),
    (lambda: LearnedPositions(3, 2)(TABLE.long()), TypeError, "x"),
    (lambda: LearnedPositions(3, 2)([0.0]), TypeError, "x"),
    (lambda: LearnedPositions(3, 2)(torch.zeros(2)), ValueError, "x"),
    (lambda: LearnedPositions(3, 2)(torch.zeros(3, 4)), ValueError, "x"),
    (lambda: LearnedPositions(3, 2)(TABLE[:1], offset=-1), ValueError, "offset"),
    (lambda: LearnedPositions(3, 2)(TABLE[:1], offset=0.5), TypeError, "offset"),
    (lambda: SinusoidalPositions(3), ValueError, "dim"),
    (lambda: SinusoidalPositions(0), ValueError, "dim"),
    (lambda: SinusoidalPositions(2.0), TypeError, "dim"),
    (lambda: SinusoidalPositions(2, 0), ValueError, "base"),
    (lambda: SinusoidalPositions(2, math.nan), ValueError, "base"),
    (lambda: SinusoidalPositions(2, None), TypeError, "base"),
    (lambda: SinusoidalPositions(2, mode="times"), ValueError, "mode"),
    (lambda: SinusoidalPositions(2).table(-1), ValueError, "length"),
    (lambda: SinusoidalPositions(2).table("1"), TypeError, "length"),
    (lambda: SinusoidalPositions(2)(torch.zeros(3, 4)), ValueError, "x"),
    (lambda: SinusoidalPositions(2, mode="concat")(torch.zeros(3)), ValueError, "x"),
    (lambda: SinusoidalPositions(2)(TABLE, offset=-1), ValueError, "offset"),
    (lambda: SinusoidalPositions(2)(TABLE, offset=True), TypeError, "offset"),
    (lambda: ConvPositions(0), ValueError, "dim"),
    (lambda: ConvPositions(2.0), TypeError, "dim"),
    (lambda: ConvPositions(2, 4), ValueError, "kernel_size"),
    (lambda: ConvPositions(2, 0), ValueError, "kernel_size"),
    (lambda: ConvPositions(2, -3), ValueError, "kernel_size"),
    (lambda: ConvPositions(2, 3.0), TypeError, "kernel_size"),
    (lambda: ConvPositions(2, padding_mode="reflect"), ValueError, "padding_mode"),
    (lambda: ConvPositions(2, padding_mode=0), TypeError, "padding_mode"),
    (lambda: ConvPositions(2, padding_mode="circular", is_causal=True), ValueError, "padding_mode"),
    (lambda: ConvPositions(2, is_causal=1), TypeError, "is_causal"),
    (lambda: ConvPositions(2)(torch.zeros(2)), ValueError, "x"),
    (lambda: ConvPositions(2)(torch.zeros(3, 3)), ValueError, "x"),
    (lambda: ConvPositions(2)(IDS[:, None]), TypeError, "x"),
    (lambda: ConvPositions(2, device="meta")(TABLE), ValueError, "x"),
    (lambda: LearnedPositions(3, 2, device="meta")(TABLE), ValueError, "x"),
    (lambda: LearnedPositions(3, 2)(TABLE[:1], offset=2**60), ValueError, "offset"),
    *[
        (lambda c=c, a=a, o=o: c(*a, **o), error, next(iter(o)))
        for c, a in (
            (LearnedPositions, (3, 2)),
            (ConvPositions, (2,)),
            (ShawAttention, (4, 3)),
            (TransformerXLAttention, (2, 4)),
            (T5Attention, (2,)),
            (DebertaAttention, (2, 4, 3)),
        )
        for o, error in (({"device": "nonsense"}, ValueError), ({"device": 1.5}, TypeError), ({"dtype": torch.int64}, TypeError))
    ],
    (lambda: ShawAttention(0, 3), ValueError, "head_dim"),
    (lambda: ShawAttention(4.0, 3), TypeError, "head_dim"),
    (lambda: ShawAttention(4, 0), ValueError, "max_distance"),
    (lambda: ShawAttention(4, -2), ValueError, "max_distance"),
    (lambda: ShawAttention(4, None), TypeError, "max_distance"),
    (lambda: TransformerXLAttention(0, 4), ValueError, "num_heads"),
    (lambda: TransformerXLAttention(1.0, 4), TypeError, "num_heads"),
    (lambda: TransformerXLAttention(2, 0), ValueError, "head_dim"),
    (lambda: TransformerXLAttention(3, 3), ValueError, "head_dim"),
    (lambda: TransformerXLAttention(2, 2, base=0.0), ValueError, "base"),
    (lambda: TransformerXLAttention(2, 2, base="x"), TypeError, "base"),
    (lambda: T5Attention(0), ValueError, "num_heads"),
    (lambda: T5Attention(True), TypeError, "num_heads"),
    (lambda: T5Attention(2, num_buckets=3), ValueError, "num_buckets"),
    (lambda: T5Attention(2, num_buckets="32"), TypeError, "num_buckets"),
    (lambda: T5Attention(2, max_distance=8), ValueError, "max_distance"),
    (lambda: T5Attention(2, max_distance=9.5), TypeError, "max_distance"),
    (lambda: T5Attention(2, bidirectional=None), TypeError, "bidirectional"),
    (lambda: DebertaAttention(0, 4, 3), ValueError, "num_heads"),
    (lambda: DebertaAttention(2.0, 4, 3), TypeError, "num_heads"),
    (lambda: DebertaAttention(2, 0, 3), ValueError, "head_dim"),
    (lambda: DebertaAttention(2, "4", 3), TypeError, "head_dim"),
    (lambda: DebertaAttention(2, 4, 0), ValueError, "max_distance"),
    (lambda: DebertaAttention(2, 4, False), TypeError, "max_distance"),
    (lambda: RotaryAttention(5), ValueError, "head_dim"),
    (lambda: RotaryAttention(0), ValueError, "head_dim"),
    (lambda: RotaryAttention(4.0), TypeError, "head_dim"),
    (lambda: RotaryAttention(4, 0.0), ValueError, "base"),
    (lambda: RotaryAttention(4, math.inf), ValueError, "base"),
    (lambda: RotaryAttention(4, "x"), TypeError, "base"),
    (lambda: RotaryAttention(4, rotate_values=1), TypeError, "rotate_values"),
]


@pytest.mark.parametrize(("call", "error", "argument"), BAD_CALLS)
def test_a_bad_argument_is_refused_by_name(call: Callable[[], Any], error: type[Exception], argument: str) -> None:
    with pytest.raises(error, match=f"^{argument} must"):
        call()


Q = torch.zeros(1, HEADS, 3, SIZE)
BAD_INPUTS: list[tuple[Callable[[PositionAttention], Any], type[Exception], str]] = [
    (lambda a: a([0.0], Q, Q), TypeError, "q"),
    (lambda a: a(Q.long(), Q, Q), TypeError, "q"),
    (lambda a: a(Q[0], Q, Q), ValueError, "q"),
    (lambda a: a(Q[..., :0], Q, Q), ValueError, "q"),
    (lambda a: a(Q, None, Q), TypeError, "k"),
    (lambda a: a(Q, Q.double(), Q), TypeError, "k"),
    (lambda a: a(Q, Q[0], Q), ValueError, "k"),
    (lambda a: a(Q, Q[..., :2], Q), ValueError, "k"),
    (lambda a: a(Q, Q[:, :1], Q), ValueError, "k"),
    (lambda a: a(Q, Q.expand(2, -1, -1, -1), Q), ValueError, "k"),
    (lambda a: a(Q, Q, Q.int()), TypeError, "v"),
    (lambda a: a(Q, Q, Q.double()), TypeError, "v"),
    (lambda a: a(Q, Q, Q[:, :, :2]), ValueError, "v"),
    (lambda a: a(Q, Q, Q[..., :2]), ValueError, "v"),
    (lambda a: a(Q, Q, Q, attn_mask=torch.zeros(3, 3)), TypeError, "attn_mask"),
    (lambda a: a(Q, Q, Q, attn_mask=torch.ones(3, 4, dtype=torch.bool)), ValueError, "attn_mask"),
    (lambda a: a(Q, Q, Q, is_causal=1), TypeError, "is_causal"),
    (lambda a: a(Q, Q, Q, q_offset=-1), ValueError, "q_offset"),
    (lambda a: a(Q, Q, Q, q_offset=1.0), TypeError, "q_offset"),
    (lambda a: a.logits(Q, Q, -1), ValueError, "q_offset"),
    (lambda a: a.logits(Q, Q[..., :2]), ValueError, "k"),
    (lambda a: a.mix(torch.zeros(1, 2, 3), Q), ValueError, "attn"),
    (lambda a: a.mix(torch.zeros(1, 2, 3, 3, dtype=torch.long), Q), TypeError, "attn"),
    (lambda a: a.mix(torch.zeros(1, 2, 3, 4), Q), ValueError, "v"),
    (lambda a: a.mix(torch.zeros(1, 2, 3, 3), Q.double()), TypeError, "v"),
    (lambda a: a.mix(torch.zeros(1, 2, 3, 3), Q, -1), ValueError, "q_offset"),
]


@pytest.mark.parametrize("name", EVERY)
def test_every_encoding_refuses_bad_inputs_by_name(name: str) -> None:
    module = build(name).float()
    for call, error, argument in BAD_INPUTS:
        with pytest.raises(error, match=f"^{argument} must"):
            call(module)


@pytest.mark.parametrize("name", ["shaw", "xl", "deberta", "rotary"])
def test_head_sizes_must_be_those_of_the_module(name: str) -> None:
    module = build(name).float()
    wide = torch.zeros(1, HEADS, 3, SIZE + 2)
    with pytest.raises(ValueError, match=re.escape(f"q must have shape (batch, 2, n, {SIZE}), got (1, 2, 3, {SIZE + 2})")):
        module(wide, wide, wide)
    with pytest.raises(ValueError, match=r"^v must"):
        module.mix(torch.zeros(1, HEADS, 3, 3), wide)


@pytest.mark.parametrize("name", ["xl", "t5", "deberta"])
def test_the_number_of_heads_must_be_that_of_the_module(name: str) -> None:
    more = torch.zeros(1, HEADS + 1, 3, SIZE)
    with pytest.raises(ValueError, match=r"^q must have shape \(batch, 2, n"):
        build(name).float()(more, more, more)


def test_nothing_draws_from_the_global_generator_after_construction() -> None:
    modules = [build(name) for name in EVERY]
    state = torch.get_rng_state()
    for module in modules:
        module(*heads(3, 3))
    SinusoidalPositions(4)(torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), state)


# --- positions of rows, padded rows


@pytest.mark.parametrize("mode", ["add", "multiply", "concat"])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: LearnedPositions(9, 6, mode=m),
        lambda m: LearnedPositions(3, 6, mode=m, alpha=0.4),
        lambda m: SinusoidalPositions(6, mode=m),
    ],
)
def test_positions_pick_the_rows_that_offsets_give(make, mode):
    encoding = make(mode).double()
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.stack([encoding(x[..., i % 4, None, :].clone(), offset=i)[..., 0, :] for i in range(9)], -2)
    assert torch.equal(encoding(x, positions=torch.arange(4)), encoding(x))
    assert torch.equal(encoding(x, positions=torch.arange(4)[None]), encoding(x))
    assert torch.equal(encoding(x, positions=torch.tensor([4, 1, 6, 3])), whole[..., [4, 1, 6, 3], :])
    both = torch.tensor([[0, 1, 2, 3], [8, 5, 2, 7]])
    want = torch.stack([whole[i][:, row] for i, row in enumerate(both)])
    torch.testing.assert_close(encoding(x, positions=both), want, rtol=0, atol=1e-15)


def test_positions_without_a_vector_are_refused_by_name():
    x = torch.ones(1, 2, 4)
    for positions in (torch.tensor([0, 3]), torch.tensor([-1, 0])):
        with pytest.raises(ValueError, match=r"^positions must lie in \[0, 2\], got"):
            LearnedPositions(3, 4)(x, positions=positions)
    with pytest.raises(TypeError, match=r"^positions must be an integer tensor, got torch.float32$"):
        LearnedPositions(3, 4)(x, positions=torch.ones(2))
    with pytest.raises(ValueError, match=r"^offset must be 0 when positions are given, got 1$"):
        SinusoidalPositions(4)(x, positions=torch.ones(2), offset=1)


def test_a_table_of_a_subclass_serves_positions_too():
    class Steps(AbsolutePositions):
        def table(self, length):
            return torch.arange(float(length))[:, None].expand(length, self.dim)

    assert Steps(2)(torch.zeros(3, 2), positions=torch.tensor([5, 0, 2]))[:, 0].tolist() == [5, 0, 2]
    with pytest.raises(ValueError, match=r"^positions must lie in"):
        Steps(2)(torch.zeros(1, 2), positions=torch.tensor([-1]))


@pytest.mark.parametrize("options", [{}, {"is_causal": True, "kernel_size": 4}, {"padding_mode": "circular", "kernel_size": 5}])
def test_the_border_of_a_padded_row_is_its_own(options):
    layer = ConvPositions(3, **options).double()
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    out = layer(x.masked_fill(~mask[..., None], math.nan), mask=mask)
    for i, n in enumerate((6, 3, 1, 0)):
        torch.testing.assert_close(out[i, :n], layer(x[i, :n]))
    assert out[~mask].isnan().all()  # as it came
    left = mask.flip(1)
    if not options:
        torch.testing.assert_close(layer(x, mask=left)[1, 3:], layer(x[1, 3:]))
    elif "padding_mode" in options:
        with pytest.raises(ValueError, match=r"^mask must be True up to"):
            layer(x, mask=left)
