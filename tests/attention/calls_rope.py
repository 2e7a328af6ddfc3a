"""Valid calls of every public name of ``kexue.attention.rope``; the abuse sweep derives the others (trials/abuse.py)."""

import torch

from kexue.attention.rope import RotaryEmbedding
from trials.abuse import F64, Calls, Site, given, real, reals


def half_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x / 2)


CALLS: Calls = {
    "rope_frequencies": (Site(lambda: given(dim=6, base=100.0, device="cpu")),),
    "rotary_cos_sin": (
        Site(lambda: given(positions=torch.arange(-1, 3), freqs=real(2), dtype=F64), rows="positions", fixed=True),
    ),
    "apply_rotary": (Site(lambda: given(x=real(2, 3, 5), cos=real(3, 2), sin=real(3, 2), interleaved=True), rows="x"),),
    "RotaryEmbedding": (
        Site(lambda: given(dim=4, base=100.0, interleaved=False)),
        Site(lambda: given(dim=4, freqs=real(2))),
        Site(lambda: given(x=real(2, 3, 5), offset=2), "forward", "x"),
        Site(lambda: given(x=real(2, 3, 5), positions=torch.tensor([[0, 4, -1]] * 2)), "forward", "x positions"),
    ),
    "permute_rotary_weight": (Site(lambda: given(weight=real(12, 3), num_heads=2, rotary_dim=4, to_interleaved=False)),),
    "decay_bound": (Site(lambda: given(distance=torch.arange(-1, 3), freqs=real(3)), rows="distance", fixed=True),),
    "linear_attention": (
        Site(
            lambda: (
                {k: v.exp() for k, v in reals("q k v q_norm k_norm", 2, 5, 3).items()}
                | given(key_mask=real(2, 5) < 0.5, is_causal=True, chunk_size=2)
            ),
            rows="q k v q_norm k_norm key_mask",
        ),
        Site(lambda: {k: v.exp() for k, v in reals("q k v", 2, 5, 3).items()}, rows="q k v"),
    ),
    "rotary_linear_attention": (
        Site(
            lambda: (
                reals("q k v", 2, 5, 4)
                | given(rotary=RotaryEmbedding(4), feature_map=torch.sigmoid, key_feature_map=half_sigmoid)
                | given(key_mask=real(2, 5) < 0.5, is_causal=False, chunk_size=2)
            ),
            rows="q k v key_mask",
        ),
        Site(lambda: reals("q k v", 2, 5, 4) | given(rotary=RotaryEmbedding(4), is_causal=True), rows="q k v"),
    ),
}

EXEMPT = (
    (
        r"linear_attention, [qk]: .*tiny in",
        "NaN in a gradient|instead",
        "a denominator below the smallest normal: documented domain",
    ),
    (
        r"rotary_linear_attention, ([qk]|(key_)?feature_map): ",
        "x must have shape",
        "the caller's RotaryEmbedding names its own argument",
    ),
)
