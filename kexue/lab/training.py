"""A seeded training loop for one model or for many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kexue.lab.figures import use_one_thread

if TYPE_CHECKING:
    from torch import Tensor, nn


def stack(models: Sequence[nn.Module]) -> tuple[dict[str, Tensor], Callable[..., Any]]:
    """Stack models of one architecture: leading axis = model.

    Returns:
        ``params``, every parameter stacked (trainable leaves), and ``forward(params, *inputs)``, which runs model i on ``inputs[...][i]``.
    """
    import torch
    from torch.func import functional_call, stack_module_state

    params, buffers = stack_module_state(list(models))
    skeleton = models[0]

    def one(p: Any, b: Any, *inputs: Any) -> Any:
        return functional_call(skeleton, (p, b), inputs)

    def forward(p: dict[str, Tensor], *inputs: Tensor) -> Any:
        return torch.vmap(one, randomness="different")(p, buffers, *inputs)

    return params, forward


def fit(
    params: dict[str, Tensor] | Sequence[Tensor],
    loss_fn: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    schedule: Callable[[int], float] | None = None,
) -> NDArray[np.float64]:
    """Train in place with Adam and return the losses, one row per step.

    Args:
        params: trainable leaves, or the stacked parameters of :func:`stack`. Adam works entry by entry, so that stacked models whose
            losses are summed train exactly as each would alone.
        loss_fn: step -> the loss (a scalar), or one loss per stacked model (a vector).
        steps, lr: number of steps and learning rate.
        schedule: step -> factor on ``lr``; constant if left out.
    """
    import torch
    from torch.optim.adam import adam

    # The function behind torch.optim.Adam: the first optimizer object imports PyTorch's compiler, two seconds in each kernel.
    use_one_thread()
    leaves = list(params.values()) if isinstance(params, dict) else list(params)
    firsts, seconds = ([torch.zeros_like(leaf) for leaf in leaves] for _ in range(2))
    counts = [torch.zeros((), device=leaf.device) for leaf in leaves]
    history = []
    for step in range(steps):
        rate = lr if schedule is None else lr * schedule(step)
        loss = loss_fn(step)
        slopes = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
        with torch.no_grad():
            adam(
                leaves,
                [slope.contiguous() for slope in slopes],
                firsts,
                seconds,
                [],
                counts,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=0,
                eps=1e-8,
                maximize=False,
            )
        history.append(loss.detach().cpu().numpy())
    return np.array(history, dtype=np.float64)
