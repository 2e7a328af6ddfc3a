"""Valid calls of every public name of ``kexue.generation.exposure_bias``; the abuse sweep derives the others (trials/abuse.py)."""

import torch
from torch import Tensor

from trials.abuse import DRAWS, TOLERANCE, Arguments, Calls, From, Site, given, real, seeded


def labels() -> Tensor:
    return torch.tensor([[0, 3, 1], [2, 2, 0]])


def chain() -> Arguments:
    return given(unary=real(2, 3, 4), pairwise=real(4, 4, seed=1))


def padded(length: int = 3) -> Arguments:
    return given(mask=torch.arange(length) < torch.tensor([[length], [length - 1]]))


def bigram(prefixes: Tensor) -> Tensor:
    table = real(4, 3, seed=5).log_softmax(-1)
    return table[prefixes[:, -1] + 1] if prefixes.shape[1] else table[:1]


def cubed(arguments: Arguments) -> Tensor:
    x = arguments["inputs"]
    return (
        (x**3).sum() if getattr(x, "dtype", None) in TOLERANCE and isinstance(x, Tensor) else torch.ones((), requires_grad=True)
    )


CALLS: Calls = {
    "path_score": (Site(lambda: chain() | given(labels=labels()) | padded(), rows="unary labels mask"),),
    "global_log_prob": (Site(lambda: chain() | given(labels=labels()) | padded(), rows="unary labels mask"),),
    "local_log_prob": (Site(lambda: chain() | given(labels=labels()) | padded(), rows="unary labels mask"),),
    "local_transitions": (Site(chain, rows="unary"),),
    "viterbi": (
        Site(lambda: given(initial=real(2, 4), transitions=real(2, 2, 4, 4)) | padded(), rows="initial transitions mask"),
    ),
    "beam_search": (Site(lambda: given(step=bigram, beam_size=2, max_length=3, eos=0, mask=torch.tensor([True, True, False]))),),
    "random_replacement": (
        Site(
            lambda: given(ids=labels(), sequence_rate=1.0, token_rate=0.75, mask=labels() > 0, generator=seeded()),
            rows="ids mask",
        ),
    ),
    "gradient_penalty": (Site(lambda: given(loss=From(cubed), inputs=real(2, 3).requires_grad_(), coefficient=0.5)),),
}

EXEMPT = ((r"random_replacement, all: (one row|rows)", "instead", DRAWS),)
