"""Valid calls of every public name of ``kexue.attention.position_encodings``; the abuse sweep derives the others (trials/abuse.py)."""

import torch

from trials.abuse import F64, OVERFLOW, PLACE, Calls, Site, given, real, reals

MASK = torch.tensor([[True, False, True], [True, True, False], [False, False, True]])
ATTENTION = (
    Site(lambda: reals("q k", 2, 2, 3, 4) | given(q_offset=2), "logits", "q k"),
    Site(lambda: given(attn=real(2, 2, 3, 3).softmax(-1), v=real(2, 2, 3, 4), q_offset=2), "mix", "attn v"),
    Site(lambda: reals("q k v", 2, 2, 3, 4) | given(attn_mask=MASK.clone(), is_causal=True, q_offset=1), "forward", "q k v"),
)

CALLS: Calls = {
    "sinusoidal": (
        Site(lambda: given(positions=torch.arange(-1, 3), dim=4, base=100.0, dtype=F64), rows="positions", fixed=True),
    ),
    "hierarchical": (Site(lambda: given(table=real(3, 2), length=7, alpha=0.4)),),
    "AbsolutePositions": (Site(lambda: given(dim=4, mode="add")), Site(lambda: given(length=3), "table")),
    "LearnedPositions": (
        Site(lambda: given(max_length=4, dim=6, mode="add", alpha=0.4, **PLACE)),
        Site(lambda: given(length=5), "table"),
        Site(lambda: given(x=real(2, 5, 6), offset=1), "forward", "x"),
        Site(lambda: given(x=real(2, 3, 6), positions=torch.tensor([[0, 4, 15]] * 2)), "forward", "x positions"),
    ),
    "SinusoidalPositions": (
        Site(lambda: given(dim=6, base=100.0, mode="multiply")),
        Site(lambda: given(length=5), "table"),
        Site(lambda: given(x=real(2, 5, 6), offset=1), "forward", "x"),
        Site(lambda: given(x=real(2, 3, 6), positions=torch.tensor([[0, 4, -1]] * 2)), "forward", "x positions"),
    ),
    "ConvPositions": (
        Site(lambda: given(dim=4, kernel_size=3, padding_mode="zeros", is_causal=False, **PLACE)),
        Site(lambda: given(x=real(2, 5, 4), mask=MASK[[0, 1]].repeat(1, 2)[:, :5]), "forward", "x mask"),
    ),
    "PositionAttention": (Site(dict), *ATTENTION),
    "ShawAttention": (Site(lambda: given(head_dim=4, max_distance=2, **PLACE)), *ATTENTION),
    "TransformerXLAttention": (Site(lambda: given(num_heads=2, head_dim=4, base=100.0, **PLACE)), *ATTENTION),
    "T5Attention": (
        Site(lambda: given(num_heads=2, num_buckets=8, max_distance=20, bidirectional=True, **PLACE)),
        *ATTENTION,
    ),
    "t5_bucket": (
        Site(
            lambda: given(relative_position=torch.arange(-30, 30), bidirectional=True, num_buckets=32, max_distance=128),
            rows="relative_position",
        ),
    ),
    "DebertaAttention": (Site(lambda: given(num_heads=2, head_dim=4, max_distance=2, **PLACE)), *ATTENTION),
    "RotaryAttention": (Site(lambda: given(head_dim=4, base=100.0, rotate_values=True)), *ATTENTION),
}

EXEMPT = (
    (r"AbsolutePositions\.table", "NotImplementedError", "the base has no table until a subclass supplies one"),
    (r"(ConvPositions|\w+Attention)\.\w+, \w+: huge .*float16", "NaN|instead", OVERFLOW),
)
