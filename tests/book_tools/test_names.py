"""Names with two meanings and generators drawn from elsewhere are found; what cells do for themselves is not."""

import pytest

from book_tools.names import spoiled, trained, used


def told(*sources):
    return list(spoiled({"cells": [{"cell_type": "code", "source": source} for source in sources]}))


@pytest.mark.parametrize(
    ("sources", "cell", "words"),
    [
        (("x = 1", "print(x)", "x = 2"), 2, "x is bound in cell 0 too and read in cell 1"),
        (("x = 1", "x = x + 1"), 1, "x is bound in cell 0 too"),
        (("x = 1", "x += 1"), 1, "x is bound in cell 0 too"),
        (("f = 1", "def f():\n    return 1", "print(f)"), 1, "f is bound in cell 0 too"),
        (("def f():\n    return y", "y = 1\nprint(f())", "y = 2\nprint(f())"), 2, "y is bound in cell 1 too and read in cell 0"),
        (("x = 1", "g = lambda z: z + x", "for x in range(3):\n    print(x)"), 2, "x is bound in cell 0 too"),
        (("a, (b, *c) = 1, (2, 3)", "print(c)", "with open('f') as c:\n    pass"), 2, "c is bound in cell 0 too"),
        (("import numpy as np", "np.zeros(1)", "np = 1"), 2, "np is bound in cell 0 too"),
        (("x = 1", "print([y for y in x])", "if (x := 3):\n    pass"), 2, "x is bound in cell 0 too"),
        (("rng = np.random.default_rng(0)", "print(rng.random())"), 1, "the generator rng of cell 0 is used here"),
        (("g = torch.Generator().manual_seed(0)", "torch.rand(1, generator=g)"), 1, "the generator g of cell 0 is used here"),
    ],
)
def test_what_would_differ_is_named_with_cell_and_remedy(sources, cell, words):
    (found,) = told(*sources)
    assert found[0] == cell and found[1].startswith(words)


@pytest.mark.parametrize(
    "sources",
    [
        ("fig, ax = draw()\nax.plot()", "fig, ax = draw()\nax.plot()"),
        ("x = 1\nprint(x)", "x = 2\nprint(x)"),
        ("for i in range(3):\n    print(i)", "for i in range(4):\n    print(i)", "print([i for i in range(2)])"),
        ("def f(x):\n    y = x\n    return y", "x = 1\ny = 2", "print(f(3))"),
        ("x = 1\ndef f():\n    return x\nprint(f())", "x = 2\ndef g():\n    return x\nprint(g())"),
        ("rng = np.random.default_rng(0)\nrng.random()", "rng = np.random.default_rng(1)\nrng.random()"),
        ("def draw(rng):\n    return rng.random()", "rng = np.random.default_rng(0)\ndraw(rng)"),
        ("class A:\n    x = 1\n    y = x", "x = 2", "print(A.x)"),
        ("print(len([1]))", "a = 1", "b = a"),
    ],
)
def test_cells_that_stand_by_themselves_pass(sources):
    assert told(*sources) == []


def test_reads_binds_and_makes():
    cell = used("import a.b\nrng = default_rng(0)\nc = d + sum(e for e in f)\n\ndef h(x=k):\n    return x + m + c")
    assert cell.bound == {"a", "rng", "c", "h"}
    assert cell.read == {"d", "f", "k", "m", "default_rng"}
    assert cell.made == {"rng"}


def test_what_was_trained_is_followed_to_the_cells_that_show_it():
    sources = [
        "def train(x):\n    return fit(x, steps=3)\n\ndef exact(x):\n    return x",
        "curves = train(1)",
        "summary = curves.mean()",
        "plot(summary)",
        "plot(exact(2))",
        "def g():\n    return train(2)",
        "print(g())",
    ]
    assert trained({"cells": [{"cell_type": "code", "source": source} for source in sources]}) == {1, 2, 3, 6}
