"""Results as aligned text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue.lab import table


def printed(capsys, *args, **kwargs):
    table(*args, **kwargs)
    return capsys.readouterr().out.splitlines()


def test_columns_are_aligned_and_the_row_that_matters_is_marked(capsys):
    lines = printed(capsys, [["a", 1.25], ["longer", -10.5]], ["name", "value"], 1, strong=[1])
    assert lines == ["  name   │ value", "─────────┼──────", "  a      │   1.2", "▸ longer │ −10.5"]


@given(st.lists(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 4))
def test_every_bar_stands_under_the_one_above(rows, digits):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as output:
        table(rows, ["x", "y", "a long heading"], digits)
    lines = output.getvalue().splitlines()
    places = {tuple(i for i, sign in enumerate(line) if sign in "│┼") for line in lines}
    assert len(places) == 1 and len(lines) == len(rows) + 2
    assert len({len(line) for line in lines}) == 1


def test_each_kind_of_cell(capsys):
    row = ["text", 7, 12_345, 0.5, (0.25, 0.125), None, np.float32(1.5), torch.tensor(2), float("-inf")]
    lines = printed(capsys, [row], [str(i) for i in range(9)], 2)
    assert [cell.strip() for cell in lines[2].split("│")] == ["text", "7", "12,345", "0.50", "0.25 ± 0.12", "", "1.50", "2", "−∞"]


def test_signs_and_specifications_by_column(capsys):
    lines = printed(capsys, [[1.0, (2.0, 0.5), 1e-9]], ["a", "b", "c"], [0, 1, ".1e"], signed=[False, True, False])
    assert [cell.strip() for cell in lines[2].split("│")] == ["1", "+2.0 ± 0.5", "1.0e−09"]


def test_rounding_of_the_last_bits_moves_no_digit(capsys):
    counts = sum([0.01] * 2145) / 1000  # 0.02145 and a few units of the last place
    below, above = np.nextafter(0.02145, 0), np.nextafter(0.02145, 1)
    table([["mean", below, 0.02145, above, counts, (above, below)]], ["", "a", "b", "c", "d", "e"], digits=4)
    cells = capsys.readouterr().out.splitlines()[2].replace("±", "│").split("│")[1:]
    assert {cell.strip() for cell in cells} == {cells[0].strip()}


def test_what_rounds_to_zero_has_no_sign(capsys):
    lines = printed(capsys, [[-1e-9, 1e-9]], ["a", "b"], signed=True)
    assert [cell.strip() for cell in lines[2].split("│")] == ["0.00", "0.00"]


@pytest.mark.parametrize(
    ("rows", "columns", "kwargs", "error", "named"),
    [
        ([], ["a"], {}, ValueError, "rows"),
        ([[1, 2]], ["a"], {}, ValueError, "rows"),
        ([[float("nan")]], ["a"], {}, ValueError, "NaN"),
        ([["a │ b"]], ["a"], {}, ValueError, "bar"),
        ([["a\nb"]], ["a"], {}, ValueError, "line break"),
        ([[True]], ["a"], {}, TypeError, "rows"),
        ([[[1, 2, 3]]], ["a"], {}, TypeError, "rows"),
        ([[1j]], ["a"], {}, TypeError, "rows"),
        ([[1]], ["a"], {"strong": [1]}, ValueError, "strong"),
        ([[1]], ["a"], {"digits": [1, 2]}, ValueError, "digits"),
        ([[1]], ["a"], {"signed": [True, False]}, ValueError, "signed"),
    ],
)
def test_what_would_break_a_table_is_refused(rows, columns, kwargs, error, named):
    with pytest.raises(error, match=named):
        table(rows, columns, **kwargs)
