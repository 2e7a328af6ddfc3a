"""Elementary functions and what stands in for them: exponentials, activations, multiplication by addition."""

from kexue import _lazy

__getattr__, __dir__ = _lazy.attributes(__name__)
