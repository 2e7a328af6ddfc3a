"""What every tool asks of the system: files replaced in one step, numerical libraries on one thread. Needs nothing but Python."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

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
