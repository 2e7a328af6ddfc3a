"""A complete small chapter, to be broken in tests, and two that it builds on."""

import copy
import re

from pictures import png

from book_tools.chapter import Chapter

VERDICTS = "\n".join(f"| claim {i} | eq. ({i}) | confirmed | {{eq}}`eq-a-b` |" for i in range(5))
OPENING = """# A title

Some things are one. Which of them? All, and the answer is 1.

**In short**

- The first is 1.
- The second
  is one as well.
- So is the third.

| Post | [<span lang="zh">《标题》</span>](https://kexue.fm/archives/1), 1 May 2020 |
|---|---|
| Papers | none |
| Before this | patience; {doc}`first` and {doc}`the second </chapters/generation/second>` |
| Package | {py:mod}`kexue.attention.third` |

<div lang="zh">

- 第一行
- 第二行
- 第三行

</div>
"""
EXERCISE = """## Exercises

````{exercise}
:label: ex-a
How many?
````

````{solution} ex-a
:class: dropdown
Two.
````
"""
CLOSING = f"""## What the post gets right, and where we differ

| Claim | Where | Verdict | What decides |
|---|---|---|---|
{VERDICTS}

## Since then

- It was settled.
- It was settled again.
- It stayed so.

{EXERCISE}
## Deeper

### A side claim

It is one, too.

## Symbols

| Symbol | Meaning | Shape | In `kexue` |
|---|---|---|---|
| $x$ | a number | number | |

## References
"""
FIGURE = {"output_type": "display_data", "data": {"image/png": png(), "text/plain": ["<Figure>"]}, "metadata": {}}
SAYS = {"image": {"alt": "A line that rises from the left to the right, slowly."}, "figure": {"caption": "It rises."}}


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(text, printed="", **metadata):
    outputs = [{"output_type": "stream", "name": "stdout", "text": [printed]}] if printed else []
    return {"cell_type": "code", "metadata": metadata, "source": text, "outputs": outputs}


def chapter(name="attention/third", edit=lambda cells: None, opening=OPENING):
    cells = [
        markdown(opening.replace("attention.third", name.replace("/", "."))),
        markdown("$$ x=1 $$ (eq-a-b)"),
        code('verify("eq-a-b", 1, 1, atol=0)', "✓ eq-a-b: equal\n"),
        code("plot();", tags=["cover"], mystnb=copy.deepcopy(SAYS)) | {"outputs": [copy.deepcopy(FIGURE)]},
        code('check = exercise("ex-a", 2)'),
        code("attempt = ...\ncheck(attempt)", "ex-a: put your number in place of the dots\n"),
        code("check(2)", "✓ ex-a: right\n"),
        markdown(CLOSING),
    ]
    edit(cells)
    for number, cell in enumerate((c for c in cells if c["cell_type"] == "code"), 1):
        cell.setdefault("execution_count", number)
    return Chapter(name, {"cells": cells})


def plain(name):
    return chapter(name, opening=re.sub(r"; \{doc\}.*\|", " |", OPENING))


BEFORE = [plain("attention/first"), plain("generation/second")]
