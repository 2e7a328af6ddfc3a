"""Position encodings.

Least work: an attention reads q, k, v and writes its output, and multiplies q k^T and a v, 4 B H n m d flops; the encodings add what
stands beside them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.attention.rope import EXACT_ANGLES
from benchmarks.cases import MODES, Case, Pair, Setting, Target
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
    rope_frequencies,
)

NO_PEER = {
    "attention.position_encodings.AbsolutePositions": "the base of LearnedPositions and SinusoidalPositions, which are measured",
    "attention.position_encodings.hierarchical": "no library extends a table so; one addition per row",
}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = (
    "RotaryAttention",
    "T5Attention",
    "TransformerXLAttention",
    "ShawAttention",
    "DebertaAttention",
    "t5_bucket",
)


def _elements(s: Setting) -> int:
    return s["B"] * s["H"] * s["n"] * s["d"]


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
SCORES = "the scores exist as a tensor, to which each encoding adds its term; the fused kernel never stores them"
MODULE = "attention.position_encodings."

CASES = [
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
