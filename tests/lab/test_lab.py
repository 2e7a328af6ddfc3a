"""Data, statistics, training and figures of the lab."""

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kexue.lab import digits, fit, image_grid, mean_se, minimise, paired, prose, stack, use_style, verdict
from kexue.lab.figures import THREADS
from trials.versions import pinned

CORPUS = "9ee015f3374fdaf20e3613d5e59de547"  # of the versions in requirements.txt, on every Python


def locked(*packages):
    return all(pinned(p) == importlib.metadata.version(p).split("+")[0] for p in packages)


def test_digits_are_all_there_and_no_longer_ordered_by_writer():
    images, labels = digits()
    reference = load_digits()
    assert images.shape == (1797, 64) and images.dtype == np.float64
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert sorted(map(tuple, images * 16)) == sorted(map(tuple, reference.data))
    assert not np.array_equal(labels, reference.target)
    again, _ = digits()
    assert np.array_equal(images, again)
    assert not np.array_equal(images, digits(seed=1)[0])


def test_prose_is_sentences_of_letters_without_repeats():
    sentences = prose()
    assert len(sentences) > 3000
    assert len(set(sentences)) == len(sentences)
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", s) and len(s) > 20 for s in sentences)


@pytest.mark.skipif(not locked("numpy", "scipy", "torch"), reason="the corpus is fixed for the locked versions only")
def test_prose_is_the_same_on_every_python():
    assert hashlib.sha256("\n".join(prose()).encode()).hexdigest()[:32] == CORPUS


def test_paired_errors_forget_what_the_seeds_share():
    luck = np.random.default_rng(0).normal(size=8)
    mean, error = paired(luck + 1.0, luck)
    assert mean == pytest.approx(1.0)
    assert error == pytest.approx(0.0, abs=1e-15)
    mean, error = mean_se([1.0, 3.0])
    assert (mean, error) == (2.0, 1.0)


@pytest.mark.parametrize("bad", [[1.0], 1.0, []])
def test_one_seed_has_no_error(bad):
    with pytest.raises(ValueError, match="values"):
        mean_se(bad)


def test_pairs_must_match():
    with pytest.raises(ValueError, match="a and b"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("value", "word"), [([0.95, 1.0], "solved"), ([0.1, 0.2], "chance"), ([0.1, 0.95], "between"), (0.5, "between")]
)
def test_verdicts_are_words(capsys, value, word):
    verdict("task", value, 0.3, 0.9)
    assert capsys.readouterr().out == f"task: {word}\n"


@pytest.mark.parametrize(("value", "low", "high"), [([0.5], 0.9, 0.3), ([], 0.3, 0.9), ([np.nan], 0.3, 0.9)])
def test_verdicts_need_numbers_and_room(value, low, high):
    with pytest.raises(ValueError, match=r"low|value"):
        verdict("task", value, low, high)


def test_stacked_models_train_exactly_as_each_would_alone():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.sum(1, keepdim=True) ** 2

    def model(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()

    with torch.random.fork_rng():
        together, apart = [model(s) for s in range(3)], [model(s) for s in range(3)]
    params, forward = stack(together)
    inputs = x.expand(3, -1, -1)
    losses = fit(params, lambda step: ((forward(params, inputs) - y) ** 2).mean((1, 2)), steps=25, lr=0.02)
    assert losses.shape == (25, 3)
    for i, single in enumerate(apart):
        weights = dict(single.named_parameters())
        alone = fit(weights, lambda step, m=single: ((m(x) - y) ** 2).mean(), steps=25, lr=0.02)
        assert np.allclose(losses[:, i], alone, atol=1e-10)
        assert torch.allclose(params["0.weight"][i], single[0].weight, atol=1e-10)


def test_a_schedule_scales_the_learning_rate():
    frozen = torch.zeros(2, requires_grad=True)
    fit([frozen], lambda step: ((frozen - 1) ** 2).sum(), steps=5, lr=0.1, schedule=lambda step: 0.0)
    assert torch.equal(frozen.detach(), torch.zeros(2))


def test_it_is_adam_and_leaves_alone_what_the_loss_does_not_reach():
    ours, theirs = (torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.float64, requires_grad=True) for _ in range(2))
    idle = torch.tensor([7.0], requires_grad=True)

    def loss(x, step):
        return ((x.T @ x - torch.eye(2)) ** 2).sum() * (1 + step % 3)

    fit({"x": ours, "idle": idle}, lambda step: loss(ours, step), steps=40, lr=0.03, schedule=lambda step: 1 / (1 + step))
    adam = torch.optim.Adam([theirs], lr=0.03)
    for step in range(40):
        adam.param_groups[0]["lr"] = 0.03 / (1 + step)
        adam.zero_grad()
        loss(theirs, step).backward()
        adam.step()
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13) and idle.item() == 7.0


def test_minimise_finds_the_optimum_of_least_squares_in_place():
    generator = torch.Generator().manual_seed(0)
    A, b = (torch.randn(20, size, generator=generator, dtype=torch.float64) for size in (6, 2))
    weights = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    idle = torch.full((3,), 7.0, requires_grad=True)
    found = minimise({"w": weights, "c": offset, "idle": idle}, lambda: (A @ weights + offset - b).square().sum(0))
    exact = torch.linalg.lstsq(torch.cat([A, torch.ones(20, 1, dtype=torch.float64)], 1), b).solution
    torch.testing.assert_close(torch.cat([found[0], found[1][None]]), exact, atol=1e-8, rtol=0)
    assert [leaf.data_ptr() for leaf in found] == [leaf.data_ptr() for leaf in (weights, offset, idle)]
    assert idle.tolist() == [7.0] * 3 and found[2].dtype == torch.float32 and not found[0].requires_grad


def test_minimise_ends_after_its_steps_and_at_the_bottom_of_a_bent_valley():
    def valley(x):
        return (100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2).sum()

    point = torch.tensor([[-1.2, 1.0]], dtype=torch.float64, requires_grad=True)
    minimise([point], lambda: valley(point), steps=3)
    assert 1e-3 < valley(point).item() < 24.2
    minimise([point], lambda: valley(point))
    torch.testing.assert_close(point.detach(), torch.ones(1, 2, dtype=torch.float64), atol=1e-7, rtol=0)


def test_minimise_wants_something_to_change():
    with pytest.raises(ValueError, match=r"^params"):
        minimise([], lambda: torch.zeros(()))


TRAINING = {
    "fit": "fit([p], lambda step: ((p - 1) ** 2).sum(), steps=3, lr=0.1)",
    "minimise": "minimise([p], lambda: ((p - 1) ** 2).sum())",
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_does_not_import_the_compiler(name):
    code = (
        f"import sys, torch; from kexue.lab import {name}; p = torch.zeros(3, requires_grad=True); "
        f"{TRAINING[name]}; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_have_the_width_of_the_page():
    import matplotlib as mpl

    mpl.use("agg")
    with mpl.rc_context():
        use_style()
        assert mpl.rcParams["figure.figsize"][0] == 7.0
        figure = image_grid(digits()[0][:5], columns=3, titles=list("abcde"), row_labels=["x", "y"])
        assert figure.get_size_inches()[0] == 7.0
        assert len([ax for ax in figure.axes if ax.images]) == 5
        with pytest.raises(ValueError, match="images"):
            image_grid(np.zeros((2, 5)))
        mpl.pyplot.close("all")


@pytest.mark.parametrize(("setting", "threads"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_chapters_use_one_thread_where_the_reader_sets_none(setting, threads):
    code = "import torch; from kexue.lab import use_style; use_style(); print(torch.get_num_threads())"
    plain = {k: v for k, v in os.environ.items() if k not in THREADS}
    done = subprocess.run([sys.executable, "-c", code], env=plain | setting, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == threads
