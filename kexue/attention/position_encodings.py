r"""Position encodings of the Transformer: absolute, relative, convolutional, rotary, behind two interfaces.

Source: "Position encodings that have Transformer researchers racking their brains", kexue.fm/archives/8130.
Papers: Gehring et al. 2017 (trained positions, convolution) arXiv:1705.03122; Vaswani et al. 2017 (sinusoids) arXiv:1706.03762;
Shaw, Uszkoreit, Vaswani 2018 arXiv:1803.02155; Dai et al. 2019 (Transformer-XL) arXiv:1901.02860; Raffel et al. 2019 (T5)
arXiv:1910.10683; He et al. 2020 (DeBERTa) arXiv:2006.03654; Islam, Jia, Bruce 2020 (position from zero padding)
arXiv:2001.08248; Su et al. 2021 (RoFormer) arXiv:2104.09864. The hierarchical extension is Su's (kexue.fm, 4 December 2020).

An absolute encoding changes the input of the network (:class:`AbsolutePositions`, :class:`ConvPositions`); a relative one changes
the attention (:class:`PositionAttention`). Distances are query minus key, ``i - j``, as in the post; only :func:`t5_bucket`
takes key minus query, as T5 does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kexue import _check
from kexue.attention._mask import attended, attention_mask, check_attn_mask, masked_softmax
from kexue.attention.rope import RotaryEmbedding, rope_frequencies

__all__ = [
    "sinusoidal",
    "hierarchical",
    "AbsolutePositions",
    "LearnedPositions",
    "SinusoidalPositions",
    "ConvPositions",
    "PositionAttention",
    "ShawAttention",
    "TransformerXLAttention",
    "T5Attention",
    "t5_bucket",
    "DebertaAttention",
    "RotaryAttention",
]

# The standard deviation at which BERT, DeBERTa and Transformer-XL start their position tables.
_TABLE_STD = 0.02


def sinusoidal(positions: Tensor, dim: int, base: float = 10000.0, *, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Sines and cosines of the positions, interleaved: :math:`p_{k,2i}=\sin k\omega_i,\ p_{k,2i+1}=\cos k\omega_i`.

    The frequencies are :math:`\omega_i=\text{base}^{-2i/\text{dim}}`, from :func:`kexue.attention.rope.rope_frequencies`.
    Source: Vaswani et al. 2017, who put all sines before all cosines; the post interleaves them.

    Args:
        positions: integer or real positions of any sign, any shape; finite; float32 or float64 if real.
        dim: number of features, positive and even.
        base: positive; the slowest plane turns once in about ``2 * pi * base`` positions.
        dtype: floating dtype of the result. Angles are computed in float64 (on the CPU for devices without it) and rounded once
            at the end, so that float32 is still right to 1e-7 at position 10^6.
    Returns:
        Shape ``(*positions.shape, dim)`` on the device of ``positions``; differentiable in real ``positions``.
    Raises:
        TypeError: ``positions`` is not a real or integer tensor or in half precision, ``dim`` is not an integer, or ``dtype`` is
            not floating.
        ValueError: ``dim`` is not positive and even, or ``base`` is not positive.

    >>> sinusoidal(torch.tensor([0, 1]), 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    _check.position_tensor("positions", positions)
    _check.floating_dtype("dtype", dtype)
    place = _check.float64_device(positions.device)
    angles = positions.to(place, torch.float64)[..., None] * rope_frequencies(dim, base, device=place)
    return torch.stack([angles.sin().to(dtype), angles.cos().to(dtype)], dim=-1).flatten(-2).to(positions.device)


def hierarchical(table: Tensor, length: int, alpha: float = 0.4) -> Tensor:
    r"""Stretch ``n`` trained position vectors to ``length <= n**2`` by giving each position two digits in base ``n``.

    With :math:`u_i=(p_i-\alpha p_0)/(1-\alpha)` row :math:`in+j` is :math:`\alpha u_i+(1-\alpha)u_j`, which is
    :math:`p_j+\frac{\alpha}{1-\alpha}(p_i-p_0)`: the first ``n`` rows are ``table`` itself, bit for bit. Source: Su 2020.

    Args:
        table: the trained vectors, shape ``(n, dim)``, floating point.
        length: number of rows wanted, from 0 to ``n**2``.
        alpha: weight of the high digit, in (0, 1) and not 0.5, where the positions (i, j) and (j, i) would coincide.
    Returns:
        Shape ``(length, dim)``, dtype and device of ``table``, differentiable in ``table``.
    Raises:
        TypeError: ``table`` is not a floating-point tensor, ``length`` is not an integer, ``alpha`` is not a number.
        ValueError: ``table`` has not 2 axes, ``length`` is negative or above ``n**2``, ``alpha`` is outside (0, 1) or 0.5.

    >>> hierarchical(torch.tensor([[0.0], [1.0], [2.0]]), 6, alpha=0.75).flatten()
    tensor([0., 1., 2., 3., 4., 5.])
    """
    _check.floating("table", table, ndim=2)
    length = _check.count("length", length, minimum=0)
    alpha = _hierarchy_weight(alpha)
    n, dim = table.shape
    if length > n * n:
        raise ValueError(f"length must be at most {n}**2 = {n * n} for a table of {n} rows, got {length}")
    blocks = -(-length // n) if n else 0
    # In float32 for half precision: an offset may pass the largest float16 where the sum does not.
    wide = _check.widen(table)
    return (wide + _block_offsets(wide, alpha)[:blocks, None, :]).reshape(blocks * n, dim)[:length].to(table.dtype)


def _block_offsets(wide: Tensor, alpha: float) -> Tensor:
    return alpha / (1.0 - alpha) * (wide - wide[:1])


def _hierarchy_weight(alpha: float) -> float:
    alpha = _check.number("alpha", alpha, 0.0, 1.0, open_low=True, open_high=True)
    if alpha == 0.5:
        raise ValueError("alpha must not be 0.5, where the positions (i, j) and (j, i) coincide, got 0.5")
    return alpha


class AbsolutePositions(nn.Module):
    r"""Base of the encodings that put a vector :math:`p_k` on the k-th input.

    A subclass supplies :meth:`table`; adding, multiplying and concatenating are done here. A multiplicative encoding is any
    subclass with ``mode="multiply"``.

    Args:
        dim: width of the position vectors, positive.
        mode: ``"add"`` gives :math:`x_k+p_k`; ``"multiply"`` gives :math:`x_k\odot(1+p_k)`, because a product with small
            zero-mean vectors alone would erase the content; ``"concat"`` appends :math:`p_k` to the features.
    Raises:
        TypeError: ``dim`` is not an integer, or ``mode`` is not a string.
        ValueError: ``dim`` is not positive, or ``mode`` is none of the three words.
    """

    def __init__(self, dim: int, *, mode: str = "add") -> None:
        super().__init__()
        self.dim = _check.count("dim", dim)
        self.mode = _check.choice("mode", mode, ("add", "multiply", "concat"))

    def table(self, length: int) -> Tensor:
        """The vectors of the positions 0 to ``length - 1``, shape ``(length, dim)``; ``length`` may be 0."""
        raise NotImplementedError

    def _rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Rows ``start`` to ``stop - 1`` of the table, not yet in the dtype and on the device of ``like``."""
        return _check.shape("table", self.table(stop), (stop, self.dim))[start:]

    def _rows_at(self, positions: Tensor, like: Tensor) -> Tensor:
        """The vectors of some positions, shape ``(*positions.shape, dim)``, not yet in the dtype and on the device of ``like``."""
        _check.readable("positions", _check.integer("positions", positions))
        length = int(positions.max()) + 1 if positions.numel() else 0
        _check.entries_within("positions", positions, max(length, 1))
        return _check.shape("table", self.table(length), (length, self.dim))[positions.long()]

    def forward(self, x: Tensor, *, positions: Tensor | None = None, offset: int = 0) -> Tensor:
        """Mark the rows of ``x`` with the positions ``offset``, ``offset + 1``, and so on, or with ``positions``.

        Args:
            x: shape ``(..., n, dim)``, floating point; any width if ``mode="concat"``.
            positions: of the rows, where they do not follow one another (packed or left-padded sequences); integer or real, shape
                ``(n,)``, or ``(B, n)`` or ``(1, n)`` for ``x`` of shape ``(B, ..., n, dim)``, on the device of ``x``. Real ones
                and negative ones have a vector in :class:`SinusoidalPositions` only.
            offset: position of the first row, at least 0; a sequence handled in pieces equals the sequence handled whole.
        Returns:
            Shape of ``x`` (``dim`` more features if ``mode="concat"``), dtype and device of ``x``.
        Raises:
            TypeError: ``x`` is not a floating-point tensor, ``positions`` not a tensor of integers, or ``offset`` not an integer.
            ValueError: ``x`` has fewer than 2 axes or the wrong width, ``positions`` the wrong shape or device, ``offset`` is
                negative, above 2^53 or given together with ``positions``, or the subclass has no vector for a position.
        """
        _check.floating("x", x)
        offset = _check.position("offset", offset)
        if x.ndim < 2:
            raise ValueError(f"x must have at least 2 axes (..., n, features), got shape {tuple(x.shape)}")
        if self.mode != "concat" and x.shape[-1] != self.dim:
            raise ValueError(f"x must have {self.dim} features, got shape {tuple(x.shape)}")
        if positions is None:
            p = self._rows(offset, offset + x.shape[-2], x)
        elif offset:
            raise ValueError(f"offset must be 0 when positions are given, got {offset}")
        else:
            p = self._rows_at(_check.row_positions("positions", positions, "x", x), x)
        if p.is_meta:
            _check.same_device("x", x, "the table", p)
        p = p.to(device=x.device, dtype=x.dtype)
        if self.mode == "add":
            return x + p
        if self.mode == "multiply":
            # Not x * (1 + p): in bfloat16 the sum 1 + p would keep only three digits of p.
            return torch.addcmul(x, x, p)
        return torch.cat([x, p.expand(*x.shape[:-1], self.dim)], dim=-1)

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return f"dim={self.dim}, mode={self.mode!r}"


class LearnedPositions(AbsolutePositions):
    r"""A trained table: :math:`p_k` is row k of ``weight``. Source: Gehring et al. 2017, BERT; ``alpha``: Su 2020.

    Args:
        max_length: number of trained rows. Without ``alpha`` there is nothing past them: a longer input is a ValueError.
        dim: width of the vectors.
        mode: as in :class:`AbsolutePositions`.
        alpha: if given, :func:`hierarchical` continues the table up to position ``max_length**2 - 1``.
        device: device of ``weight``.
        dtype: dtype of ``weight``, shape ``(max_length, dim)``, drawn from N(0, 0.02^2).
    Raises:
        TypeError: ``max_length`` or ``dim`` is not an integer, ``mode`` is not a string, ``alpha`` is not a number, ``device`` or
            ``dtype`` is none.
        ValueError: ``max_length`` or ``dim`` is not positive, ``mode`` or ``device`` is unknown, ``alpha`` is outside (0, 1) or
            0.5.
    """

    def __init__(
        self,
        max_length: int,
        dim: int,
        *,
        mode: str = "add",
        alpha: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, mode=mode)
        _check.placement(device, dtype)
        self.max_length = _check.count("max_length", max_length)
        self.alpha = None if alpha is None else _hierarchy_weight(alpha)
        self.weight = _table(self.max_length, self.dim, device=device, dtype=dtype)

    def table(self, length: int) -> Tensor:
        """Rows 0 to ``length - 1``; ValueError naming ``length`` past the table (past its square with ``alpha``)."""
        length = _check.count("length", length, minimum=0)
        if length <= self.max_length:
            return self.weight[:length]
        if self.alpha is None:
            raise ValueError(f"length must be at most max_length={self.max_length} (no alpha to extend it), got {length}")
        return hierarchical(self.weight, length, self.alpha)

    def _rows_at(self, positions: Tensor, like: Tensor) -> Tensor:
        if positions.is_meta:
            _check.same_device("positions", positions, "the table", self.weight)
        limit = self.max_length if self.alpha is None else self.max_length**2
        ids = _check.entries_within("positions", _check.integer("positions", positions), limit).long().to(self.weight.device)
        if self.alpha is None:
            return F.embedding(ids, self.weight)
        wide = _check.widen(self.weight)
        offsets = _block_offsets(wide, self.alpha)
        rows = F.embedding(ids % self.max_length, wide) + F.embedding(ids // self.max_length, offsets)
        return rows.to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}, {super().extra_repr()}, alpha={self.alpha}"


def _table(*shape: int, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
    nn.init.normal_(parameter, std=_TABLE_STD)
    return parameter


class SinusoidalPositions(AbsolutePositions):
    """The fixed vectors of :func:`sinusoidal`: no parameter, an empty ``state_dict``, any length.

    Args:
        dim: width of the vectors, positive and even.
        base: as in :func:`sinusoidal`.
        mode: as in :class:`AbsolutePositions`.
    Raises:
        TypeError: ``dim`` is not an integer, ``base`` is not a number, or ``mode`` is not a string.
        ValueError: ``dim`` is not positive and even, ``base`` is not positive, or ``mode`` is unknown.
    """

    def __init__(self, dim: int, base: float = 10000.0, *, mode: str = "add") -> None:
        super().__init__(dim, mode=mode)
        rope_frequencies(dim, base, device="cpu")
        self.base = float(base)

    def table(self, length: int) -> Tensor:
        """Rows 0 to ``length - 1`` in float64 on the CPU; ``forward`` rounds them once, to the dtype of its input."""
        length = _check.count("length", length, minimum=0)
        return sinusoidal(torch.arange(length, device="cpu"), self.dim, self.base, dtype=torch.float64)

    def _rows(self, start: int, stop: int, like: Tensor) -> Tensor:
        positions = torch.arange(start, stop, device=_check.float64_device(like.device))
        return sinusoidal(positions, self.dim, self.base, dtype=like.dtype)

    def _rows_at(self, positions: Tensor, like: Tensor) -> Tensor:
        return sinusoidal(positions, self.dim, self.base, dtype=like.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, base={self.base}"


class ConvPositions(nn.Module):
    r"""Position from a depthwise convolution with padding: :math:`x\mapsto x+\mathrm{conv}(x)`.

    The zeros beyond both ends tell a row how far it is from the border, as far as the kernel (of all layers together) reaches;
    with circular padding there is no border and the map commutes with rotating the sequence. Source: Islam, Jia, Bruce 2020;
    Chu et al. 2021 (conditional position encoding) arXiv:2102.10882.

    Args:
        dim: number of features, each with a kernel of its own.
        kernel_size: odd, or anything if ``is_causal``.
        padding_mode: ``"zeros"`` or ``"circular"``.
        is_causal: pad on the left only, so that row k sees rows ``k - kernel_size + 1`` to ``k``; with zeros only.
        device: device of the parameters.
        dtype: dtype of ``weight`` (dim, 1, kernel_size), in cross-correlation order, and ``bias`` (dim,), both uniform within
            ``kernel_size**-0.5`` as in :class:`torch.nn.Conv1d`.
    Raises:
        TypeError: ``dim`` or ``kernel_size`` is not an integer, ``padding_mode`` not a string, ``is_causal`` not a bool,
            ``device`` or ``dtype`` is none.
        ValueError: ``dim`` is not positive, ``kernel_size`` is not positive and odd (positive, if causal), ``padding_mode`` is
            neither word, or it is circular and ``is_causal``, or ``device`` is unknown.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        *,
        padding_mode: str = "zeros",
        is_causal: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dim = _check.count("dim", dim)
        self.kernel_size = _check.count("kernel_size", kernel_size)
        self.padding_mode = _check.choice("padding_mode", padding_mode, ("zeros", "circular"))
        self.is_causal = _check.flag("is_causal", is_causal)
        if not is_causal and self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd unless is_causal, got {kernel_size}")
        if is_causal and padding_mode == "circular":
            raise ValueError("padding_mode must be 'zeros' if is_causal, since a circle has no past, got 'circular'")
        _check.placement(device, dtype)
        bound = self.kernel_size**-0.5
        self.weight = nn.Parameter(torch.empty(self.dim, 1, self.kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.dim, device=device, dtype=dtype))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Add to every row a weighted sum of its neighbours.

        Args:
            x: shape ``(..., n, dim)``, floating point.
            mask: boolean, broadcastable to ``(..., n)``, True = real. The border is that of the real rows: what the others hold,
                NaN included, reaches no row but its own, which comes back as it is. With circular padding the real rows are a
                circle of their own and must come first.
        Returns:
            Shape, dtype and device of ``x``. The weighted sum must fit the dtype (65504 is the largest float16).
        Raises:
            TypeError: ``x`` is not a floating-point tensor, or ``mask`` is not boolean.
            ValueError: ``x`` has fewer than 2 axes, not ``dim`` features, or another device than the parameters; ``mask`` has the
                wrong shape or device, or (circular) a hole.
        """
        _check.floating("x", x)
        if x.ndim < 2 or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (..., n, {self.dim}), got {tuple(x.shape)}")
        _check.same_device("x", x, "the parameters", self.weight)
        n = x.shape[-2]
        if mask is not None:
            mask = self._expanded(mask, x)
        if n == 0:
            return x.clone()
        left = self.kernel_size - 1 if self.is_causal else self.kernel_size // 2
        rows = x if mask is None else torch.where(mask.unsqueeze(-1), x, 0.0)
        padding = left
        if self.padding_mode == "circular":
            # F.pad refuses a circular pad longer than the sequence; indices modulo n go round as often as needed.
            places, padding = torch.arange(-left, n + left, device=x.device), 0
            if mask is None:
                rows = rows[..., places % n, :]
            else:
                turns = places % mask.sum(-1, keepdim=True).clamp(min=1)
                rows = rows.gather(-2, turns.unsqueeze(-1).expand(*turns.shape, self.dim))
        rows = rows.reshape(math.prod(x.shape[:-2]), rows.shape[-2], self.dim)
        mixed: Tensor = F.conv1d(rows.mT, self.weight.to(x.dtype), self.bias.to(x.dtype), groups=self.dim, padding=padding)
        # A causal kernel ran on into the zeros behind the end.
        mixed = mixed[..., :n].mT.reshape(x.shape)
        return x + (mixed if mask is None else torch.where(mask.unsqueeze(-1), mixed, 0.0))

    if TYPE_CHECKING:
        __call__ = forward

    def _expanded(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask in the shape (..., n) of the rows of ``x``."""
        _check.same_device("mask", _check.boolean("mask", mask), "x", x)
        try:
            whole = mask.expand(x.shape[:-1])
        except RuntimeError:
            raise ValueError(f"mask must broadcast to {tuple(x.shape[:-1])}, got {tuple(mask.shape)}") from None
        return _check.prefix_mask("mask", whole, x.shape[:-1], "x", x) if self.padding_mode == "circular" else whole

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.kernel_size}, padding_mode={self.padding_mode!r}, is_causal={self.is_causal}"


class PositionAttention(nn.Module):
    r"""Scaled dot-product attention without any position, and the base of the relative encodings.

    .. math:: o_i=\sum_j a_{ij}v_j,\qquad a_{ij}=\mathrm{softmax}_j(\ell_{ij}),\qquad \ell_{ij}=q_ik_j^\top/\sqrt d.

    A subclass changes the logits :math:`\ell_{ij}` and sometimes the mixture of the values. Query i sits at position
    ``i + q_offset``, key j at position j, so that one call with ``n`` queries and a cache of ``m`` keys continues a sequence.
    No intermediate tensor is larger than the logits (XL: twice that), and positions enter only through tables.
    """

    num_heads: int | None = None
    head_dim: int | None = None
    # Number of unit-variance terms in a logit; the scale is 1/sqrt(terms * d).
    _terms = 1
    # The name of a parameter, on whose device the inputs must be.
    _home: str | None = None

    def logits(self, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
        """Scores before mask and softmax, scaled.

        Args:
            q: queries, shape ``(B, H, n, d)``, floating point.
            k: keys, shape ``(B, H, m, d)``, dtype and device of ``q``.
            q_offset: position of the first query, at least 0.
        Returns:
            Shape ``(B, H, n, m)``, dtype and device of ``q``; differentiable in everything. Scores and the terms that they are
            sums of must fit the dtype (65504 is the largest float16).
        Raises:
            TypeError: ``q`` or ``k`` is no floating-point tensor, their dtypes differ, or ``q_offset`` is not an integer.
            ValueError: ``q`` has not 4 axes or not the heads, head size and device of this module, ``k`` does not fit ``q``, or
                ``q_offset`` is negative or above 2^53.
        """
        self._check_queries(q, k, q_offset)
        return self._scaled(q) @ k.mT

    def _check_queries(self, q: Tensor, k: Tensor, q_offset: int) -> None:
        _check.floating("q", q, ndim=4)
        _check.alike_or_autocast("k", _check.floating("k", k, ndim=4), "q", q)
        batch, heads, n, d = q.shape
        expected = (batch, self.num_heads or heads, n, self.head_dim or d)
        if d == 0 or tuple(q.shape) != expected:
            raise ValueError(f"q must have shape (batch, {expected[1]}, n, {expected[3] or 'd >= 1'}), got {tuple(q.shape)}")
        _check.shape("k", k, (batch, heads, k.shape[2], d))
        if self._home:
            _check.same_device("q", q, "the parameters", getattr(self, self._home))
        _check.position("q_offset", q_offset)

    def _scaled(self, q: Tensor) -> Tensor:
        # Scaling q and not the scores costs less and keeps float16 from overflowing.
        return q / math.sqrt(self._terms * q.shape[-1])

    def mix(self, attn: Tensor, v: Tensor, q_offset: int = 0) -> Tensor:
        """Combine the values with attention weights.

        Args:
            attn: weights, shape ``(B, H, n, m)``, floating point.
            v: values, shape ``(B, H, m, d)``, dtype and device of ``attn``.
            q_offset: position of the first query, at least 0.
        Returns:
            Shape ``(B, H, n, d)``, dtype and device of ``v``.
        Raises:
            TypeError: ``attn`` or ``v`` is no floating-point tensor, their dtypes differ, or ``q_offset`` is not an integer.
            ValueError: ``attn`` has not 4 axes or not the device of this module, ``v`` does not fit it or this module, or
                ``q_offset`` is negative or above 2^53.
        """
        self._check_values(attn, v, q_offset)
        return attn @ v

    def _check_values(self, attn: Tensor, v: Tensor, q_offset: int) -> None:
        _check.floating("attn", attn, ndim=4)
        _check.alike_or_autocast("v", _check.floating("v", v, ndim=4), "attn", attn)
        _check.shape("v", v, (*attn.shape[:2], attn.shape[3], self.head_dim or v.shape[3]))
        if self._home:
            _check.same_device("attn", attn, "the parameters", getattr(self, self._home))
        _check.position("q_offset", q_offset)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        q_offset: int = 0,
    ) -> Tensor:
        """Attend: logits, mask, softmax, mixture.

        Args:
            q: queries, shape ``(B, H, n, d)``, floating point.
            k: keys, shape ``(B, H, m, d)``, dtype and device of ``q``.
            v: values, shape, dtype and device of ``k``.
            attn_mask: boolean, broadcastable to ``(B, H, n, m)``, True = attend. What a key that no query attends to, or a query
                without any key, holds, NaN included, changes nothing.
            is_causal: allow only the keys ``j <= i + q_offset``, in addition to ``attn_mask``.
            q_offset: position of the first query, at least 0.
        Returns:
            Shape ``(B, H, n, d)``, dtype and device of ``q``. A query with nothing to attend to gives exactly 0, and finite
            gradients.
        Raises:
            TypeError: ``q``, ``k`` or ``v`` is no floating-point tensor or their dtypes differ, ``attn_mask`` is not boolean,
                ``is_causal`` is not a bool, or ``q_offset`` is not an integer.
            ValueError: a shape or a device does not fit, or ``q_offset`` is negative or above 2^53.
        """
        _check.flag("is_causal", is_causal)
        self._check_queries(q, k, q_offset)
        q_offset = _check.position("q_offset", q_offset)
        _check.alike_or_autocast("v", _check.floating("v", v, ndim=4), "q", q)
        _check.shape("v", v, k.shape)
        if attn_mask is not None:
            _check.same_device("attn_mask", _check.tensor("attn_mask", attn_mask), "q", q)
            check_attn_mask(attn_mask, (*q.shape[:3], k.shape[2]))
            q, k, v = attended(attn_mask, q, k, v)
        logits = self.logits(q, k, q_offset)
        return self.mix(masked_softmax(logits, attention_mask(logits, attn_mask, is_causal, q_offset)), v, q_offset)

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        sizes = (("num_heads", self.num_heads), ("head_dim", self.head_dim))
        return ", ".join(f"{name}={size}" for name, size in sizes if size is not None)


def _distances(n: int, m: int, q_offset: int, device: torch.device) -> Tensor:
    """``i + q_offset - j`` for all queries i and keys j, shape (n, m)."""
    first = _check.position("q_offset", q_offset)
    return torch.arange(first, first + n, device=device)[:, None] - torch.arange(m, device=device)


def _pick(scores: Tensor, index: Tensor, dim: int = -1) -> Tensor:
    """``out[..., i, j] = scores[..., i, index[i, j]]``, or ``scores[..., index[i, j], j]`` for ``dim=-2``.

    A gather, so that no (n, m, d) tensor is ever built.
    """
    return scores.gather(dim, index.expand(*scores.shape[:-2], *index.shape))


class ShawAttention(PositionAttention):
    r"""A trained vector per clipped distance, on the keys and on the values.

    .. math:: \ell_{ij}=q_i(k_j+R^K_{ij})^\top/\sqrt d,\qquad o_i=\sum_ja_{ij}(v_j+R^V_{ij}),\qquad
        R_{ij}=p[\mathrm{clip}(i-j,-K,K)].

    All distances beyond K share one vector, which is why every length works. Source: Shaw, Uszkoreit, Vaswani 2018.

    Args:
        head_dim: features per head; the tables are shared by the heads.
        max_distance: K, positive.
        device: device of the parameters.
        dtype: dtype of ``key_table`` and ``value_table``, both ``(2K + 1, head_dim)``, row ``i - j + K``, from N(0, 0.02^2).
    Raises:
        TypeError: ``head_dim`` or ``max_distance`` is not an integer, ``device`` or ``dtype`` is none.
        ValueError: ``head_dim`` or ``max_distance`` is not positive, or ``device`` is unknown.
    """

    _home = "key_table"

    def __init__(
        self,
        head_dim: int,
        max_distance: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = _check.count("head_dim", head_dim)
        self.max_distance = _check.count("max_distance", max_distance)
        _check.placement(device, dtype)
        rows = 2 * self.max_distance + 1
        self.key_table = _table(rows, self.head_dim, device=device, dtype=dtype)
        self.value_table = _table(rows, self.head_dim, device=device, dtype=dtype)

    def _index(self, n: int, m: int, q_offset: int, device: torch.device) -> Tensor:
        return _distances(n, m, q_offset, device).clamp(-self.max_distance, self.max_distance) + self.max_distance

    def logits(self, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
        content = super().logits(q, k, q_offset)
        n, m = content.shape[-2:]
        by_distance = self._scaled(q) @ self.key_table.to(q.dtype).mT
        return content + _pick(by_distance, self._index(n, m, q_offset, q.device))

    def mix(self, attn: Tensor, v: Tensor, q_offset: int = 0) -> Tensor:
        content = super().mix(attn, v, q_offset)
        n, m = attn.shape[-2:]
        index = self._index(n, m, q_offset, attn.device).expand(attn.shape)
        weight_by_distance = attn.new_zeros(*attn.shape[:-1], len(self.value_table)).scatter_add(-1, index, attn)
        return content + weight_by_distance @ self.value_table.to(v.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_distance={self.max_distance}"


def _diagonals(n: int, m: int, q_offset: int, device: torch.device) -> Tensor:
    """Every distance between n queries and m keys, largest first, and one more: shape (n + m,)."""
    first = _check.position("q_offset", q_offset)
    return torch.arange(first - m, first + n, device=device).flip(0)


def _skew(by_distance: Tensor) -> Tensor:
    """From the scores (..., n, n + m) of the distances of :func:`_diagonals` those of the pairs (i, j), shape (..., n, m).

    Column ``n - 1 - i + j`` of row i is the pair (i, j): in memory one row starts one element less than a row after the last,
    so that the answer is a view with shorter rows.
    """
    n, width = by_distance.shape[-2:]
    if torch.compiler.is_compiling():
        # Inlined into a kernel, the shorter rows cost a division for every entry.
        columns = torch.arange(width - n, device=by_distance.device)
        places = columns - torch.arange(1 - n, 1, device=by_distance.device)[:, None]
        return by_distance.gather(-1, places.expand(*by_distance.shape[:-1], -1))
    if n > 1:
        flat = by_distance.flatten(-2)[..., n - 1 : n * width - 1]
        by_distance = flat.reshape(*flat.shape[:-1], n, width - 1)
    return by_distance[..., : width - n]


class TransformerXLAttention(PositionAttention):
    r"""A projected sinusoid of the distance, and two trained vectors in the place of the query's position.

    .. math:: \ell_{ij}=\{(q_i+u)k_j^\top+(q_i+v)(W_{KR}R_{i-j})^\top\}/\sqrt d.

    R is the unclipped sinusoid of ``i - j``, ``num_heads * head_dim`` wide; values carry no position. XLNet uses the same form.
    Source: Dai et al. 2019 (with all sines before all cosines, a permutation that ``proj`` absorbs).

    Args:
        num_heads: number of heads H.
        head_dim: features per head d; ``num_heads * head_dim`` must be even.
        base: of the sinusoid, positive.
        device: device of the parameters.
        dtype: dtype of ``u``, ``v``, both ``(H, d)`` from N(0, 0.02^2), and of ``proj.weight`` ``(H * d, H * d)``.
    Raises:
        TypeError: ``num_heads`` or ``head_dim`` is not an integer, ``base`` is not a number, ``device`` or ``dtype`` is none.
        ValueError: ``num_heads`` or ``head_dim`` is not positive, their product is odd, ``base`` is not positive, or ``device``
            is unknown.
    """

    num_heads: int
    head_dim: int
    _home = "u"

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        base: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = _check.count("num_heads", num_heads)
        self.head_dim = _check.count("head_dim", head_dim)
        width = self.num_heads * self.head_dim
        if width % 2:
            raise ValueError(f"head_dim must make num_heads * head_dim even, got {num_heads} * {head_dim}")
        rope_frequencies(width, base, device="cpu")
        self.base = float(base)
        _check.placement(device, dtype)
        self.u = _table(self.num_heads, self.head_dim, device=device, dtype=dtype)
        self.v = _table(self.num_heads, self.head_dim, device=device, dtype=dtype)
        self.proj = nn.Linear(width, width, bias=False, device=device, dtype=dtype)

    def logits(self, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
        self._check_queries(q, k, q_offset)
        n, m = q.shape[2], k.shape[2]
        distances = _diagonals(n, m, q_offset, _check.float64_device(q.device))
        code = sinusoidal(distances, self.num_heads * self.head_dim, self.base, dtype=self.proj.weight.dtype)
        keys = self.proj(code.to(q.device)).to(q.dtype).unflatten(-1, (self.num_heads, self.head_dim)).permute(1, 2, 0)
        content = self._scaled(q + self.u.to(q.dtype)[:, None, :]) @ k.mT
        return content + _skew(self._scaled(q + self.v.to(q.dtype)[:, None, :]) @ keys)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, base={self.base}"


class T5Attention(PositionAttention):
    r"""A trained scalar per head and bucket of distances: :math:`\ell_{ij}=q_ik_j^\top/\sqrt d+\beta_{f(i-j)}`.

    The bias is not divided by :math:`\sqrt d`. (T5 itself does not divide the scores either: it starts from smaller weights.)
    A bucket that no training length reaches keeps its initial 0. Source: Raffel et al. 2019.

    Args:
        num_heads: number of heads H.
        num_buckets: rows of the table.
        max_distance: distance from which all share one bucket.
        bidirectional: keep half of the buckets for keys after the query; otherwise those all count as distance 0.
        device: device of ``weight``.
        dtype: dtype of ``weight``, shape ``(num_buckets, H)``, zero at the start.
    Raises:
        TypeError: ``num_heads``, ``num_buckets`` or ``max_distance`` is not an integer, ``bidirectional`` is not a bool,
            ``device`` or ``dtype`` is none.
        ValueError: ``num_heads`` is not positive, ``num_buckets`` is below 2 (4 if bidirectional), ``max_distance`` does not
            exceed the distances that have a bucket of their own, or ``device`` is unknown.
    """

    num_heads: int
    _home = "weight"

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = _check.count("num_heads", num_heads)
        self._starts = _bucket_starts(num_buckets, max_distance, bidirectional)
        self.num_buckets = int(num_buckets)
        self.max_distance = int(max_distance)
        self.bidirectional = bidirectional
        _check.placement(device, dtype)
        self.weight = nn.Parameter(torch.zeros(self.num_buckets, self.num_heads, device=device, dtype=dtype))

    def logits(self, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
        content = super().logits(q, k, q_offset)
        n, m = content.shape[-2:]
        bucket = _bucket(-_diagonals(n, m, q_offset, q.device), self._starts, self.num_buckets, self.bidirectional)
        by_distance = self.weight[bucket].to(q.dtype).mT
        return content + _skew(by_distance[:, None, :].expand(-1, n, -1))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, num_buckets={self.num_buckets}, max_distance={self.max_distance}, "
            f"bidirectional={self.bidirectional}"
        )


def t5_bucket(relative_position: Tensor, *, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    r"""The bucket of T5 for a distance: exact near 0, logarithmic up to ``max_distance``, one bucket beyond.

    With b buckets per direction and :math:`e=\lfloor b/2\rfloor`, a distance :math:`n<e` is its own bucket and a longer one gets
    :math:`\min\{b-1,\ e+\lfloor(b-e)\log(n/e)/\log(\text{max\_distance}/e)\rfloor\}`. The borders are found in integer
    arithmetic, so no rounding can move one. Source: Raffel et al. 2019; agrees with their code.

    Args:
        relative_position: integer tensor of any shape, **key minus query** (the post and the rest of this module: query
            minus key).
        bidirectional: give keys after the query the second half of the buckets; otherwise they all get bucket 0.
        num_buckets: number of buckets in all; at least 2, at least 4 if bidirectional.
        max_distance: distance from which all share one bucket.
    Returns:
        Buckets from 0 to ``num_buckets - 1``, int64, shape and device of ``relative_position``.
    Raises:
        TypeError: ``relative_position`` is not an integer tensor, ``bidirectional`` is not a bool, or a count no integer.
        ValueError: ``num_buckets`` is too small, or ``max_distance`` does not exceed the exact range.

    >>> t5_bucket(torch.tensor([0, -1, -7, -8, -12, -500, 1, 500]))
    tensor([ 0,  1,  7,  8,  9, 15, 17, 31])
    """
    _check.integer("relative_position", relative_position)
    starts = _bucket_starts(num_buckets, max_distance, bidirectional)
    return _bucket(relative_position, starts, int(num_buckets), bidirectional)


def _bucket_starts(num_buckets: int, max_distance: int, bidirectional: bool) -> tuple[int, ...]:
    """The smallest distance of every bucket of one direction, from bucket 1 on."""
    _check.flag("bidirectional", bidirectional)
    per_side = _check.count("num_buckets", num_buckets, minimum=4 if bidirectional else 2) // (2 if bidirectional else 1)
    exact = per_side // 2
    max_distance = _check.count("max_distance", max_distance)
    if max_distance <= exact:
        raise ValueError(f"max_distance must exceed the exact range of {exact} distances, got {max_distance}")
    steps = per_side - exact
    starts = list(range(1, exact + 1))
    for step in range(1, steps):
        # Smallest n with steps * log(n / exact) >= step * log(max_distance / exact), that is, an integer root rounded up.
        power = max_distance**step * exact ** (steps - step)
        n = math.floor(exact * (max_distance / exact) ** (step / steps))
        while n**steps >= power:
            n -= 1
        while n**steps < power:
            n += 1
        starts.append(n)
    return tuple(starts)


def _bucket(relative_position: Tensor, starts: tuple[int, ...], num_buckets: int, bidirectional: bool) -> Tensor:
    relative = relative_position.to(torch.int64)
    # The clamp keeps the negation of the smallest int64 from overflowing; all such distances share the last bucket.
    distance = -relative.clamp(-starts[-1], starts[-1])
    distance = distance.abs() if bidirectional else distance.clamp(min=0)
    bucket = torch.bucketize(distance, torch.tensor(starts, device=relative.device), right=True)
    return bucket + (relative > 0) * (num_buckets // 2) if bidirectional else bucket


class DebertaAttention(PositionAttention):
    r"""Disentangled attention: content-content, content-position and position-content, without position-position.

    .. math:: \ell_{ij}=\{q_ik_j^\top+q_i(K^r_{\delta(i,j)})^\top+k_j(Q^r_{\delta(j,i)})^\top\}/\sqrt{3d},\qquad
        \delta(i,j)=\mathrm{clip}(i-j+K,0,2K-1).

    :math:`K^r` and :math:`Q^r` are two projections of one table of 2K rows; the clip is asymmetric, distance K shares the row
    of K - 1. The third term looks up (j, i), not (i, j). Source: He et al. 2020.

    Args:
        num_heads: number of heads H.
        head_dim: features per head d.
        max_distance: K, positive.
        device: device of the parameters.
        dtype: dtype of ``embedding`` ``(2K, H * d)`` from N(0, 0.02^2), ``key_proj.weight`` and ``query_proj.weight``.
    Raises:
        TypeError: ``num_heads``, ``head_dim`` or ``max_distance`` is not an integer, ``device`` or ``dtype`` is none.
        ValueError: one of the three is not positive, or ``device`` is unknown.
    """

    num_heads: int
    head_dim: int
    _terms = 3
    _home = "embedding"

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        max_distance: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = _check.count("num_heads", num_heads)
        self.head_dim = _check.count("head_dim", head_dim)
        self.max_distance = _check.count("max_distance", max_distance)
        _check.placement(device, dtype)
        width = self.num_heads * self.head_dim
        self.embedding = _table(2 * self.max_distance, width, device=device, dtype=dtype)
        self.key_proj = nn.Linear(width, width, bias=False, device=device, dtype=dtype)
        self.query_proj = nn.Linear(width, width, bias=False, device=device, dtype=dtype)

    def _row(self, distances: Tensor) -> Tensor:
        return (distances + self.max_distance).clamp(0, 2 * self.max_distance - 1)

    def logits(self, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
        content = super().logits(q, k, q_offset)
        n, m = content.shape[-2:]
        distances = _distances(n, m, q_offset, q.device)
        position_keys, position_queries = (
            proj(self.embedding).to(q.dtype).unflatten(-1, (self.num_heads, self.head_dim)).permute(1, 2, 0)
            for proj in (self.key_proj, self.query_proj)
        )
        content_position = _pick(self._scaled(q) @ position_keys, self._row(distances))
        position_content = _pick(position_queries.mT @ self._scaled(k).mT, self._row(-distances), dim=-2)
        return content + content_position + position_content

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_distance={self.max_distance}"


class RotaryAttention(PositionAttention):
    r"""Rotary position embedding: queries and keys turn with their own position, the logits see only the distance.

    .. math:: \ell_{ij}=(\mathcal R_iq_i)(\mathcal R_jk_j)^\top/\sqrt d.

    Source: Su et al. 2021; the rotation is :class:`kexue.attention.rope.RotaryEmbedding`.

    Args:
        head_dim: features per head, positive and even.
        base: of the frequencies, positive.
        rotate_values: turn the values as well, which puts absolute position into the output.
    Raises:
        TypeError: ``head_dim`` is not an integer, ``base`` is not a number, or ``rotate_values`` is not a bool.
        ValueError: ``head_dim`` is not positive and even, or ``base`` is not positive.
    """

    def __init__(self, head_dim: int, base: float = 10000.0, *, rotate_values: bool = False) -> None:
        super().__init__()
        self.head_dim = _check.count("head_dim", head_dim)
        if head_dim % 2:
            raise ValueError(f"head_dim must be even, got {head_dim}")
        self.rotary = RotaryEmbedding(self.head_dim, base)
        self.rotate_values = _check.flag("rotate_values", rotate_values)

    def logits(self, q: Tensor, k: Tensor, q_offset: int = 0) -> Tensor:
        self._check_queries(q, k, q_offset)
        return super().logits(self.rotary(q, offset=q_offset), self.rotary(k))

    def mix(self, attn: Tensor, v: Tensor, q_offset: int = 0) -> Tensor:
        self._check_values(attn, v, q_offset)
        return attn @ (self.rotary(v) if self.rotate_values else v)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rotate_values={self.rotate_values}"
