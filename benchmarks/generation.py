"""Generation: exposure bias, repetition.

Least work: what is read and written once, and the flops of the recursions and matrix products that stand beside each case.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cases import Case, Pair, Setting, Target
from kexue.generation.exposure_bias import (
    beam_search,
    global_log_prob,
    gradient_penalty,
    local_log_prob,
    path_score,
    random_replacement,
    viterbi,
)
from kexue.generation.repetition import (
    apply_temperature,
    count_repeats,
    nucleus,
    rebalance,
    repetition_by_length,
    repetition_gradient,
    repetition_rate,
    top_k,
    transition_matrix,
)

NO_PEER = {
    "generation.exposure_bias.local_transitions": "two calls of torch.log_softmax",
    "generation.repetition.average_repetition_probability": "a number of one paper; its solve is that of repetition_rate",
    "generation.repetition.expected_repeats": "two calls of np.linalg.solve, one of them that of repetition_rate",
}


# ---- exposure_bias


def _chain(s: Setting) -> tuple[Tensor, Tensor, Any]:
    """Scores, labels and a CRF of pytorch-crf with transitions and without start and end scores."""
    from torchcrf import CRF

    crf = CRF(s["V"], batch_first=True).to(s.device, s.dtype).requires_grad_(False)
    with torch.no_grad():
        for scores in (crf.start_transitions, crf.end_transitions):
            scores.zero_()  # ours has none
        crf.transitions.copy_(s.randn(s["V"], s["V"]))
    return s.randn(s["B"], s["T"], s["V"]), s.randint(s["V"], s["B"], s["T"]), crf


def _chain_pair(s: Setting, ours: Any, peer: Any, unary: Tensor, transitions: Tensor, steps: float, **more: Any) -> Pair:
    """Reads the scores once; ``steps`` multiplications and additions per label, position and batch entry."""
    flops = 2 * s["B"] * s["T"] * s["V"] * steps
    return Pair(ours, peer, scale=s["B"] * s["T"] * s["V"], moved=unary.nbytes, flops=flops, leaves=(unary, transitions), **more)


def _global(s: Setting) -> Pair:
    unary, labels, crf = _chain(s)
    transitions = crf.transitions
    mask = torch.ones_like(labels, dtype=torch.bool)
    return _chain_pair(
        s,
        lambda: global_log_prob(unary, transitions, labels),
        lambda: crf(unary, labels, mask, reduction="none"),
        unary,
        transitions,
        steps=s["V"],
    )


def _viterbi(s: Setting) -> Pair:
    unary, _, crf = _chain(s)
    transitions = crf.transitions
    mask = torch.ones(unary.shape[:2], dtype=torch.bool, device=s.device)
    return _chain_pair(
        s,
        lambda: viterbi(unary[:, 0], transitions + unary[:, 1:, None, :])[0],
        lambda: crf.decode(unary, mask),
        unary,
        transitions,
        steps=s["V"],
        view=torch.tensor,
    )


def _path(s: Setting) -> Pair:
    unary, labels, crf = _chain(s)
    transitions = crf.transitions
    mask = torch.ones_like(labels.T, dtype=torch.uint8)
    pair = _chain_pair(
        s,
        lambda: path_score(unary, transitions, labels),
        lambda: crf._compute_score(unary.transpose(0, 1), labels.T, mask),
        unary,
        transitions,
        steps=0,
    )
    pair.moved = 2 * labels.numel() * (s.itemsize + 8)  # only what the path touches
    return pair


def _local(s: Setting) -> Pair:
    unary, pairwise, labels = s.randn(s["B"], s["T"], s["V"]), s.randn(s["V"], s["V"]), s.randint(s["V"], s["B"], s["T"])

    def peer() -> Tensor:
        logits = torch.cat([unary[:, :1], unary[:, 1:] + pairwise[labels[:, :-1]]], 1)
        return -F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).sum(1)

    return _chain_pair(s, lambda: local_log_prob(unary, pairwise, labels), peer, unary, pairwise, steps=0)


@cache
def _bigram_model() -> Any:
    """The smallest model that ``generate`` accepts: logits from a table."""
    from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Config(PreTrainedConfig):
        model_type = "bigram"

    class Bigram(PreTrainedModel, GenerationMixin):
        config_class = Config
        main_input_name = "input_ids"
        _is_stateful = False

        def __init__(self, table: Tensor) -> None:
            super().__init__(Config(vocab_size=len(table)))
            self.table = torch.nn.Parameter(table, requires_grad=False)

        def forward(self, input_ids: Tensor, attention_mask: Any = None, **more: Any) -> Any:
            return CausalLMOutput(logits=self.table[input_ids])

        def prepare_inputs_for_generation(self, input_ids: Tensor, attention_mask: Any = None, **more: Any) -> dict[str, Tensor]:
            return {"input_ids": input_ids}

    return Bigram


def _beam(s: Setting) -> Pair:
    from transformers import GenerationConfig

    table = (
        2 * s.randn(min(s["V"], 1000), s["V"]).repeat(-(-s["V"] // 1000), 1)[: s["V"]]
    )  # words 1000 apart have equal followers
    model, log_probs = _bigram_model()(table).eval(), table.log_softmax(-1)
    beam, length = s["beam"], s["T"]
    config = GenerationConfig(
        num_beams=beam,
        num_return_sequences=beam,
        max_new_tokens=length,
        do_sample=False,
        length_penalty=0.0,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    start = torch.zeros(1, 1, dtype=torch.long, device=s.device)
    mask = torch.ones_like(start)
    return Pair(
        lambda: beam_search(lambda prefix: log_probs[prefix[:, -1]] if prefix.shape[1] else log_probs[:1], beam, length),
        lambda: model.generate(start, attention_mask=mask, generation_config=config),
        scale=length,
        moved=beam * length * s["V"] * s.itemsize,  # the scores of every step, read once
        view=lambda out: [*zip(out.sequences[:, 1:].tolist(), out.sequences_scores.tolist(), strict=True)],
    )


def _replacement(s: Setting, tensors: bool) -> Pair:
    ids = s.randint(1000, s["B"], s["T"])
    lists = ids.tolist()

    def over_rows() -> Tensor:
        rows = []
        for row in ids:
            if torch.rand(()) < 0.5:
                row = torch.where(torch.rand(len(row)) < 0.3, row[torch.randint(len(row), (len(row),))], row)
            rows.append(row)
        return torch.stack(rows)

    def over_tokens() -> list[list[int]]:
        touched = []
        for row in lists:
            coin = random.random() < 0.5
            touched.append([random.choice(row) if coin and random.random() < 0.3 else token for token in row])
        return touched

    peer = over_rows if tensors else over_tokens
    return Pair(lambda: random_replacement(ids), peer, scale=ids.numel(), moved=2 * ids.nbytes)


def _penalty(s: Setting) -> Pair:
    x, weight = s.randn(s["B"], s["D"]).requires_grad_(True), s.randn(s["D"], s["D"]) / s["D"] ** 0.5

    def loss() -> Tensor:
        return (x @ weight).tanh().square().mean()

    def ours() -> Tensor:
        with torch.enable_grad():
            return gradient_penalty(loss(), x).detach()

    def peer() -> Tensor:
        with torch.enable_grad():
            return (0.5 * torch.autograd.grad(loss(), x, create_graph=True)[0].square().sum()).detach()

    # The loss multiplies once, its slope once.
    return Pair(ours, peer, scale=s["B"], moved=2 * x.nbytes, flops=4 * s["B"] * s["D"] ** 2)


CHAIN = ({"B": 8, "T": 16, "V": 8}, {"B": 32, "T": 32, "V": 16}, {"B": 64, "T": 64, "V": 32})
CHAIN_GPU = tuple({"B": B, "T": 128, "V": 64} for B in (64, 256, 1024))
SMALL_CHAIN = tuple({"B": B, "T": 12, "V": 4} for B in (40, 400, 4000))  # the size of the sheet, and a tenth and ten times of it
TRAINING = "float32 forward+backward"
MODULE = "generation.exposure_bias."

EXPOSURE_BIAS = [
    Case(
        MODULE + "global_log_prob",
        "pytorch-crf",
        "CRF.forward",
        _global,
        SMALL_CHAIN,
        "few labels",
        also=(TRAINING,),
        targets={"float32 forward": Target(1.5), TRAINING: Target(1.5)},
        same=1e-4,
    ),
    Case(
        MODULE + "global_log_prob",
        "pytorch-crf",
        "CRF.forward",
        _global,
        CHAIN,
        also=(TRAINING, "float64 forward+backward"),
        targets={"float32 forward": Target(1.5), TRAINING: Target(1.5)},
        same=1e-4,
        gpu_sizes=CHAIN_GPU,
    ),
    Case(MODULE + "viterbi", "pytorch-crf", "CRF.decode", _viterbi, CHAIN, gpu_sizes=CHAIN_GPU[:1]),
    Case(MODULE + "path_score", "pytorch-crf", "CRF._compute_score", _path, CHAIN, also=(TRAINING,), gpu_sizes=CHAIN_GPU),
    Case(
        MODULE + "local_log_prob",
        "torch",
        "F.cross_entropy of the same logits",
        _local,
        CHAIN,
        also=(TRAINING,),
        gpu_sizes=CHAIN_GPU,
        why="looks at every label first: one out of range is refused by name",
    ),
    Case(
        MODULE + "beam_search",
        "transformers",
        "generate(num_beams=...) of a table",
        _beam,
        tuple({"V": 1000, "beam": 4, "T": T} for T in (4, 16, 32)),
        same=1e-4,
    ),
    Case(
        MODULE + "beam_search",
        "transformers",
        "generate(num_beams=...) of a table",
        _beam,
        ({"V": 30000, "beam": 4, "T": 8},),
        "many words",
        same=1e-4,
    ),
    Case(
        MODULE + "random_replacement",
        "torch",
        "a loop over rows",
        lambda s: _replacement(s, tensors=True),
        tuple({"B": B, "T": 10} for B in (400, 1000, 4000)),
        targets={"float32 forward B4000": Target(0.02)},
        same="both draw at random",
    ),
    Case(
        MODULE + "random_replacement",
        "python",
        "a loop over rows and tokens of lists",
        lambda s: _replacement(s, tensors=False),
        ({"B": 4000, "T": 10},),
        same="both draw at random",
    ),
    Case(
        MODULE + "gradient_penalty",
        "torch",
        "torch.autograd.grad and a sum of squares",
        _penalty,
        tuple({"B": B, "D": 256} for B in (16, 128, 1024)),
        gpu_sizes=tuple({"B": B, "D": 1024} for B in (1024, 4096, 16384)),
        why="refuses by name a loss that does not depend on the input",
    ),
]


# ---- repetition (NumPy: float64 on the CPU)


def _words(s: Setting) -> NDArray[np.float64]:
    """Word-to-word probabilities with some words that never follow one another; 3 % of the mass ends the text."""
    n = s["n"]
    weights = s.rng.gamma(0.3, size=(n, n)) * (s.rng.random((n, n)) < 0.6)
    return np.asarray(0.97 * weights / weights.sum(1, keepdims=True))


def _rate(s: Setting) -> Pair:
    P = _words(s)
    squares = P * P
    system = np.eye(s["n"]) - squares
    return Pair(
        lambda: repetition_rate(P),
        lambda: np.linalg.solve(system, squares),
        scale=s["n"],
        moved=3 * P.nbytes,
        flops=8 / 3 * s["n"] ** 3,  # elimination 2/3 n^3, two triangular solves with n right-hand sides
        view=np.trace,
    )


def _rate_gradient(s: Setting) -> Pair:
    P = _words(s)

    def peer() -> NDArray[np.float64]:
        inverse = np.linalg.inv(np.eye(len(P)) - P * P)
        return np.asarray(2 * P * (inverse @ inverse).T)

    flops = 14 / 3 * s["n"] ** 3  # an inverse and a product
    return Pair(lambda: repetition_gradient(P), peer, scale=s["n"], moved=2 * P.nbytes, flops=flops)


def _by_length(s: Setting) -> Pair:
    P = _words(s)

    def peer() -> NDArray[np.float64]:
        eigenvalues = np.linalg.eigvals(P * P)
        return np.asarray([(eigenvalues**k).sum().real for k in range(1, 9)])

    # Traces of eight powers need three products.
    return Pair(lambda: repetition_by_length(P, 8), peer, scale=s["n"], moved=P.nbytes, flops=6 * s["n"] ** 3)


def _count(s: Setting) -> Pair:
    text, longest = s.rng.integers(0, 3, s["n"]).tolist(), 20

    def peer() -> int:
        n = len(text)
        return sum(
            text[t : t + k] == text[t + k : t + 2 * k] and text[t] == text[t + 2 * k]
            for k in range(1, longest + 1)
            for t in range(n - 2 * k)
        )

    return Pair(lambda: count_repeats(text, longest), peer, scale=s["n"], moved=8 * s["n"])


def _warped(s: Setting, ours: Any, warper: str, value: float) -> Pair:
    from transformers.generation import logits_process

    given = (3 * s.randn(s["B"], s["n"])).softmax(-1)
    probs = given.numpy()
    peer = getattr(logits_process, warper)(value)
    return Pair(
        lambda: ours(probs, value),
        lambda: peer(None, given.log()).softmax(-1),
        scale=probs.size,
        moved=2 * probs.nbytes,
    )


def _transitions(s: Setting) -> Pair:
    import scipy.sparse

    n = 100
    texts = [s.rng.integers(0, n, 50) for _ in range(s["n"] // 50)]

    def peer() -> NDArray[np.float64]:
        whole = np.concatenate([part for text in texts for part in (text, [n])])
        inner = whole[:-1] < n
        pairs = whole[:-1][inner], whole[1:][inner]
        counts = scipy.sparse.coo_matrix((np.ones(inner.sum()), pairs), shape=(n, n + 1)).toarray()
        return np.asarray(counts / counts.sum(1, keepdims=True))

    return Pair(lambda: transition_matrix(texts, n), peer, scale=s["n"], moved=8 * s["n"])


def _rebalance(s: Setting) -> Pair:
    from tokenizers import Tokenizer, models, trainers

    follow = s.rng.dirichlet(np.full(27, 0.1), size=27).cumsum(1)
    letters, texts = "abcdefghijklmnopqrstuvwxyz ", []
    for _ in range(s["n"] // 100):
        text, draws = [int(s.rng.integers(27))], s.rng.random(99)
        for draw in draws:
            text.append(min(26, int(np.searchsorted(follow[text[-1]], draw))))
        texts.append("".join(letters[i] for i in text))
    merges = len(rebalance(texts, threshold=0.5, min_count=20, max_rounds=1)[1][0])

    def peer() -> Any:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=27 + merges, show_progress=False))
        return tokenizer.encode_batch(texts)

    def ours() -> Any:
        return rebalance(texts, threshold=0.5, min_count=20, max_rounds=1)

    return Pair(ours, peer, scale=s["n"], moved=16 * s["n"])


MATRICES = tuple({"n": n} for n in (100, 300, 1000))
ROWS = ({"B": 1, "n": 1000}, {"B": 8, "n": 8192}, {"B": 32, "n": 32768})
MODULE = "generation.repetition."

REPETITION = [
    Case(
        MODULE + "repetition_rate",
        "numpy",
        "np.linalg.solve, its matrices given",
        _rate,
        MATRICES,
        targets={"float64 forward n1000": Target(1.2, 1.1)},
        dtype="float64",
        same=1e-9,
        why="forms the matrices, checks the probabilities, drops words that cannot repeat and proves that the series converges",
    ),
    Case(
        MODULE + "repetition_gradient",
        "numpy",
        "np.linalg.inv",
        _rate_gradient,
        MATRICES,
        dtype="float64",
        same=1e-9,
        why="checks the probabilities and proves that the series converges",
    ),
    Case(
        MODULE + "repetition_by_length",
        "numpy",
        "powers of np.linalg.eigvals",
        _by_length,
        tuple({"n": n} for n in (50, 100, 200)),
        dtype="float64",
        same=1e-9,
    ),
    Case(
        MODULE + "count_repeats",
        "python",
        "a slice for every place and length",
        _count,
        tuple({"n": n} for n in (100, 1000, 10000)),
        targets={f"float64 forward n{n}": Target(0.05) for n in (1000, 10000)},
        dtype="float64",
    ),
    *(
        Case(
            MODULE + function.__name__,
            "transformers",
            f"{warper} between log and softmax",
            lambda s, function=function, warper=warper, value=value: _warped(s, function, warper, value),
            ROWS,
            same=1e-4,
            why="float64 inside, distributions checked and rescaled exactly, absent words stay absent",
        )
        for function, warper, value in (
            (apply_temperature, "TemperatureLogitsWarper", 0.7),
            (top_k, "TopKLogitsWarper", 50),
            (nucleus, "TopPLogitsWarper", 0.9),
        )
    ),
    Case(
        MODULE + "transition_matrix",
        "scipy",
        "scipy.sparse.coo_matrix",
        _transitions,
        tuple({"n": n} for n in (10_000, 100_000, 400_000)),
        dtype="float64",
    ),
    Case(
        MODULE + "rebalance",
        "tokenizers",
        "BPE with as many merges",
        _rebalance,
        tuple({"n": n} for n in (20_000, 100_000, 400_000)),
        "one round",
        targets={"float64 forward n400000": Target(seconds=0.5)},
        dtype="float64",
        same="BPE merges by count alone, one pair at a time, in Rust",
    ),
]

CASES = EXPOSURE_BIAS + REPETITION
