"""Data that every reader already has: scikit-learn's digits, and English from the docstrings of the pinned packages."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys

import numpy as np
from numpy.typing import NDArray

DOCUMENTED = (
    "numpy",
    "numpy.linalg",
    "numpy.random",
    "scipy.stats",
    "scipy.special",
    "scipy.signal",
    "torch",
    "torch.nn",
    "torch.nn.functional",
    "torch.optim",
)


def digits(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """scikit-learn's handwritten digits in a fixed random order (as shipped they are ordered by writer).

    Returns:
        ``images`` (1797, 64), grey values in [0, 1], and ``labels`` (1797,).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    return bunch.data[order] / 16.0, bunch.target[order].astype(np.int64)


@functools.lru_cache(maxsize=1)
def _sentences() -> tuple[str, ...]:
    paragraphs: dict[str, None] = {}
    for name in DOCUMENTED:
        module = importlib.import_module(name)
        for attribute in sorted(getattr(module, "__all__", None) or dir(module)):
            if attribute.startswith("_"):
                continue
            thing = getattr(module, attribute, None)
            owner = getattr(thing, "__module__", None)
            if inspect.ismodule(thing) or not isinstance(owner, str) or owner.split(".")[0] in sys.stdlib_module_names:
                continue
            text = getattr(thing, "__doc__", None)
            if isinstance(text, str):
                paragraphs.update(dict.fromkeys(re.split(r"\n\s*\n", inspect.cleandoc(text))))
    sentences: dict[str, None] = {}
    for paragraph in paragraphs:
        clean = re.sub(r":[a-z:]+:(?=`)", "", paragraph).replace("`", "").strip()
        if _is_prose(clean):
            for sentence in re.split(r"[.:;?!]", clean):
                letters = " ".join(re.sub(r"[^a-z]+", " ", sentence.lower()).split())
                if len(letters) > 20:
                    sentences[letters] = None
    return tuple(sentences)


def _is_prose(paragraph: str) -> bool:
    if len(paragraph) <= 60 or not paragraph[0].isupper() or not paragraph.endswith("."):
        return False
    if any(sign in paragraph for sign in (">>>", "::", *r"\|[]{}<>=_~$^")):
        return False
    return sum(c.isalpha() or c.isspace() for c in paragraph) > 0.9 * len(paragraph)


def prose() -> list[str]:
    """English sentences of numpy's, scipy's and torch's docstrings: lower case, a-z and single spaces, each sentence once.

    The text is that of the installed versions: numbers printed from it hold for the versions in ``requirements.txt``, on every Python.
    """
    return list(_sentences())
