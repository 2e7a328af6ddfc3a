"""Rotary embedding.

Least work: a rotation reads its input and writes its output once (its table is smaller by a factor of batch and heads), linear attention
reads q, k, v and writes its output, and multiplies k^T v, then q times that.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import BFLOAT, MODES, Case, Pair, Setting, Target
from kexue.attention.rope import (
    RotaryEmbedding,
    apply_rotary,
    linear_attention,
    permute_rotary_weight,
    rope_frequencies,
    rotary_cos_sin,
    rotary_linear_attention,
)

NO_PEER = {
    "attention.rope.decay_bound": "a number of the theory that no library computes",
}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = (
    "RotaryEmbedding",
    "apply_rotary",
    "linear_attention",
)


def _elements(s: Setting) -> int:
    return s["B"] * s["H"] * s["n"] * s["d"]


def _rotation(ours: Any, peer: Any, s: Setting, *leaves: Tensor) -> Pair:
    """Reads and writes every element of the leaves once; the backward pass likewise."""
    moved = 2 * s.itemsize * sum(leaf.numel() for leaf in leaves)
    return Pair(ours, peer, scale=_elements(s), moved=moved, backward=1.0, leaves=leaves)


def _interleaved(s: Setting) -> Pair:
    from rotary_embedding_torch import RotaryEmbedding as Peer

    x = s.randn(s["B"], s["H"], s["n"], s["d"])
    ours, peer = RotaryEmbedding(s["d"]), Peer(s["d"]).to(s.device)
    peer.freqs.requires_grad_(False)
    return _rotation(lambda: ours(x), lambda: peer.rotate_queries_or_keys(x), s, x)


def _decode(s: Setting) -> Pair:
    from rotary_embedding_torch import RotaryEmbedding as Peer

    x, position = s.randn(s["B"], s["H"], 1, s["d"]), s["n"] - 1
    ours, peer = RotaryEmbedding(s["d"]), Peer(s["d"]).to(s.device)
    for warm in (ours, peer.rotate_queries_or_keys):  # the prompt before the first token
        warm(s.randn(1, 1, s["n"], s["d"]))
    pair = _rotation(lambda: ours(x, offset=position), lambda: peer.rotate_queries_or_keys(x, offset=position), s, x)
    pair.scale = s["n"]
    return pair


def _llama_table(s: Setting) -> tuple[Tensor, Tensor]:
    """What Llama computes once for all its layers: cosines and sines, shape (1, n, d)."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=s["H"] * s["d"], num_attention_heads=s["H"], head_dim=s["d"])
    positions = torch.arange(s["n"], device=s.device)[None]
    cos, sin = LlamaRotaryEmbedding(config).to(s.device)(s.randn(1), positions)
    return cos, sin


def _half_split(s: Setting) -> Pair:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = (s.randn(s["B"], s["H"], s["n"], s["d"]) for _ in range(2))
    ours, (cos, sin) = RotaryEmbedding(s["d"], interleaved=False), _llama_table(s)
    return _rotation(lambda: (ours(q), ours(k)), lambda: apply_rotary_pos_emb(q, k, cos, sin), s, q, k)


def _table(s: Setting, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    freqs = rope_frequencies(s["d"], device=s.device)
    return rotary_cos_sin(torch.arange(s["n"], device=s.device), freqs, dtype=dtype or s.dtype)


def _gptj(s: Setting) -> Pair:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    x = s.randn(s["B"], s["n"], s["H"], s["d"])  # the layout of GPT-J
    cos, sin = _table(s)
    wide = cos[:, None, :], sin[:, None, :]
    return _rotation(lambda: apply_rotary(x, *wide), lambda: apply_rotary_pos_emb(x, sin[None], cos[None]), s, x)


def _roformer(s: Setting) -> Pair:
    from transformers.models.roformer.modeling_roformer import RoFormerSelfAttention

    q, k = (s.randn(s["B"], s["H"], s["n"], s["d"]) for _ in range(2))
    cos, sin = _table(s)
    table = torch.cat((sin, cos), -1)[None, None]
    rotate = RoFormerSelfAttention.apply_rotary_position_embeddings
    return _rotation(lambda: (apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)), lambda: rotate(table, q, k), s, q, k)


def _x_transformers(s: Setting) -> Pair:
    from x_transformers.x_transformers import RotaryEmbedding as Peer
    from x_transformers.x_transformers import apply_rotary_pos_emb

    x = s.randn(s["B"], s["H"], s["n"], s["d"])
    cos, sin = _table(s, torch.float32)
    freqs, _ = Peer(s["d"]).to(s.device)(torch.arange(s["n"], device=s.device))
    return _rotation(lambda: apply_rotary(x, cos, sin), lambda: apply_rotary_pos_emb(x, freqs), s, x)


def _cos_sin(s: Setting) -> Pair:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    peer = LlamaRotaryEmbedding(LlamaConfig(hidden_size=s["d"], num_attention_heads=1, head_dim=s["d"])).to(s.device)
    positions, like = torch.arange(s["n"], device=s.device), s.randn(1)
    freqs, half = rope_frequencies(s["d"], device=s.device), s["d"] // 2
    return Pair(
        lambda: rotary_cos_sin(positions, freqs, dtype=s.dtype),
        lambda: peer(like, positions[None]),
        scale=s["n"],
        moved=2 * s["n"] * half * s.itemsize,  # both tables, written once
        view=lambda tables: [table[0, :, :half] for table in tables],
    )


def _frequencies(s: Setting) -> Pair:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=s["d"], num_attention_heads=1, head_dim=s["d"])
    peer = LlamaRotaryEmbedding.compute_default_rope_parameters
    return Pair(lambda: rope_frequencies(s["d"]), lambda: peer(config)[0], scale=s["d"], moved=8 * s["d"] // 2)


def _permute(s: Setting) -> Pair:
    weight = s.randn(s["H"] * s["d"], s["D"])

    def peer() -> Tensor:  # as in the scripts that convert Llama's weights
        return weight.view(s["H"], s["d"] // 2, 2, s["D"]).transpose(1, 2).reshape(s["H"] * s["d"], s["D"])

    return Pair(lambda: permute_rotary_weight(weight, s["H"]), peer, scale=weight.numel(), moved=2 * weight.nbytes)


def _rope_in_attention(s: Setting) -> Pair:
    q, k, v = (s.randn(s["B"], s["H"], s["n"], s["d"]) for _ in range(3))
    rotary = RotaryEmbedding(s["d"])
    attend = F.scaled_dot_product_attention
    pair = _rotation(lambda: (rotary(q), rotary(k)), lambda: attend(q, k, v, is_causal=True), s, q, k)
    pair.scale = s["n"]
    return pair


def _linear(s: Setting, causal: bool, rotary: bool = False) -> Pair:
    q, k, v = (s.randn(s["B"], s["H"], s["n"], s["d"]) for _ in range(3))
    turn = RotaryEmbedding(s["d"])

    def features(x: Tensor) -> Tensor:
        return F.elu(x) + 1

    def ours() -> Tensor:
        if rotary:
            return rotary_linear_attention(q, k, v, turn, is_causal=causal)
        return linear_attention(features(q), features(k), v, is_causal=causal)

    def peer() -> Tensor:
        return F.scaled_dot_product_attention(*((turn(q), turn(k)) if rotary else (q, k)), v, is_causal=causal)

    return Pair(
        ours,
        peer,
        scale=s["n"],
        moved=4 * _elements(s) * s.itemsize,  # q, k, v and the output
        flops=4 * _elements(s) * s["d"],  # k^T v, then q times that
        leaves=(q, k, v),
    )


ROPE_SIZES = (
    {"B": 2, "H": 8, "n": 256, "d": 64},
    {"B": 4, "H": 8, "n": 1024, "d": 64},
    {"B": 1, "H": 8, "n": 4096, "d": 128},
)
ROPE_GPU = tuple({"B": B, "H": 32, "n": 4096, "d": 128} for B in (2, 4, 8))
LAYER_SIZES = tuple({"B": 1, "H": 4, "n": n, "d": 64} for n in (256, 1024, 2048))
FULL = (*MODES, "bfloat16 compiled")
EXACT_ANGLES = "angles in float64, rounded once: right to 1e-7 at position 10^6, where angles in float32 are off by up to 0.03"
HALF_SPLIT = (
    "in bfloat16 it computes in float32 and rounds once, where the peer multiplies in bfloat16 with a bfloat16 table; compiled, its table "
    "is formed at every call (a graph may not keep one), while the peer's is given"
)
LINEAR = "another function for the same job: linear attention against softmax attention"

CASES = [
    Case(
        "attention.rope.RotaryEmbedding",
        "rotary-embedding-torch",
        "RotaryEmbedding.rotate_queries_or_keys",
        _interleaved,
        ROPE_SIZES,
        "interleaved",
        also=FULL,
        targets={
            "float32 forward": Target(0.7, 0.15),
            "float32 forward+backward": Target(0.7, 0.15),
            BFLOAT: Target(1.6, 1.0),
        },
        same={
            "float32": 1e-3,
            "bfloat16": "the peer forms its positions in bfloat16 and is wrong by more than 1 past position 256",
        },
        gpu_sizes=ROPE_GPU,
    ),
    Case(
        "attention.rope.RotaryEmbedding",
        "transformers",
        "Llama apply_rotary_pos_emb, its table given",
        _half_split,
        ROPE_SIZES,
        "half-split",
        also=FULL,
        targets={"float32 forward": Target(0.8, 0.4), "float32 forward+backward": Target(0.8, 0.4)},
        same=1e-3,
        gpu_sizes=ROPE_GPU,
        why=HALF_SPLIT,
    ),
    Case(
        "attention.rope.RotaryEmbedding",
        "rotary-embedding-torch",
        "RotaryEmbedding.rotate_queries_or_keys",
        _decode,
        tuple({"B": 1, "H": 8, "n": n, "d": 64} for n in (64, 512, 4096)),
        "one token at position n - 1",
        also=(BFLOAT,),
        targets={"float32 forward": Target(0.5, 0.2)},
        same={"float32": 1e-3, "bfloat16": "the peer forms its positions in bfloat16"},
        gpu_sizes=({"B": 64, "H": 32, "n": 4096, "d": 128},),
    ),
    Case(
        "attention.rope.RotaryEmbedding",
        "torch",
        "F.scaled_dot_product_attention, causal",
        _rope_in_attention,
        tuple({"B": 1, "H": 2, "n": n, "d": 128} for n in (1024, 2048, 4096)),
        "queries and keys",
        targets={"float32 forward n4096": Target(0.15)},
        same="a yardstick: what the rotation adds to the attention that it serves",
        gpu_sizes=ROPE_GPU,
    ),
    Case(
        "attention.rope.apply_rotary",
        "transformers",
        "GPT-J apply_rotary_pos_emb",
        _gptj,
        ROPE_SIZES,
        "interleaved, heads last",
        also=MODES[:2],
        gpu_sizes=ROPE_GPU,
    ),
    Case(
        "attention.rope.apply_rotary",
        "transformers",
        "RoFormer apply_rotary_position_embeddings",
        _roformer,
        ROPE_SIZES,
        "interleaved",
        also=MODES[:2],
        gpu_sizes=ROPE_GPU,
    ),
    Case(
        "attention.rope.apply_rotary",
        "x-transformers",
        "apply_rotary_pos_emb",
        _x_transformers,
        ROPE_SIZES,
        "interleaved",
        also=(BFLOAT,),
        same=1e-3,
        gpu_sizes=ROPE_GPU,
    ),
    Case(
        "attention.rope.rotary_cos_sin",
        "transformers",
        "LlamaRotaryEmbedding",
        _cos_sin,
        tuple({"n": n, "d": 64} for n in (256, 1024, 4096)),
        same={"float32": 2e-3},
        gpu_sizes=({"n": 131072, "d": 128},),
        why=EXACT_ANGLES,
    ),
    Case(
        "attention.rope.rope_frequencies",
        "transformers",
        "LlamaRotaryEmbedding.compute_default_rope_parameters",
        _frequencies,
        tuple({"d": d} for d in (64, 128, 256)),
    ),
    Case(
        "attention.rope.permute_rotary_weight",
        "torch",
        "view, transpose, reshape without a check",
        _permute,
        tuple({"H": 8, "d": 64, "D": D} for D in (128, 512, 2048)),
        why="counts heads and features first, and leaves features in place that are not rotated",
    ),
    *(
        Case(
            "attention.rope.linear_attention",
            "torch",
            "F.scaled_dot_product_attention",
            lambda s, causal=causal: _linear(s, causal),
            LAYER_SIZES,
            "causal" if causal else "",
            also=MODES[:2],
            same=LINEAR,
            gpu_sizes=tuple({"B": 8, "H": 16, "n": n, "d": 64} for n in (2048, 4096, 8192)),
        )
        for causal in (False, True)
    ),
    Case(
        "attention.rope.rotary_linear_attention",
        "torch",
        "F.scaled_dot_product_attention of rotated q, k",
        lambda s: _linear(s, True, rotary=True),
        LAYER_SIZES,
        "causal",
        same=LINEAR,
        gpu_sizes=tuple({"B": 8, "H": 16, "n": n, "d": 64} for n in (2048, 4096, 8192)),
    ),
]
