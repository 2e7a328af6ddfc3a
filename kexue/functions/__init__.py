"""Functions and their approximations: exponentials, activations, multiplication by addition."""

from kexue import _lazy

__getattr__, __dir__ = _lazy.attributes(__name__)
