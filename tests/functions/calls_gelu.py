"""Valid calls of every public name of ``kexue.functions.gelu``; the abuse sweep derives the others (trials/abuse.py)."""

import torch

from trials.abuse import Calls, Site, given, real


def straight(x: torch.Tensor, theta: float) -> torch.Tensor:
    return theta * x


CALLS: Calls = {
    "gelu": (
        Site(lambda: given(x=real(3, 2), approximate="tanh", cubic=0.05), rows="x"),
        Site(lambda: given(x=real(3, 2), approximate="sigmoid", scale=1.5), rows="x"),
        Site(lambda: given(x=real(3, 2)), rows="x"),
    ),
    "GELU": (
        Site(lambda: given(approximate="sigmoid", cubic=0.05, scale=1.5)),
        Site(lambda: given(x=real(3, 2)), "forward", "x"),
    ),
    "minimax_fit": (Site(lambda: given(target=torch.tanh, model=straight, bracket=(0.1, 1.0), interval=(0.0, 2.0))),),
}
