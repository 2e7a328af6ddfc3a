"""Chapters in canonical form: executed from a clean kernel, free of anything that depends on the machine or the day."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from book_tools import system
from book_tools.figures import compact

Notebook = dict[str, Any]

STEADY = 1.6  # a processor that others use as well counts up to so many times more seconds
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read(path: Path) -> Notebook:
    """The notebook as plain dictionaries."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def source(cell: dict[str, Any]) -> str:
    """The text of a cell (stored as a list of lines or as one string)."""
    return "".join(cell["source"])


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def canonical(notebook: Notebook) -> Notebook:
    """The same notebook with cell ids made from their text, cells counted 1..n and no volatile metadata."""
    cells: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    count = 0
    for cell in notebook["cells"]:
        if cell.get("attachments"):
            raise ValueError("a chapter holds no pasted pictures: draw the figure in a cell")
        text = source(cell).strip("\n")
        digest = hashlib.sha256(f"{cell['cell_type']}\n{text}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        clean = {
            "cell_type": cell["cell_type"],
            "id": digest if seen[digest] == 1 else f"{digest}-{seen[digest]}",
            "metadata": {
                key: value for key, value in cell.get("metadata", {}).items() if key in ("kexue", "mystnb", "tags") and value
            },
            "source": text.splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            count += 1
            clean["execution_count"] = None if cell.get("execution_count") is None else count
            clean["outputs"] = _merged([_output(output) for output in cell.get("outputs", [])])
        cells.append(clean)
    own = {key: value for key, value in notebook.get("metadata", {}).items() if key == "kexue"}
    return {
        "cells": cells,
        "metadata": own | {"kernelspec": KERNEL, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _merged(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A kernel sends what a slow cell prints in pieces; in the notebook it is one text."""
    merged: list[dict[str, Any]] = []
    for output in outputs:
        if merged and output["output_type"] == "stream" and merged[-1].get("name") == output["name"]:
            merged[-1]["text"] = "".join(merged[-1]["text"] + output["text"]).splitlines(keepends=True)
        else:
            merged.append(output)
    return merged


def _output(output: dict[str, Any]) -> dict[str, Any]:
    clean = {key: value for key, value in output.items() if key not in ("execution_count", "metadata", "transient")}
    if output["output_type"] in ("display_data", "execute_result"):
        clean["metadata"] = {}
    if output["output_type"] == "execute_result":
        clean["execution_count"] = None
    if "text" in clean:
        clean["text"] = "".join(clean["text"]).splitlines(keepends=True)
    if "data" in clean:
        clean["data"] = {mime: _data(mime, value) for mime, value in clean["data"].items()}
    return clean


def _data(mime: str, value: Any) -> Any:
    text = "".join(value) if isinstance(value, list) else value
    if mime == "image/png":
        return compact(text.strip())
    return text.splitlines(keepends=True) if isinstance(text, str) else text


def dumps(notebook: Notebook) -> str:
    """The one text of a notebook: sorted keys, one space of indent, a final newline."""
    return json.dumps(canonical(notebook), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write(path: Path, notebook: Notebook) -> None:
    """Replace ``path`` by the notebook in canonical form, in one step."""
    system.replace(path, dumps(notebook))


def execute(path: Path, timeout: int = 600) -> None:
    """Run a chapter from a clean kernel, in its own folder, and store its outputs in canonical form."""
    import matplotlib as mpl
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    if not os.access(path.parent, os.W_OK):  # told now, and not after the run
        raise PermissionError(errno.EACCES, "the folder cannot be written", str(path.parent))
    mpl.get_cachedir()  # where it cannot be written, this puts another into the environment, or the chapter would print a warning
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(dir=short_folder()) as private:
        connection = {"connection_file": str(Path(private) / "kernel.json")}  # not in the home folder, which may be closed
        if os.name != "nt":
            connection |= {"transport": "ipc", "ip": str(Path(private) / "kernel")}
        config, place = Config({"ConnectionFileMixin": connection}), {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(notebook, config=config, kernel_name="python3", timeout=timeout, resources=place)
        before = _seconds_of_children()
        client.execute(env=os.environ | {"IPYTHONDIR": private})  # nor the reader's own IPython profile
        spent = _seconds_of_children() - before
    done = json.loads(nbformat.writes(notebook))
    cost = done["metadata"].setdefault("kexue", {})
    cost["seconds"] = settled(cost.get("seconds", 0), spent)
    write(path, done)


def settled(stored: int, spent: float) -> int:
    """Whole seconds; what is stored stays as long as it is about right, so that a second run changes nothing."""
    return stored if stored and stored / STEADY <= spent <= stored * STEADY else max(1, round(spent))


def _seconds_of_children() -> float:
    """The processor time of the subprocesses that have ended: of kernels, once they are shut down."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def short_folder() -> str | None:
    """Another folder for temporary files where the usual one is so deep that no socket fits into it (104 characters at most)."""
    return "/tmp" if os.name != "nt" and len(os.fsencode(tempfile.gettempdir())) > 70 else None
