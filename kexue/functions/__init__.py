"""Elementary functions that networks and hardware put in the place of others."""

from kexue import _lazy

__getattr__, __dir__ = _lazy.attributes(__name__)
