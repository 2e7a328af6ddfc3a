"""Exposure bias: chains of labels, beam search, replaced tokens.

Least work: what is read and written once, and the flops of the recursions that stand beside each case.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
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

NO_PEER = {
    "generation.exposure_bias.local_transitions": "two calls of torch.log_softmax",
}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED = (
    "global_log_prob",
    "viterbi",
    "beam_search",
    "gradient_penalty",
    "random_replacement",
)


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

CASES = [
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
