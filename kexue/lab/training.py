"""Training of one model or of many at once: Adam step by step, L-BFGS to the optimum."""

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


def minimise(params: dict[str, Tensor] | Sequence[Tensor], loss_fn: Callable[[], Tensor], *, steps: int = 100) -> list[Tensor]:
    """Minimise a smooth loss in place with L-BFGS, for losses whose optimum is wanted and not the way to it.

    Args:
        params: trainable leaves of floating dtype, or a dict of them. float64 is advised: the search ends where no entry of the
            gradient exceeds 1e-9, or where rounding ends it.
        loss_fn: () -> the loss (a scalar), or one loss per stacked model (a vector, which is summed: they share one search).
        steps: the most iterations.
    Returns:
        The leaves, detached, in the order of ``params``; they share their memory with ``params``.
    Raises:
        ValueError: ``params`` holds none.
    """
    import torch
    from scipy.optimize import minimize

    # SciPy's search: torch.optim.LBFGS is an optimizer object, see fit.
    use_one_thread()
    leaves = list(params.values()) if isinstance(params, dict) else list(params)
    if not leaves:
        raise ValueError("params must hold at least one tensor")
    sizes = [leaf.numel() for leaf in leaves]

    def put(point: NDArray[np.float64]) -> None:
        with torch.no_grad():
            for leaf, part in zip(leaves, torch.from_numpy(point.copy()).split(sizes), strict=True):
                leaf.copy_(part.view(leaf.shape))

    def value_and_slope(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        put(point)
        loss = loss_fn().sum()
        slopes = torch.autograd.grad(loss, leaves, materialize_grads=True)
        return loss.item(), torch.cat([slope.flatten() for slope in slopes]).double().cpu().numpy()

    start = torch.cat([leaf.detach().flatten() for leaf in leaves]).double().cpu().numpy()
    options = {"maxiter": steps, "maxfun": 20 * steps, "maxcor": 30, "gtol": 1e-9, "ftol": 0.0}
    put(minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options).x)
    return [leaf.detach() for leaf in leaves]
