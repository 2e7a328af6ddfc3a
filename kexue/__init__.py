"""kexue: the tools of an executable book on the mathematics of Scientific Spaces (kexue.fm).

Each post has one module, ``kexue.<part>.<slug>``; nothing is re-exported, and importing ``kexue`` loads neither torch nor matplotlib.
"""

__version__ = "0.1.0"
