"""Rotary position embedding: an absolute operation on queries and keys whose effect in attention is relative.

Source: "The Road to Transformer Upgrades, 2: rotary position embedding, drawing on many strengths" (kexue.fm/archives/8265);
Su et al. (2021), arXiv:2104.09864; linear attention after Katharopoulos et al. (2020), arXiv:2006.16236.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kexue import _check
from kexue.attention._mask import real_keys

__all__ = [
    "rope_frequencies",
    "rotary_cos_sin",
    "apply_rotary",
    "RotaryEmbedding",
    "permute_rotary_weight",
    "decay_bound",
    "linear_attention",
    "rotary_linear_attention",
]

# The reciprocal of a subnormal number overflows.
_SMALLEST = sys.float_info.min
# A cached table has at most this many rows: half a gigabyte in float32 at 128 rotated features.
_TABLE_ROWS = 2**20


def rope_frequencies(dim: int, base: float = 10000.0, *, device: torch.device | str | None = None) -> Tensor:
    r"""Angular frequencies of the rotation planes, :math:`\theta_i = \mathrm{base}^{-2i/\mathrm{dim}}`, radians per position.

    Args:
        dim: number of rotated features, positive and even.
        base: ratio between the fastest and the (extrapolated) slowest plane, positive.
        device: where the result lives.
    Returns:
        float64 (float32 on a device without it), shape ``(dim // 2,)``, starting at 1.
    Raises:
        TypeError: ``dim`` is not an integer, ``base`` not a number, or ``device`` none.
        ValueError: ``dim`` is not positive and even, ``base`` is not positive and finite (and not subnormal), or ``device`` is
            unknown.

    >>> rope_frequencies(4)
    tensor([1.0000, 0.0100], dtype=torch.float64)
    """
    dim, base, device = _even("dim", dim), _base(base), _check.device("device", device)
    place = device if device is None else _check.float64_device(device)
    freqs = torch.pow(base, torch.arange(0, dim, 2, dtype=torch.float64, device=place) / -dim)
    return freqs if place == device else freqs.to(device, torch.float32)


def _base(value: float) -> float:
    return _check.number("base", value, _SMALLEST)


def _even(name: str, value: int) -> int:
    if _check.count(name, value, minimum=2) % 2:
        raise ValueError(f"{name} must be even, got {value}")
    return int(value)


def rotary_cos_sin(positions: Tensor, freqs: Tensor, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    r"""Cosine and sine of the angles :math:`m\theta_i`.

    Product and trigonometry run in float64 (on the CPU for devices without it) and are rounded once: an angle formed in float32
    is already off by 0.03 radians at position :math:`10^6`, and bfloat16 cannot even hold the integers above 256.

    Args:
        positions: :math:`m`, integer or real, any sign, any shape; float32 or float64 if real.
        freqs: :math:`\theta_i`, floating point, shape ``(h,)``, radians per position; on the device of ``positions`` or the CPU.
        dtype: floating dtype of the result.
    Returns:
        ``(cos, sin)``, each of shape ``(*positions.shape, h)``, on the device of ``positions``; differentiable in ``freqs`` and
        in real ``positions``. In float32 the absolute error stays below 1e-7 up to :math:`|m| = 2^{24}` (for ``|freqs| <= 1``).
    Raises:
        TypeError: ``positions`` is not a real tensor or in half precision, ``freqs`` not a floating tensor, or ``dtype`` not a
            floating dtype.
        ValueError: ``freqs`` is not one-dimensional or lives on another device.

    >>> rotary_cos_sin(torch.tensor([0, 3]), torch.tensor([1.0]))[0]
    tensor([[ 1.0000],
            [-0.9900]])
    """
    _check.position_tensor("positions", positions)
    _check.floating("freqs", freqs, ndim=1)
    _check.floating_dtype("dtype", dtype)
    if freqs.device.type != "cpu":
        _check.same_device("freqs", freqs, "positions", positions)
    place = _check.float64_device(positions.device)
    angles = positions.to(place, torch.float64).unsqueeze(-1) * freqs.to(place, torch.float64)
    return angles.cos().to(positions.device, dtype), angles.sin().to(positions.device, dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = True) -> Tensor:
    r"""Rotate the first ``2 * cos.shape[-1]`` features of ``x`` plane by plane; the others pass through bit for bit.

    Plane :math:`i` holds the features :math:`(2i, 2i+1)` if ``interleaved``, else :math:`(i, i + r/2)` of the :math:`r` rotated
    ones, and :math:`(x_a, x_b)` becomes :math:`(x_a\cos - x_b\sin,\ x_b\cos + x_a\sin)`.

    Args:
        x: floating point, shape ``(..., n, D)``.
        cos, sin: as from :func:`rotary_cos_sin`, shape ``(..., n, r / 2)`` with ``r <= D``; the leading axes broadcast to those
            of ``x`` and never enlarge it.
        interleaved: the feature layout. Both are the same map up to the order of features (:func:`permute_rotary_weight`).
    Returns:
        Shape, dtype and device of ``x``. Computed in the widest of float32 and the three dtypes, rounded once. Differentiable in
        ``x``, ``cos`` and ``sin``; in ``x`` the gradient is rotated back.
    Raises:
        TypeError: an argument is not a floating tensor, ``sin`` has another dtype than ``cos``, ``interleaved`` is not a bool.
        ValueError: ``cos`` has too many features or does not broadcast to ``x``, ``sin`` has not the shape of ``cos``, or the
            devices differ.

    >>> quarter_turn = torch.tensor([0.0]), torch.tensor([1.0])
    >>> apply_rotary(torch.tensor([[1.0, 2.0, 3.0]]), *quarter_turn)
    tensor([[-2.,  1.,  3.]])
    """
    _check.floating("x", x)
    _check.floating("cos", cos)
    _check.alike("sin", _check.floating("sin", sin), "cos", cos)
    _check.flag("interleaved", interleaved)
    _check.same_device("cos", cos, "x", x)
    if sin.shape != cos.shape:
        raise ValueError(f"sin must have the shape of cos {tuple(cos.shape)}, got {tuple(sin.shape)}")
    if not (0 < cos.ndim <= x.ndim and all(c in (1, m) for c, m in zip(cos.shape[:-1], x.shape[-cos.ndim : -1], strict=True))):
        raise ValueError(f"cos must broadcast to the leading axes of x {tuple(x.shape)}, got shape {tuple(cos.shape)}")
    rotated = 2 * cos.shape[-1]
    if rotated > x.shape[-1]:
        raise ValueError(f"cos must have at most {x.shape[-1] // 2} features for x {tuple(x.shape)}, got {cos.shape[-1]}")
    if rotated < x.shape[-1]:
        head = _rotate(x[..., :rotated], cos, sin, interleaved)
        return torch.cat((head, x[..., rotated:]), -1)
    return _rotate(x, cos, sin, interleaved)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(x.dtype, cos.dtype), torch.float32)
    wide, cos, sin = x.to(dtype), cos.to(dtype), sin.to(dtype)
    half = cos.shape[-1]
    if not interleaved:
        out = _rotate_halves(wide, cos, sin)
    elif torch.compiler.is_compiling():
        # The compiler fuses real arithmetic into one kernel and leaves complex numbers unfused.
        a, b = wide[..., 0::2], wide[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        # One complex product makes no temporary: several times faster than strided halves.
        planes = _as_complex(wide.reshape(*wide.shape[:-1], half, 2))
        out = torch.view_as_real(planes * torch.complex(cos, sin)).flatten(-2)
    return out.to(x.dtype)


def _rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    if torch.compiler.is_compiling() or _in_transform() or cos.requires_grad or sin.requires_grad or _has_tangent(x, cos, sin):
        a, b = x[..., :half], x[..., half:]
        return torch.addcmul(torch.cat((b * -sin, a * sin), -1), x, torch.cat((cos, cos), -1))
    if torch.is_grad_enabled() and x.requires_grad:
        rotated: Tensor = _HalfSplit.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return rotated
    # One new tensor and no temporary.
    out = x * torch.cat((cos, cos), -1)
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out


# Whether vmap, grad, jvp and their like are at work, which have no rule for addcmul_; a later PyTorch may not tell.
_in_transform = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _has_tangent(*tensors: Tensor) -> bool:
    """Whether a forward derivative is on its way through one of them."""
    return any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


class _HalfSplit(torch.autograd.Function):
    # Autograd would copy the gradient at each write in place; here it is rotated back.

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate_halves(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate_halves(grad, cos, -sin), None, None


def _as_complex(pairs: Tensor) -> Tensor:
    try:
        return torch.view_as_complex(pairs)
    except RuntimeError:  # odd strides or offset: no such view exists
        return torch.view_as_complex(pairs.clone(memory_format=torch.contiguous_format))


class RotaryEmbedding(nn.Module):
    r"""Rotate queries or keys by their positions: scores of rotated vectors depend on position differences only.

    :math:`(\mathcal R_m q)^\top (\mathcal R_n k) = q^\top \mathcal R_{n-m} k`. The module has no parameters and an empty
    ``state_dict``; casting it (``.half()``) changes nothing, the input's dtype decides. With a key-value cache, rotate each key
    once, with its own position, and the new queries and keys with ``offset`` equal to the length of the cache. Rows are the last
    but one axis: a tensor ``(B, n, H, D)`` is rotated as ``rotary(x.transpose(1, 2)).transpose(1, 2)``; as it is, it would be
    rotated along its heads, and nothing could tell.

    Args:
        dim: number of rotated features, positive and even.
        base: the frequencies are ``rope_frequencies(dim, base)``, also when ``x`` has more than ``dim`` features.
        interleaved: see :func:`apply_rotary`.
        freqs: frequencies of your own in the place of those of ``base``, floating point, shape ``(dim / 2,)``, finite, radians per
            position, any device; a copy is kept. ``rope_frequencies(dim) / 4`` interpolates positions to a quarter. To train
            them, call :func:`rotary_cos_sin` and :func:`apply_rotary`.
    Raises:
        TypeError, ValueError: as :func:`rope_frequencies`; ``interleaved`` is not a bool; ``freqs`` is no floating tensor, has
            another shape, is not finite, requires a gradient, or is given together with a ``base``.

    >>> rotary = RotaryEmbedding(4)
    >>> x = torch.ones(3, 4, dtype=torch.float64)
    >>> bool(torch.isclose(rotary(x)[2] @ rotary(x)[0], rotary(x, offset=70)[2] @ rotary(x, offset=70)[0]))
    True
    """

    def __init__(self, dim: int, base: float = 10000.0, *, interleaved: bool = True, freqs: Tensor | None = None) -> None:
        super().__init__()
        self.dim = _even("dim", dim)
        self.base = _base(base)
        self.interleaved = _check.flag("interleaved", interleaved)
        # In float64 on the CPU and no buffer: a cast of the module must not touch it.
        self._freqs = None if freqs is None else _own_frequencies(freqs, self.dim, self.base)
        # Not buffers: a cast of the module would destroy them, and a table that grows must not enter a checkpoint.
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, positions: Tensor | None = None, *, offset: int = 0) -> Tensor:
        """Rotate ``x``.

        Args:
            x: floating point, shape ``(..., n, D)`` with ``D >= dim``; features past ``dim`` pass through.
            positions: integer or real (float32 or float64), any sign, shape ``(n,)``, or ``(B, n)`` or ``(1, n)`` for ``x`` of
                shape ``(B, ..., n, D)``; on the device of ``x``. None means ``offset, ..., offset + n - 1``, read from a cached
                table that grows on demand (to 2^20 rows; what lies beyond is computed at every call).
            offset: position of the first row when ``positions`` is None, not negative; by name only.
        Returns:
            Shape, dtype and device of ``x``; float64 in, float64 accuracy out. Differentiable in ``x`` and in real ``positions``.
        Raises:
            TypeError: ``x`` is not floating point, ``positions`` not a real tensor or in half precision, ``offset`` not an
                integer.
            ValueError: ``x`` has fewer than two axes or ``dim`` features; ``positions`` has the wrong shape or device; ``offset``
                is negative, above 2^53, or given together with ``positions``.
        """
        _check.floating("x", x)
        if x.ndim < 2 or x.shape[-1] < self.dim:
            raise ValueError(f"x must have shape (..., n, D) with D >= {self.dim}, got {tuple(x.shape)}")
        offset = _check.position("offset", offset)
        if positions is None:
            cos, sin = self._consecutive(x, offset)
        else:
            cos, sin = self._explicit(x, positions)
            if offset:
                raise ValueError(f"offset must be 0 when positions are given, got {offset}")
        return apply_rotary(x, cos, sin, interleaved=self.interleaved)

    if TYPE_CHECKING:
        __call__ = forward

    def _consecutive(self, x: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        end = offset + x.shape[-2]
        # Growing a table is a side effect that a compiled graph cannot have; a fake tensor must not meet the table of real ones.
        if torch.compiler.is_compiling() or end > _TABLE_ROWS or x.is_meta or type(x) not in (Tensor, nn.Parameter):
            return self._computed(torch.arange(offset, end, device=x.device), dtype)
        table = self._tables.get((x.device, dtype))
        if table is None or table[0].shape[0] < end:
            # A table built in inference mode would be unusable in the training step that comes after it.
            with torch.inference_mode(False), torch.no_grad():
                rows = torch.arange(end if table is None else max(end, 2 * table[0].shape[0]), device="cpu")
                cos, sin = rotary_cos_sin(rows, self._frequencies(rows.device), dtype=dtype)
                table = cos.to(x.device), sin.to(x.device)
            if _check.keepable(*table):
                self._tables[x.device, dtype] = table
        return table[0][offset:end], table[1][offset:end]

    def _explicit(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self._computed(_check.row_positions("positions", positions, "x", x), torch.promote_types(x.dtype, torch.float32))

    def _frequencies(self, place: torch.device) -> Tensor:
        place = _check.float64_device(place)
        return rope_frequencies(self.dim, self.base, device=place) if self._freqs is None else self._freqs.to(place)

    def _computed(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        freqs = self._frequencies(positions.device)
        if torch.compiler.is_compiling() and not positions.requires_grad:
            cos, sin = _opaque_cos_sin(positions, freqs, dtype)
            return cos, sin
        return rotary_cos_sin(positions, freqs, dtype=dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def extra_repr(self) -> str:
        source = f"base={self.base:g}" if self._freqs is None else "freqs=..."
        return f"{self.dim}, {source}, interleaved={self.interleaved}"


def _own_frequencies(freqs: Tensor, dim: int, base: float) -> Tensor:
    _check.shape("freqs", _check.readable("freqs", _check.floating("freqs", freqs)), (dim // 2,))
    if freqs.requires_grad:
        raise ValueError("freqs must not require a gradient, which would be lost: call rotary_cos_sin and apply_rotary instead")
    if not bool(freqs.isfinite().all()):
        raise ValueError("freqs must be finite, got NaN or infinity")
    if base != 10000.0:
        raise ValueError(f"base must be left out when freqs are given, got {base}")
    return freqs.to("cpu", torch.float64, copy=True)


@torch.library.custom_op("kexue::rotary_cos_sin", mutates_args=())
def _opaque_cos_sin(positions: Tensor, freqs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    # Left to itself the compiler fuses the float64 trigonometry into the rotation and repeats it for every batch entry and head.
    return rotary_cos_sin(positions, freqs, dtype=dtype)


@_opaque_cos_sin.register_fake
def _(positions: Tensor, freqs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    table = positions.new_empty((*positions.shape, *freqs.shape), dtype=dtype)
    return table, torch.empty_like(table)


def permute_rotary_weight(
    weight: Tensor, num_heads: int, *, rotary_dim: int | None = None, to_interleaved: bool = False
) -> Tensor:
    """Reorder the rows of a query or key projection between the two layouts of :func:`apply_rotary`.

    Loading weights of one layout into code of the other runs without a complaint and is wrong. After reordering both projections,
    the scores are what they were in the layout the weights were trained with.

    Args:
        weight: any dtype, shape ``(num_heads * d, ...)``: the weight or bias of the projection.
        num_heads: heads of this projection; for keys of grouped-query attention, the number of key heads.
        rotary_dim: rotated features per head, even, at most ``d``; None means ``d``. Rows past them stay in place.
        to_interleaved: False turns interleaved into half-split, True half-split into interleaved; each undoes the other.
    Returns:
        A new tensor of the shape, dtype and device of ``weight``.
    Raises:
        TypeError: ``weight`` is not a tensor, ``num_heads`` or ``rotary_dim`` not an integer, ``to_interleaved`` not a bool.
        ValueError: ``weight`` has no axis, ``num_heads`` does not divide its rows, ``rotary_dim`` is odd, below 2 or above ``d``.

    >>> permute_rotary_weight(torch.arange(6), 1)
    tensor([0, 2, 4, 1, 3, 5])
    """
    _check.tensor("weight", weight)
    heads = _check.count("num_heads", num_heads)
    _check.flag("to_interleaved", to_interleaved)
    if weight.ndim == 0:
        raise ValueError("weight must have at least one axis, got a scalar")
    if weight.shape[0] % heads:
        raise ValueError(f"num_heads must divide the {weight.shape[0]} rows of weight, got {heads}")
    per_head = weight.shape[0] // heads
    rotated = _even("rotary_dim", per_head if rotary_dim is None else rotary_dim)
    if rotated > per_head:
        raise ValueError(f"rotary_dim must be at most the {per_head} features of a head, got {rotated}")
    rows = weight.reshape(heads, per_head, *weight.shape[1:])
    planes = (2, rotated // 2) if to_interleaved else (rotated // 2, 2)
    swapped = rows[:, :rotated].reshape(heads, *planes, *weight.shape[1:]).transpose(1, 2)
    if rotated == per_head:
        return swapped.clone(memory_format=torch.contiguous_format).flatten(0, 2)
    return torch.cat((swapped.flatten(1, 2), rows[:, rotated:]), 1).flatten(0, 1)


def decay_bound(distance: Tensor, freqs: Tensor) -> Tensor:
    r"""Mean of the partial sums :math:`|S_1|, \dots, |S_h|` with :math:`S_i = \sum_{j<i} e^{\mathrm i m\theta_j}`.

    Abel summation bounds a score at distance :math:`m` by :math:`h \max_i |h_{i+1}-h_i|` times this number. It describes content
    that tapers to 0 towards the slow planes, not scores in general, and never falls below 1/2.

    Args:
        distance: :math:`m`, integer or real (float32 or float64), any sign, any shape.
        freqs: :math:`\theta_i`, floating point, shape ``(h,)``, ``h >= 1``, in the order of summation.
    Returns:
        float64 (float32 on a device without it), the shape of ``distance``, between 1/2 and ``(h + 1) / 2``; differentiable in
        ``freqs`` and in real ``distance`` (gradient 0 where a partial sum vanishes).
    Raises:
        TypeError: ``distance`` is not a real tensor or in half precision, ``freqs`` not a floating tensor.
        ValueError: ``freqs`` is not one-dimensional, is empty, or lives on another device.

    >>> decay_bound(torch.tensor([0, 256]), rope_frequencies(128))
    tensor([32.5000,  6.5431], dtype=torch.float64)
    """
    _check.position_tensor("distance", distance)
    if _check.floating("freqs", freqs, ndim=1).numel() == 0:
        raise ValueError(f"freqs must hold at least one frequency, got shape {tuple(freqs.shape)}")
    _check.same_device("freqs", freqs, "distance", distance)
    place = _check.float64_device(distance.device)
    cos, sin = rotary_cos_sin(distance.to(place), freqs.to(place), dtype=torch.float64)
    mean = torch.complex(cos, sin).cumsum(-1).abs().mean(-1)
    return mean if place == distance.device else mean.to(distance.device, torch.float32)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    key_mask: Tensor | None = None,
    is_causal: bool = False,
    chunk_size: int = 64,
) -> Tensor:
    r"""Attention with the bilinear weight :math:`q_i^\top k_j`, in time linear in the length.

    .. math:: o_i = \frac{\sum_j (q_i^\top k_j)\, v_j}{\sum_j \hat q_i^\top \hat k_j}

    with :math:`\hat q, \hat k` = ``q_norm``, ``k_norm``. The denominator has features of its own, so that the numerator may be
    rotated; the trick of a column of ones in ``v`` is only right where both share their features.

    Args:
        q: features of the queries (already mapped), floating point, shape ``(..., n, d)``.
        k: features of the keys, shape ``(..., m, d)``.
        v: values, shape ``(..., m, e)``.
        q_norm, k_norm: features of the denominator, shapes ``(..., n, f)`` and ``(..., m, f)``; None means ``q`` and ``k``.
        key_mask: boolean, broadcastable to ``(..., m)``, True = the key takes part; what a key or value under False holds, NaN
            included, changes nothing.
        is_causal: query ``i`` sees the keys ``j <= i``; needs ``n == m``.
        chunk_size: rows handled at once in the causal form; costs ``n * chunk_size`` scores and ``n / chunk_size`` states of
            shape ``(d, e)``; changes the result by rounding only.
    Returns:
        Shape ``(..., n, e)``, dtype and device of ``q``. Half-precision input is summed in float32, and comes back in it under
        autocast. A row whose denominator is 0, as without any key, gives 0, with finite gradients. The sums
        themselves must fit the dtype they are formed in, a denominator as a normal number.
    Raises:
        TypeError: an input is not a floating tensor or has another dtype than ``q``, ``key_mask`` is not boolean, ``is_causal``
            not a bool, ``chunk_size`` not an integer.
        ValueError: sizes do not match, leading axes or ``key_mask`` do not broadcast, devices differ, or ``chunk_size`` is not
            positive.

    Not offered: a running state from which a decoder could continue; pass all keys and values again.

    >>> linear_attention(torch.ones(2, 1), torch.ones(2, 1), torch.tensor([[1.0], [3.0]]), is_causal=True)
    tensor([[1.],
            [2.]])
    """
    q_norm, k_norm = q if q_norm is None else q_norm, k if k_norm is None else k_norm
    inputs = {"q": q, "k": k, "v": v, "q_norm": q_norm, "k_norm": k_norm}
    lead = torch.Size()
    for name, value in inputs.items():
        if _check.floating(name, value).ndim < 2:
            raise ValueError(f"{name} must have at least 2 axes, got shape {tuple(value.shape)}")
        _check.alike_or_autocast(name, value, "q", q)
        try:
            lead = torch.broadcast_shapes(lead, value.shape[:-2])
        except RuntimeError:
            raise ValueError(f"{name} must have leading axes that broadcast to {tuple(lead)}, got {tuple(value.shape)}") from None
    n, m = q.shape[-2], k.shape[-2]
    _match("k", k, -1, q.shape[-1], "features")
    _match("v", v, -2, m, "rows")
    _match("q_norm", q_norm, -2, n, "rows")
    _match("k_norm", k_norm, -2, m, "rows")
    _match("k_norm", k_norm, -1, q_norm.shape[-1], "features")
    _check.flag("is_causal", is_causal)
    chunk_size = _check.count("chunk_size", chunk_size)
    # Beyond the length of the sequence a chunk only grows padding.
    chunk_size = min(chunk_size, max(n, 64))
    if is_causal and n != m:
        raise ValueError(f"k must have as many rows as q ({n}) when is_causal, got {m}")
    if key_mask is not None:
        k, v, k_norm = real_keys(key_mask, (*lead, m), k, v, k_norm)
    dtype = _check.result_dtype(q)
    q, k, v, q_norm, k_norm = (_check.widen(value) for value in (q, k, v, q_norm, k_norm))
    if not _check.autocast(q.device):
        return _linear_attention(q, k, v, q_norm, k_norm, is_causal, chunk_size).to(dtype)
    with torch.autocast(q.device.type, enabled=False):  # it would sum in half precision
        return _linear_attention(q, k, v, q_norm, k_norm, is_causal, chunk_size).to(dtype)


def _linear_attention(
    q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor, k_norm: Tensor, is_causal: bool, chunk_size: int
) -> Tensor:
    if is_causal:
        numerator = _causal_numerator(q, k, v, chunk_size)
        denominator = (q_norm * k_norm.cumsum(-2)).sum(-1, keepdim=True)
    else:
        numerator = q @ (k.mT @ v)
        denominator = q_norm @ k_norm.sum(-2).unsqueeze(-1)
    empty = denominator == 0
    return (numerator / denominator.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)


def _match(name: str, value: Tensor, dim: int, expected: int, word: str) -> None:
    if value.shape[dim] != expected:
        raise ValueError(f"{name} must have {expected} {word}, got shape {tuple(value.shape)}")


def _causal_numerator(q: Tensor, k: Tensor, v: Tensor, chunk_size: int) -> Tensor:
    n = q.shape[-2]
    q, k, v = (_chunks(value, chunk_size) for value in (q, k, v))
    states = (k.mT @ v).cumsum(-3)
    # Shifted by one chunk rather than subtracted: what comes later must not leave even its rounding behind.
    earlier = torch.cat((torch.zeros_like(states[..., :1, :, :]), states[..., :-1, :, :]), -3)
    out = (q @ k.mT).tril() @ v + q @ earlier
    return out.flatten(-3, -2)[..., :n, :]


def _chunks(x: Tensor, size: int) -> Tensor:
    n = x.shape[-2]
    rest = x.new_zeros(*x.shape[:-2], -n % size, x.shape[-1])
    return torch.cat((x, rest), -2).reshape(*x.shape[:-2], -(-n // size), size, x.shape[-1])


def rotary_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotary: Callable[[Tensor], Tensor],
    *,
    feature_map: Callable[[Tensor], Tensor] | None = None,
    key_feature_map: Callable[[Tensor], Tensor] | None = None,
    key_mask: Tensor | None = None,
    is_causal: bool = False,
    chunk_size: int = 64,
) -> Tensor:
    r"""Linear attention with relative positions: the features are rotated in the numerator, not in the denominator.

    .. math:: o_i = \frac{\sum_j (\mathcal R_i\phi(q_i))^\top (\mathcal R_j\varphi(k_j))\, v_j}{\sum_j \phi(q_i)^\top \varphi(k_j)}

    The denominator stays positive, but weights may be negative and need not sum to 1: the result can leave the values' hull.

    Args:
        q: queries, floating point, shape ``(..., n, d)``.
        k: keys, shape ``(..., m, d)``.
        v: values, shape ``(..., m, e)``.
        rotary: applied to the mapped ``q`` and ``k``; a :class:`RotaryEmbedding`, or any callable that keeps the shape.
        feature_map: :math:`\phi`, nonnegative map of the features; None means ``elu(x) + 1``.
        key_feature_map: :math:`\varphi`, the map of the keys; None means ``feature_map``.
        key_mask, is_causal, chunk_size: see :func:`linear_attention`.
    Returns:
        Shape ``(..., n, e)``, dtype and device of ``q``; dtype and rows without a key as in :func:`linear_attention`.
    Raises:
        TypeError: ``rotary`` or a feature map is not callable or returns another dtype than it is given, or as
            :func:`linear_attention`.
        ValueError: ``rotary`` or a feature map returns another shape (a feature map may change the width) or device, or as
            :func:`linear_attention`.

    >>> x = torch.zeros(2, 4)
    >>> rotary_linear_attention(x, x, torch.ones(2, 1), RotaryEmbedding(4), is_causal=True)[0]
    tensor([1.])
    """
    if not callable(rotary):
        raise TypeError(f"rotary must be callable, got {type(rotary).__name__}")
    if feature_map is None:
        feature_map = _elu_plus_one
    elif not callable(feature_map):
        raise TypeError(f"feature_map must be callable or None, got {type(feature_map).__name__}")
    if key_feature_map is None:
        key_feature_map = feature_map
    elif not callable(key_feature_map):
        raise TypeError(f"key_feature_map must be callable or None, got {type(key_feature_map).__name__}")
    for name, value in (("q", q), ("k", k)):
        if _check.floating(name, value).ndim < 2:
            raise ValueError(f"{name} must have at least 2 axes, got shape {tuple(value.shape)}")
    if key_mask is not None:
        # Before the map, whose gradient at NaN would be NaN.
        (k,) = real_keys(key_mask, (*k.shape[:-2], k.shape[-2]), k, wider=True)
    q, k = _returned("feature_map", feature_map, q), _returned("key_feature_map", key_feature_map, k)
    turned_q, turned_k = (_returned("rotary", rotary, value, keeps_width=True) for value in (q, k))
    return linear_attention(
        turned_q, turned_k, v, q_norm=q, k_norm=k, key_mask=key_mask, is_causal=is_causal, chunk_size=chunk_size
    )


def _returned(name: str, function: Callable[[Tensor], Tensor], x: Tensor, *, keeps_width: bool = False) -> Tensor:
    """``function(x)`` if it fits ``x``: same dtype, device and shape up to the width."""
    result = _check.floating(f"{name}(x)", function(x))
    _check.shape(f"{name}(x)", result, x.shape if keeps_width else (*x.shape[:-1], *result.shape[-1:]))
    return _check.alike_or_autocast(f"{name}(x)", result, "x", x)


def _elu_plus_one(x: Tensor) -> Tensor:
    # expm1(x) + 1 would round to 0 below -17 in float32.
    return x.clamp(max=0).exp() + x.relu()
