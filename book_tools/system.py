"""What every tool asks of the system: files replaced in one step, one thread, a copy of the tree. Needs nothing but Python and git."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def replace(path: Path, text: str) -> None:
    """Put ``text`` in the place of a file in one step: whoever interrupts finds the old file or the new one, never half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def save(path: Path, result: Any) -> None:
    """Replace a result file; what is no JSON leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def snapshot(to: Path) -> None:
    """The files of the working tree that git knows or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


def concerns(test: str, post: str) -> bool:
    """Whether the parameters of a test begin with a post (``part/slug``), its module or its page."""
    named = f"{post}|kexue.{post.replace('/', '.')}|chapters/{post}.html"
    return bool(re.search(rf"\[(?:{named})(?![\w/])", test))
