"""Valid calls of every public name of ``kexue.generation.repetition``; the abuse sweep derives the others (trials/abuse.py)."""

import numpy as np
import torch

from trials.abuse import Calls, Site, given

P = np.array([[0.5, 0.25], [0.125, 0.5]])
PROBS = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])

CALLS: Calls = {
    "repetition_by_length": (Site(lambda: given(P=P.copy(), max_length=3), fixed=True),),
    "repetition_rate": (Site(lambda: given(P=P.copy()), fixed=True),),
    "repetition_gradient": (Site(lambda: given(P=P.copy()), fixed=True),),
    "average_repetition_probability": (Site(lambda: given(P=P.copy(), variant="corrected"), fixed=True),),
    "expected_repeats": (Site(lambda: given(P=P.copy(), start=np.array([0.25, 0.5])), fixed=True),),
    "count_repeats": (
        Site(lambda: given(sequence="abababcbcbc", max_length=3)),
        Site(lambda: given(sequence=[0, 1, 0, 1, 0], max_length=3)),
    ),
    "apply_temperature": (
        Site(lambda: given(probs=PROBS.copy(), temperature=0.5), rows="probs"),
        Site(lambda: given(probs=torch.from_numpy(PROBS.copy()), temperature=0.5), rows="probs"),
    ),
    "top_k": (
        Site(lambda: given(probs=PROBS.copy(), k=2), rows="probs"),
        Site(lambda: given(probs=torch.from_numpy(PROBS.copy()), k=2), rows="probs"),
    ),
    "nucleus": (
        Site(lambda: given(probs=PROBS.copy(), p=0.75), rows="probs"),
        Site(lambda: given(probs=torch.from_numpy(PROBS.copy()), p=0.75), rows="probs"),
    ),
    "transition_matrix": (Site(lambda: given(sequences=[[0, 1, 0], [2]], vocab_size=3, smoothing=0.5)),),
    "rebalance": (
        Site(lambda: given(sequences=["abab", "abc"], threshold=0.5, min_count=1, max_rounds=2)),
        Site(lambda: given(sequences=[[0, 1, 0, 1], [0, 1, 2]], threshold=0.5, min_count=1, max_rounds=2)),
    ),
}
