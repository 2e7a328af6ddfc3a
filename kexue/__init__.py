"""kexue: the tools of an executable book on the mathematics of Scientific Spaces (kexue.fm).

Each post has one module, ``kexue.<part>.<slug>``, imported when it is first asked for; nothing is re-exported, and importing
``kexue`` loads neither torch nor matplotlib. ``dir(kexue)`` lists the parts, ``dir(kexue.<part>)`` the modules of a part.
"""

from __future__ import annotations

from kexue import _lazy

__version__ = "0.1.0"

__getattr__, __dir__ = _lazy.attributes(__name__)


def _contents() -> str:
    """The parts and their modules, for ``help(kexue)``."""
    lines = []
    for part in _lazy.submodules(__path__):
        modules = _lazy.submodules([f"{folder}/{part}" for folder in __path__])
        lines.append(f"    kexue.{part}: {', '.join(modules)}")
    return "\n".join(lines)


__doc__ = f"{__doc__}\nParts and their modules:\n\n{_contents()}\n"
