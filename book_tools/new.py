"""``make new POST=part/slug``: the files of a post, laid out in the form that the tests demand.

Chapter, module, tests, valid calls and benchmarks run as they are: the smallest post that has all parts, about a function that doubles.
What the author has to say stands there as ``FILL IN``, with what belongs in its place; as long as one is left, ``make check`` and the
tests name it and fail.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from book_tools import notebooks, system
from book_tools.chapter import PARTS, ROOT, VERDICT_SECTION

MARK = "FILL IN"
OPEN = re.compile(rf"{MARK}: [^\n\"'<|]*")
NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def files_of(name: str) -> list[Path]:
    """The files that a post has of its own, from the root of the book."""
    part, _, slug = name.partition("/")
    return [
        Path(f"chapters/{name}.ipynb"),
        Path(f"kexue/{name}.py"),
        Path(f"tests/{part}/test_{slug}.py"),
        Path(f"tests/{part}/calls_{slug}.py"),
        Path(f"benchmarks/{name}.py"),
    ]


def to_fill_in(name: str) -> list[str]:
    """What is left to be filled in of a post, as ``file: what``; of its part, too, and missing files."""
    part = name.partition("/")[0]
    found = []
    for path in [*files_of(name), Path(f"kexue/{part}/__init__.py"), Path(f"benchmarks/{part}/__init__.py")]:
        if not (ROOT / path).is_file():
            found.append(f"{path.as_posix()} is missing")
        elif path.suffix == ".ipynb":
            for number, cell in enumerate(notebooks.read(ROOT / path)["cells"]):
                text = notebooks.source(cell) + str(cell["metadata"])
                found += [f"{path.as_posix()}, cell {number}: {what}" for what in _marks(text)]
        else:
            found += [f"{path.as_posix()}: {what}" for what in _marks((ROOT / path).read_text(encoding="utf-8"))]
    return found


def _marks(text: str) -> list[str]:
    return [match.rstrip("*`)}, .") for match in OPEN.findall(text)]


def make(name: str) -> int:
    """Lay out the files of a post; nothing is written where one of them is there already."""
    part, _, slug = name.partition("/")
    if part not in PARTS or not NAME.fullmatch(slug):
        print(
            f"POST={name or 'part/slug'}: the part is one of {', '.join(PARTS)}, the slug a short name like top_k",
            file=sys.stderr,
        )
        return 2
    there = [path.as_posix() for path in files_of(name) if (ROOT / path).exists()]
    if there:
        print(f"{', '.join(there)}: there already; nothing was written", file=sys.stderr)
        return 2
    texts = dict(
        zip(files_of(name)[1:], (_module(slug), _tests(part, slug), _calls(part, slug), _benchmarks(part, slug)), strict=True)
    )
    for folder, text in (
        ("kexue", f'"""{MARK}: the part {part}, in one line."""\n'),
        ("benchmarks", f'"""Pairs of the part {part}, a file per post."""\n'),
    ):
        if not (ROOT / folder / part / "__init__.py").is_file():
            texts[Path(folder) / part / "__init__.py"] = text
    for path, text in texts.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        system.replace(ROOT / path, text)
    chapter = ROOT / files_of(name)[0]
    chapter.parent.mkdir(parents=True, exist_ok=True)
    notebooks.write(chapter, {"cells": _cells(part, slug)})
    for file, change in (("_toc.yml", _listed), ("pages/api.md", _in_reference)):
        path = ROOT / file
        system.replace(path, change(path.read_text(encoding="utf-8"), part, slug))
    print(*(path.as_posix() for path in [*files_of(name), *(path for path in texts if path.name == "__init__.py")]), sep="\n")
    print(
        f"listed in _toc.yml. Next: make execute CHAPTER={name}, then make check CHAPTER={name}, which names what is to be filled in"
    )
    return 0


def _listed(toc: str, part: str, slug: str) -> str:
    """The table of contents with the chapter at the end of its part, and the part in the order of the book."""
    lines = toc.rstrip("\n").split("\n")
    entry = f"      - file: chapters/{part}/{slug}"
    own = [number for number, line in enumerate(lines) if line.startswith(f"      - file: chapters/{part}/")]
    if own:
        lines.insert(own[-1] + 1, entry)
        return "\n".join(lines) + "\n"
    later = tuple(f"  - caption: {other.capitalize()}" for other in PARTS[PARTS.index(part) + 1 :])
    parts = [number for number, line in enumerate(lines) if line.startswith("  - caption: ")]
    chapters = [number for number, line in enumerate(lines) if line.startswith("      - file: chapters/")]
    place = next((number for number in parts if lines[number].startswith(later)), None)
    if place is None:  # behind all other parts, before what is no part
        place = next((number for number in parts if number > max(chapters, default=0)), len(lines))
    lines[place:place] = [f"  - caption: {part.capitalize()}", "    numbered: 1", "    chapters:", entry]
    return "\n".join(lines) + "\n"


def _in_reference(page: str, part: str, slug: str) -> str:
    """The page of the package with the part in its list, in the order of the book."""
    lines = page.split("\n")
    if f"   kexue.{part}" in lines:
        return page
    after = {f"   kexue.{other}" for other in PARTS[PARTS.index(part) + 1 :]} | {"   kexue.lab"}
    lines.insert(next(number for number, line in enumerate(lines) if line in after), f"   kexue.{part}")
    return "\n".join(lines)


def _module(slug: str) -> str:
    return f'''"""{MARK}: what this module computes, in one line.

{MARK}: two or three sentences with the central formula.

Source: {MARK}: Su Jianlin, "English title" (year), https://kexue.fm/archives/number; papers with their arXiv numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kexue import _check

__all__ = ["doubled"]


def doubled(x: Tensor) -> Tensor:
    """Twice the argument. ({MARK}: the first function of the post)

    Args:
        x: floating point, any shape.

    Returns:
        Shape, dtype and device of ``x``.

    Raises:
        TypeError: ``x`` is not a floating-point tensor.

    >>> doubled(torch.tensor([1.0, 2.0]))
    tensor([2., 4.])
    """
    _check.floating("x", x)
    return x + x
'''


def _tests(part: str, slug: str) -> str:
    return f'''"""{MARK}: the tools of the post, and what they are held against."""

import pytest
import torch

from kexue.{part}.{slug} import doubled


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_doubled_is_a_product_with_two(dtype):
    x = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    torch.testing.assert_close(doubled(x), 2 * x)  # {MARK}: independent values, gradients, properties, extremes
'''


def _calls(part: str, slug: str) -> str:
    return f'''"""Valid calls of every public name of ``kexue.{part}.{slug}``; the abuse sweep derives the others (trials/abuse.py)."""

from trials.abuse import Calls, Site, given, real

CALLS: Calls = {{
    "doubled": (Site(lambda: given(x=real(3, 2)), rows="x"),),
}}
'''


def _benchmarks(part: str, slug: str) -> str:
    return f'''"""{MARK}: the post.

Least work: {MARK}: what any implementation reads, writes and multiplies.
"""

from __future__ import annotations

from benchmarks.cases import Case, Pair, Setting
from kexue.{part}.{slug} import doubled

NO_PEER: dict[str, str] = {{}}
# What the goals for speed name: each is measured against a peer, whatever NO_PEER says of others.
NAMED: tuple[str, ...] = ()


def _doubled(s: Setting) -> Pair:
    x = s.randn(s["n"])
    return Pair(lambda: doubled(x), lambda: 2 * x, scale=s["n"], moved=2 * x.nbytes, leaves=(x,))


CASES = [
    Case("{part}.{slug}.doubled", "torch", "a product with 2", _doubled, tuple({{"n": n}} for n in (2**10, 2**14, 2**18))),
]
'''


def _cells(part: str, slug: str) -> list[dict[str, Any]]:
    """The cells of a chapter by the contract, each part once."""
    short = slug.replace("_", "-")
    module = f"kexue.{part}.{slug}"
    opening = f"""# {MARK}: title, what the chapter establishes

{MARK}: two to four sentences. Which question does the post ask? The answer, with its number, and why it matters.

**In short**

- {MARK}: the first deciding number, 0 ± 0
- {MARK}: the second
- {MARK}: the third

| Post | [<span lang="zh">《{MARK}: 标题》</span>](https://kexue.fm/archives/0), 1 January 2020 |
|---|---|
| Papers | {MARK}: {{footcite:t}}`key` of references.bib |
| Before this | {MARK}: what to know, and {{doc}} links to chapters |
| Package | {{py:mod}}`{module}` |

<div lang="zh">

- {MARK}: 问题
- {MARK}: 结论与关键数字
- {MARK}: 与原文的不同

</div>"""
    imports = f"""import matplotlib.pyplot as plt
import torch

from kexue.lab import exercise, table, use_style, verify
from {module} import doubled

use_style()"""
    spine = f"""## {MARK}: what this section establishes

{MARK}: the argument, then the equation that the next cell executes.

$$ y=2x $$ (eq-{short}-first)"""
    check = f"""x = torch.tensor([0.3, -1.7], dtype=torch.float64)
left, right = doubled(x), 2 * x  # {MARK}: two sides, computed independently
verify("eq-{short}-first", left, right, atol=1e-12, oracle="a product")"""
    results = """table([["doubled", float(doubled(x).sum())]], ["What", "Sum"], digits=1)"""
    figure = """fig, ax = plt.subplots(figsize=(5.2, 3.2))
ax.plot(x, doubled(x), "o-")
ax.set(xlabel="$x$", ylabel="$y$");"""
    says = {
        "mystnb": {
            "figure": {"caption": f"{MARK}: what the figure shows, and over how many seeds.", "name": f"fig-{short}-cover"},
            "image": {"alt": f"{MARK}: what somebody sees who does not see the figure, in a sentence or two."},
        },
        "tags": ["hide-input", "cover"],
    }
    rows = "\n".join(
        f"| {MARK}: claim {number} of the post | eq. (0) | confirmed | {{eq}}`eq-{short}-first` |" for number in range(1, 6)
    )
    judged = f"""{VERDICT_SECTION}

| Claim | Where | Verdict | What decides |
|---|---|---|---|
{rows}

## Since then

- {MARK}: what later work settled, with a reference
- {MARK}: the second line
- {MARK}: the third line

## Exercises

Put your attempt in place of the dots and run the cell: it says that the attempt is right, or what is wrong with it.
(The folded cells define the checks; they hold the answers.)"""
    asked = f"""````{{exercise}}
:label: ex-{short}-first

{MARK}: the first exercise. What is twice 21?
````"""
    solved = f"""````{{solution}} ex-{short}-first
:class: dropdown

{MARK}: the way to the answer.
````"""
    closing = f"""## Deeper

{MARK}: what the sections of this part add, in one sentence.

### {MARK}: a side claim

{MARK}: text, equation and check as in the spine.

## Symbols

| Symbol | Meaning | Shape | In `kexue` |
|---|---|---|---|
| $x$ | {MARK}: meaning | any | `x` of {{py:func}}`~{module}.doubled` |

## References

```{{footbibliography}}
```"""
    code, markdown = _code, _markdown
    return [
        markdown(opening),
        code(imports, tags=["hide-input"]),
        markdown(spine),
        code(check),
        code(results),
        code(figure, **says),
        markdown(judged),
        code(f'check_first = exercise("ex-{short}-first", 42)', tags=["hide-cell"]),
        markdown(asked),
        code("attempt = ...\ncheck_first(attempt)"),
        markdown(solved),
        code("check_first(42)", tags=["hide-cell"], mystnb={"code_prompt_show": "The solution, handed to the check"}),
        markdown(closing),
    ]


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _code(text: str, **metadata: Any) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": metadata, "source": text, "execution_count": None, "outputs": []}
