"""``table``: results as aligned text, which is compared character by character and which the book shows as a real table."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

BAR, RULE, CROSS, STRONG = " │ ", "─", "┼", "▸ "


def table(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[str],
    digits: int | str | Sequence[int | str] = 2,
    *,
    strong: Sequence[int] = (),
    signed: bool | Sequence[bool] = False,
) -> None:
    """Print results as an aligned table: the first column to the left, the others to the right.

    Args:
        rows: a list of rows of equal length. A cell is text, an integer, a float, a pair ``(mean, standard_error)`` or ``None`` (left
            empty); NumPy's and PyTorch's numbers count as numbers.
        columns: the headings, one per column.
        digits: decimals of the floats, or a format specification such as ``".3g"`` or ``",.0f"``; a list holds one per column.
        strong: the numbers of the rows that matter most.
        signed: write ``+`` before positive numbers; a list holds one truth value per column.
    Raises:
        ValueError: a row has another length than ``columns``, ``strong`` names no row, a number is NaN, or a text would break the table.
        TypeError: a cell is none of the kinds above.

    >>> table([["plain", (0.912, 0.004)], ["with noise", (0.934, 0.003)]], ["model", "accuracy"], digits=3, strong=[1])
      model      │      accuracy
    ─────────────┼──────────────
      plain      │ 0.912 ± 0.004
    ▸ with noise │ 0.934 ± 0.003
    """
    if not rows or not columns:
        raise ValueError("rows and columns must not be empty")
    width = len(columns)
    specs = _each(digits, width, "digits")
    signs = _each(signed, width, "signed")
    for number in strong:
        if not 0 <= number < len(rows):
            raise ValueError(f"strong must hold numbers of rows, 0 to {len(rows) - 1}, got {number}")
    text = [[_plain(str(name)) for name in columns]]
    for number, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(f"rows must have {width} cells like columns, row {number} has {len(row)}")
        text.append([_cell(value, spec, sign) for value, spec, sign in zip(row, specs, signs, strict=True)])
    widths = [max(_width(row[place]) for row in text) for place in range(width)]
    lines = []
    for number, row in enumerate(text, -1):
        cells = [_padded(cell, widths[place], left=place == 0) for place, cell in enumerate(row)]
        lines.append(((STRONG if number in strong else "  ") + BAR.join(cells)).rstrip())
    rule = CROSS.join(RULE * (size + (3 if place == 0 else 2)) for place, size in enumerate(widths))
    print("\n".join([lines[0], rule[:-1], *lines[1:]]))


def _each(value: Any, width: int, name: str) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != width:
            raise ValueError(f"{name} must hold one value per column, {width}, got {len(value)}")
        return list(value)
    return [value] * width


def _cell(value: Any, spec: int | str, sign: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return f"{_number(value[0], spec, sign)} ± {_number(value[1], spec, False)}"
    return _number(value, spec, sign)


def _number(value: Any, spec: int | str, sign: bool) -> str:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"rows must hold text, real numbers, pairs (mean, standard_error) or None, got {value!r}")
    if math.isnan(value):
        raise ValueError("rows must not hold NaN")
    plus = "+" if sign else ""
    if isinstance(value, int):
        return format(value, f"{plus},d" if abs(value) >= 10_000 else f"{plus}d").replace("-", "−")
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    # What follows twelve digits is rounding: 0.02145, the mean of some counts, must not print as 0.0214 here and as 0.0215 there.
    value = float(f"{value:.12g}")
    text = format(value, f"{plus}{spec}" if isinstance(spec, str) else f"{plus}.{spec}f")
    # No sign before what rounds to zero; it would be the sign of rounding noise.
    return text[1:] if text[0] in "+-" and not text.strip("+-0.,e") else text.replace("-", "−")


def _plain(text: str) -> str:
    if "│" in text or "\n" in text:
        raise ValueError(f"rows and columns must not hold a line break or a bar, got {text!r}")
    return text.strip()


def _width(text: str) -> int:
    """How many places a text takes: signs of Chinese two, combining accents none."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if left else space + text
