"""The reader's edition of a chapter: a notebook that reads well where the book's own syntax is unknown.

JupyterLab, VS Code, Colab and GitHub show plain Markdown. So the edition has formulas as ``$$ ... \\tag{3.8}$$``, references as numbers,
citations as links, captions under the figures, exercises as text, and what the book folds folded by ``<details>`` and by Jupyter's own
marks. Code cells are those of the chapter; a first one says what to install and gives failing checks the numbers of the equations.
"""

from __future__ import annotations

import functools
import hashlib
import json
import posixpath
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from book_tools import figures, notebooks, system
from book_tools.chapter import FOLDED, ROOT, Chapter, book

PACKAGES = {"kexue": "kexue", "matplotlib": "matplotlib", "mpmath": "mpmath", "sklearn": "scikit-learn"}  # module: distribution
PRINTS = ("numpy", "scipy", "torch", "scikit-learn", "matplotlib")  # versions that printed digits and figures depend on
NUMBERED = {"exercise": "Exercise", "prf:theorem": "Theorem", "prf:lemma": "Lemma", "prf:proposition": "Proposition"}
FENCE = re.compile(
    r"^(?P<in>[ \t]*)(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ \t]*(?P<title>[^\n]*)\n"
    r"(?P<options>(?::\w+:[^\n]*\n)*)(?P<body>.*?)^[ \t]*(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
MATH = re.compile(
    r"^(?P<in>[ \t]*(?:[-*] |> )?)\$\$(?P<tex>.+?)\$\$(?:[ \t]*\((?P<label>[^()\s]+)\))?[ \t]*$", re.MULTILINE | re.DOTALL
)
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
ZH = re.compile(r'<div lang="zh">\n\n(.*?)\n\n</div>', re.DOTALL)
RAW = re.compile(
    r"\{[\w:]+\}`|^[`:]{3,}\{|^:\w+: |\$\$[ \t]*\([^()\s]+\)|^\([\w-]+\)=$", re.MULTILINE
)  # what only the book understands


def edition(chapter: Chapter, chapters: list[Chapter] | None = None, repository: str = "") -> notebooks.Notebook:
    """The chapter as plain notebook cells, for a reader who may not have the book."""
    everything = book() if chapters is None else chapters
    numbers = numbering(everything)
    cells: list[dict[str, Any]] = []
    for cell in chapter.notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cells.append(cell | {"metadata": {}, "source": plain(notebooks.source(cell), chapter, everything, numbers)})
            continue
        cells.append(cell | {"metadata": _folds(cell)})
        caption = cell["metadata"].get("mystnb", {}).get("figure", {})
        if figures.pngs(cell["outputs"]):
            number = numbers.get(f"{chapter.name}#{caption.get('name', '')}", "")
            text = f"**{number}.** {caption.get('caption', '')}" if number else caption.get("caption", "")
            cells.append(_markdown(plain(text, chapter, everything, numbers)))
    first = next(place for place, cell in enumerate(cells) if cell["cell_type"] == "code")
    start = _first_cell(chapter, numbers, repository)
    kept = {"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}}
    cells = [*cells[:first], start, *cells[first:]]
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        cell["execution_count"] = count
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
        cell["source"] = notebooks.source(cell).splitlines(keepends=True)
    return {"cells": cells, "metadata": kept, "nbformat": 4, "nbformat_minor": 5}


def write_all(folder: Path, repository: str = "") -> list[Path]:
    """Write the edition of every chapter under ``folder``, as ``chapters/part/slug.ipynb``."""
    chapters = book()
    paths = [folder / "chapters" / f"{chapter.name}.ipynb" for chapter in chapters]
    for chapter, path in zip(chapters, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dumps(edition(chapter, chapters, repository)), encoding="utf-8")
    return paths


def lay_out(folder: Path) -> list[Path]:
    """Copies for reading and trying: those that the reader has changed stay, and are returned; the others are made new."""
    mark = folder / ".written.json"
    written: dict[str, str] = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
    kept, chapters = [], book()
    for chapter in chapters:
        path, text = folder / f"{chapter.name}.ipynb", dumps(edition(chapter, chapters))
        if path.is_file() and _digest(path.read_text(encoding="utf-8")) != written.get(chapter.name):
            kept.append(path)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        system.replace(path, text)
        written[chapter.name] = _digest(text)
    system.save(mark, written)
    return kept


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def dumps(notebook: notebooks.Notebook) -> str:
    """The text of an edition, as Jupyter writes it."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def numbering(chapters: list[Chapter]) -> dict[str, str]:
    """What the book prints for each label: 3.8 for an equation, Fig. 3.2, Exercise 3.1, Theorem 3.1, a heading; keys are
    ``part/slug#label``."""
    found: dict[str, str] = {}
    for place, chapter in enumerate(chapters, 1):
        for count, label in enumerate(dict.fromkeys(chapter.labels), 1):
            found[f"{chapter.name}#{label}"] = f"{place}.{count}"
        for count, cell in enumerate(chapter.drawings, 1):
            found[f"{chapter.name}#{cell['metadata'].get('mystnb', {}).get('figure', {}).get('name', '')}"] = (
                f"Fig. {place}.{count}"
            )
        for kind, name in NUMBERED.items():
            labels = re.findall(rf"\{{{kind}\}}[^\n]*\n:label: ([\w-]+)", chapter.markdown)
            found |= {f"{chapter.name}#{label}": f"{name} {place}.{count}" for count, label in enumerate(labels, 1)}
        headings = re.findall(r"^\(([\w-]+)\)=\n+#+ (.+)$", chapter.markdown, re.MULTILINE)
        found |= {f"{chapter.name}#{label}": f"“{title.strip()}”" for label, title in headings}
    return found


def plain(text: str, chapter: Chapter, chapters: list[Chapter], numbers: dict[str, str]) -> str:
    """Markdown that every notebook program shows."""
    text = ZH.sub(lambda match: _details("中文摘要", match[1]), text)
    text = re.sub(r"^(?:\([\w-]+\)=|%.*)\n", "", text, flags=re.MULTILINE)
    while (changed := FENCE.sub(functools.partial(_directive, chapter=chapter, numbers=numbers), text)) != text:
        text = changed
    text = MATH.sub(functools.partial(_display, chapter=chapter, numbers=numbers), text)
    text = ROLE.sub(lambda match: _role(match[1], match[2], chapter, chapters, numbers), text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body.strip()}\n\n</details>"


def _markdown(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _folds(cell: dict[str, Any]) -> dict[str, Any]:
    """What the book folds, in the words of Jupyter."""
    tags = set(cell["metadata"].get("tags", []))
    return (
        {"jupyter": {"source_hidden": True} | ({"outputs_hidden": True} if "hide-cell" in tags else {})} if tags & FOLDED else {}
    )


def _directive(match: re.Match[str], *, chapter: Chapter, numbers: dict[str, str]) -> str:
    name, title, body = match["name"], match["title"].strip(), match["body"].strip("\n")
    label = re.search(r":label: ([\w-]+)", match["options"])
    number = numbers.get(f"{chapter.name}#{label[1]}", "") if label else ""
    if name == "math":
        return f"$${body}$$" + (f" ({label[1]})" if label else "")
    if name == "solution":
        told = numbers.get(f"{chapter.name}#{title}", "")
        return _details(f"Solution of {told.lower()}" if told else "Solution", body)
    if name == "exercise":
        return f"**{number}{': ' if title else ''}{title}.** {body}"
    if name.startswith("prf:"):
        return "\n".join(f"> {line}".rstrip() for line in f"**{number}{f' ({title})' if title else ''}.** {body}".splitlines())
    if name == "footbibliography":
        return bibliography(chapter)
    if name in ("admonition", "note", "tip", "warning", "dropdown"):
        head = title if name in ("admonition", "dropdown") else name.capitalize()
        return _details(head, body) if name == "dropdown" or "dropdown" in match["options"] else _quoted(f"**{head}**\n\n{body}")
    raise ValueError(
        f"chapters/{chapter.name}.ipynb: the reader's edition has no form for the directive {name}; add it to reader.py"
    )


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _display(match: re.Match[str], *, chapter: Chapter, numbers: dict[str, str]) -> str:
    """A display with its dollars on lines of their own, which VS Code needs."""
    tex, label, lead = match["tex"].strip(), match["label"], match["in"]
    indent = re.sub(r"[-*]", " ", lead) if not lead.startswith(">") else "> "
    anchor, tag = "", ""
    if label:
        anchor, tag = f'{lead}<a id="{label}"></a>\n{indent.rstrip()}\n', f" \\tag{{{numbers[f'{chapter.name}#{label}']}}}"
        lead = indent
    lines = "\n".join(f"{indent}{line.strip()}" for line in f"{tex}{tag}".splitlines())
    return f"{anchor}{lead}$$\n{lines}\n{indent}$$"


def _role(role: str, text: str, chapter: Chapter, chapters: list[Chapter], numbers: dict[str, str]) -> str:
    shown, _, target = text.partition(" <")
    target, shown = (target.rstrip("> "), shown.strip()) if target else (text.strip(), "")
    if role == "eq":
        return f"[({_number(target, chapter, chapters, numbers)})](#{target})"
    if role in ("numref", "ref", "prf:ref"):
        number = _number(target, chapter, chapters, numbers)
        return shown.replace("%s", number.rpartition(" ")[2]) if shown else number
    if role == "doc":
        name = posixpath.normpath(posixpath.join(posixpath.dirname(f"/chapters/{chapter.name}"), target)).removeprefix(
            "/chapters/"
        )
        other = next((one for one in chapters if one.name == name), None)
        if other is None:  # a page of the book, which the notebook has not
            return shown or target.rpartition("/")[2].replace("_", " ")
        return f"[{shown or other.title}]({posixpath.relpath(name, posixpath.dirname(chapter.name))}.ipynb)"
    if role.startswith("py:"):
        return f"`{shown or (target.rpartition('.')[2] if target.startswith('~') else target)}`"
    if role.startswith(("footcite", "cite")):
        cited = [_cited(key.strip(), in_text=role.endswith(":t")) for key in text.split(",")]
        return ", ".join(cited) if role.endswith(":t") else f"({'; '.join(cited)})"
    raise ValueError(f"chapters/{chapter.name}.ipynb: the reader's edition has no form for the role {role}; add it to reader.py")


def _number(label: str, chapter: Chapter, chapters: list[Chapter], numbers: dict[str, str]) -> str:
    """The number of a label of this chapter, or of the one that has it."""
    for name in (chapter.name, *(other.name for other in chapters)):
        if f"{name}#{label}" in numbers:
            return numbers[f"{name}#{label}"]
    raise ValueError(f"chapters/{chapter.name}.ipynb: {label} labels nothing")


@functools.cache
def _bibliography() -> Any:
    from pybtex.database import parse_file

    return parse_file(str(ROOT / "references.bib"), bib_format="bibtex")


def _text(latex: str) -> str:
    from pybtex.richtext import Text

    return str(Text.from_latex(latex))


def _authors(entry: Any) -> list[str]:
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    return [_text(" ".join([*person.prelast_names, *person.last_names])) for person in people]


def _address(entry: Any) -> str:
    fields = entry.fields
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    return f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else str(fields.get("url", ""))


def _cited(key: str, in_text: bool) -> str:
    entry = _bibliography().entries[key]
    names = _authors(entry)
    who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    shown, address = f"{who} ({entry.fields['year']})" if in_text else f"{who}, {entry.fields['year']}", _address(entry)
    return f"[{shown}]({address})" if address else shown


def bibliography(chapter: Chapter) -> str:
    """What the chapter cites, a line each, in the order of its first use."""
    keys = [key.strip() for _, text in re.findall(r"\{(footcite:?[tp]?)\}`([^`]+)`", chapter.markdown) for key in text.split(",")]
    lines = []
    for key in dict.fromkeys(keys):
        entry = _bibliography().entries[key]
        fields, address = entry.fields, _address(entry)
        where = next(
            (_text(fields[name]) for name in ("journal", "booktitle", "publisher", "howpublished") if name in fields), ""
        )
        parts = [
            f"{', '.join(_authors(entry))} ({fields['year']})",
            f"*{_text(fields['title'])}*",
            where,
            f"<{address}>" if address else "",
        ]
        lines.append("- " + ". ".join(part.rstrip(".") for part in parts if part) + ".")
    return "\n".join(lines)


def _first_cell(chapter: Chapter, numbers: dict[str, str], repository: str) -> dict[str, Any]:
    """What the notebook needs; where it is missing, Colab installs it and others are told the command."""
    needed = [
        name for name in PACKAGES if name == "kexue" or re.search(rf"^(?:import|from) {name}\b", chapter.code, re.MULTILINE)
    ]
    source = f"kexue[notebooks] @ git+{repository}" if repository else ".[notebooks]"
    place = "" if repository else " in a clone of the book's repository"
    equations = {label: numbers[f"{chapter.name}#{label}"] for label in dict.fromkeys(chapter.labels)}
    stored = {name: version(name).partition("+")[0] for name in PRINTS}
    code = f"""# This notebook needs: pip install '{source}'{place}
import sys
from importlib.util import find_spec

missing = [name for name in {needed!r} if find_spec(name) is None]
"""
    if repository:
        code += f"""if missing and "google.colab" in sys.modules:
    %pip install --quiet "{source}"
elif missing:
    sys.exit("missing: " + ", ".join(missing) + "; run: pip install '{source}'")
"""
    else:
        code += f"""if missing:
    sys.exit("missing: " + ", ".join(missing) + "; run{place}: pip install '{source}'")
"""
    code += f"""
from kexue.lab import begin

begin(
    versions={stored!r},
    equations={equations!r},
)"""
    return {
        "cell_type": "code",
        "metadata": {"jupyter": {"source_hidden": True}},
        "execution_count": 1,
        "outputs": [],
        "source": code,
    }


def strange(notebook: notebooks.Notebook) -> list[str]:
    """What of an edition a notebook program would show raw, or would not show: none, it is hoped."""
    found = []
    for number, cell in enumerate(notebook["cells"]):
        text = notebooks.source(cell)
        if cell["cell_type"] != "markdown":
            continue
        found += [f"cell {number}: {match[0]!r}" for match in RAW.finditer(text)]
        dollars = [line.strip(" >-") for line in text.splitlines() if "$$" in line]
        found += [f"cell {number}: {line!r} has $$ not at the ends of a line" for line in dollars if line != "$$"]
        found += [f"cell {number}: an odd number of $$"] * (len(dollars) % 2)
    return found
