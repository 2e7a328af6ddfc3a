"""The modules of a package, listed without importing them and imported on first use."""

from __future__ import annotations

import importlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType


def submodules(path: Iterable[str]) -> list[str]:
    """The public modules and packages in the folders of a package, in alphabetical order."""
    # Not with pkgutil, whose import takes longer than all the rest of this package's.
    names = set()
    for folder in path:
        for entry in os.scandir(folder):
            if entry.name.endswith(".py") or os.path.isfile(os.path.join(entry.path, "__init__.py")):
                names.add(entry.name.removesuffix(".py"))
    return sorted(name for name in names if not name.startswith("_"))


def attributes(package: str) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: ``dir`` lists its modules, and a module is imported when it is asked for."""
    module = sys.modules[package]

    def find(name: str) -> ModuleType:
        if name.startswith("_") or name not in submodules(module.__path__):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    def listing() -> list[str]:
        return sorted({*vars(module), *submodules(module.__path__)})

    return find, listing
