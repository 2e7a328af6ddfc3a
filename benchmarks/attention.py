"""Attention: rotary embedding, position encodings.

Least work: a rotation reads its input and writes its output once (its table is smaller by a factor of batch and heads), an attention
reads q, k, v and writes its output, and multiplies q k^T and a v, 4 B H n m d flops; the encodings add what stands beside them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import Case, Pair, Setting, Target
from kexue.attention.position_encodings import (
    ConvPositions,
    DebertaAttention,
    LearnedPositions,
    PositionAttention,
    RotaryAttention,
    ShawAttention,
    SinusoidalPositions,
    T5Attention,
    TransformerXLAttention,
    sinusoidal,
    t5_bucket,
)
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
    "attention.position_encodings.AbsolutePositions": "the base of LearnedPositions and SinusoidalPositions, which are measured",
    "attention.position_encodings.hierarchical": "no library extends a table so; one addition per row",
}


# ---- rope


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
BFLOAT = "bfloat16 forward"
MODES = ("float32 forward+backward", BFLOAT, "float32 compiled")
FULL = (*MODES, "bfloat16 compiled")
ANGLES = "the peer forms its angles in float32, ours in float64"
EXACT_ANGLES = "angles in float64, rounded once: right to 1e-7 at position 10^6, where angles in float32 are off by up to 0.03"
HALF_SPLIT = (
    "in bfloat16 it computes in float32 and rounds once, where the peer multiplies in bfloat16 with a bfloat16 table; compiled, its table "
    "is formed at every call (a graph may not keep one), while the peer's is given"
)
SCORES = "the scores exist as a tensor, to which each encoding adds its term; the fused kernel never stores them"
LINEAR = "another function for the same job: linear attention against softmax attention"

ROPE = [
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


# ---- position encodings


def _qkv(s: Setting) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (s.randn(s["B"], s["H"], s["n"], s["d"]) for _ in range(3))
    return q, k, v


def _attention(s: Setting, ours: Any, peer: Any, leaves: Any, weights: Any = ((), ()), extra: float = 0.0, **more: Any) -> Pair:
    """q k^T and a v, and what the encoding multiplies besides, as a multiple of the two."""
    flops = 4 * _elements(s) * s["n"] * (1.0 + extra)
    moved = 4 * _elements(s) * s.itemsize
    return Pair(ours, peer, scale=s["n"], moved=moved, flops=flops, leaves=leaves, weights=weights, **more)


def _made(s: Setting, name: str) -> tuple[PositionAttention, float]:
    """An encoder of this size with weights that differ from 0, and its extra products in multiples of the plain ones."""
    heads, d, n, reach = s["H"], s["d"], s["n"], 16
    options: dict[str, Any] = {"device": s.device, "dtype": s.dtype}
    made: PositionAttention
    if name == "shaw":
        made, extra = ShawAttention(d, reach, **options), (2 * reach + 1) / n  # q P^T and the weights by distance times P
    elif name == "xl":
        # q times n + n distances, and the projection of that many sinusoids.
        made, extra = TransformerXLAttention(heads, d, **options), 1.0 + heads * d / (s["B"] * n)
    elif name == "t5":
        made, extra = T5Attention(heads, **options), 0.0
    elif name == "deberta":
        # Queries and keys times 2K rows each, and two projections of those rows.
        made, extra = DebertaAttention(heads, d, reach, **options), 2 * reach / n * (1.0 + heads * d / (s["B"] * n))
    elif name == "rotary":
        made, extra = RotaryAttention(d), 0.0
    else:
        made, extra = PositionAttention(), 0.0
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=s.generator, device=s.device) / 4)
    return made.requires_grad_(False), extra


def _against_plain(s: Setting, name: str) -> Pair:
    qkv, plain = _qkv(s), PositionAttention()
    made, extra = _made(s, name)
    return _attention(s, lambda: made(*qkv), lambda: plain(*qkv), qkv, (tuple(made.parameters()), ()), extra)


def _plain(s: Setting) -> Pair:
    qkv, plain = _qkv(s), PositionAttention()
    return _attention(s, lambda: plain(*qkv), lambda: F.scaled_dot_product_attention(*qkv), qkv)


def _multi_head(s: Setting) -> Pair:
    width, plain = s["H"] * s["d"], PositionAttention()
    peer = nn.MultiheadAttention(width, s["H"], bias=False, batch_first=True, device=s.device, dtype=s.dtype).eval()
    peer.requires_grad_(False)
    weight, out = peer.in_proj_weight, peer.out_proj.weight
    x = s.randn(s["B"], s["n"], width)

    def ours() -> Tensor:
        heads = (part.unflatten(-1, (s["H"], s["d"])).transpose(1, 2) for part in F.linear(x, weight).chunk(3, -1))
        return F.linear(plain(*heads).transpose(1, 2).flatten(-2), out)

    flops = 4 * _elements(s) * s["n"] + 8 * s["B"] * s["n"] * width**2  # attention and four projections
    moved = (2 * x.numel() + weight.numel() + out.numel()) * s.itemsize
    return Pair(ours, lambda: peer(x, x, x, need_weights=False)[0], scale=s["n"], moved=moved, flops=flops, leaves=(x,))


def _shaw_rows(made: ShawAttention, s: Setting) -> Tensor:
    """The row of the tables for every pair (i, j), shape (n, n)."""
    positions = torch.arange(s["n"], device=s.device)
    return (positions[:, None] - positions).clamp(-made.max_distance, made.max_distance) + made.max_distance


def _shaw(s: Setting) -> Pair:
    q, k, v = _qkv(s)
    made, extra = _made(s, "shaw")
    assert isinstance(made, ShawAttention)

    def peer() -> Tensor:
        index = _shaw_rows(made, s)
        keys, values = made.key_table[index], made.value_table[index]
        logits = q @ k.mT + torch.einsum("bhnd,nmd->bhnm", q, keys)
        weights = (logits / math.sqrt(s["d"])).softmax(-1)
        return weights @ v + torch.einsum("bhnm,nmd->bhnd", weights, values)

    weights = tuple(made.parameters())
    return _attention(s, lambda: made(q, k, v), peer, (q, k, v, *weights), extra=extra)


def _shaw_scores(s: Setting) -> Pair:
    q, k, _ = _qkv(s)
    made, extra = _made(s, "shaw")
    assert isinstance(made, ShawAttention)

    def peer() -> Tensor:
        return (q @ k.mT + torch.einsum("bhnd,nmd->bhnm", q, made.key_table[_shaw_rows(made, s)])) / math.sqrt(s["d"])

    pair = _attention(s, lambda: made.logits(q, k), peer, (q, k, made.key_table), extra=extra)
    pair.moved, pair.flops = (2 * _elements(s) + s["B"] * s["H"] * s["n"] ** 2) * s.itemsize, pair.flops / 2
    return pair


def _xlnet(s: Setting) -> Pair:
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

    q, k, v = _qkv(s)
    made, extra = _made(s, "xl")
    assert isinstance(made, TransformerXLAttention)
    width = s["H"] * s["d"]
    core = XLNetRelativeAttention(XLNetConfig(d_model=width, n_head=s["H"], d_head=s["d"], dropout=0.0)).to(s.device, s.dtype)
    core.requires_grad_(False)
    # Their sinusoid has all sines before all cosines; it is made once for all layers, so it is given here.
    distances = torch.arange(s["n"], -s["n"], -1, device=s.device).float()
    sinusoid = XLNetModel.positional_embedding(distances, rope_frequencies(width, device=s.device).float())[:, 0].to(s.dtype)
    order = torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2))).to(s.device)
    projection = made.proj.weight.detach()[:, order].mT.reshape(width, s["H"], s["d"]).contiguous()
    u, w = made.u.detach().clone(), made.v.detach().clone()
    core.r_w_bias, core.r_r_bias = nn.Parameter(u, requires_grad=False), nn.Parameter(w, requires_grad=False)

    def peer() -> Tensor:
        heads = torch.einsum("ih,hnd->ind", sinusoid, projection)[:, None].expand(-1, s["B"], -1, -1)
        return core.rel_attn_core(*(x.permute(2, 0, 1, 3) for x in (q, k, v)), heads)

    weights = tuple(made.parameters()), (projection, core.r_w_bias, core.r_r_bias)
    return _attention(s, lambda: made(q, k, v), peer, (q, k, v), weights, extra, view=lambda o: o.permute(1, 2, 0, 3))


def _t5(s: Setting) -> Pair:
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention as Peer
    from transformers.models.t5.modeling_t5 import eager_attention_forward

    qkv = _qkv(s)
    made, extra = _made(s, "t5")
    assert isinstance(made, T5Attention)
    config = T5Config(d_model=s["H"] * s["d"], d_kv=s["d"], num_heads=s["H"], dropout_rate=0.0)
    peer = Peer(config, has_relative_attention_bias=True).to(s.device, s.dtype).requires_grad_(False).eval()
    peer.relative_attention_bias.weight = made.weight
    scale = s["d"] ** -0.5

    def theirs() -> Tensor:
        bias = peer.compute_bias(s["n"], s["n"])
        return eager_attention_forward(peer, *qkv, None, scaling=scale, position_bias=bias)[0]

    return _attention(s, lambda: made(*qkv), theirs, (*qkv, made.weight), extra=extra, view=lambda o: o.transpose(1, 2))


def _buckets(s: Setting) -> Pair:
    from transformers.models.t5.modeling_t5 import T5Attention as Peer

    distances = s.randint(1000, s["n"], s["n"]) - 500
    peer = Peer._relative_position_bucket
    moved = 2 * distances.nbytes
    return Pair(lambda: t5_bucket(distances), lambda: peer(distances), scale=distances.numel(), moved=moved)


def _deberta(s: Setting) -> Pair:
    from transformers import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    q, k, v = _qkv(s)
    made, extra = _made(s, "deberta")
    assert isinstance(made, DebertaAttention)
    width, reach = s["H"] * s["d"], made.max_distance
    # Their third term looks up the row of (i, j), the paper that of (j, i): rows r and 2K - r are made equal, so that both agree.
    with torch.no_grad():
        rows = torch.arange(2 * reach, device=s.device)
        made.embedding.copy_(made.embedding[torch.minimum(rows, 2 * reach - rows).clamp(min=1)])
    config = DebertaV2Config(
        hidden_size=width,
        num_attention_heads=s["H"],
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        max_relative_positions=reach,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    peer = DisentangledSelfAttention(config).to(s.device, s.dtype).requires_grad_(False).eval()
    peer.pos_key_proj.weight, peer.pos_query_proj.weight = made.key_proj.weight, made.query_proj.weight
    for projection in (peer.pos_key_proj, peer.pos_query_proj):
        nn.init.zeros_(projection.bias)

    def theirs() -> Tensor:  # the lines of its forward between the projections, without the mask
        queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
        scores = queries @ (keys.mT / math.sqrt(3 * s["d"]))
        scores = scores + peer.disentangled_attention_bias(queries, keys, None, made.embedding, 3)
        return (scores.softmax(-1) @ values).unflatten(0, q.shape[:2])

    theirs_too = made.embedding, made.key_proj.weight, made.query_proj.weight
    return _attention(s, lambda: made(q, k, v), theirs, (q, k, v), (tuple(made.parameters()), theirs_too), extra)


def _rotary_attention(s: Setting) -> Pair:
    from rotary_embedding_torch import RotaryEmbedding as Peer

    q, k, v = _qkv(s)
    made, extra = _made(s, "rotary")
    peer = Peer(s["d"]).to(s.device)
    peer.freqs.requires_grad_(False)
    turn = peer.rotate_queries_or_keys
    return _attention(
        s, lambda: made(q, k, v), lambda: F.scaled_dot_product_attention(turn(q), turn(k), v), (q, k, v), extra=extra
    )


def _learned(s: Setting) -> Pair:
    x = s.randn(s["B"], s["n"], s["D"])
    ours = LearnedPositions(s["n"], s["D"], device=s.device, dtype=s.dtype)
    peer = nn.Embedding(s["n"], s["D"], device=s.device)
    peer.weight = ours.weight
    moved = (2 * x.numel() + ours.weight.numel()) * s.itemsize
    ours.requires_grad_(False)
    return Pair(
        lambda: ours(x),
        lambda: x + peer(torch.arange(s["n"], device=s.device)),
        scale=x.numel(),
        moved=moved,
        backward=1.0,
        leaves=(x, ours.weight),
    )


def _sinusoidal(s: Setting) -> Pair:
    from transformers.models.xlnet.modeling_xlnet import XLNetModel

    positions = torch.arange(s["n"], device=s.device)
    freqs = rope_frequencies(s["D"], device=s.device).float()
    return Pair(
        lambda: sinusoidal(positions, s["D"], dtype=s.dtype),
        lambda: XLNetModel.positional_embedding(positions.float(), freqs),
        scale=s["n"],
        moved=s["n"] * s["D"] * s.itemsize,  # written once
        view=lambda table: table[:, 0].unflatten(-1, (2, -1)).mT.flatten(-2),
    )


def _sinusoidal_added(s: Setting) -> Pair:
    from x_transformers.x_transformers import ScaledSinusoidalEmbedding

    x = s.randn(s["B"], s["n"], s["D"])
    ours, peer = SinusoidalPositions(s["D"]), ScaledSinusoidalEmbedding(s["D"]).to(s.device, s.dtype).requires_grad_(False)
    return Pair(lambda: ours(x), lambda: x + peer(x), scale=x.numel(), moved=2 * x.nbytes, backward=1.0, leaves=(x,))


def _conv(s: Setting) -> Pair:
    x = s.randn(s["B"], s["n"], s["D"])
    ours = ConvPositions(s["D"], device=s.device, dtype=s.dtype)
    peer = nn.Conv1d(s["D"], s["D"], 3, padding=1, groups=s["D"], device=s.device, dtype=s.dtype)
    peer.weight, peer.bias = ours.weight, ours.bias
    ours.requires_grad_(False)
    leaves = (x, ours.weight, ours.bias)
    return Pair(lambda: ours(x), lambda: x + peer(x.mT).mT, scale=x.numel(), moved=2 * x.nbytes, leaves=leaves)


ATTENTION_SIZES = tuple({"B": 4, "H": 4, "n": n, "d": 32} for n in (64, 256, 512))
ATTENTION_GPU = tuple({"B": 8, "H": 16, "n": n, "d": 64} for n in (512, 1024, 2048))
INPUT_SIZES = tuple({"B": 4, "n": n, "D": 256} for n in (64, 256, 1024))
INPUT_GPU = tuple({"B": 64, "n": n, "D": 1024} for n in (512, 1024, 2048))
ENCODERS = {
    "RotaryAttention": ("rotary", 1.5),
    "T5Attention": ("t5", 2.5),
    "TransformerXLAttention": ("xl", 2.5),
    "ShawAttention": ("shaw", 4.0),
    "DebertaAttention": ("deberta", 4.0),
}
MODULE = "attention.position_encodings."

POSITION_ENCODINGS = [
    Case(
        MODULE + "PositionAttention",
        "torch",
        "F.scaled_dot_product_attention",
        _plain,
        ATTENTION_SIZES,
        also=MODES,
        gpu_sizes=ATTENTION_GPU,
        why=SCORES,
    ),
    Case(
        MODULE + "PositionAttention",
        "torch",
        "nn.MultiheadAttention",
        _multi_head,
        ATTENTION_SIZES,
        "between the same projections",
        also=MODES[:1],
        gpu_sizes=ATTENTION_GPU,
        why=SCORES,
    ),
    *(
        Case(
            MODULE + name,
            "torch",
            "PositionAttention, that is attention without position",
            lambda s, kind=kind: _against_plain(s, kind),
            ATTENTION_SIZES,
            "cost of the position",
            also=MODES,
            targets={f"float32 {mode}": Target(must) for mode in ("forward n256", "forward+backward n256", "compiled n256")},
            same="a yardstick: what the position adds to plain attention",
            gpu_sizes=ATTENTION_GPU,
        )
        for name, (kind, must) in ENCODERS.items()
    ),
    Case(
        MODULE + "RotaryAttention",
        "rotary-embedding-torch",
        "rotate_queries_or_keys and F.scaled_dot_product_attention",
        _rotary_attention,
        ATTENTION_SIZES,
        also=MODES[:1],
        same=1e-3,
        gpu_sizes=ATTENTION_GPU,
        why=SCORES,
    ),
    Case(
        MODULE + "T5Attention",
        "transformers",
        "T5Attention.compute_bias and its eager attention",
        _t5,
        ATTENTION_SIZES,
        also=MODES[:2],
        gpu_sizes=ATTENTION_GPU,
    ),
    Case(
        MODULE + "t5_bucket",
        "transformers",
        "T5Attention._relative_position_bucket",
        _buckets,
        tuple({"n": n} for n in (64, 256, 1024)),
        same="the peer's float32 logarithm may put a border distance into the next bucket",
        gpu_sizes=({"n": 4096},),
        why="all in integers, exact at the borders between buckets",
    ),
    Case(
        MODULE + "TransformerXLAttention",
        "transformers",
        "XLNetRelativeAttention.rel_attn_core, its sinusoid given",
        _xlnet,
        ATTENTION_SIZES,
        also=MODES[:2],
        same=1e-4,
        gpu_sizes=ATTENTION_GPU,
        why="forms its sinusoid and projects it, which the peer is given",
    ),
    Case(
        MODULE + "ShawAttention",
        "torch",
        "einsum over an (n, m, d) tensor",
        _shaw,
        ATTENTION_SIZES,
        also=MODES[:2],
        gpu_sizes=ATTENTION_GPU,
    ),
    Case(
        MODULE + "ShawAttention",
        "torch",
        "einsum over an (n, m, d) tensor, scores alone",
        _shaw_scores,
        tuple({"B": 1, "H": 4, "n": n, "d": 32} for n in (256, 512, 1024)),
        "logits",
        targets={"float32 forward": Target(0.5)},
        gpu_sizes=ATTENTION_GPU,
    ),
    Case(
        MODULE + "DebertaAttention",
        "transformers",
        "DeBERTa-v2 disentangled_attention_bias",
        _deberta,
        ATTENTION_SIZES,
        also=MODES[:2],
        gpu_sizes=ATTENTION_GPU,
    ),
    Case(
        MODULE + "LearnedPositions",
        "torch",
        "nn.Embedding, added",
        _learned,
        INPUT_SIZES,
        also=MODES[:1],
        gpu_sizes=INPUT_GPU,
    ),
    Case(
        MODULE + "sinusoidal",
        "transformers",
        "XLNetModel.positional_embedding",
        _sinusoidal,
        tuple({"n": n, "D": 256} for n in (64, 256, 1024)),
        same=1e-3,
        gpu_sizes=({"n": 65536, "D": 1024},),
        why=EXACT_ANGLES,
    ),
    Case(
        MODULE + "SinusoidalPositions",
        "x-transformers",
        "ScaledSinusoidalEmbedding, added",
        _sinusoidal_added,
        INPUT_SIZES,
        same="the peer puts all sines before all cosines and scales them by a trained number",
        gpu_sizes=INPUT_GPU,
        why=EXACT_ANGLES,
    ),
    Case(
        MODULE + "ConvPositions",
        "torch",
        "nn.Conv1d with one group per feature, added",
        _conv,
        INPUT_SIZES,
        also=MODES[:1],
        gpu_sizes=INPUT_GPU,
        why="looks at shapes and devices first; the convolution is the same call",
    ),
]

CASES = ROPE + POSITION_ENCODINGS
