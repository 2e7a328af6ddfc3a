"""Boolean attention masks (True = attend) and a softmax whose empty rows are exactly zero."""

from __future__ import annotations

import torch
from torch import Tensor

from kexue import _check


def attention_mask(logits: Tensor, attn_mask: Tensor | None, is_causal: bool, q_offset: int = 0) -> Tensor | None:
    """The mask for ``logits`` (..., n, m): ``attn_mask`` and, if causal, key j <= query i + ``q_offset``; None if all attend."""
    mask = None
    if attn_mask is not None:
        mask = _check.boolean("attn_mask", attn_mask)
        try:
            fits = torch.broadcast_shapes(mask.shape, logits.shape) == logits.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"attn_mask must broadcast to {tuple(logits.shape)}, got {tuple(mask.shape)}")
    if is_causal:
        n, m = logits.shape[-2:]
        # Not tril, whose diagonal torch 2.6 fixes in a graph: every decoding step would compile anew.
        queries = torch.arange(q_offset, q_offset + n, device=logits.device)
        causal = torch.arange(m, device=logits.device) <= queries.unsqueeze(-1)
        mask = causal if mask is None else mask & causal
    return mask


def masked_softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis among the entries where ``mask`` is True; a row without any gives 0, with finite gradients."""
    if mask is None:
        return logits.softmax(-1)
    alive = mask.any(-1, keepdim=True)
    # A row of nothing but -inf would give NaN in value and gradient: such rows are softmaxed as they are and then erased.
    return logits.masked_fill(~mask & alive, float("-inf")).softmax(-1).masked_fill(~alive, 0.0)
