"""How many printed digits are safe: every number that a chapter turns into text, followed over several kinds of arithmetic.

``run`` executes each chapter in fresh processes under ``VARIANTS`` (instruction sets, threads and kernels stand in for other machines) and
stores how safe each number is. A number is doubtful if less than one further digit would be the same everywhere, or if its value lies so
close to the edge between two texts that another machine may print the other one. No doubt falls on a ratio of counts that
is everywhere the same double, such as 7/8 printed as 0.88: only another count would change the text.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import json
import math
import os
import platform
import re
import string
import subprocess
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from book_tools import notebooks, state
from book_tools.chapter import ROOT, Chapter
from book_tools.system import ONE_THREAD
from kexue.lab import tables

KIND = "digits"
BASE = ONE_THREAD | {"MPLBACKEND": "Agg", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
VARIANTS: dict[str, dict[str, str]] = {
    "one thread": {},
    "plain instructions": {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
    "two threads": dict.fromkeys(ONE_THREAD, "2") | {"OPENBLAS_CORETYPE": "Haswell", "OMP_WAIT_POLICY": "PASSIVE"},
    "old kernels": {"OPENBLAS_CORETYPE": "Nehalem", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}
PRECISION = {"float64": 2.0**-52, "float32": 2.0**-23}
LARGEST = 100_000  # denominator of a ratio of counts
EDGE = 100  # spreads of the value: the distance from a rounding edge that is safe


class Shown(NamedTuple):
    """A number turned into text; ``place`` is the power of ten of its last digit, None where the text has all digits of the value."""

    cell: int
    text: str
    value: float
    precision: float
    place: int | None


def significant(text: str) -> int:
    """How many significant digits a printed number has: 3 in "0.123", 2 in "1.2e-05" and "12"."""
    return len(re.sub(r"e.*|\D", "", text).lstrip("0"))


def printed(text: str) -> Decimal:
    """The size of a printed number, 0.125 for "-12.5%"; its exponent is that of the last digit."""
    digits, power, percent = re.findall(r"(\d[\d,]*(?:\.\d*)?)(e[+-]\d+)?(%?)", text)[0]
    return Decimal(digits.replace(",", "") + power).scaleb(-2 if percent else 0)


def place(text: str, spec: str) -> int | None:
    """The power of ten of the last digit that ``spec`` asks for; "g" drops zeros at the end."""
    precision = re.search(r"\.(\d+)[gG]?$", spec)
    if spec.endswith(tuple("eEfF%")):
        return int(printed(text).as_tuple().exponent)
    general = precision or spec.endswith(tuple("gG"))
    return printed(text).adjusted() + 1 - int(precision[1] if precision else 6) if general else None


class Watch(ast.NodeTransformer):
    """Lets f-strings and ``str.format`` call ``format`` and ``__filled__`` of the namespace."""

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        self.generic_visit(node)
        call = ast.Call(ast.Name("format", ast.Load()), [node.value, node.format_spec or ast.Constant("")], [])
        return ast.FormattedValue(call, -1, None) if node.conversion == -1 else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "format" and isinstance(node.func.value, ast.Constant):
            return ast.Call(ast.Name("__filled__", ast.Load()), [node.func.value, *node.args], node.keywords)
        return node


class Notes(string.Formatter):
    """Executes the cells of a notebook in one namespace and notes the floating-point numbers that they print."""

    def __init__(self, notebook: notebooks.Notebook) -> None:
        self.shown: list[Shown] = []
        texts: dict[int, str] = {}
        own = {"format": self.format_field, "__filled__": self.format, "round": self.round, "print": self.print}
        namespace: dict[str, Any] = {"__name__": "__main__"} | own
        for self.cell, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                tree = ast.fix_missing_locations(Watch().visit(ast.parse(notebooks.source(cell))))
                with contextlib.redirect_stdout(io.StringIO()) as output, self.in_tables():
                    exec(compile(tree, f"cell {self.cell}", "exec"), namespace)  # noqa: S102
                texts[self.cell] = output.getvalue().replace("−", "-")
        self.shown = [shown for shown in self.shown if shown.text in texts[shown.cell]]

    @contextlib.contextmanager
    def in_tables(self) -> Iterator[None]:
        """``table`` formats its numbers in its own module."""
        vars(tables)["format"] = self.format_field
        try:
            yield
        finally:
            del vars(tables)["format"]

    def format_field(self, value: Any, format_spec: str = "") -> str:
        text = format(value, format_spec)
        kind = "float64" if isinstance(value, float) else str(getattr(value, "dtype", "")).removeprefix("torch.")
        if kind in PRECISION and not getattr(value, "ndim", 0) and math.isfinite(value):
            self.shown.append(Shown(self.cell, text.strip(), float(value), PRECISION[kind], place(text, format_spec)))
        return text

    def round(self, value: Any, digits: int | None = None) -> Any:
        if digits is not None:
            self.format_field(abs(value), f".{max(digits, 0)}f")
        return builtins.round(value, digits)

    def print(self, *values: Any, **how: Any) -> None:
        print(*(self.format_field(value) if isinstance(value, float) else value for value in values), **how)


def follow(path: Path, variant: dict[str, str]) -> list[Shown]:
    """What a notebook prints under a variant, in a fresh process."""
    varied = {key for changes in VARIANTS.values() for key in changes}
    environment = {key: value for key, value in os.environ.items() if key not in varied} | BASE | variant
    command = [sys.executable, "-m", "trials.digits", str(path)]
    done = subprocess.run(command, cwd=path.parent, env=environment, stdout=subprocess.PIPE, check=False, encoding="utf-8")
    if done.returncode:
        raise ChildProcessError(f"{path.name} does not run with {variant or BASE}; the lines above say why")
    return [Shown(*row) for row in json.loads(done.stdout)]


def judge(shown: Sequence[Shown]) -> dict[str, Any]:
    """One printed number under all variants."""
    first, values = shown[0], [Decimal(each.value) for each in shown]
    size, spread = max(map(abs, values)), max(values) - min(values)
    doubt = max(spread, size * Decimal(first.precision))
    step = Decimal(0) if first.place is None else Decimal(1).scaleb(first.place)
    to_edge = min(step / 2 - abs(abs(Decimal(each.value)) - printed(each.text)) for each in shown)
    found = {"cell": first.cell, "text": " / ".join(dict.fromkeys(each.text for each in shown)), "value": repr(first.value)}
    found |= {"digits": significant(first.text), "relative spread": float(spread / size) if size else 0.0}
    found["further digits"] = math.ceil((step / doubt).log10()) - 1 if step and doubt else 0 if spread else 16
    found["near an edge"] = first.place is not None and to_edge < EDGE * doubt
    ratio = Fraction(first.value).limit_denominator(LARGEST)
    return found | ({"ratio": str(ratio)} if found["near an edge"] and not spread and float(ratio) == first.value else {})


def summary(runs: Sequence[list[Shown]]) -> dict[str, Any]:
    """What the numbers of a chapter come to."""
    judged = [judge(shown) for shown in zip(*runs, strict=True)]
    found: dict[str, Any] = {"numbers": len(judged), "most digits": max((each["digits"] for each in judged), default=0)}
    found["fewest further digits"] = min((each["further digits"] for each in judged), default=16)
    at_edge = [each for each in judged if each["further digits"] < 1 or each["near an edge"]]
    return found | {
        "doubtful": [each for each in at_edge if "ratio" not in each],
        "ratios at an edge": [each for each in at_edge if "ratio" in each],
    }


def run(names: Sequence[str] = (), everything: bool = False) -> int:
    """Judge the chapters whose code has changed; 1 if a number of them is doubtful."""
    doubtful, chosen = 0, state.changed(KIND, names, everything)
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("numpy", "scipy", "torch", "scikit-learn")
    }
    print(*["numbers  most digits  fewest further  doubtful"] * bool(chosen), sep="\n", end="\n" * bool(chosen))
    for name in chosen:
        of = state.digest(KIND, name)
        found = summary([follow(Chapter.path_of(name), variant) for variant in VARIANTS.values()])
        counts = found["numbers"], found["most digits"], found["fewest further digits"], len(found["doubtful"])
        print("{:7d}{:13d}{:16d}{:10d}".format(*counts), f" {name}", flush=True)
        for each in found["doubtful"]:
            print(
                f"  cell {each['cell']}: {each['text']} is {each['value']}, spread {each['relative spread']:.0e}: print a digit less"
            )
        state.save(KIND, name, {"versions": versions, "variants": list(VARIANTS)} | found, of)
        doubtful += len(found["doubtful"])
    return int(bool(doubtful))


if __name__ == "__main__":
    print(json.dumps(Notes(notebooks.read(Path(sys.argv[1]))).shown))
