r"""Exposure bias: local against global normalisation of a sequence model, exact and approximate search, two remedies.

Teacher forcing normalises the next label given the true prefix, one softmax per position (a MEMM); a CRF normalises once over all
paths. Both are computed here for a linear chain, in which a path :math:`y` of :math:`T` labels out of :math:`V` scores

.. math:: s(y) = \sum_{t=0}^{T-1} \mathrm{unary}[t, y_t] + \sum_{t=1}^{T-1} \mathrm{pairwise}[y_{t-1}, y_t],

without start or end scores. A score of ``-inf`` forbids: probability 0, log-probability ``-inf``, gradient 0. A common offset of
all scores of a position, or of all transitions, changes no probability, in float32 neither. In a padded batch ``mask`` names the
real places; what stands in the others (a label of -100, NaN) is never read.

Source: "Analysis of and Countermeasures for Exposure Bias in Seq2Seq", kexue.fm/archives/7259 (9 March 2020).
Papers: Ranzato et al. 2016, arXiv:1511.06732 (exposure bias); Lafferty, McCallum, Pereira, ICML 2001 (label bias, CRF);
Bengio et al. 2015, arXiv:1506.03099 (scheduled sampling); Stahlberg and Byrne 2019, arXiv:1908.10090 (exact search).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kexue import _check

__all__ = [
    "path_score",
    "global_log_prob",
    "local_log_prob",
    "local_transitions",
    "viterbi",
    "beam_search",
    "random_replacement",
    "gradient_penalty",
]


def path_score(unary: Tensor, pairwise: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Unnormalised score :math:`s(y)` of one labelled path per row.

    Args:
        unary: floating-point scores of the labels at each position, shape ``(B, T, V)`` with ``T, V >= 1``; ``B`` may be 0.
        pairwise: scores of the transitions, from-label = row, shape ``(V, V)``, dtype and device of ``unary``.
        labels: integer labels in ``[0, V-1]``, shape ``(B, T)``, on the device of ``unary``. Their range is checked wherever
            values can be read, that is outside ``torch.compile`` and ``vmap``.
        mask: boolean, shape ``(B, T)``, in every row True up to its last real place and False behind it; None: all are real.
            What stands under False is never read, in ``labels`` neither; a row without True scores 0.
    Returns:
        Shape ``(B,)``, dtype of ``unary`` (half precision is summed in float32, and stays float32 under autocast), unit of the
        scores (nats once exponentiated). Linear in ``unary`` and ``pairwise``: the gradient counts the visits.
    Raises:
        TypeError: an argument has the wrong kind or dtype.
        ValueError: an argument has the wrong shape or device, ``T`` or ``V`` is 0, a label lies outside ``[0, V-1]``, or
            ``mask`` has a hole.

    >>> unary = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> pairwise = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    >>> path_score(unary, pairwise, torch.tensor([[0, 1]]))
    tensor([3.5000])
    """
    _check_chain(unary, pairwise)
    mask = _check_mask(mask, unary)
    labels = _check_labels(labels, unary, mask)
    return _path_score(_check.widen(unary), _check.widen(pairwise), labels, mask).to(_check.result_dtype(unary))


def global_log_prob(unary: Tensor, pairwise: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Log-probability of a path under one softmax over all :math:`V^T` paths (linear-chain CRF).

    .. math:: \log p(y) = s(y) - \log Z, \qquad Z = \sum_{y'} e^{s(y')}

    The normaliser comes from the forward recursion in log space: time and memory :math:`O(B T V^2)`.

    Args:
        unary: floating-point scores, shape ``(B, T, V)``, as in :func:`path_score`.
        pairwise: transition scores, shape ``(V, V)``.
        labels: integer labels, shape ``(B, T)``.
        mask: boolean, shape ``(B, T)``, real places as in :func:`path_score`; a row without any has log-probability 0.
    Returns:
        Natural log-probabilities, shape ``(B,)``, dtype of ``unary`` (half precision is computed in float32, and stays float32
        under autocast). The gradient is the visit counts of ``labels`` minus their expectation under the model; it does not
        vanish off the path. A path with a score of -inf has -inf.
    Raises:
        TypeError: an argument has the wrong kind or dtype.
        ValueError: as in :func:`path_score`.

    >>> global_log_prob(torch.zeros(1, 3, 2), torch.zeros(2, 2), torch.tensor([[0, 1, 1]])).exp()  # 1 of 8 paths
    tensor([0.1250])

    The marginals :math:`p(y_t = v)` are one-hot labels minus the gradient, for any labels:

    >>> unary = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], requires_grad=True)
    >>> labels = torch.tensor([[0, 1]])
    >>> global_log_prob(unary, torch.zeros(2, 2), labels).sum().backward()
    >>> torch.nn.functional.one_hot(labels, 2) - unary.grad
    tensor([[[0.7311, 0.2689],
             [0.1192, 0.8808]]])
    """
    _check_chain(unary, pairwise)
    mask = _check_mask(mask, unary)
    labels = _check_labels(labels, unary, mask)
    wide_unary, wide_pairwise = _real_places(_check.widen(unary), mask), _check.widen(pairwise)
    # What all labels of a position, or all transitions, have in common cancels; summed up it would cost the digits of the rest.
    wide_unary = wide_unary - _largest(wide_unary, -1)
    wide_pairwise = wide_pairwise - _largest(wide_pairwise, (0, 1))
    # The V x V scores of a step lie with the batch last: the sum over the previous label then runs over whole vectors.
    first, *later = _finite(wide_unary, unary.shape[1]).permute(1, 2, 0).unbind(0)
    steps = _finite(wide_pairwise, unary.shape[1]).unsqueeze(-1)
    forward = first
    for place, scores in enumerate(later, 1):
        longer = torch.logsumexp(forward.unsqueeze(1) + steps, dim=0) + scores
        forward = longer if mask is None else torch.where(mask[:, place], longer, forward)
    log_prob = _path_score(wide_unary, wide_pairwise, labels, mask) - torch.logsumexp(forward, dim=0)
    return _nonempty(log_prob, mask).to(_check.result_dtype(unary))


def local_log_prob(unary: Tensor, pairwise: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Log-probability of a path under one softmax per step, given the labels before it (MEMM, teacher forcing).

    .. math::
        \log p(y) = s(y) - \sum_t \log Z_t(y_{t-1}), \qquad
        Z_t(u) = \sum_v e^{\mathrm{unary}[t, v] + \mathrm{pairwise}[u, v]}

    with no pairwise term at the first position.

    Args:
        unary: floating-point scores, shape ``(B, T, V)``, as in :func:`path_score`.
        pairwise: transition scores, shape ``(V, V)``.
        labels: integer labels, shape ``(B, T)``.
        mask: boolean, shape ``(B, T)``, real places as in :func:`path_score`; a row without any has log-probability 0.
    Returns:
        Natural log-probabilities, shape ``(B,)``, dtype of ``unary`` (half precision is computed in float32, and stays float32
        under autocast). A row of ``pairwise`` whose label is not in ``labels[:, :-1]`` gets a gradient of exactly 0: what is off
        the data is not trained. A path with a score of -inf has -inf.
    Raises:
        TypeError: an argument has the wrong kind or dtype.
        ValueError: as in :func:`path_score`.

    >>> pairwise = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    >>> local_log_prob(torch.zeros(1, 2, 2), pairwise, torch.tensor([[0, 1]])).exp()  # the 50 is out of its reach
    tensor([0.2500])
    """
    _check_chain(unary, pairwise)
    mask = _check_mask(mask, unary)
    labels = _check_labels(labels, unary, mask)
    wide_unary, wide_pairwise = _real_places(_check.widen(unary), mask), _check.widen(pairwise)
    # Without their common offsets the two can be added at full precision.
    wide_unary = wide_unary - _largest(wide_unary, -1)
    wide_pairwise = wide_pairwise - _largest(wide_pairwise, -1)
    # The first position has no transition: a further row of zeros.
    wide_pairwise = torch.nn.functional.pad(wide_pairwise, (0, 0, 0, 1))
    previous = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=unary.shape[2])
    logits = wide_unary + wide_pairwise[previous]
    steps = _pick(torch.log_softmax(_finite(logits, 1), dim=-1), labels)
    steps = steps.masked_fill(_pick(logits, labels) == -math.inf, -math.inf)
    return _sum_over(steps, mask).to(_check.result_dtype(unary))


def local_transitions(unary: Tensor, pairwise: Tensor) -> tuple[Tensor, Tensor]:
    r"""The locally normalised chain as log-probabilities of its first label and of its transitions.

    Args:
        unary: floating-point scores, shape ``(B, T, V)`` with ``T, V >= 1``; ``B`` may be 0.
        pairwise: transition scores, from-label = row, shape ``(V, V)``, dtype and device of ``unary``.
    Returns:
        ``initial``, shape ``(B, V)``, and ``transitions``, shape ``(B, T-1, V, V)`` with ``transitions[b, t, i, j]`` =
        :math:`\log p(y_{t+1}=j \mid y_t=i)`; natural logarithms, dtype of ``unary``, differentiable. Made for :func:`viterbi`.
        Scores of -inf stay -inf, with gradient 0; a label without any successor has a row of them.
    Raises:
        TypeError: an argument has the wrong kind or dtype.
        ValueError: an argument has the wrong shape or device, or ``T`` or ``V`` is 0.
    """
    _check_chain(unary, pairwise)
    wide_unary, wide_pairwise = _check.widen(unary), _check.widen(pairwise)
    wide_unary = wide_unary - _largest(wide_unary, -1)
    wide_pairwise = wide_pairwise - _largest(wide_pairwise, -1)
    initial, transitions = _log_softmax(wide_unary[:, 0]), _log_softmax(wide_unary[:, 1:, None, :] + wide_pairwise)
    dtype = _check.result_dtype(unary)
    return initial.to(dtype), transitions.to(dtype)


def viterbi(initial: Tensor, transitions: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Best path of a chain: maximises :math:`\mathrm{initial}[y_0] + \sum_t \mathrm{transitions}[t, y_t, y_{t+1}]` exactly.

    Local log-probabilities (:func:`local_transitions`) give the most probable path of the local model; raw scores,
    ``viterbi(unary[:, 0], pairwise + unary[:, 1:, None, :])``, that of the global one.

    Args:
        initial: floating-point scores of the first label, shape ``(B, V)`` with ``V >= 1``; ``B`` may be 0.
        transitions: scores of the steps, shape ``(B, T-1, V, V)``, from-label before to-label; dtype and device of ``initial``.
        mask: boolean, shape ``(B, T)``, real places as in :func:`path_score`; ``transitions[:, t]`` leads to place ``t + 1``.
    Returns:
        ``path``, int64, shape ``(B, T)``, -1 where ``mask`` is False, and its ``score``, shape ``(B,)``, dtype of ``initial``
        (half precision is summed in float32, and stays float32 under autocast), differentiable: the gradient counts the visits of
        the best path. Ties go to the smaller label, later positions first. A row without a real place scores 0. Time
        :math:`O(B T V^2)`.
    Raises:
        TypeError: an argument is no floating-point tensor, ``mask`` not boolean, or the dtypes differ.
        ValueError: an argument has the wrong shape or device, ``V`` is 0, or ``mask`` has a hole.

    >>> initial = torch.tensor([[0.6, 0.4]]).log()
    >>> transitions = torch.tensor([[[[0.55, 0.45], [0.10, 0.90]]]]).log()
    >>> path, score = viterbi(initial, transitions)
    >>> path, score.exp()
    (tensor([[1, 1]]), tensor([0.3600]))
    """
    _check.floating("initial", initial, ndim=2)
    if initial.shape[1] == 0:
        raise ValueError(f"initial must have at least one label, got shape {tuple(initial.shape)}")
    _check.floating("transitions", transitions, ndim=4)
    batch, size = initial.shape
    _check.shape("transitions", transitions, (batch, transitions.shape[1], size, size))
    _check.alike_or_autocast("transitions", transitions, "initial", initial)
    if mask is not None:
        mask = _check.prefix_mask("mask", mask, (batch, transitions.shape[1] + 1), "initial", initial)
    best, steps = _check.widen(initial), _check.widen(transitions)
    # A common offset of the scores decides nothing, and added up it would cost the digits that do.
    first_offset, offsets = _largest(best, -1), _largest(steps, (2, 3))
    best = best - first_offset
    pointers: list[Tensor] = []
    stay = torch.arange(size, device=initial.device)
    for place, (step, offset) in enumerate(zip(steps.unbind(1), offsets.unbind(1), strict=True), 1):
        longer, previous = (best.unsqueeze(-1) + (step - offset)).max(dim=1)
        if mask is not None:
            real = mask[:, place, None]
            longer, previous = torch.where(real, longer, best), torch.where(real, previous, stay)
        best = longer
        pointers.append(previous)
    score, label = best.max(dim=-1)
    score = score + first_offset.squeeze(-1) + _sum_over(offsets.flatten(1), None if mask is None else mask[:, 1:])
    score = _nonempty(score, mask)
    path = [label]
    for previous in reversed(pointers):
        path.append(_pick(previous, path[-1]))
    labels = torch.stack(path[::-1], dim=1)
    return labels if mask is None else labels.masked_fill(~mask, -1), score.to(_check.result_dtype(initial))


@torch.no_grad()
def beam_search(
    step: Callable[[Tensor], Tensor], beam_size: int, max_length: int, *, eos: int | None = None, mask: Tensor | None = None
) -> list[tuple[list[int], float]]:
    """Approximate search for the most probable sequence; ``beam_size=1`` is greedy decoding.

    Each step ranks all extensions of the live prefixes and keeps the best ``beam_size``; those that end in ``eos`` are finished
    and leave the beam. It stops at ``max_length``, or when no live prefix can still enter the result. A larger beam may return a
    less probable sequence; only one of at least ``V ** (max_length - 1)`` prefixes is sure to be exact (with ``eos=None``).
    Not offered: batches of sequences, cached states of a model, length normalisation.

    Args:
        step: maps prefixes, an int64 CPU tensor of shape ``(n, t)``, to the log-probabilities of their next token: a
            floating-point tensor of shape ``(n, V)``, on any device, ``-inf`` allowed. The first call gets ``n=1, t=0``.
            Without ``eos`` any scores will do; with it, they must not be positive: stopping early relies on that.
        beam_size: number of prefixes kept, at least 1.
        max_length: greatest number of tokens in a sequence, ``eos`` included, at least 1.
        eos: the token that ends a sequence; None: all sequences have ``max_length`` tokens.
        mask: boolean, shape ``(max_length,)``, the row of a padded batch as in :func:`path_score`: the search ends with its last
            True and asks nothing of ``step`` beyond; None: all places are real.
    Returns:
        At most ``beam_size`` pairs (tokens with their ``eos``, log-probability), best first, the earlier found first among
        equals; unfinished sequences of ``max_length`` tokens are among them. Scores are added in float64. Extensions of ``-inf``
        are never kept, so that the list may be empty. No gradient is recorded.
    Raises:
        TypeError: ``step`` is not callable or returns no floating-point tensor; a count or ``eos`` is no integer, ``mask`` not
            boolean.
        ValueError: a count is below 1, ``eos`` is negative or not below ``V``, ``mask`` has another shape or a hole, or ``step``
            returns a wrong shape, NaN, ``inf`` or (with ``eos``) a positive log-probability.

    >>> table = torch.tensor([[0.6, 0.4], [0.55, 0.45], [0.1, 0.9]]).log()
    >>> step = lambda prefixes: table[:1] if prefixes.shape[1] == 0 else table[prefixes[:, 0] + 1]
    >>> [tokens for tokens, _ in beam_search(step, 1, 2)], [tokens for tokens, _ in beam_search(step, 2, 2)]
    ([[0, 0]], [[1, 1], [0, 0]])
    """
    if not callable(step):
        raise TypeError(f"step must be callable, got {type(step).__name__}")
    beam_size = _check.count("beam_size", beam_size)
    max_length = _check.count("max_length", max_length)
    if eos is not None:
        eos = _check.count("eos", eos, minimum=0)
    if mask is not None:
        _check.readable("mask", _check.boolean("mask", mask))
        max_length = int(_check.prefix_mask("mask", mask, (max_length,), "mask", mask).sum())
    prefixes = torch.zeros(1, 0, dtype=torch.int64)
    scores = torch.zeros(1, dtype=torch.float64)
    finished: list[tuple[list[int], float]] = []
    for _ in range(max_length):
        log_probs = _checked_step(step(prefixes), len(prefixes), eos)
        scores, order = _first_best((scores[:, None] + log_probs).flatten(), beam_size)
        size = log_probs.shape[1]
        prefixes = torch.cat([prefixes[order // size], (order % size)[:, None]], dim=1)
        if eos is not None:
            ended = prefixes[:, -1] == eos
            finished += zip(prefixes[ended].tolist(), scores[ended].tolist(), strict=True)
            finished = _best(finished, beam_size)
            prefixes, scores = prefixes[~ended], scores[~ended]
        full = len(finished) == beam_size
        if len(prefixes) == 0 or (full and scores[0].item() <= finished[-1][1]):
            break
    return _best(finished + list(zip(prefixes.tolist(), scores.tolist(), strict=True)), beam_size)


def random_replacement(
    ids: Tensor,
    *,
    sequence_rate: float = 0.5,
    token_rate: float = 0.3,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Corrupt decoder inputs with random tokens of the same sequence; the labels of the loss stay clean.

    Each row is touched with probability ``sequence_rate``; in a touched row each position is replaced with probability
    ``token_rate`` by a uniform draw from the row's own tokens, with multiplicity and itself included. A token that stands at
    :math:`k` of :math:`T` positions therefore visibly changes with probability ``sequence_rate * token_rate`` :math:`(1 - k/T)`.

    Args:
        ids: integer tokens, shape ``(B, T)``; either may be 0.
        sequence_rate: probability that a row is touched, in ``[0, 1]``.
        token_rate: probability that a position of a touched row is replaced, in ``[0, 1]``.
        mask: boolean, shape ``(B, T)``; positions that are False (BOS, padding, source) neither change nor serve as replacements.
        generator: source of randomness on the device of ``ids``; None uses PyTorch's global one.
    Returns:
        A new tensor like ``ids``: same shape, dtype and device.
    Raises:
        TypeError: ``ids`` is not an integer tensor, ``mask`` not boolean, a rate no number, or ``generator`` none.
        ValueError: ``ids`` has not two axes, ``mask`` has another shape or device, a rate lies outside ``[0, 1]``, or
            ``generator`` is for another device.

    >>> ids = torch.tensor([[101, 7, 8, 9, 0]])
    >>> inside = torch.tensor([[False, True, True, True, False]])
    >>> seeded = torch.Generator().manual_seed(0)
    >>> noisy = random_replacement(ids, sequence_rate=1.0, token_rate=1.0, mask=inside, generator=seeded)
    >>> noisy[0, 0].item(), noisy[0, -1].item(), set(noisy[0, 1:4].tolist()) <= {7, 8, 9}
    (101, 0, True)
    """
    _check.integer("ids", ids, ndim=2)
    sequence_rate = _check.number("sequence_rate", sequence_rate, 0.0, 1.0)
    token_rate = _check.number("token_rate", token_rate, 0.0, 1.0)
    if mask is not None:
        _check.shape("mask", _check.boolean("mask", mask), ids.shape)
        _check.same_device("mask", mask, "ids", ids)
    _check.generator("generator", generator, ids.device)
    batch, length = ids.shape
    rows, positions, draws = (
        torch.rand(shape, dtype=torch.float32, device=ids.device, **_check.drawing(generator))
        for shape in ((batch, 1), (batch, length), (batch, length))
    )
    replaced = (rows < sequence_rate) & (positions < token_rate)
    if mask is None:
        sources = (draws * length).long().clamp(max=length - 1)
    else:
        replaced = replaced & mask
        size = mask.sum(dim=1, keepdim=True)
        # A stable sort lists the masked-in positions first, so the k-th of them can be looked up.
        listed = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        sources = listed.gather(1, torch.minimum((draws * size).long(), (size - 1).clamp(min=0)))
    # PyTorch gathers no unsigned integers of more than 8 bits.
    tokens = ids if ids.dtype.is_signed or ids.dtype == torch.uint8 else ids.long()
    return torch.where(replaced, tokens.gather(1, sources), tokens).to(ids.dtype)


def gradient_penalty(loss: Tensor, inputs: Tensor, *, coefficient: float = 1.0) -> Tensor:
    r"""Penalty on the slope of a loss in its inputs: :math:`\tfrac{c}{2} \lVert \partial L / \partial x \rVert^2`.

    To first order, training on :math:`L(x) + \tfrac{c}{2}\lVert\nabla_x L\rVert^2` is training on the adversarial input
    :math:`x + c \nabla_x L`. Taken at looked-up embeddings, position by position, this is not the gradient of the embedding
    matrix, which adds up repeated tokens before it is squared. With a loss averaged over :math:`n` terms, each slope is
    :math:`1/n` of that of its own term and the penalty shrinks like :math:`1/n`: state the reduction with the coefficient.

    Args:
        loss: scalar tensor computed from ``inputs``. Its graph is kept, so that ``(loss + penalty).backward()`` works; for that it
            must be twice differentiable, which fused kernels are not: run attention under
            ``torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)``, recurrent layers on a GPU under
            ``torch.backends.cudnn.flags(enabled=False)``.
        inputs: floating-point tensor that requires a gradient, a leaf or not, of any shape.
        coefficient: :math:`c \ge 0`, in units of inputs² per loss.
    Returns:
        Scalar, non-negative, in the unit of ``loss``; dtype of ``loss`` (half precision is squared in float32, and stays float32
        under autocast), so that a float32 loss of float16 inputs has a penalty beyond 65,504; differentiable in everything
        ``loss`` depends on.
    Raises:
        RuntimeError: in ``backward`` only, where an operation in ``loss`` has no second derivative; it names the remedy.
        TypeError: ``loss`` or ``inputs`` is no floating-point tensor, or ``coefficient`` no number.
        ValueError: ``loss`` is not scalar or does not depend on ``inputs``, ``inputs`` requires no gradient, or ``coefficient``
            is negative or not finite.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradient_penalty((x**2).sum(), x).item()  # half of 2² + 4²
    10.0
    """
    _check.floating("loss", loss, ndim=0)
    _check.floating("inputs", inputs)
    coefficient = _check.number("coefficient", coefficient, 0.0)
    if not inputs.requires_grad:
        raise ValueError("inputs must require a gradient, got a tensor that does not")
    gradient = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError("loss must depend on inputs, got one whose graph does not contain them")
    penalty = (0.5 * coefficient * _check.widen(gradient).square().sum()).to(_check.result_dtype(loss))
    if _once_differentiable(gradient):
        penalty = _NoSecondDerivative.apply(penalty)  # type: ignore[no-untyped-call]
    return penalty


def _once_differentiable(gradient: Tensor) -> bool:
    """Whether the graph of a gradient passes through an operation whose backward pass PyTorch cannot differentiate."""
    waiting, known = [gradient.grad_fn], {None, gradient.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name().endswith(("NotImplemented", "Error")):
            return True
        new = {following for following, _ in node.next_functions} - known
        known |= new
        waiting.extend(new)
    return False


class _NoSecondDerivative(torch.autograd.Function):
    # PyTorch's own error would name an operator that the caller never wrote.

    @staticmethod
    def forward(ctx: Any, penalty: Tensor) -> Tensor:
        return penalty.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(
            "loss must be twice differentiable, got one with a fused kernel: compute attention under "
            "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), recurrent layers on a GPU under "
            "torch.backends.cudnn.flags(enabled=False)"
        )


def _check_chain(unary: Tensor, pairwise: Tensor) -> None:
    _check.floating("unary", unary, ndim=3)
    if unary.shape[1] == 0 or unary.shape[2] == 0:
        raise ValueError(f"unary must have at least one position and one label, got shape {tuple(unary.shape)}")
    _check.shape("pairwise", _check.floating("pairwise", pairwise), (unary.shape[2], unary.shape[2]))
    _check.alike_or_autocast("pairwise", pairwise, "unary", unary)


def _check_labels(labels: Tensor, unary: Tensor, mask: Tensor | None) -> Tensor:
    _check.shape("labels", _check.integer("labels", labels), unary.shape[:2])
    _check.same_device("labels", labels, "unary", unary)
    labels = labels.long()
    return _check.entries_within("labels", labels if mask is None else labels.masked_fill(~mask, 0), unary.shape[2])


def _check_mask(mask: Tensor | None, unary: Tensor) -> Tensor | None:
    return None if mask is None else _check.prefix_mask("mask", mask, unary.shape[:2], "unary", unary)


def _checked_step(log_probs: Tensor, num_prefixes: int, eos: int | None) -> Tensor:
    """What ``step`` returned, on the CPU in float64."""
    if not isinstance(log_probs, Tensor) or not log_probs.is_floating_point() or log_probs.layout != torch.strided:
        raise TypeError(f"step must return a floating-point tensor, got {getattr(log_probs, 'dtype', type(log_probs).__name__)}")
    if log_probs.ndim != 2 or log_probs.shape[0] != num_prefixes or log_probs.shape[1] == 0:
        raise ValueError(f"step must return shape ({num_prefixes}, V) with V >= 1, got {tuple(log_probs.shape)}")
    if eos is not None and eos >= log_probs.shape[1]:
        raise ValueError(f"eos must be below V = {log_probs.shape[1]}, got {eos}")
    log_probs = _check.readable("step", log_probs).to("cpu", torch.float64)
    largest = log_probs.max().item()
    # Rounding may leave a log-probability slightly above 0; passing logits leaves it far above.
    if math.isnan(largest) or largest == math.inf or (eos is not None and largest > 1e-2):
        raise ValueError(f"step must return log-probabilities, got a value of {largest}")
    return log_probs


def _first_best(scores: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The ``num`` largest entries and their places, the first of equals first, -inf left out."""
    # Sorting all entries takes ten times as long as finding out which of them have to be sorted.
    lowest = scores.topk(min(num, len(scores)), sorted=False).values.min()
    places = torch.nonzero((scores >= lowest) & (scores > -math.inf)).squeeze(-1)
    ranked, order = scores[places].sort(descending=True, stable=True)
    return ranked[:num], places[order[:num]]


def _best(sequences: list[tuple[list[int], float]], num_sequences: int) -> list[tuple[list[int], float]]:
    return sorted(sequences, key=lambda pair: -pair[1])[:num_sequences]


def _path_score(unary: Tensor, pairwise: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    steps = pairwise[labels[:, :-1], labels[:, 1:]]
    return _sum_over(_pick(unary, labels), mask) + _sum_over(steps, None if mask is None else mask[:, 1:])


def _sum_over(terms: Tensor, mask: Tensor | None) -> Tensor:
    return (terms if mask is None else terms.masked_fill(~mask, 0.0)).sum(-1)


def _real_places(unary: Tensor, mask: Tensor | None) -> Tensor:
    """The scores with 0 at the places that are not real, whatever stands there."""
    return unary if mask is None else unary.masked_fill(~mask.unsqueeze(-1), 0.0)


def _nonempty(values: Tensor, mask: Tensor | None) -> Tensor:
    """0 for the rows without a real place."""
    return values if mask is None else values.masked_fill(~mask[:, 0], 0.0)


def _largest(scores: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The largest score along some axes, which are kept, as a constant; 0 where all are -inf."""
    largest = scores.detach().amax(dim, keepdim=True)
    return largest.masked_fill(largest == -math.inf, 0.0)


def _finite(scores: Tensor, steps: int) -> Tensor:
    """Scores with a very low one in the place of -inf: a path with it weighs nothing, and its gradient is 0 and not NaN."""
    return scores.clamp(min=torch.finfo(scores.dtype).min / (4 * steps + 64))


def _log_softmax(logits: Tensor) -> Tensor:
    """Over the last axis; -inf stays -inf, with gradient 0, also where nothing else is left."""
    return torch.log_softmax(_finite(logits, 1), dim=-1).masked_fill(logits == -math.inf, -math.inf)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """The entry of the last axis that ``index`` names."""
    return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
