"""Attention and the position of its tokens."""

from kexue import _lazy

__getattr__, __dir__ = _lazy.attributes(__name__)
