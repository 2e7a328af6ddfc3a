"""Valid calls of every public name of ``kexue.functions.exp_taylor``; the abuse sweep derives the others (trials/abuse.py)."""

import torch

from trials.abuse import Calls, Site, given, real

CALLS: Calls = {
    "exp_taylor": (Site(lambda: given(x=real(3, 2), order=5), rows="x"),),
    "log_exp_taylor": (Site(lambda: given(x=real(3, 2), order=4), rows="x"),),
    "exp_taylor_minimum": (Site(lambda: given(order=6)),),
    "taylor_softmax": (
        Site(lambda: given(logits=real(3, 4), order=2, dim=1, monotone=False)),
        Site(lambda: given(logits=real(3, 4)), rows="logits"),
        Site(lambda: given(logits=real(3, 4), order=4, monotone=True), rows="logits"),
    ),
    "log_taylor_softmax": (
        Site(lambda: given(logits=real(3, 4), order=4, dim=1, monotone=False)),
        Site(lambda: given(logits=real(3, 4)), rows="logits"),
    ),
    "taylor_cross_entropy": (
        Site(
            lambda: (
                given(logits=real(3, 4), target=torch.tensor([1, 0, 3]), order=2, margin=0.5)
                | given(monotone=False, reduction="none")
            ),
            rows="logits target",
        ),
    ),
    "exp_taylor_features": (Site(lambda: given(x=real(3, 2)), rows="x"),),
}

EXEMPT = ((r"(log_)?taylor_softmax, dim: -1$", "answered", "the last axis is an axis: documented domain"),)
