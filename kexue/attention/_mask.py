"""Boolean attention masks (True = attend) and a softmax whose empty rows are exactly zero."""

from __future__ import annotations

import torch
from torch import Tensor

from kexue import _check


def check_attn_mask(attn_mask: Tensor, expected: tuple[int, ...]) -> Tensor:
    """``attn_mask`` if it is boolean and broadcasts to ``expected`` = (..., n, m)."""
    mask = _check.boolean("attn_mask", attn_mask)
    try:
        fits = torch.broadcast_shapes(mask.shape, expected) == torch.Size(expected)
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"attn_mask must broadcast to {tuple(expected)}, got {tuple(mask.shape)}")
    return mask


def attention_mask(logits: Tensor, attn_mask: Tensor | None, is_causal: bool, q_offset: int = 0) -> Tensor | None:
    """The mask for ``logits`` (..., n, m): ``attn_mask`` and, if causal, key j <= query i + ``q_offset``; None if all attend."""
    mask = None if attn_mask is None else check_attn_mask(attn_mask, tuple(logits.shape))
    if is_causal:
        n, m = logits.shape[-2:]
        # Not tril, whose diagonal torch 2.6 fixes in a graph: every decoding step would compile anew.
        queries = torch.arange(q_offset, q_offset + n, device=logits.device)
        causal = torch.arange(m, device=logits.device) <= queries.unsqueeze(-1)
        mask = causal if mask is None else mask & causal
    return mask


def real_keys(key_mask: Tensor, expected: tuple[int, ...], *rows: Tensor, wider: bool = False) -> tuple[Tensor, ...]:
    """``rows`` (..., m, features) with 0 where ``key_mask``, broadcastable to ``expected`` = (..., m), is False, whatever stands there.

    With ``wider`` the mask may have leading axes that ``rows`` has not, and gives them to it.
    """
    mask = _check.boolean("key_mask", key_mask)
    _check.same_device("key_mask", mask, "k", rows[0])
    try:
        whole = torch.broadcast_shapes(mask.shape, expected)
    except RuntimeError:
        whole = None
    if whole is None or whole[-1] != expected[-1] or not (wider or whole == expected):
        raise ValueError(f"key_mask must broadcast to {tuple(expected)}, got {tuple(mask.shape)}")
    return tuple(torch.where(mask.unsqueeze(-1), value, 0.0) for value in rows)


def attended(attn_mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``q``, ``k``, ``v`` with 0 for queries that may attend to nothing and keys that nobody may attend to.

    So what padding holds, NaN included, reaches neither a value nor a gradient. ``attn_mask`` broadcasts to (..., n, m).
    """
    mask = torch.atleast_2d(attn_mask)
    queries, keys = mask.any(-1).unsqueeze(-1), mask.any(-2).unsqueeze(-1)
    return torch.where(queries, q, 0.0), torch.where(keys, k, 0.0), torch.where(keys, v, 0.0)


def masked_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis among the entries where ``mask`` is True; a row without any gives 0, with finite gradients."""
    if mask is None:
        return logits.softmax(-1)
    alive = mask.any(-1, keepdim=True)
    # A row of nothing but -inf would give NaN in value and gradient: such rows are softmaxed as they are and then erased.
    return logits.masked_fill(~mask & alive, float("-inf")).softmax(-1).masked_fill(~alive, 0.0)
